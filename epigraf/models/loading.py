"""Snapshots: one safetensors file with every tensor and one JSON header. Nothing is ever unpickled.

A snapshot holds groups of tensors named `GROUP/NAME` (G_ema, and for training G, D and the
optimisers) and, in the metadata of the safetensors file, one JSON text: the format version, the
configuration, the counters, a checksum of each group and one of the list of tensors. A second
entry of the metadata is the checksum of that text.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from epigraf.config import Config
from epigraf.errors import CheckpointError, ConfigError
from epigraf.models.generator import Generator

FREE_KEYS = (
    "render.*",
    "decoder.*",
    "model.generator.test_ray_steps",
    "model.generator.test_fine_steps",
    "model.generator.density_gain",
    "model.generator.density_shift",
    "model.generator.last_interval",
    "model.generator.bg_model.num_steps",
    "dataset.white_back",
    "dataset.last_back",
    "dataset.object_radius",
    "dataset.camera.fov",
    "dataset.camera.ray_start",
    "dataset.camera.ray_end",
)
"""What may be changed of a trained model: how it is looked at, never what its weights are."""

FORMAT = 1  # raised whenever older programs could misread a snapshot
_METADATA_KEY = "epigraf"
_CHECKSUM_KEY = "epigraf.crc32"
_NAME = re.compile(r"network-snapshot-(\d{6,})\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """An opened snapshot: its header now, its tensors when asked for."""

    path: Path
    header: dict[str, Any]

    @property
    def config(self) -> Config:
        """The configuration of the run that wrote it.

        Raises:
            CheckpointError: it has keys that this version does not know.
        """
        try:
            return Config.from_dict(self.header["config"])
        except ConfigError as error:
            raise CheckpointError(f"snapshot {self.path}: {error}") from None

    @property
    def images_seen(self) -> int:
        """Real images shown to the discriminator so far."""
        return int(self.header["counters"]["images_seen"])

    def tensors(self, group: str) -> dict[str, Tensor]:
        """The tensors `group/NAME` by NAME, on the CPU.

        Raises:
            CheckpointError: there are none, or their checksum is wrong.
        """
        start = group + "/"
        with safe_open(self.path, framework="pt", device="cpu") as file:
            names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118
            found = {name.removeprefix(start): file.get_tensor(name) for name in names}
        expected = self.header.get("checksums", {}).get(group)
        if not found and expected is None:
            raise CheckpointError(f"snapshot {self.path}: has no tensors of {group!r}")
        if checksum(found) != expected:
            raise CheckpointError(
                f"snapshot {self.path}: the tensors of {group!r} are damaged (wrong checksum)"
            )
        return found

    def check(self, groups: Iterable[str] | None = None) -> None:
        """Read the tensors of `groups` (None: everything) and compare their checksums.

        Raises:
            CheckpointError: some are missing or damaged.
        """
        for group in self.header.get("checksums", {}) if groups is None else groups:
            self.tensors(group)


def checksum(tensors: dict[str, Tensor]) -> int:
    """CRC-32 of the bytes of CPU tensors in the order of their names."""
    value = 0
    for name in sorted(tensors):
        data = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(data.data, value)
    return value


def read_snapshot(path: str | Path) -> Snapshot:
    """Open a snapshot file and check its header.

    Raises:
        CheckpointError: missing, truncated, not a snapshot of this program, or a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"snapshot {path}: no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            index = _index(
                (name, file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118
            )
    except (SafetensorError, OSError) as error:
        hint = f"try: epigraf import {path.name}" if path.suffix == ".pkl" else str(error)
        raise CheckpointError(
            f"snapshot {path}: truncated, or not a safetensors file ({hint})"
        ) from None
    if _METADATA_KEY not in metadata:
        raise CheckpointError(f"snapshot {path}: a safetensors file, but not one of epigraf")
    header, version = _parse_header(path, metadata)
    if version > FORMAT:
        raise CheckpointError(
            f"snapshot {path}: written by a newer epigraf (format {version}, this version reads "
            f"up to {FORMAT}); upgrade epigraf"
        )
    if not _is_complete(header):
        raise CheckpointError(f"snapshot {path}: its header is damaged (counters are missing)")
    if header.get("index", index) != index:  # older snapshots have none
        raise CheckpointError(f"snapshot {path}: its list of tensors is damaged (wrong checksum)")
    return Snapshot(path, header)


def _parse_header(path: Path, metadata: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The JSON text of a snapshot as values, and its format version."""
    text = metadata[_METADATA_KEY]
    stated = metadata.get(_CHECKSUM_KEY)  # older snapshots have none
    if stated is not None and stated != str(zlib.crc32(text.encode())):
        raise CheckpointError(f"snapshot {path}: its header is damaged (wrong checksum)")
    try:
        header = json.loads(text)
        return header, int(header["format"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"snapshot {path}: its header is damaged") from None


def _index(tensors: Iterable[tuple[str, Iterable[int]]]) -> int:
    """CRC-32 of names and shapes."""
    lines = sorted(f"{name} {list(shape)}" for name, shape in tensors)
    return zlib.crc32("\n".join(lines).encode())


def _is_complete(header: dict[str, Any]) -> bool:
    """Whether everything is there that every reader of a snapshot needs."""
    counters = header.get("counters")
    seen = counters.get("images_seen") if isinstance(counters, dict) else None
    return isinstance(header.get("config"), dict) and isinstance(seen, int)


def write_snapshot(
    path: Path, header: dict[str, Any], groups: dict[str, dict[str, Tensor]]
) -> None:
    """Write a snapshot atomically: a temporary file, fsync, rename, fsync of the folder.

    Killed at any moment, either the old file or the new one is there, whole.

    Args:
        path: `network-snapshot-KIMG.safetensors`.
        header: JSON-ready values; the format and the checksums are added here.
        groups: group -> name -> tensor, on any device.
    Raises:
        CheckpointError: it cannot be written (the disk is full, ...). OSError: nor can the folder.
    """
    groups = {
        g: {n: t.detach().cpu().contiguous() for n, t in ts.items()} for g, ts in groups.items()
    }
    flat = {f"{group}/{name}": t for group, ts in groups.items() for name, t in ts.items()}
    added = {
        "format": FORMAT,
        "checksums": {group: checksum(tensors) for group, tensors in groups.items()},
        "index": _index((name, t.shape) for name, t in flat.items()),
    }
    text = json.dumps({**header, **added})
    metadata = {_METADATA_KEY: text, _CHECKSUM_KEY: str(zlib.crc32(text.encode()))}
    try:
        write_atomically(path, lambda file: save_file(flat, file, metadata=metadata))
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while serializing: ")
        raise CheckpointError(f"snapshot {path}: cannot be written: {reason}") from None


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Replace a file so that a reader (or a crash) sees the old or the new one, whole.

    Args:
        path: the file to replace.
        write: fills the temporary file that it is given, in the same folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask wants; safetensors makes private files
        write(temporary)
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def snapshot_files(folder: Path) -> list[Path]:
    """The snapshots of a run folder, newest first (by their kimg)."""
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def valid_snapshots(
    folder: Path, warnings: list[str] | None = None, groups: Iterable[str] | None = None
) -> Iterator[Snapshot]:
    """The undamaged snapshots of a run folder, newest first.

    Args:
        folder: a run folder.
        warnings: receives one line for each file that had to be skipped.
        groups: the groups of tensors that must be whole (None: all).
    """
    for path in snapshot_files(folder):
        try:
            snapshot = read_snapshot(path)
            snapshot.check(groups)
            yield snapshot
        except CheckpointError as error:
            if warnings is not None:
                warnings.append(f"skipped {error}")


def shipped_models() -> dict[str, Path]:
    """Name -> file of the models that come with the package."""
    folder = Path(__file__).resolve().parent.parent / "shipped"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find_snapshot(path: str | Path) -> Snapshot:
    """The snapshot that a path means: a file, a run folder's newest readable one, a shipped model.

    Raises:
        CheckpointError: nothing there that can be read; says what is.
    """
    path = Path(path)
    if not path.exists():
        shipped = shipped_models()
        if str(path) in shipped:
            return read_snapshot(shipped[str(path)])
        names = ", ".join(shipped) or "none"
        raise CheckpointError(f"model {path}: no such file or folder (shipped models: {names})")
    if path.is_file():
        return read_snapshot(path)
    warnings: list[str] = []
    snapshot = next(valid_snapshots(path, warnings, ["G_ema"]), None)
    if snapshot is not None:
        return snapshot
    if warnings:
        raise CheckpointError(f"model {path}: no readable snapshot: {warnings[0]}")
    runs = sorted(p.name for p in path.iterdir() if p.is_dir() and snapshot_files(p))
    hint = f"; did you mean {path / runs[-1]}?" if runs else ""
    raise CheckpointError(f"model {path}: no network-snapshot-*.safetensors in this folder{hint}")


@dataclass(frozen=True)
class LoadedModel:
    """A trained generator (the weight average, in eval mode) and where it comes from."""

    generator: Generator
    config: Config
    kimg: float
    path: Path
    source: dict[str, Any] | None = None  # of an imported model: release, file, sha256, network


def load(
    path: str | Path, device: torch.device | str = "cpu", overrides: Iterable[str] = ()
) -> LoadedModel:
    """Load the generator of a run folder (its newest readable snapshot), a snapshot file, or a
    model that comes with the package, by name.

    Args:
        path: which.
        device: where it lives.
        overrides: `a.b=c`, changes of how it is rendered (`FREE_KEYS`).
    Raises:
        CheckpointError: missing, truncated, damaged, foreign, or of another architecture.
        ConfigError: an override of an unknown key, a value out of range, or a key that the weights
            depend on.
    """
    snapshot = find_snapshot(path)
    cfg = _with_free(snapshot.config, list(overrides))
    generator = Generator(cfg)
    load_weights(generator, snapshot, "G_ema")
    generator.to(device).eval().requires_grad_(False)
    source = snapshot.header.get("source")
    return LoadedModel(generator, cfg, snapshot.images_seen / 1000, snapshot.path, source)


def _with_free(cfg: Config, overrides: list[str]) -> Config:
    changed = cfg.with_overrides(overrides)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if not any(fnmatchcase(key, free) for free in FREE_KEYS):
            raise ConfigError(
                f"config: {key} cannot be changed in a trained model; these can: "
                f"{', '.join(FREE_KEYS)}"
            )
    return changed


def export_model(model: str | Path, out: Path) -> Path:
    """Write the averaged generator alone: a fraction of a training snapshot, to share and to ship.

    Counters, configuration and (of an imported model) its source stay, without the path of the
    training data.

    Args:
        model: as for `load`.
        out: the `.safetensors` file to write, atomically.
    Raises:
        CheckpointError: as for `load`. OSError: it cannot be written.
    """
    snapshot = find_snapshot(model)
    header = {
        "config": snapshot.config.with_overrides(["dataset.path=null"]).to_dict(),
        "counters": {"images_seen": snapshot.images_seen},
        **{key: snapshot.header[key] for key in ("source",) if key in snapshot.header},
    }
    write_snapshot(out, header, {"G_ema": snapshot.tensors("G_ema")})
    return out


def load_weights(network: torch.nn.Module, snapshot: Snapshot, group: str) -> None:
    """Copy the parameters and buffers of `group` into a network.

    Raises:
        CheckpointError: names or shapes differ; says which one first.
    """
    found = snapshot.tensors(group)
    own = network.state_dict()
    wrong = sorted(found.keys() ^ own.keys())
    wrong += sorted(n for n in found.keys() & own.keys() if found[n].shape != own[n].shape)
    if wrong:
        raise CheckpointError(
            f"snapshot {snapshot.path}: does not fit the network: {group}/{wrong[0]}"
            + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "")
        )
    network.load_state_dict(found)
