"""Numbers as pictures for the eye: every output of a view as uint8 pixels.

H W pixels; pictures are uint8 [H, W, 3], or [H, W, 4] with opacity as alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from epigraf.config import Config
from epigraf.models.pictures import Output, Picture
from epigraf.models.sampling import to_bytes

_SLAB = 0.05  # of the scene cube: thickness through which a cross-section is looked at


@dataclass(frozen=True)
class Range:
    """What is near (bright) and far (dark), and how thick a slice of the scene is, world units."""

    near: float
    far: float
    slab: float

    @classmethod
    def of(cls, cfg: Config, radius: float | None = None) -> Range:
        """That of a model, for a camera at `radius` (None: where it was trained)."""
        camera = cfg.dataset.camera
        moved = 0.0 if radius is None else radius - camera.radius
        near, far = max(camera.ray_start + moved, 0.0), max(camera.ray_end + moved, 1e-3)
        return cls(near, far, _SLAB * cfg.dataset.cube_scale)


def needed(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    """The outputs that pictures of `outputs` are made from: some fade out with the opacity."""
    fading = {Output.DEPTH, Output.NORMAL} & set(outputs)
    return tuple(dict.fromkeys([*outputs, *([Output.OPACITY] if fading else [])]))


def shade(picture: Picture, output: Output, limits: Range) -> np.ndarray:
    """One output of a view as [H, W, 3], the foreground as [H, W, 4].

    Depth: near is bright, white where there is nothing. Normals: red, green and blue are right, up
    and towards the camera, from 0 (-1) to 255 (1). Opacity: white is opaque. Density: how dark a
    slice of the object looks against the light. Raw depth: 0 is black, `far` white.
    """
    values = picture[output]
    if output is Output.FOREGROUND:
        alpha = (values[3:] * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        return np.concatenate([_bytes(values[:3]), alpha], axis=2)
    if output in (Output.COLOR, Output.BACKGROUND):
        return _bytes(values)
    if output is Output.OPACITY:
        return _bytes(_grey(values))
    if output is Output.RAW_DEPTH:
        return _bytes(_grey(values / limits.far))
    if output is Output.DENSITY:
        return _bytes(_grey(torch.exp(-values * limits.slab)))
    opacity = picture[Output.OPACITY]
    if output is Output.DEPTH:
        share = (values - limits.near) / (limits.far - limits.near)
        return _bytes(_on_white(_grey(0.9 - 0.8 * share.clamp(0, 1)), opacity))
    return _bytes(_on_white(torch.nn.functional.normalize(values, dim=0), opacity))


def _grey(share: Tensor) -> Tensor:
    """[1, H, W] in 0..1 as a picture [3, H, W] in -1..1."""
    return (share.clamp(0, 1) * 2 - 1).expand(3, -1, -1)


def _on_white(colors: Tensor, opacity: Tensor) -> Tensor:
    return colors * opacity + (1 - opacity)


def _bytes(image: Tensor) -> np.ndarray:
    return to_bytes(image[None])[0].numpy()


def over_white(picture: np.ndarray) -> np.ndarray:
    """[H, W, 3] of a picture with alpha; others as they are."""
    if picture.shape[2] == 3:
        return picture
    alpha = picture[..., 3:].astype(np.float32) / 255
    mixed = picture[..., :3] * alpha + 255 * (1 - alpha)
    return (mixed + 0.5).astype(np.uint8)
