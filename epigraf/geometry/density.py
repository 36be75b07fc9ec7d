"""Raw densities of a field on an exact lattice in world units.

P points, R samples per axis. "Raw" is what the field's network returns, before shift, clamp and
gain: the official geometry tools return it and their iso level (25 by default) refers to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

OFFICIAL_LEVEL = 25.0

DensityField = Callable[[Tensor], Tensor]
"""points_world [1, P, 3] float32 -> raw density [1, P]."""
Progress = Callable[[int, int], None]
"""(parts done, parts in all)."""
Stages = Callable[[str], Progress]
"""What is done next -> told how far it is."""


def silent(_stage: str) -> Progress:
    """Stages that nobody wants to hear of."""
    return lambda _done, _total: None


@dataclass(frozen=True)
class Bounds:
    """An axis-aligned box in world units, `low` < `high` on each axis."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def __post_init__(self) -> None:
        for axis, low, high in zip("xyz", self.low, self.high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"Bounds: {axis} must have low < high, got {low} and {high}")

    @classmethod
    def cube(cls, size: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Bounds:
        """The cube of edge length `size` around `centre`."""
        if not size > 0:
            raise ValueError(f"Bounds: the cube's size must be positive, got {size}")
        x, y, z = centre
        half = size / 2
        return cls((x - half, y - half, z - half), (x + half, y + half, z + half))

    @classmethod
    def model(cls, cube_scale: float, object_radius: float | None) -> Bounds:
        """The region that a model fills: the cube around its object ball where rays are limited to
        one, else its whole tri-plane cube (edge 2 cube_scale).
        """
        half = cube_scale if object_radius is None else min(object_radius, cube_scale)
        return cls.cube(2 * half)


@dataclass(frozen=True)
class Lattice:
    """R^3 points that span `bounds`, both ends included; x is the slowest index, z the fastest.

    Point (i, j, k) lies at low + (i, j, k) * (high - low) / (R - 1). The official lattice takes
    fractional x and y indices and is sheared by up to one voxel; this one is exact.
    """

    resolution: int
    bounds: Bounds

    def __post_init__(self) -> None:
        if self.resolution < 2:
            raise ValueError(f"Lattice: resolution must be at least 2, got {self.resolution}")

    def __len__(self) -> int:
        return self.resolution**3

    @property
    def spacing(self) -> np.ndarray:
        """Distance between neighbours on each axis [3] float64, world units."""
        low, high = np.array(self.bounds.low), np.array(self.bounds.high)
        return (high - low) / (self.resolution - 1)

    def distance(self) -> np.ndarray:
        """Distance of every point to the world's origin [R, R, R] float32."""
        steps = np.arange(self.resolution)
        axes = [low + s * steps for low, s in zip(self.bounds.low, self.spacing, strict=True)]
        x, y, z = ((axis**2).astype(np.float32) for axis in axes)
        return np.sqrt(x[:, None, None] + y[:, None] + z)

    def points(self, start: int, stop: int) -> Tensor:
        """Points [stop - start, 3] float64 of the flat indices start..stop-1."""
        flat = torch.arange(start, stop)
        index = torch.stack(
            [
                flat // self.resolution**2,
                flat // self.resolution % self.resolution,
                flat % self.resolution,
            ],
            dim=1,
        )
        low = torch.tensor(self.bounds.low, dtype=torch.float64)
        high = torch.tensor(self.bounds.high, dtype=torch.float64)
        return low + (high - low) * (index.double() / (self.resolution - 1))


@dataclass(frozen=True)
class Volume:
    """Raw densities `values` [R, R, R] float32 on a lattice, indexed [x, y, z]."""

    values: np.ndarray
    lattice: Lattice

    def __post_init__(self) -> None:
        expected = (self.lattice.resolution,) * 3
        if self.values.shape != expected:
            raise ValueError(f"Volume: values must be {list(expected)}, got {self.values.shape}")


@torch.no_grad()
def density_at(field: DensityField, points: Tensor, *, max_points: int = 65536) -> Tensor:
    """Raw densities [B, P] at points [B, P, 3], evaluated at most `max_points` at a time."""
    step = max(1, max_points // max(1, points.shape[0]))
    blocks = [field(block) for block in points.split(step, dim=1)]
    return torch.cat(blocks, dim=1)


@torch.no_grad()
def density_grid(
    field: DensityField,
    lattice: Lattice,
    *,
    max_points: int = 65536,
    device: torch.device | None = None,
) -> Volume:
    """Evaluate one object's field on every lattice point, in blocks of at most `max_points`.

    Besides the result (4 R^3 bytes) only one block is held. Raises ValueError where the field
    returns NaN or infinity, or another shape than [1, P].
    """
    values = np.empty(len(lattice), dtype=np.float32)
    for start in range(0, len(lattice), max_points):
        stop = min(start + max_points, len(lattice))
        points = lattice.points(start, stop).to(device=device, dtype=torch.float32)[None]
        block = field(points)
        if block.shape != points.shape[:2]:
            raise ValueError(
                f"density_grid: the field must return [1, P] = [1, {stop - start}], "
                f"got {list(block.shape)}"
            )
        values[start:stop] = block[0].float().cpu().numpy()
    _check_finite(values, lattice)
    return Volume(values.reshape((lattice.resolution,) * 3), lattice)


def _check_finite(values: np.ndarray, lattice: Lattice) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        where = [round(float(x), 4) for x in lattice.points(int(bad[0]), int(bad[0]) + 1)[0]]
        raise ValueError(
            f"density_grid: {bad.size} of {values.size} densities are NaN or infinite, "
            f"the first at {where}; the model's weights are probably broken"
        )
