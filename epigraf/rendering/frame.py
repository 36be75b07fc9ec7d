"""Which pixels of a picture are rendered: its size, a crop of it, tiles of that, supersampling.

Legend: B batch, R rays (row-major, first row on top), S side of the whole picture, H W sides of a
box, K supersampling. A pixel's rays depend on its place in the whole picture alone, so that a crop
or a tile sees the same rays, bit for bit, as the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from epigraf.rendering.rays import Rays

_TILE_ROWS = 16  # of a wide picture: the fused renderer works through blocks of pixels


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: `left` and `top` are its first column and row."""

    left: int
    top: int
    width: int
    height: int

    def tiles(self, pixels: int) -> list[Box]:
        """Boxes of at most `pixels` (at least 1) pixels that cover this one, row by row."""
        pixels = max(pixels, 1)
        width = min(self.width, max(pixels // _TILE_ROWS, 1))
        height = min(self.height, max(pixels // width, 1))
        return [
            Box(x, y, min(width, self.left + self.width - x), min(height, bottom - y))
            for bottom in [self.top + self.height]
            for y in range(self.top, bottom, height)
            for x in range(self.left, self.left + self.width, width)
        ]


@dataclass(frozen=True)
class Frame:
    """A square picture of `side` pixels, or the `crop` of it; each pixel is the mean of
    `supersample` x `supersample` rays spread over its area (a box filter).
    """

    side: int
    crop: Box | None = None
    supersample: int = 1

    def __post_init__(self) -> None:
        if self.side < 1 or self.supersample < 1:
            raise ValueError(
                f"Frame: side and supersample must be at least 1, got {self.side} and "
                f"{self.supersample}"
            )
        c = self.crop
        if c is not None and not (
            0 <= c.left < c.left + c.width <= self.side
            and 0 <= c.top < c.top + c.height <= self.side
        ):
            raise ValueError(f"Frame: {c} must lie inside the picture of {self.side} pixels a side")

    @property
    def box(self) -> Box:
        """What is rendered."""
        return self.crop or Box(0, 0, self.side, self.side)


def pixel_places(side: int, start: int, count: int, supersample: int) -> Tensor:
    """Places [count * K] float64 in the picture, -1 and 1 at the centres of its first and last
    pixel (corner-aligned, as the official grid), of the rays of pixels start..start + count - 1.
    """
    fine = torch.arange(start * supersample, (start + count) * supersample, dtype=torch.float64)
    pixel = (fine + 0.5) / supersample - 0.5
    return pixel * (2 / (side - 1)) - 1 if side > 1 else pixel * 2


def frame_rays(cam2world: Tensor, fov_degrees: float, frame: Frame, box: Box) -> Rays:
    """Rays [B, H K W K, 3] of cameras [B, 4, 4] through the pixels of a box of the frame.

    `fov_degrees` is the full angle of view. Computed in float64 and rounded to the dtype of
    cam2world: the same as `patch_rays` of the whole picture but for rounding.
    """
    k, device = frame.supersample, cam2world.device
    x = pixel_places(frame.side, box.left, box.width, k).to(device)
    y = -pixel_places(frame.side, box.top, box.height, k).to(device)
    z = -1 / math.tan(math.radians(fov_degrees) / 2)
    right, up, back, origin = cam2world.double()[:, None, None, :3].unbind(-1)  # [B, 1, 1, 3] each
    directions = x[:, None] * right + (y[:, None, None] * up + z * back)
    directions = directions / directions.square().sum(-1, keepdim=True).sqrt()
    directions = directions.flatten(1, 2).to(cam2world.dtype)
    return Rays(origin[:, 0].to(cam2world.dtype).expand_as(directions).contiguous(), directions)


def box_filter(values: Tensor, box: Box, supersample: int) -> Tensor:
    """Values [B, H K W K, C] of the rays of a box as pictures [B, C, H, W]: means of K x K."""
    pixels = values.unflatten(1, (box.height, supersample, box.width, supersample))
    return pixels.mean(dim=(2, 4)).permute(0, 3, 1, 2)
