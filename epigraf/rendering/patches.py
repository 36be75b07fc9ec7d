"""Patches of an image plane: their random scale and place, and how to cut them out of an image.

Legend: B batch, C channels, H W image size, r patch size. Scales and offsets are (x, y) in image
units [0, 1]; the y offset is measured from the bottom of the image (camera y points up).
Source: EpiGRAF (Skorokhodov et al. 2022), section 3.2; GRAF (Schwarz et al. 2020) for uniform
scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from epigraf.config import PatchConfig, PatchDistribution
from epigraf.rendering.draws import Draws


@dataclass(frozen=True)
class PatchParams:
    """Where each sample's patch lies: scales [B, 2] and offsets [B, 2], image units, (x, y)."""

    scales: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        for name, value in (("scales", self.scales), ("offsets", self.offsets)):
            if value.ndim != 2 or value.shape[1] != 2 or len(value) != len(self.scales):
                raise ValueError(
                    f"PatchParams: {name} must have shape [B, 2], got {list(value.shape)}"
                )

    def __len__(self) -> int:
        return len(self.scales)

    def __getitem__(self, index: slice | Tensor) -> PatchParams:
        """The patches of some samples."""
        return PatchParams(self.scales[index], self.offsets[index])

    def to(self, device: torch.device | str) -> PatchParams:
        """The same patches on another device."""
        return PatchParams(self.scales.to(device), self.offsets.to(device))

    def place(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map patch coordinates x [w], y [h] in [-1, 1] (y up) to image coordinates [B, w], [B,
        h]."""
        sx, sy = self.scales[:, :1], self.scales[:, 1:]
        ox, oy = self.offsets[:, :1], self.offsets[:, 1:]
        return (x + 1) * sx - 1 + 2 * ox, (y + 1) * sy - 1 + 2 * oy


def full_image(batch: int, like: Tensor) -> PatchParams:
    """Patches that cover the whole image, on the device and dtype of ``like``."""
    return PatchParams(like.new_ones(batch, 2), like.new_zeros(batch, 2))


def _sample_scales(
    patch: PatchConfig, groups: int, min_scale: float, beta: float, draws: Draws
) -> Tensor:
    """Patch scales [groups], float64 in [min_scale, max_scale]."""
    if patch.distribution is PatchDistribution.DISCRETE_UNIFORM:
        support = [s for s in patch.discrete_support if min_scale <= s <= patch.max_scale]
        if not support:
            raise ValueError(
                f"sample_patch_params: no scale of discrete_support={list(patch.discrete_support)} "
                f"lies in [{min_scale:g}, {patch.max_scale:g}]"
            )
        return draws.choice("patch_scale", support, (groups,))
    if patch.distribution is PatchDistribution.BETA:
        unit = draws.beta("patch_scale", patch.alpha, beta, (groups,))
    else:
        unit = draws.random("patch_scale", (groups,))
    return unit * (patch.max_scale - min_scale) + min_scale


def sample_patch_params(
    patch: PatchConfig, batch: int, group_size: int, min_scale: float, beta: float, *, draws: Draws
) -> PatchParams:
    """Draw one square patch per group of ``group_size`` consecutive samples.

    ``min_scale`` and ``beta`` are the schedule's current values (beta is read by the beta law only:
    scale = Beta(alpha, beta) * (max - min) + min; the uniform laws ignore it). Offsets are uniform
    in [0, 1 - scale]. The scale is drawn before the offsets. Raises ValueError if ``batch`` is no
    multiple of ``group_size``. Tensors are float32 on the CPU.
    """
    if group_size < 1 or batch % group_size:
        raise ValueError(
            f"sample_patch_params: batch must be a multiple of the group size {group_size}, "
            f"got {batch}"
        )
    groups = batch // group_size
    scales = (
        _sample_scales(patch, groups, min_scale, beta, draws).float()[:, None].expand(groups, 2)
    )
    offsets = draws.uniform("patch_offset", (groups, 2), scales) * (1 - scales)
    return PatchParams(
        scales.repeat_interleave(group_size, dim=0), offsets.repeat_interleave(group_size, dim=0)
    )


def patch_grid(patch: PatchParams, resolution: int) -> Tensor:
    """Sampling positions [B, r, r, 2] in memory coordinates: (x right, y down), both in [-1, 1]."""
    x, y = _axes(patch, resolution)
    grid = (len(patch), resolution, resolution)
    return torch.stack([x[:, None, :].expand(grid), y[:, :, None].expand(grid)], dim=-1)


def _axes(patch: PatchParams, resolution: int) -> tuple[Tensor, Tensor]:
    """Memory coordinates of the patch's columns and rows, both [B, r]."""
    steps = torch.linspace(-1, 1, resolution, dtype=patch.scales.dtype, device=patch.scales.device)
    x, y_up = patch.place(steps, -steps)
    return x, -y_up


def _interpolate_last(images: Tensor, positions: Tensor) -> Tensor:
    """Linear interpolation of [B, C, M, W] at positions [B, r] in [-1, 1] (corners on pixel
    centres).

    What lies outside the image counts as zero. Built of gathers, so twice differentiable.
    """
    width = images.shape[-1]
    pixel = (positions + 1) * 0.5 * (width - 1)
    left = pixel.floor()
    fraction = pixel - left
    parts = []
    for index, weight in ((left, 1 - fraction), (left + 1, fraction)):
        inside = (index >= 0) & (index < width)
        weight = (weight * inside)[:, None, None, :]
        index = index.clamp(0, width - 1).long()[:, None, None, :]
        shape = (*images.shape[:3], positions.shape[1])
        parts.append(images.gather(3, index.expand(shape)) * weight)
    return parts[0] + parts[1]


def extract_patches(images: Tensor, patch: PatchParams, resolution: int) -> Tensor:
    """Cut patches [B, C, r, r] out of images [B, C, H, W], bilinear with aligned corners, no
    antialias.

    Outside the image counts as zero. Twice differentiable in the images. Raises ValueError where
    the batch sizes differ.
    """
    if images.ndim != 4 or len(images) != len(patch):
        raise ValueError(
            f"extract_patches: images must have shape [B, C, H, W] with B = {len(patch)}, "
            f"got {list(images.shape)}"
        )
    x, y = _axes(patch, resolution)
    rows = _interpolate_last(images.transpose(2, 3), y).transpose(2, 3)
    return _interpolate_last(rows, x)
