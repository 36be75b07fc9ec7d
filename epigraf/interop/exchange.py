"""Weights under official names in a safetensors file, for programs that know the release.

The metadata hold the official keys of the configuration as JSON (`config`), what the release passes
beside it (`z_dim`, `c_dim`), `images_seen`, and `only_here`: settings that the release does not
have, which an import takes up again. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from epigraf.config import Config
from epigraf.errors import CheckpointError
from epigraf.interop.official import generator_name_to_official
from epigraf.models.loading import find_snapshot, write_atomically

FORMAT = "epigraf-official-names"
_VERSION = 1
_GENERATOR_KEYS = {
    "w_dim", "map_depth", "fmaps", "cbase", "cmax", "use_noise", "optim", "ema_multiplier",
    "camera_cond", "camera_cond_drop_p", "camera_cond_noise_std", "camera_cond_spoof_p",
    "num_ray_steps", "clamp_mode", "density_shift", "nerf_noise_std_init",
    "nerf_noise_kimg_growth", "tri_plane", "bg_model",
}  # fmt: skip
_PLANE_KEYS = {"res", "feat_dim", "has_view_cond", "posenc_period_len", "mlp"}
_MLP_KEYS = {"n_layers", "hid_dim"}
_DATASET_KEYS = {
    "name", "resolution", "c_dim", "camera", "cube_scale", "white_back", "last_back",
}  # fmt: skip
_OUTSIDE = {"model.generator.z_dim", "dataset.path"}  # not in the tree, by design


@dataclass(frozen=True)
class Exchange:
    """What a file of `export_official` holds."""

    tensors: dict[str, Tensor]
    tree: dict[str, Any]
    z_dim: int
    c_dim: int
    images_seen: int
    only_here: list[str]
    sha256: str


def export_official(model: str | Path, out: Path) -> list[str]:
    """Write the averaged generator of a model under official names.

    Args:
        model: as for `epigraf.load`.
        out: the `.safetensors` file to write, atomically.
    Returns:
        The settings (`key=value`) of the model that the release does not have.
    Raises:
        CheckpointError: as for `epigraf.load`, or it cannot be written.
    """
    snapshot = find_snapshot(model)
    cfg = snapshot.config
    tensors = {generator_name_to_official(n): t for n, t in snapshot.tensors("G_ema").items()}
    tensors |= _constants(tensors)
    tree, only_here = official_tree(cfg)
    text = json.dumps(
        {
            "version": _VERSION, "config": tree, "z_dim": cfg.model.generator.z_dim,
            "c_dim": cfg.c_dim, "images_seen": snapshot.images_seen, "only_here": only_here,
        }
    )  # fmt: skip
    flat = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        write_atomically(out, lambda file: save_file(flat, file, metadata={FORMAT: text}))
    except SafetensorError as error:
        raise CheckpointError(f"export {out}: cannot be written: {error}") from None
    return only_here


def read_exchange(path: Path) -> Exchange:
    """Read a file of `export_official`.

    Raises:
        CheckpointError: missing, damaged, another kind of file, or of a newer version.
    """
    if not path.is_file():
        raise CheckpointError("no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(FORMAT)
            if text is None:
                raise CheckpointError(
                    f"a safetensors file, but without {FORMAT!r} in its metadata (models of "
                    "epigraf need no import)"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"truncated, or not a safetensors file ({error})") from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not all(name.isprintable() for name in tensors):
        raise CheckpointError("names of tensors that cannot be printed")
    try:
        header = json.loads(text)
        version, tree = header["version"], header["config"]
        only_here = [str(setting) for setting in header["only_here"]]
        z_dim, c_dim, seen = (int(header[key]) for key in ("z_dim", "c_dim", "images_seen"))
    except (ValueError, KeyError, TypeError):
        raise CheckpointError("its metadata are damaged") from None
    if version != _VERSION:
        raise CheckpointError(
            f"written by a newer epigraf (version {version}, this one reads {_VERSION})"
        )
    if not isinstance(tree, dict):
        raise CheckpointError("its metadata are damaged")
    return Exchange(tensors, tree, z_dim, c_dim, seen, only_here, digest)


def official_tree(cfg: Config) -> tuple[dict[str, Any], list[str]]:
    """The official keys of a generator's configuration, and `key=value` of what else it sets."""
    values, defaults = cfg.to_dict(), Config().to_dict()
    only_here: list[str] = []

    def kept(path: str, keys: set[str]) -> dict[str, Any]:
        mine, usual = values, defaults
        for part in path.split("."):
            mine, usual = mine[part], usual[part]
        for key in sorted(mine.keys() - keys):
            name = f"{path}.{key}"
            if mine[key] != usual[key] and name not in _OUTSIDE:
                only_here.append(f"{name}={json.dumps(mine[key])}")
        return {key: mine[key] for key in mine if key in keys}

    generator = kept("model.generator", _GENERATOR_KEYS)
    plane = kept("model.generator.tri_plane", _PLANE_KEYS)
    plane["mlp"] = kept("model.generator.tri_plane.mlp", _MLP_KEYS)
    generator["tri_plane"] = plane
    tree = {
        "model": {"name": "epigraf", "generator": generator},
        "dataset": kept("dataset", _DATASET_KEYS),
        "training": {"use_labels": cfg.training.use_labels, "patch": values["training"]["patch"]},
    }
    return tree, only_here


def _constants(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The FIR taps that the release keeps in every block and every convolution."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    fir = taps.outer(taps) / taps.sum() ** 2
    pattern = re.compile(r"(.*\.b\d+\.(?:conv[01]\.|(?=torgb\.)))(?:torgb\.)?weight")
    places = {match[1] for name in tensors if (match := pattern.fullmatch(name))}
    return {f"{place}resample_filter": fir.clone() for place in places}
