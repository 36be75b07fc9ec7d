"""The yaw of aligned faces, estimated from how unsymmetric they are: no network, no labels.

Photographs that were aligned by the eyes show the nose beside the middle where the head is turned:
by depth * sin(yaw), where depth is how far the nose sticks out before the axis between the eyes.
Where the nose is, an axis of mirror symmetry of the muzzle tells, but badly for a single picture
(light, patterned fur). So a linear map from the unsymmetric part of all pictures to those axes is
fitted to the whole set, and its prediction taken: what the axes of many similar pictures agree on.

Legend: N pictures, S candidate axes, D features, W = 64, the side at which pictures are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.errors import DataError

SIDE = 64
MIN_PICTURES = 100
_CHUNK = 1024
_BLUR = 15  # pixels of SIDE over which brightness and contrast are evened out
_SURE = 0.4  # symmetry of the muzzle about its best axis from which on that axis is believed
_RIDGE = 0.5  # a picture


@dataclass(frozen=True)
class Muzzle:
    """Where the nose is looked for, all in fractions of the picture's side.

    Rows from ``top`` to ``bottom``; ``half_width`` to both sides of the axis, which lies within
    ``reach`` of the middle. ``depth`` is how far the nose sticks out: it turns offsets into angles,
    and a smaller one means larger yaws and flatter faces.
    """

    top: float = 0.53
    bottom: float = 0.84
    half_width: float = 0.22
    reach: float = 0.15
    depth: float = 0.22


def estimate_yaw(images: Tensor, muzzle: Muzzle | None = None) -> Tensor:
    """Yaw [N] in radians of aligned faces, uint8 [N, 3, R, R].

    Mirrored pictures get exactly the opposite yaw. Positive: the nose is right of the middle, seen
    by a camera that stands at a positive yaw.

    Raises:
        DataError: fewer than MIN_PICTURES pictures, or none of them symmetric about any axis.
    """
    if len(images) < MIN_PICTURES:
        raise DataError(
            f"poses: {len(images)} pictures are too few to learn from, {MIN_PICTURES} are needed"
        )
    muzzle = muzzle or Muzzle()
    axes, sure, features = [], [], []
    for chunk in images.split(_CHUNK):
        grey, contrast = _evened(chunk)
        found, symmetry = mirror_axis(contrast, muzzle)
        axes.append(found)
        sure.append((symmetry > _SURE) & (found.abs() < muzzle.reach * SIDE - 1))
        features.append(_unsymmetric(grey, contrast))
    offsets = _smoothed(torch.cat(features), torch.cat(axes), torch.cat(sure))
    return torch.asin((offsets / (muzzle.depth * SIDE)).clamp(-0.5, 0.5))


def _evened(images: Tensor) -> tuple[Tensor, Tensor]:
    """Grey pictures [N, 1, W, W] in 0..1, and the same with equal local mean and contrast."""
    grey = F.interpolate(images.float().mean(1, keepdim=True) / 255, (SIDE, SIDE), mode="area")

    def local_mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, _BLUR, 1, _BLUR // 2, count_include_pad=False)

    above = grey - local_mean(grey)
    return grey, above / (local_mean(above.square()) + 1e-3).sqrt()


def mirror_axis(contrast: Tensor, muzzle: Muzzle) -> tuple[Tensor, Tensor]:
    """The best mirror axis of the muzzle and its symmetry (1: a perfect mirror image), each [N].

    ``contrast`` is [N, 1, W, W]. Axes are offsets from the middle in pixels of W, in half pixels,
    positive to the right.
    """
    rows = slice(round(muzzle.top * SIDE), round(muzzle.bottom * SIDE))
    band, columns = contrast[:, 0, rows], torch.arange(SIDE)
    reach = round(2 * muzzle.reach * SIDE)
    symmetry = []
    for shift in range(-reach, reach + 1):  # in half pixels: column i is mirrored to W - 1 + s - i
        mirrored = SIDE - 1 + shift - columns
        near = (columns - mirrored).abs() < 2 * muzzle.half_width * SIDE
        near &= (mirrored >= 0) & (mirrored < SIDE)
        here, there = band[..., columns[near]], band[..., mirrored[near]]
        symmetry.append((here * there).sum((1, 2)) / here.square().sum((1, 2)).clamp_min(1e-6))
    best, index = torch.stack(symmetry, dim=1).max(dim=1)
    return (index - reach) / 2, best


def _unsymmetric(grey: Tensor, contrast: Tensor) -> Tensor:
    """What changes sign when a picture is mirrored: [N, D] of brightness, contrast and edges."""

    def features(grey: Tensor, contrast: Tensor) -> Tensor:
        across, down = contrast.diff(dim=3).abs(), contrast.diff(dim=2).abs()
        coarse = [F.adaptive_avg_pool2d(x, SIDE // 4) for x in (2 * grey, across, down)]
        fine = F.adaptive_avg_pool2d(contrast, SIDE // 2)
        return torch.cat([x.flatten(1) for x in (fine, *coarse)], dim=1)

    return features(grey, contrast) - features(grey.flip(3), contrast.flip(3))


def _smoothed(features: Tensor, offsets: Tensor, sure: Tensor) -> Tensor:
    """Offsets [N] predicted from features [N, D] by ridge regression on those that are sure."""
    if int(sure.sum()) < MIN_PICTURES // 2:
        raise DataError(
            "poses: no mirror symmetry found: are these faces, aligned by their eyes, "
            "with the nose between --top and --bottom?"
        )
    features = features / features.std().clamp_min(1e-6)
    known = features[sure]
    gram = known.T @ known + _RIDGE * len(known) * torch.eye(known.shape[1])
    return features @ torch.linalg.solve(gram, known.T @ offsets[sure])
