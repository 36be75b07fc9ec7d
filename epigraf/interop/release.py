"""Snapshots of a release (EpiGRAF, EG3D): a pickle, read as plain data.

Layout: a dict of networks (`G`, `D`, `G_ema`), optimisers, `stats`, ...; each network a tree of
modules with `_parameters`, `_buffers` and `_modules`, whose tensors are embedded blobs of torch.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from epigraf.errors import CheckpointError
from epigraf.interop.allowed import SNAPSHOT
from epigraf.interop.inert import Instance, Module, PickleError, StoredTensor
from epigraf.interop.unpickler import Budget, Machine

MAX_MODULES = 20_000  # and tensors
MAX_NESTING = 50
MAX_NAME = 128  # characters
MAX_MESSAGE = 400


@dataclass(frozen=True)
class Release:
    """A snapshot: its networks by name, its images seen (0 where it does not say), its digest.

    The tensors lie in the mapped file: use them before `open_release` ends.
    """

    path: Path
    networks: dict[str, Module]
    images_seen: int
    sha256: str

    def network(self, name: str) -> Module:
        """One of the networks.

        Raises:
            CheckpointError: it is not in the file; says which are.
        """
        if name not in self.networks:
            known = ", ".join(self.networks) or "none"
            raise CheckpointError(
                f"import {self.path}: has no network {name!r} (networks: {known})"
            )
        return self.networks[name]


@contextmanager
def open_release(path: Path) -> Iterator[Release]:
    """Read a snapshot of a release without running anything of it.

    Raises:
        CheckpointError: missing, damaged, not such a snapshot, or with anything in it that
            snapshots have no use for. Within the context too, where tensors turn out damaged.
    """
    with _mapped(path) as data:
        try:
            value = Machine(data, SNAPSHOT, Budget()).run()
            yield _release(path, data, value)
        except PickleError as error:
            raise CheckpointError(f"import {path}: refused: {one_line(error)}") from None


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a regular file."""
    if not path.exists():
        raise CheckpointError(f"import {path}: no such file")
    if not path.is_file():
        raise CheckpointError(f"import {path}: not a regular file")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise CheckpointError(f"import {path}: empty")
        # The map is closed when the last tensor lets go of it.
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _release(path: Path, data: memoryview, value: Any) -> Release:
    networks = {}
    if isinstance(value, dict):
        networks = {k: v for k, v in value.items() if isinstance(v, Module) and is_name(k)}
    if not networks:
        raise PickleError("a pickle, but not a snapshot: there are no networks in it")
    stats = value.get("stats")
    seen = stats.get("cur_nimg") if isinstance(stats, dict) else None
    known = isinstance(seen, int | float) and 0 <= seen < 2**53
    return Release(path, networks, int(seen or 0) if known else 0, hashlib.sha256(data).hexdigest())


def state_dict(network: Module) -> dict[str, StoredTensor]:
    """The tensors of a network by the names of torch's state dicts.

    Raises:
        PickleError: more or deeper modules than a network has, or attributes that are not what
            torch makes of them.
    """
    found: dict[str, StoredTensor] = {}
    waiting: list[tuple[str, Any, int]] = [("", network, 0)]
    count = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        count += 1
        if count > MAX_MODULES or depth > MAX_NESTING:
            raise PickleError(f"a network of more than {MAX_MODULES} modules, {MAX_NESTING} deep")
        state = attributes(module)
        for name, tensor in _own_tensors(state):
            found[prefix + name] = tensor
        if len(found) > MAX_MODULES:
            raise PickleError(f"a network of more than {MAX_MODULES} tensors")
        for name, child in _part(state, "_modules").items():
            if child is not None:
                waiting.append((f"{prefix}{name}.", child, depth + 1))
    return found


def load_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Copies on the CPU.

    Raises:
        PickleError: together they are larger than what is stored, so that parts of the file are
            read many times.
    """
    stored = {t.storage.address: len(t.storage.data) for t in tensors.values()}
    if sum(tensor.nbytes for tensor in tensors.values()) > sum(stored.values()):
        raise PickleError("tensors that are larger than the numbers behind them")
    return {name: tensor.load() for name, tensor in tensors.items()}


def attributes(module: Any) -> dict[Any, Any]:
    """The attributes of a module, persistent or torch's own."""
    if isinstance(module, Module):
        return module.state
    if isinstance(module, Instance):
        return module.attributes()
    raise PickleError("a module of a network that is not one")


def _own_tensors(state: dict[Any, Any]) -> Iterator[tuple[str, StoredTensor]]:
    hidden = state.get("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, set) else ()
    for part in ("_parameters", "_buffers"):
        for name, tensor in _part(state, part).items():
            if tensor is None or name in hidden:
                continue
            if not isinstance(tensor, StoredTensor):
                raise PickleError(f"{str(name)[:96]!r} of a network is not a tensor")
            yield name, tensor


def is_name(key: Any) -> bool:
    """Whether a key can be shown: text, short, without control characters."""
    return isinstance(key, str) and len(key) <= MAX_NAME and key.isprintable()


def one_line(error: Exception) -> str:
    """An error that may quote the file: short, without control characters."""
    text = "".join(c if c.isprintable() else "?" for c in str(error)[:MAX_MESSAGE])
    return text if len(str(error)) <= MAX_MESSAGE else text + "..."


def _part(state: dict[Any, Any], name: str) -> dict[str, Any]:
    part = state.get(name, {})
    if not isinstance(part, dict) or len(part) > MAX_MODULES:
        raise PickleError(f"{name} of a network is not a mapping")
    if not all(is_name(key) for key in part):
        raise PickleError(f"{name} of a network has keys that are not names")
    return part
