"""The surface of a field: its densities on a lattice, block by block, and what lies on the level.

Legend: P points, R lattice points along an axis, V vertices, F faces. World units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from epigraf.geometry import blocks
from epigraf.geometry.density import DensityField, Lattice, density_at
from epigraf.geometry.mesh import Mesh

Progress = Callable[[int, int], None]
"""(blocks done, blocks in all)."""
_NORMAL_STEP = 0.5  # of a voxel, to both sides


@dataclass(frozen=True)
class SurfaceOptions:
    """How a surface is found.

    clip_radius: what lies outside this ball around the origin counts as empty (models whose rays
    are limited to an object ball are undefined outside of it); the cut is exact to half a voxel.
    close: caps what leaves the lattice, half a voxel outside it: the mesh is watertight.
    skip_empty: look only into blocks whose surroundings have probes on both sides of the level.
    max_points: densities evaluated at a time. cells: of a block along each axis; no result depends
    on it.
    """

    clip_radius: float | None = None
    close: bool = True
    skip_empty: bool = True
    max_points: int = 65536
    cells: int = blocks.CELLS


class Sampler:
    """Densities of a field on a lattice, for the block-wise surface; remembers their range.

    Raises ValueError from a call where the field returns NaN or infinity, or a wrong shape.
    """

    def __init__(self, field: DensityField, lattice: Lattice, max_points: int) -> None:
        self.lattice, self.low, self.high = lattice, np.inf, -np.inf
        self._field, self._max_points = field, max_points

    def __call__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Raw densities [len(x), len(y), len(z)] float32 at lattice indices."""
        low, high = self.lattice.bounds.low, self.lattice.bounds.high
        steps = self.lattice.resolution - 1
        axes = [
            torch.from_numpy(a + (b - a) * (index / steps)).float()
            for index, a, b in zip((x, y, z), low, high, strict=True)
        ]
        points = torch.cartesian_prod(*axes).view(1, -1, 3)
        found = density_at(self._field, points, max_points=self._max_points)
        if found.shape != points.shape[:2]:
            raise ValueError(
                f"surface: the field must return [1, P] = [1, {points.shape[1]}], "
                f"got {list(found.shape)}"
            )
        values = found[0].float().cpu().numpy()
        _check_finite(values, points[0])
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        return values.reshape(len(x), len(y), len(z))


def _check_finite(values: np.ndarray, points: torch.Tensor) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        where = [round(float(x), 4) for x in points[int(bad[0])]]
        raise ValueError(
            f"surface: {bad.size} of {values.size} densities of a block are NaN or infinite, the "
            f"first at {where}; the model's weights are probably broken"
        )


def extract_surface(
    field: DensityField,
    lattice: Lattice,
    level: float,
    options: SurfaceOptions = SurfaceOptions(),
    progress: Progress | None = None,
) -> Mesh:
    """The surface where the raw density crosses `level`, without colours.

    Args:
        field: points_world [1, P, 3] -> raw densities [1, P].
        lattice: where it is sampled.
        level: raw density of the surface; inside is above it.
        options: see `SurfaceOptions`.
        progress: told after every block.

    Raises:
        ValueError: the level is not inside the range of the densities, or they are not finite.
    """
    sampler, n = Sampler(field, lattice, options.max_points), lattice.resolution
    values: blocks.Values = sampler
    if options.clip_radius is not None:
        values = blocks.clipped(values, lattice, level, options.clip_radius)
    wanted = blocks.blocks(n, options.close, options.cells)
    if options.skip_empty:
        wanted = list(blocks.active_blocks(values, n, level, wanted, options.close))
    if options.close:
        values = blocks.closed(values, n, level)
    pieces = []
    for number, block in enumerate(wanted, 1):
        pieces.append(blocks.march(values, block, n, level))
        if progress is not None:
            progress(number, len(wanted))
    places, faces = blocks.stitch(pieces)
    if len(faces) == 0 or not sampler.low < level < sampler.high:
        _explain_nothing(sampler, level)
    vertices = np.array(lattice.bounds.low) + places * lattice.spacing
    return Mesh(vertices, faces, outward_normals(field, vertices, lattice, options.max_points))


def _explain_nothing(sampler: Sampler, level: float) -> None:
    low, high = float(sampler.low), float(sampler.high)
    if low == high:
        raise ValueError(f"surface: the volume is empty, its density is {low:g} everywhere")
    if low < level < high:
        raise ValueError(
            f"surface: nothing of the volume at level {level:g} is inside the object's ball; "
            f"choose a level between {low:g} and {high:g}"
        )
    side = "above" if level >= high else "below"
    raise ValueError(
        f"surface: level {level:g} is {side} every density of the volume; "
        f"choose one between {low:g} and {high:g}"
    )


@torch.no_grad()
def outward_normals(
    field: DensityField, vertices: np.ndarray, lattice: Lattice, max_points: int = 65536
) -> np.ndarray:
    """-grad(density) at vertices [V, 3], unit length: central differences over a voxel.

    Where the density does not change at all the normal is +y.
    """
    points = torch.from_numpy(vertices)
    step = torch.from_numpy(lattice.spacing) * _NORMAL_STEP
    slopes = []
    for axis in range(3):
        offset = torch.zeros(3, dtype=torch.float64)
        offset[axis] = step[axis]
        ahead, behind = (
            density_at(field, (points + sign * offset).float()[None], max_points=max_points)[0]
            for sign in (1, -1)
        )
        slopes.append((ahead.double() - behind.double()) / (2 * step[axis]))
    gradient = torch.stack(slopes, dim=1).numpy() if len(vertices) else np.empty((0, 3))
    length = np.linalg.norm(gradient, axis=1, keepdims=True)
    return np.where(length > 0, -gradient / np.maximum(length, 1e-30), np.array([0.0, 1.0, 0.0]))
