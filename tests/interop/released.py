"""Writes snapshots as the releases do: Python's own pickle over stand-ins for their classes.

Layout: spec of the official snapshots; `tests/golden/snapshot-small.pkl.xz` is a real one. The
modules of the release (`src.torch_utils.persistence`, `omegaconf.nodes`, ...) exist only while a
file is written.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import io
import pickle
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from epigraf.interop.official import generator_name_to_official
from epigraf.models.generator import Generator

SOURCE = "raise SystemExit('the source of a snapshot was run')\n"


class Persistent:
    """A module of the release: pickled with the source text of its class."""

    def __init__(self, class_name: str, state: dict[str, Any], package: str = "src.") -> None:
        self.class_name, self.state, self.package = class_name, state, package

    def __reduce__(self) -> tuple[Any, ...]:
        module = sys.modules[f"{self.package}torch_utils.persistence"]
        meta = {
            "type": "class", "version": 6, "module_src": SOURCE, "class_name": self.class_name,
            "state": self.state,
        }  # fmt: skip
        return module._reconstruct_persistent_obj, (meta,)


def _named(module: str, name: str, base: type = object) -> type:
    return type(name, (base,), {"__module__": module, "__qualname__": name})


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("never called")


STANDINS: dict[str, dict[str, Any]] = {
    "omegaconf.dictconfig": {"DictConfig": _named("omegaconf.dictconfig", "DictConfig")},
    "omegaconf.listconfig": {"ListConfig": _named("omegaconf.listconfig", "ListConfig")},
    "omegaconf.nodes": {"AnyNode": _named("omegaconf.nodes", "AnyNode")},
    "omegaconf.base": {
        name: _named("omegaconf.base", name) for name in ("ContainerMetadata", "Metadata")
    },
    "training.triplane": {"OSGDecoder": _named("training.triplane", "OSGDecoder")},
    "training.volumetric_rendering.renderer": {
        "ImportanceRenderer": _named("training.volumetric_rendering.renderer", "ImportanceRenderer")
    },
    **{
        f"{p}torch_utils.persistence": {"_reconstruct_persistent_obj": types.FunctionType(
            _reconstruct_persistent_obj.__code__, {}, "_reconstruct_persistent_obj")}
        for p in ("src.", "")
    },
    **{
        f"{p}dnnlib.util": {"EasyDict": _named(f"{p}dnnlib.util", "EasyDict", dict)}
        for p in ("src.", "")
    },
}  # fmt: skip


@contextlib.contextmanager
def standins() -> Iterator[None]:
    """The modules of a release, importable by name."""
    made: list[str] = []
    for name, members in STANDINS.items():
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            part = ".".join(parts[:i])
            if part not in sys.modules:
                sys.modules[part] = types.ModuleType(part)
                made.append(part)
        for key, value in members.items():
            if isinstance(value, types.FunctionType):
                value.__module__ = name
            setattr(sys.modules[name], key, value)
    try:
        yield
    finally:
        for part in made:
            del sys.modules[part]


def node(module: str, name: str, **state: Any) -> Any:
    """An object of a stand-in's class, with this state."""
    cls = STANDINS[module][name]
    made = cls.__new__(cls)
    made.__dict__.update(state)
    return made


def omegaconf_tree(value: Any, parent: Any = None, key: Any = None, old: bool = False) -> Any:
    """Plain values as omegaconf nodes, each knowing its parent; `old` as omegaconf 2.0 had them."""
    meta = {"ref_type": typing.Any, "object_type": None, "optional": True, "key": key, "flags": {}}
    if not old:
        meta |= {"flags_root": False, "resolver_cache": collections.defaultdict(dict)}
    if isinstance(value, dict | list):
        kind = "dict" if isinstance(value, dict) else "list"
        meta |= {"key_type": typing.Any, "element_type": typing.Any, "object_type": type(value)}
        metadata = node("omegaconf.base", "ContainerMetadata", **meta)
        name = f"{kind.capitalize()}Config"
        made = node(f"omegaconf.{kind}config", name, _metadata=metadata, _parent=parent)
        if isinstance(value, dict):
            made._content = {k: omegaconf_tree(v, made, k, old) for k, v in value.items()}
        else:
            made._content = [omegaconf_tree(v, made, i, old) for i, v in enumerate(value)]
        return made
    metadata = node("omegaconf.base", "Metadata", **meta)
    return node("omegaconf.nodes", "AnyNode", _metadata=metadata, _parent=parent, _val=value)


def module_state(**more: Any) -> dict[str, Any]:
    """What an empty torch module has in its __dict__."""
    return {**copy.deepcopy(nn.Module().__dict__), **more}


def network(tensors: dict[str, Tensor], class_name: str, package: str = "src.", **more: Any) -> Any:
    """Nested modules of a state dict; parameters are nn.Parameter, the rest are buffers."""
    root = Persistent(class_name, module_state(**more), package)
    nodes: dict[tuple[str, ...], Any] = {(): root}
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        for i in range(1, len(path) + 1):
            if tuple(path[:i]) not in nodes:
                child = _child(path[i - 1], package)
                nodes[tuple(path[:i])] = child
                _state(nodes[tuple(path[: i - 1])])["_modules"][path[i - 1]] = child
        part = "_parameters" if isinstance(tensor, nn.Parameter) else "_buffers"
        _state(nodes[tuple(path)])[part][leaf] = tensor
    return root


def _child(name: str, package: str) -> Any:
    if name in ("model", "net", "blocks", "color_network"):  # torch's own containers
        made = nn.ModuleList.__new__(nn.ModuleList)
        made.__dict__.update(module_state())
        return made
    if name == "decoder":  # a plain module of EG3D
        return node("training.triplane", "OSGDecoder", **module_state())
    return Persistent("Block_" + name, module_state(), package)


def _state(module: Any) -> dict[str, Any]:
    return module.state if isinstance(module, Persistent) else module.__dict__


class CudaPickler(pickle.Pickler):
    """Pickles storages as blobs of the old `torch.save` that claim to come from cuda:0."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.storage.TypedStorage):
            return NotImplemented
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=False)
        device = [b"X" + len(d).to_bytes(4, "little") + d for d in (b"cpu", b"cuda:0")]
        return torch.storage._load_from_bytes, (buffer.getvalue().replace(*device),)


def dumps(value: Any, protocol: int = 4) -> bytes:
    """The pickle of a snapshot."""
    buffer = io.BytesIO()
    with standins():
        CudaPickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def official_tensors(generator: Generator) -> dict[str, Tensor]:
    """A generator's tensors under the official names, with the constants that the release adds."""
    parameters = dict(generator.named_parameters())
    found: dict[str, Tensor] = {}
    for name, tensor in generator.state_dict().items():
        official = generator_name_to_official(name)
        found[official] = parameters[name].detach() if name in parameters else tensor
        if name in parameters:
            found[official] = nn.Parameter(found[official])
        if official.endswith(".noise_const"):
            found[official.replace("noise_const", "resample_filter")] = torch.ones(4, 4) / 16
    return found


def snapshot(
    generator: Generator,
    tree: dict[str, Any],
    *,
    tensors: dict[str, Tensor] | None = None,
    old: bool = False,
    protocol: int = 4,
) -> bytes:
    """A snapshot of the release around a generator whose experiment is `tree`.

    `tensors` replace its own (by official names); `old` writes omegaconf 2.0's nodes.
    """
    tree = copy.deepcopy(tree)
    tree["model"]["generator"] |= {"patch": "${training.patch}", "dataset": "${dataset}"}
    tree["num_gpus"] = 4
    cfg = omegaconf_tree(tree, old=old)._content["model"]._content["generator"]
    kwargs = {"z_dim": generator.z_dim, "c_dim": generator.c_dim, "cfg": cfg}
    ema = network(
        tensors or official_tensors(generator), "Generator", cfg=cfg, z_dim=generator.z_dim,
        c_dim=generator.c_dim, img_resolution=generator.img_resolution, _init_args=(),
        _init_kwargs=kwargs,
    )  # fmt: skip
    easy = STANDINS["src.dnnlib.util"]["EasyDict"]
    parameter = nn.Parameter(torch.zeros(3))
    value = {
        "training_set_kwargs": easy(class_name="src.training.dataset.ImageFolderDataset"),
        "G_ema": ema,
        "augment_pipe": None,
        "G_opt": torch.optim.Adam([parameter]),
        "vis": {"labels": np.zeros((2, 3), np.float32), "grid_z": (torch.zeros(2, 4),)},
        "stats": {"cur_nimg": 25_000_000, "best": np.float64(1.5)},
    }
    return dumps(value, protocol)


def write(path: Path, data: bytes) -> Path:
    """`data` as a file."""
    path.write_bytes(data)
    return path
