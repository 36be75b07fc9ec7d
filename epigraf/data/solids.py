"""Signed distances of simple solids, for the procedural data set.

Distances are negative inside, positive outside, and never larger than the true distance (the
primitives follow the well-known closed forms; ellipsoids and tapered capsules are first-order
bounds), so a ray may step by them.

Legend: P points. Points are float32 [3, P] (rows x, y, z; y up), distances [P], lengths in world
units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Vector = tuple[float, float, float]


class Solid(Protocol):
    """Anything with a signed distance."""

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distances [P] of points [3, P]."""
        ...


def _length(*rows: np.ndarray) -> np.ndarray:
    total = rows[0] * rows[0]
    for row in rows[1:]:
        total += row * row
    return np.sqrt(total, out=total)


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and three half-axes."""

    centre: Vector
    radii: Vector

    def distance(self, points: np.ndarray) -> np.ndarray:
        """First-order bound k0 (k0 - 1) / k1 with k0 = |p/r|, k1 = |p/r^2|."""
        x, y, z = (points[i] - np.float32(self.centre[i]) for i in range(3))
        a, b, c = (np.float32(1 / r) for r in self.radii)
        k0 = _length(x * a, y * b, z * c)
        k1 = _length(x * (a * a), y * (b * b), z * (c * c))
        return k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-9))


@dataclass(frozen=True)
class Capsule:
    """A segment with a radius at each end."""

    start: Vector
    end: Vector
    start_radius: float
    end_radius: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distance to the nearest axis point less the radius there, divided by the steepness."""
        axis = np.subtract(self.end, self.start).astype(np.float32)
        x, y, z = (points[i] - np.float32(self.start[i]) for i in range(3))
        along = (x * axis[0] + y * axis[1] + z * axis[2]) / np.float32(axis @ axis)
        np.clip(along, 0, 1, out=along)
        gap = _length(x - along * axis[0], y - along * axis[1], z - along * axis[2])
        slope = np.float32(self.end_radius - self.start_radius)
        steepness = np.sqrt(1 + slope * slope / np.float32(axis @ axis))
        return (gap - (np.float32(self.start_radius) + along * slope)) / steepness


@dataclass(frozen=True)
class Frustum:
    """An upright truncated cone about the y axis through (x, z), with rounded edges."""

    bottom: float
    top: float
    bottom_radius: float
    top_radius: float
    x: float = 0.0
    z: float = 0.0
    rounding: float = 0.004

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact distance to a capped cone shrunk by `rounding`, less `rounding`."""
        r = np.float32(self.rounding)
        half = np.float32((self.top - self.bottom) / 2) - r
        low, high = np.float32(self.bottom_radius) - r, np.float32(self.top_radius) - r
        radial = _length(points[0] - np.float32(self.x), points[2] - np.float32(self.z))
        y = points[1] - np.float32((self.top + self.bottom) / 2)
        cap_x = radial - np.minimum(radial, np.where(y < 0, low, high))
        cap_y = np.abs(y) - half
        side, rise = high - low, 2 * half  # the slanted edge, from (low, -half) to (high, half)
        t = (side * (radial - low) + rise * (y + half)) / (side * side + rise * rise)
        np.clip(t, 0, 1, out=t)
        edge_x, edge_y = radial - (low + t * side), y - (t * rise - half)
        inside = (edge_x < 0) & (cap_y < 0)
        squared = np.minimum(cap_x * cap_x + cap_y * cap_y, edge_x * edge_x + edge_y * edge_y)
        return np.where(inside, np.float32(-1), np.float32(1)) * np.sqrt(squared) - r


@dataclass(frozen=True)
class Box:
    """A box with rounded edges: centre, half sides, rounding radius."""

    centre: Vector
    half: Vector
    rounding: float = 0.01

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact."""
        r = np.float32(self.rounding)
        gaps = [
            np.abs(points[i] - np.float32(self.centre[i])) - (np.float32(self.half[i]) - r)
            for i in range(3)
        ]
        outside = _length(*(np.maximum(gap, 0) for gap in gaps))
        inside = np.minimum(np.maximum(gaps[0], np.maximum(gaps[1], gaps[2])), 0)
        return outside + inside - r


@dataclass(frozen=True)
class Disc:
    """A cylinder whose axis is parallel to z (a wheel) or to x (a window), rounded."""

    centre: Vector
    radius: float
    half_width: float
    along_x: bool = False
    rounding: float = 0.006

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact."""
        r = np.float32(self.rounding)
        x, y, z = (points[i] - np.float32(self.centre[i]) for i in range(3))
        along, across = (x, z) if self.along_x else (z, x)
        radial = _length(across, y) - (np.float32(self.radius) - r)
        depth = np.abs(along) - (np.float32(self.half_width) - r)
        outside = _length(np.maximum(radial, 0), np.maximum(depth, 0))
        return outside + np.minimum(np.maximum(radial, depth), 0) - r


@dataclass(frozen=True)
class Torus:
    """A ring about an axis parallel to z (a handle) or, `flat`, parallel to y."""

    centre: Vector
    radius: float
    thickness: float
    flat: bool = False

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact; `thickness` is the radius of the tube."""
        x, y, z = (points[i] - np.float32(self.centre[i]) for i in range(3))
        ring, height = (_length(x, z), y) if self.flat else (_length(x, y), z)
        return _length(ring - np.float32(self.radius), height) - np.float32(self.thickness)


@dataclass(frozen=True)
class Blend:
    """A union with soft seams `width` wide (polynomial smooth minimum)."""

    parts: Sequence[Solid]
    width: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        """At most the distance of the sharp union."""
        total = self.parts[0].distance(points)
        for part in self.parts[1:]:
            other = part.distance(points)
            near = np.maximum(np.float32(self.width) - np.abs(total - other), 0)
            total = np.minimum(total, other) - near * near * np.float32(0.25 / self.width)
        return total


@dataclass(frozen=True)
class Above:
    """What of a solid lies above (or below) a horizontal cut."""

    part: Solid
    height: float
    below: bool = False

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Maximum of the two distances (a bound)."""
        cut = np.float32(self.height) - points[1]
        return np.maximum(self.part.distance(points), -cut if self.below else cut)
