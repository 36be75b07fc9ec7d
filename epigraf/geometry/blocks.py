"""Iso-surfaces of lattices of any size, block by block, in bounded memory.

A block is a box of cells. Its densities are evaluated with the border that it shares with its
neighbours, marching cubes runs on it alone, and every vertex is named by the lattice edge that it
lies on: vertices of neighbouring blocks are the same where their edges are, and their places are
computed from the two densities of that edge. So nothing depends on how the lattice was cut, to the
last bit. Source: Lorensen and Cline 1987.

Legend: R lattice points along an axis, N points of a block along an axis, V vertices, F faces.
Lattice points are numbered from -1 to R: the layers -1 and R, outside of the lattice, close the
surface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import mcubes
import numpy as np

from epigraf.geometry.density import Lattice

CELLS = 64  # of a block, along an axis
PROBE_CELLS = 4  # between two densities that decide whether a block is looked into

Values = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Lattice indices along x, y and z -> raw densities [len(x), len(y), len(z)] float32."""


@dataclass(frozen=True)
class Piece:
    """The surface within a block.

    edges: int64 [V], the lattice edge of each vertex: 3 * point + axis, where a point's number is
    ((i + 1) (R + 2) + j + 1) (R + 2) + k + 1. places: [V, 3] float64, in voxels. faces: int32
    [F, 3], counter-clockwise seen from outside.
    """

    edges: np.ndarray
    places: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class Block:
    """The cells from `start` (inclusive) to `stop` (exclusive) along each axis."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def points(self, axis: int) -> np.ndarray:
        """The lattice points of its cells along an axis: one more than cells."""
        return np.arange(self.start[axis], self.stop[axis] + 1)


def blocks(resolution: int, close: bool, cells: int = CELLS) -> list[Block]:
    """All cells of a lattice, x slowest; with `close` also those to the layers outside of it."""
    first, last = (-1, resolution) if close else (0, resolution - 1)
    starts = range(first, last, cells)
    return [
        Block((x, y, z), (min(x + cells, last), min(y + cells, last), min(z + cells, last)))
        for x, y, z in product(starts, repeat=3)
    ]


def closed(values: Values, resolution: int, level: float) -> Values:
    """Densities also outside of the lattice: as far below the level as the nearest inside is above
    or below, so that what leaves the lattice is capped half a voxel outside of it."""

    def with_layers(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        inside = [np.clip(axis, 0, resolution - 1) for axis in (x, y, z)]
        # Of a clipped index only the first is evaluated again: at most one layer on each side.
        found = values(*inside)
        outside = [axis != near for axis, near in zip((x, y, z), inside, strict=True)]
        beyond = outside[0][:, None, None] | outside[1][:, None] | outside[2]
        capped = level - np.maximum(np.abs(found - level), np.float32(1e-6))
        return np.where(beyond, capped, found).astype(np.float32)

    return with_layers


def clipped(values: Values, lattice: Lattice, level: float, radius: float) -> Values:
    """Densities that cross the level on the sphere of this radius about the origin, where they are
    above it there: within a voxel of the sphere they fade to the level, outside they are below.
    Surfaces further inside keep their place."""
    voxel = float(lattice.spacing.max())
    low = np.array(lattice.bounds.low)

    def within(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        found = values(x, y, z)
        squares = [(low[a] + lattice.spacing[a] * axis) ** 2 for a, axis in enumerate((x, y, z))]
        distance = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
        share = np.clip((radius - distance) / voxel, -1, 1)
        return np.where(found > level, level + (found - level) * share, found).astype(np.float32)

    return within


def march(values: Values, block: Block, resolution: int, level: float) -> Piece:
    """Marching cubes of one block."""
    axes = [block.points(axis) for axis in range(3)]
    densities = off_level(values(*axes), level)
    if not (densities.min() < level < densities.max()):
        return Piece(np.empty(0, np.int64), np.empty((0, 3)), np.empty((0, 3), np.int32))
    found, faces = mcubes.marching_cubes(densities, level)
    near = np.floor(found).astype(np.int64)
    axis = np.argmax(found - near, axis=1)
    index = near + np.array(block.start)
    number = ((index[:, 0] + 1) * (resolution + 2) + index[:, 1] + 1) * (resolution + 2)
    edges = (number + index[:, 2] + 1) * 3 + axis
    far = near.copy()
    far[np.arange(len(far)), axis] += 1
    here, there = (densities[tuple(ends.T)].astype(np.float64) for ends in (near, far))
    places = index.astype(np.float64)
    places[np.arange(len(places)), axis] += (level - here) / (there - here)
    return Piece(edges, places, faces.astype(np.int32))


def off_level(values: np.ndarray, level: float) -> np.ndarray:
    """Move values that hit the level exactly a little above it: no triangles without area."""
    step = np.float32(1e-6 * max(abs(level), 1.0))
    return np.where(np.abs(values - level) < step, np.float32(level + step), values)


def stitch(pieces: list[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """One surface: places [V, 3] float64 by edge, and faces [F, 3] int64 in one fixed order."""
    edges = np.concatenate([np.empty(0, np.int64), *(piece.edges for piece in pieces)])
    _, first, same = np.unique(edges, return_index=True, return_inverse=True)
    places = np.concatenate([np.empty((0, 3)), *(piece.places for piece in pieces)])[first]
    starts = np.cumsum([0, *(len(piece.edges) for piece in pieces)])
    faces = [piece.faces.astype(np.int64) + at for piece, at in zip(pieces, starts, strict=False)]
    return places, ordered(same.reshape(-1)[np.concatenate([np.empty((0, 3), np.int64), *faces])])


def ordered(faces: np.ndarray) -> np.ndarray:
    """Faces [F, 3] with their smallest vertex first, winding kept, sorted."""
    turn = np.argmin(faces, axis=1)[:, None]
    faces = np.take_along_axis(faces, (turn + np.arange(3)) % 3, axis=1)
    return faces[np.lexsort(faces.T[::-1])]


def active_blocks(
    values: Values, resolution: int, level: float, candidates: list[Block], close: bool
) -> Iterator[Block]:
    """The blocks that the surface may pass through.

    Every `PROBE_CELLS`-th lattice point along each axis is evaluated. A block is left out where all
    of its probes, and those around it up to two probes away, lie on one side of the level. What
    is thinner than a few voxels and further than that from all else can be missed: `march` all
    blocks where that matters.
    """
    last = resolution - 1
    probes = np.unique(np.append(np.arange(0, resolution, PROBE_CELLS), last))
    above = np.stack(
        [values(probes[i : i + 1], probes, probes)[0] > level for i in range(len(probes))]
    )
    for block in candidates:
        reach = 2 * PROBE_CELLS
        parts = []
        for axis in range(3):
            low = np.searchsorted(probes, block.start[axis] - reach)
            high = np.searchsorted(probes, block.stop[axis] + reach, side="right")
            parts.append(slice(low, high))
        near = above[tuple(parts)]
        edge = close and (min(block.start) < 0 or max(block.stop) > last)
        if (near.any() and not near.all()) or (edge and near.any()):
            yield block
