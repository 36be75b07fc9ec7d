"""Names and settings of the official EpiGRAF release, and what they are called here.

Only names and plain values pass through here; no code and no pickle of the release is read. The
state dict of the discriminator has our names but for tensors that never act; the generator's
modules lie at other places. Configuration keys have kept their names; those of the release's
infrastructure are dropped, and settings that this project cannot honour are refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from epigraf.config import Config
from epigraf.errors import CheckpointError, ConfigError

# (official prefix, our prefix); the first that fits counts, so longer ones come first.
_GENERATOR_PREFIXES = (
    ("synthesis.tri_plane_decoder.", "backbone."),
    ("synthesis.tri_plane_mlp.model.", "decoder.layers."),
    ("synthesis.tri_plane_mlp.color_network.", "decoder.color_layers."),
    ("synthesis.tri_plane_mlp.", "decoder."),
    ("synthesis.bg_model.blocks.0.scalar_enc.", "background.encoder."),
    ("synthesis.bg_model.", "background."),
    ("mapping.", "mapping."),
)
_CONSTANT = re.compile(r"(^|\.)resample_filter$")  # fixed FIR taps, here part of the code
DETERMINED = re.compile(r"\.(fourier_coefs|mean_camera_pose)$")  # by the configuration
_FROMRGB = re.compile(r"b(\d+)\.fromrgb\.")  # exists in every block, acts in the first only

# Keys of the release that say nothing about the model or the training (dotted, per section).
_DROPPED = (
    "dataset.path_for_slurm_job",
    "model.generator.patch",
    "model.generator.dataset",
    "model.generator.backbone",
    "model.generator.tri_plane.fp32",
    "model.generator.bg_model.num_fp16_blocks",
    "model.generator.bg_model.fmm",
    "model.discriminator.patch",
    "training.name",
    "training.p",
    "training.target",
    "training.patch.mbstd_group_size",
    "training.patch.name",
    "training.augment.name",
    *(
        f"training.{key}"
        for key in (
            "test_batch_gpu", "resume", "resume_only_G", "freezed", "desc", "metrics",
            "main_metric", "fp32", "nobench", "workers", "dry_run",
        )
    ),
)  # fmt: skip

# Settings that have one value here: dotted key -> the value that can be honoured.
_REQUIRED = {
    "model.generator.backbone": "stylegan2",
    "model.generator.bg_model.fmm.enabled": False,
    "training.freezed": 0,
    "training.resume_only_G": False,
}


def is_constant(name: str) -> bool:
    """Whether a tensor of StyleGAN2's networks is fixed, and part of the code here."""
    return _CONSTANT.search(name) is not None


def generator_name_from_official(name: str) -> str | None:
    """Our name of an official generator tensor; None for tensors that do not exist here.

    Raises CheckpointError for a name that the release does not have.
    """
    if is_constant(name):
        return None
    for official, ours in _GENERATOR_PREFIXES:
        if name.startswith(official):
            return ours + name[len(official) :]
    raise CheckpointError(f"official generator: unknown tensor {name!r}")


def generator_name_to_official(name: str) -> str:
    """The official name of one of our generator's tensors."""
    for official, ours in sorted(_GENERATOR_PREFIXES, key=lambda pair: -len(pair[1])):
        if name.startswith(ours):
            return official + name[len(ours) :]
    raise ValueError(f"generator_name_to_official: not a tensor of the generator: {name!r}")


def generator_state_from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official generator state dict (G or G_ema) for ``Generator.load_state_dict``.

    Raises CheckpointError, naming all of them, if there are tensors that the release does not have.
    """
    return _rename(state, generator_name_from_official, "generator")


def discriminator_state_from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official discriminator state dict for ``Discriminator.load_state_dict``.

    The dead ``fromrgb`` of all blocks but the first (the one of the highest resolution) are left
    out, and so is the embedding of patches that no hyper-modulation reads.
    """
    resolutions = [int(m.group(1)) for name in state if (m := _FROMRGB.match(name))]
    first = max(resolutions, default=0)
    embeds = any(name.startswith("hyper_mod_mapping.") for name in state)

    def ours(name: str) -> str | None:
        from_rgb = _FROMRGB.match(name)
        dead = from_rgb is not None and int(from_rgb.group(1)) != first
        dead |= name.startswith("scalar_enc.") and not embeds
        if is_constant(name) or dead:
            return None
        if not re.match(r"(b\d+|scalar_enc|hyper_mod_mapping|head_mapping)\.", name):
            raise CheckpointError(f"official discriminator: unknown tensor {name!r}")
        return name

    return _rename(state, ours, "discriminator")


def _rename(
    state: Mapping[str, Tensor], rename: Callable[[str], str | None], network: str
) -> dict[str, Tensor]:
    renamed, unknown = {}, []
    for name, tensor in state.items():
        try:
            ours = rename(name)
        except CheckpointError:
            unknown.append(name)
            continue
        if ours is not None:
            renamed[ours] = tensor
    if unknown:
        raise CheckpointError(
            f"official {network}: {len(unknown)} unknown tensors: {', '.join(sorted(unknown)[:8])}"
        )
    return renamed


def config_from_official(
    tree: Mapping[str, Any], *, z_dim: int | None = None, c_dim: int | None = None
) -> Config:
    """Our configuration for an official experiment tree (sections model, dataset, training;
    resolved).

    Args:
        tree: nested plain values, interpolations resolved.
        z_dim: width of z, which the release passes outside of its configuration (512).
        c_dim: width of the labels that the networks were built for; None trusts the tree.

    Raises:
        ConfigError: a setting that cannot be honoured here, or an unknown key.
    """
    values = {
        key: copy.deepcopy(tree[key]) for key in ("model", "dataset", "training") if key in tree
    }
    _check_sections(values)
    for key, wanted in _REQUIRED.items():
        found = _get(values, key)
        if found is not None and found != wanted:
            raise ConfigError(
                f"official config: {key}={found!r} is not supported, only {wanted!r} is"
            )
    _check_view_head(values)
    _move_augment(values)
    if _get(values, "training.patch.enabled") is False:
        _pop(values, "training.patch.min_scale_trg")  # may exceed 1, and says nothing
    for key in _DROPPED:
        _pop(values, key)
    _drop_empty(values)
    if z_dim is not None:
        values.setdefault("model", {}).setdefault("generator", {})["z_dim"] = z_dim
    if c_dim is not None:
        values.setdefault("dataset", {})["c_dim"] = c_dim
        values.setdefault("training", {})["use_labels"] = c_dim > 0
    name = _get(values, "dataset.name")
    return Config.from_dict({"name": str(name or "official"), **values})


def _check_sections(values: dict[str, Any]) -> None:
    """Sections that are written to below must be mappings, or absent."""
    for key in ("model", "model.generator", "dataset", "training", "training.augment"):
        section = _get(values, key)
        if section is None:
            _pop(values, key)
        elif not isinstance(section, dict):
            raise ConfigError(f"official config: {key} must be a mapping, got {section!r:.40}")


def _check_view_head(values: dict[str, Any]) -> None:
    """The first release had another view-conditioned head, sized by a key of its own."""
    if _pop(values, "model.generator.tri_plane.view_hid_dim"):
        raise ConfigError(
            "official config: model.generator.tri_plane.view_hid_dim (the view-conditioned head "
            "of the first release) is not supported, only has_view_cond is"
        )


def _move_augment(values: dict[str, Any]) -> None:
    """``training.p`` and ``training.target`` belong to the augmentation here."""
    for key in ("p", "target"):
        value = _get(values, f"training.{key}")
        if value is not None:
            values["training"].setdefault("augment", {})[key] = value


def _get(tree: Mapping[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _pop(tree: dict[str, Any], key: str) -> Any:
    parent, _, leaf = key.rpartition(".")
    node = _get(tree, parent) if parent else tree
    return node.pop(leaf, None) if isinstance(node, dict) else None


def _drop_empty(tree: dict[str, Any]) -> None:
    """Remove null values, so that our defaults take their place."""
    for key, value in list(tree.items()):
        if isinstance(value, dict):
            _drop_empty(value)
        elif value is None:
            del tree[key]
