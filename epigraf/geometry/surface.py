"""The surface of a field: its densities on a lattice, block by block, and what lies on the level.

Legend: P points, R lattice points along an axis, V vertices, F faces. World units.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from epigraf.geometry import blocks
from epigraf.geometry.density import DensityField, Lattice, Progress, Stages, density_at, silent
from epigraf.geometry.mesh import Mesh
from epigraf.geometry.spool import Spool

_NORMAL_STEP = 0.5  # of a voxel, to both sides


@dataclass(frozen=True)
class SurfaceOptions:
    """How a surface is found.

    clip_radius: what lies outside this ball around the origin counts as empty (models whose rays
    are limited to an object ball are undefined outside of it); the cut is exact to half a voxel.
    close: caps what leaves the lattice, half a voxel outside it: the mesh is watertight.
    skip_empty: evaluate the densities near the surface alone, where a coarse lattice of probes
    finds both sides of the level nearby.
    strict: a level below every density is an error, not the whole ball.
    max_points: densities evaluated at a time. cells: of a block along each axis; no result depends
    on it.
    """

    clip_radius: float | None = None
    close: bool = True
    skip_empty: bool = True
    strict: bool = False
    max_points: int = 65536
    cells: int = blocks.CELLS


class Sampler:
    """Densities of a field on a lattice, for the block-wise surface; remembers their range.

    Raises ValueError from a call where the field returns NaN or infinity, or a wrong shape.
    """

    def __init__(self, field: DensityField, lattice: Lattice, max_points: int) -> None:
        self.lattice, self.low, self.high = lattice, np.inf, -np.inf
        self._field, self._max_points = field, max_points

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """Raw densities [P] float32 at lattice indices [P, 3]."""
        if len(index) == 0:
            return np.empty(0, np.float32)
        low, high = (np.array(end) for end in (self.lattice.bounds.low, self.lattice.bounds.high))
        places = low + (high - low) * (index / (self.lattice.resolution - 1))
        points = torch.from_numpy(places.astype(np.float32))[None]
        found = density_at(self._field, points, max_points=self._max_points)
        if found.shape != points.shape[:2]:
            raise ValueError(
                f"surface: the field must return [1, P] = [1, {points.shape[1]}], "
                f"got {list(found.shape)}"
            )
        values = found[0].float().cpu().numpy()
        _check_finite(values, points[0])
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        return values


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
    stages: Stages = silent,
    spool: Spool | None = None,
) -> Mesh:
    """The surface where the raw density crosses `level`, without colours.

    Args:
        field: points_world [1, P, 3] -> raw densities [1, P].
        lattice: where it is sampled.
        level: raw density of the surface; inside is above it.
        options: see `SurfaceOptions`.
        stages: told of the surface after every block, and of its normals.
        spool: keeps finished layers of blocks on disk, and those of an interrupted run.

    Raises:
        ValueError: the level is not inside the range of the densities, or they are not finite.
    """
    sampler = Sampler(field, lattice, options.max_points)
    pieces = _pieces(sampler, level, options, stages("surface"), spool)
    places, faces = blocks.stitch(pieces, lattice.resolution)
    emptiness = options.clip_radius is not None and sampler.low <= sampler.high
    if emptiness and not options.strict:  # outside of the ball
        sampler.low = min(sampler.low, level - 1)
    if len(faces) == 0 or not sampler.low < level < sampler.high:
        _explain_nothing(sampler, level)
    places *= lattice.spacing
    places += np.array(lattice.bounds.low)
    normals = outward_normals(field, places, lattice, options.max_points, stages("normals"))
    return Mesh(places, faces, normals)


def _pieces(
    sampler: Sampler, level: float, options: SurfaceOptions, progress: Progress, spool: Spool | None
) -> list[blocks.Piece]:
    """The surface layer by layer of blocks along x."""
    lattice = sampler.lattice
    n, at = lattice.resolution, sampler
    if options.clip_radius is not None:
        at = blocks.clipped(sampler, lattice, level, options.clip_radius)
    wanted, values = blocks.blocks(n, options.close, options.cells), blocks.gridded(at)
    # Where every point would be a probe none is needed; but the range of the densities, of which
    # finished layers know nothing.
    if options.skip_empty and (n - 1 > blocks.PROBES or spool is not None):
        bricks = blocks.find_bricks(at, n, level)
        wanted, values = [b for b in wanted if bricks.touches(b)], bricks.sparse(at, level)
    if options.close:
        values = blocks.closed(values, n, level)
    done, found = 0, []
    for start, layer in groupby(wanted, lambda block: block.start[0]):
        members = list(layer)
        piece = spool.read(start) if spool is not None else None
        if piece is None:
            pieces = []
            for number, block in enumerate(members, done + 1):
                pieces.append(blocks.march(values, block, n, level))
                progress(number, len(wanted))
            piece = blocks.merge(pieces)
            if spool is not None:
                spool.write(start, piece)
        done += len(members)
        progress(done, len(wanted))
        found.append(piece)
    return found


def _explain_nothing(sampler: Sampler, level: float) -> None:
    low, high = float(sampler.low), float(sampler.high)
    if high < low:  # no point was asked for
        bounds = sampler.lattice.bounds
        raise ValueError(
            f"surface: the box from {list(bounds.low)} to {list(bounds.high)} lies outside the "
            "object's ball about the origin; choose other bounds"
        )
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
    field: DensityField,
    vertices: np.ndarray,
    lattice: Lattice,
    max_points: int = 65536,
    progress: Progress | None = None,
) -> np.ndarray:
    """-grad(density) at vertices [V, 3], unit length float32: central differences over a voxel.

    Where the density does not change at all the normal is +y.
    """
    normals = np.empty((len(vertices), 3), np.float32)
    for start in range(0, len(vertices), max_points):
        part = slice(start, start + max_points)
        normals[part] = _normals(field, vertices[part], lattice.spacing * _NORMAL_STEP)
        if progress is not None:
            progress(min(part.stop, len(vertices)), len(vertices))
    return normals


def _normals(field: DensityField, vertices: np.ndarray, step: np.ndarray) -> np.ndarray:
    slopes = np.empty((len(vertices), 3))
    for axis in range(3):
        offset = np.eye(3)[axis] * step[axis]
        ends = (torch.from_numpy((vertices + s * offset).astype(np.float32)) for s in (1, -1))
        ahead, behind = (field(end[None])[0].double().cpu().numpy() for end in ends)
        slopes[:, axis] = (ahead - behind) / (2 * step[axis])
    length = np.linalg.norm(slopes, axis=1, keepdims=True)
    return np.where(length > 0, -slopes / np.maximum(length, 1e-30), np.array([0.0, 1.0, 0.0]))
