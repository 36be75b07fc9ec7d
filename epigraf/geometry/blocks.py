"""Iso-surfaces of lattices of any size, block by block, in bounded memory.

A block is a box of cells. Its densities are evaluated with the border that it shares with its
neighbours, marching cubes runs on it alone, and every vertex is named by the lattice edge that it
lies on: vertices of neighbouring blocks are the same where their edges are, and their places are
computed from the two densities of that edge. Densities are evaluated in the bricks alone that a
coarse lattice of probes finds near the surface. So nothing depends on how the lattice was cut, to
the last bit. Source: Lorensen and Cline 1987.

Legend: R lattice points along an axis, N points of a block along an axis, P points, V vertices,
F faces. Lattice points are numbered from -1 to R: the layers -1 and R, outside of the lattice,
close the surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import mcubes
import numpy as np

from epigraf.geometry.density import Lattice

CELLS = 64  # of a block, along an axis
_ROWS, _SIDES = 1 << 18, 1 << 12  # of a large array, and of bricks, at a time
PROBES = 256  # along an axis: densities that decide where is looked more closely

Values = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Lattice indices along x, y and z -> raw densities [len(x), len(y), len(z)] float32."""
PointValues = Callable[[np.ndarray], np.ndarray]
"""Lattice indices [P, 3] -> raw densities [P] float32."""


@dataclass(frozen=True)
class Piece:
    """A part of the surface.

    edges: int64 [V], the lattice edge of each vertex: 3 * point + axis, where a point's number is
    ((i + 1) (R + 2) + j + 1) (R + 2) + k + 1. fractions: [V] float32, how far along its edge it
    lies. faces: int32 [F, 3], counter-clockwise seen from outside.
    """

    edges: np.ndarray
    fractions: np.ndarray
    faces: np.ndarray


NOTHING = Piece(np.empty(0, np.int64), np.empty(0, np.float32), np.empty((0, 3), np.int32))


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


def gridded(at: PointValues) -> Values:
    """Densities on a grid of indices, every one of them evaluated."""

    def values(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        index = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1)
        return at(index.reshape(-1, 3)).reshape(index.shape[:3])

    return values


def clipped(at: PointValues, lattice: Lattice, level: float, radius: float) -> PointValues:
    """Densities that cross the level on the sphere of this radius about the origin, where they are
    above it there: within a voxel of the sphere they fade to the level, outside they are below (and
    not evaluated). Surfaces further inside keep their place."""
    voxel, low = float(lattice.spacing.max()), np.array(lattice.bounds.low)

    def within(index: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(low + index * lattice.spacing, axis=1)
        share = np.clip((radius - distance) / voxel, -1, 1).astype(np.float32)
        inside = share > -1
        found = np.full(len(index), level - 1, np.float32)
        found[inside] = at(index[inside])
        return np.where(found > level, level + (found - level) * share, found).astype(np.float32)

    return within


@dataclass(frozen=True)
class Bricks:
    """Where the surface may be: boxes of `cells`^3 cells between N^3 probes.

    above: bool [N, N, N], the probes above the level. active: bool [N - 1, N - 1, N - 1], bricks
    whose probes, or those one brick further, lie on both sides of the level.
    """

    cells: int
    above: np.ndarray
    active: np.ndarray

    def sparse(self, at: PointValues, level: float) -> Values:
        """Densities evaluated at the points of active bricks; elsewhere 1 above or below."""

        def values(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
            last = len(self.active) - 1
            sides = [(np.clip((i - 1) // self.cells, 0, last), np.clip(i // self.cells, 0, last))
                     for i in (x, y, z)]  # fmt: skip
            needed = np.zeros((len(x), len(y), len(z)), bool)
            for corner in product((0, 1), repeat=3):
                needed |= self.active[np.ix_(*(s[c] for s, c in zip(sides, corner, strict=True)))]
            above = self.above[np.ix_(*(side[1] for side in sides))]
            found = np.where(above, np.float32(level + 1), np.float32(level - 1))
            index = np.argwhere(needed)
            index = np.stack([a[i] for a, i in zip((x, y, z), index.T, strict=True)], axis=1)
            found[needed] = at(index)
            return found

        return values

    def touches(self, block: Block) -> bool:
        """Whether the surface may pass through a block, or out of the lattice within it."""
        inner, outer = [], []
        for axis in range(3):
            low, high = max(block.start[axis], 0), block.stop[axis]
            last = len(self.active) - 1
            inner.append(slice(min(low // self.cells, last), (high - 1) // self.cells + 1))
            outer.append(slice(min(low // self.cells, last), high // self.cells + 2))
        edge = min(block.start) < 0 or max(block.stop) > (len(self.active)) * self.cells
        return bool(self.active[tuple(inner)].any() or (edge and self.above[tuple(outer)].any()))


def find_bricks(at: PointValues, resolution: int, level: float) -> Bricks:
    """Probe the lattice: all points, or every second, third ..., so that there are at most `PROBES`
    + 1 along an axis. Then follow what leaves the bricks found, however thin it is.

    Parts that no probe lies in, not connected to others, can be missed.
    """
    last = resolution - 1
    cells = -(-last // PROBES)
    probes = np.append(np.arange(0, last, cells), last)
    values = gridded(at)
    above = np.stack([off_level(values(x[None], probes, probes)[0], level) > level for x in probes])
    some: np.ndarray = np.pad(above, 1, mode="edge")
    every = some
    for axis in range(3):
        count = len(probes) - 1
        shifted = [np.take(some, range(k, k + count), axis) for k in range(4)]
        some = shifted[0] | shifted[1] | shifted[2] | shifted[3]
        shifted = [np.take(every, range(k, k + count), axis) for k in range(4)]
        every = shifted[0] & shifted[1] & shifted[2] & shifted[3]
    bricks = Bricks(cells, above, some & ~every)
    _follow(bricks, probes, at, level)
    return bricks


def _follow(bricks: Bricks, probes: np.ndarray, at: PointValues, level: float) -> None:
    """Activate bricks that the surface enters through a side of an active one, and so on."""
    active, seen = bricks.active, np.zeros((3, *bricks.active.shape), bool)
    growing = True
    while growing:
        growing = False
        for axis in range(3):
            here, there = np.moveaxis(active, axis, 0)[:-1], np.moveaxis(active, axis, 0)[1:]
            border = np.zeros_like(active)
            np.moveaxis(border, axis, 0)[:-1] = here != there
            sides = np.argwhere(border & ~seen[axis])  # of brick i and the next one
            seen[axis] |= border
            for start in range(0, len(sides), _SIDES):
                part = sides[start : start + _SIDES]
                crossed = part[_crossed(bricks, part, axis, probes, at, level)]
                for end in (crossed, crossed + np.eye(3, dtype=np.int64)[axis]):
                    active[tuple(end.T)] = True
                growing |= len(crossed) > 0


def _crossed(
    bricks: Bricks, sides: np.ndarray, axis: int, probes: np.ndarray, at: PointValues, level: float
) -> np.ndarray:
    """Whether [N] the surface passes through the sides between bricks [N, 3] and the next ones
    along an axis, whose corners lie on one side of the level."""
    steps = np.arange(bricks.cells + 1)
    first, second = np.meshgrid(steps, steps, indexing="ij")
    offset = np.insert(np.stack([first.ravel(), second.ravel()], axis=1), axis, 0, axis=1)
    corner = sides + np.eye(3, dtype=np.int64)[axis]
    index = np.minimum(probes[corner][:, None] + offset, probes[-1])
    values = off_level(at(index.reshape(-1, 3)), level).reshape(len(sides), -1)
    return ((values > level) != bricks.above[tuple(corner.T)][:, None]).any(axis=1)


def march(values: Values, block: Block, resolution: int, level: float) -> Piece:
    """Marching cubes of one block."""
    densities = off_level(values(*(block.points(axis) for axis in range(3))), level)
    if not (densities.min() < level < densities.max()):
        return NOTHING
    found, faces = mcubes.marching_cubes(densities, level)
    near = np.floor(found).astype(np.int64)
    axis = np.argmax(found - near, axis=1)
    index = near + np.array(block.start)
    number = ((index[:, 0] + 1) * (resolution + 2) + index[:, 1] + 1) * (resolution + 2)
    edges = (number + index[:, 2] + 1) * 3 + axis
    far = near.copy()
    far[np.arange(len(far)), axis] += 1
    here, there = (densities[tuple(ends.T)].astype(np.float64) for ends in (near, far))
    fractions = ((level - here) / (there - here)).astype(np.float32)
    return Piece(edges, fractions, faces.astype(np.int32))


def off_level(values: np.ndarray, level: float) -> np.ndarray:
    """Move values that hit the level exactly a little above it: no triangles without area."""
    step = np.float32(1e-6 * max(abs(level), 1.0))
    return np.where(np.abs(values - level) < step, np.float32(level + step), values)


def merge(pieces: list[Piece]) -> Piece:
    """One piece of several: vertices sorted by their edges, each of which they share once."""
    every = [NOTHING, *pieces]
    edges, same = np.unique(np.concatenate([p.edges for p in every]), return_inverse=True)
    same = same.reshape(-1).astype(np.int32)
    fractions = np.empty(len(edges), np.float32)
    faces = np.empty((sum(len(p.faces) for p in every), 3), np.int32)
    vertex = face = 0
    for piece in every:
        numbers = same[vertex : vertex + len(piece.edges)]
        fractions[numbers] = piece.fractions
        faces[face : face + len(piece.faces)] = numbers[piece.faces]
        vertex, face = vertex + len(piece.edges), face + len(piece.faces)
    return Piece(edges, fractions, faces)


def stitch(pieces: list[Piece], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """One surface: places [V, 3] float64 in voxels, by edge, and faces [F, 3] int32 in one fixed
    order. What `pieces` lists is given up on the way (memory)."""
    whole = merge(pieces)
    pieces.clear()
    side, count = resolution + 2, len(whole.edges)
    places = np.empty((count, 3))
    for start in range(0, count, _ROWS):
        part = slice(start, start + _ROWS)
        point, axis = np.divmod(whole.edges[part], 3)
        places[part, 0] = point // side**2 - 1
        places[part, 1] = point // side % side - 1
        places[part, 2] = point % side - 1
        places[np.arange(start, start + len(axis)), axis] += whole.fractions[part]
    return places, ordered(whole.faces)


def ordered(faces: np.ndarray) -> np.ndarray:
    """Faces [F, 3] with their smallest vertex first, winding kept, sorted."""
    for start in range(0, len(faces), _ROWS):
        part = faces[start : start + _ROWS]
        turn = np.argmin(part, axis=1)[:, None]
        faces[start : start + _ROWS] = np.take_along_axis(part, (turn + np.arange(3)) % 3, axis=1)
    return faces[np.lexsort(faces.T[::-1])]
