"""A z-buffer: which triangle each pixel's ray meets first, where, and how far away.

Triangles are intersected with the very rays that a volume is rendered along (Moeller and Trumbore
1997), so that distances and places need no perspective correction. Legend: V vertices, F faces,
N rays, H W pixels, C candidates (a pixel and a triangle whose box covers it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_CANDIDATES, _FACES = 1 << 21, 1 << 19  # at a time


@dataclass(frozen=True)
class Hits:
    """For each ray: face [N] int64 (-1: none), weights [N, 3] of its corners (barycentric), t [N]
    along the unit ray (infinite where there is none)."""

    face: np.ndarray
    weights: np.ndarray
    t: np.ndarray

    def interpolate(self, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Values [V, D] at the hits, [N, D]; zeros where there are none."""
        hit = self.face >= 0
        found = np.zeros((len(self.face), values.shape[1]))
        corners = values[faces[self.face[hit]]].astype(np.float64)
        found[hit] = (self.weights[hit, :, None] * corners).sum(1)
        return found


def rasterize(
    vertices: np.ndarray, faces: np.ndarray, cam2world: np.ndarray, fov_degrees: float, side: int
) -> Hits:
    """The first triangle behind every pixel of a square picture, both sides of it visible.

    Args:
        vertices: [V, 3] world units.
        faces: [F, 3].
        cam2world: [4, 4], looking along -z, y up.
        fov_degrees: full angle; the outermost pixels' centres lie on its edges, as in `rays`.
        side: pixels.
    """
    focal = 1 / np.tan(np.radians(fov_degrees) / 2)
    local = (vertices - cam2world[:3, 3]) @ cam2world[:3, :3]
    depth = np.maximum(-local[:, 2:], 1e-6)
    places = local[:, :2] / depth * focal * [1, -1]  # x to the right, y downwards, in [-1, 1]
    pixels = (places + 1) / 2 * (side - 1)
    nearest = np.full(side * side, np.inf)
    face, weights = np.full(side * side, -1), np.zeros((side * side, 3))
    in_front = local[:, 2] < -1e-6
    for pixel, which in _candidates(pixels, faces, in_front, side):
        t, inside, shares = _intersect(local[faces[which]], _directions(pixel, focal, side))
        pixel, which, t, shares = pixel[inside], which[inside], t[inside], shares[inside]
        order = np.lexsort((which, t, pixel))
        pixel, which, t, shares = pixel[order], which[order], t[order], shares[order]
        first = np.flatnonzero(np.diff(pixel, prepend=-1))
        better = first[t[first] < nearest[pixel[first]]]
        nearest[pixel[better]], face[pixel[better]] = t[better], which[better]
        weights[pixel[better]] = shares[better]
    return Hits(face, weights, nearest)


def _candidates(
    pixels: np.ndarray, faces: np.ndarray, usable: np.ndarray, side: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels [C] and faces [C] of the boxes of faces [F, 3] whose vertices lie at pixels [V, 2] and
    are all usable [V], some at a time."""
    for start in range(0, len(faces), _FACES):
        part = faces[start : start + _FACES]
        for pixel, which in _covered(pixels[part], usable[part].min(axis=1), side):
            yield pixel, start + which


def _covered(
    corners: np.ndarray, usable: np.ndarray, side: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels [C] and triangles [C] of the boxes of usable triangles [F, 3, 2], some at a time."""
    low = np.clip(np.ceil(corners.min(1) - 1e-9), 0, side).astype(np.int64)
    high = np.clip(np.floor(corners.max(1) + 1e-9), -1, side - 1).astype(np.int64)
    size = np.maximum(high - low + 1, 0) * usable[:, None]
    count = size[:, 0] * size[:, 1]
    faces = np.flatnonzero(count)
    ends = np.cumsum(count[faces])
    start = 0
    while start < len(faces):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _CANDIDATES)), start + 1)
        which = np.repeat(faces[start:stop], count[faces[start:stop]])
        place = np.arange(len(which)) - np.repeat(
            ends[start:stop] - count[faces[start:stop]] - done, count[faces[start:stop]]
        )
        y, x = np.divmod(place, size[which, 0])
        yield (low[which, 1] + y) * side + low[which, 0] + x, which
        start = stop


def _directions(pixel: np.ndarray, focal: float, side: int) -> np.ndarray:
    """Unit directions [C, 3] in the camera frame."""
    y, x = np.divmod(pixel, side)
    step = 2 / (side - 1)
    directions = np.stack([x * step - 1, 1 - y * step, np.full(len(pixel), -focal)], axis=1)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _intersect(
    corners: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t [C], whether it is inside [C], weights [C, 3] of rays from the origin and triangles
    [C, 3, 3]; a little beyond the edges counts as inside, so that no ray slips between two."""
    first = corners[:, 0]
    u_edge, v_edge = corners[:, 1] - first, corners[:, 2] - first
    p = np.cross(directions, v_edge)
    volume = (u_edge * p).sum(1)
    safe = np.where(np.abs(volume) > 1e-18, volume, np.inf)
    u = -(first * p).sum(1) / safe
    q = np.cross(-first, u_edge)
    v = (directions * q).sum(1) / safe
    t = (v_edge * q).sum(1) / safe
    inside = (u >= -1e-7) & (v >= -1e-7) & (u + v <= 1 + 1e-7) & (t > 0)
    return t, inside, np.stack([1 - u - v, u, v], axis=1)
