"""Surface colours of the procedural objects: smooth functions of the point, seen the same from all
sides.

Legend: P points, float32 [3, P] (rows x, y, z, world units); colours float32 [3, P] in 0..1.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from enum import Enum

import numpy as np

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]
Texture = Callable[[np.ndarray], np.ndarray]  # points [3, P] -> colours [3, P]
EDGE = 0.25  # share of a dot's radius over which two colours blend
SEAM = 0.01  # world units over which a band's colours blend


class Axis(Enum):
    """Row of a point array."""

    X = 0
    Y = 1
    Z = 2


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue (any real, period 1), saturation and value (0..1)."""
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def _mix(weight: np.ndarray, a: Colour, b: Colour) -> np.ndarray:
    """a where weight = 0, b where weight = 1."""
    first = np.array(a, dtype=np.float32)[:, None]
    second = np.array(b, dtype=np.float32)[:, None]
    return first + (second - first) * weight.astype(np.float32)


def solid(colour: Colour) -> Texture:
    """One colour."""
    return lambda points: _mix(np.zeros(points.shape[1]), colour, colour)


def band(a: Colour, b: Colour, axis: Axis, low: float, high: float) -> Texture:
    """Colour b from `low` to `high` along an axis (world units, infinite allowed), a elsewhere."""

    def colour(points: np.ndarray) -> np.ndarray:
        place = points[axis.value]
        inside = np.minimum(place - np.float32(low), np.float32(high) - place)
        return _mix(np.clip(inside / np.float32(SEAM) + 0.5, 0, 1), a, b)

    return colour


def dots(a: Colour, b: Colour, centre: Vector, count: int, size: float) -> Texture:
    """`count` round dots of colour b, evenly spread over directions from `centre` (a Fibonacci
    sphere); `size` is their angular radius in radians."""
    k = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * k / count), math.pi * (1 + math.sqrt(5)) * k
    spots = np.stack([np.sin(polar) * np.cos(turn), np.cos(polar), np.sin(polar) * np.sin(turn)])

    def colour(points: np.ndarray) -> np.ndarray:
        away = points - np.array(centre, dtype=np.float32)[:, None]
        away = away / np.maximum(np.linalg.norm(away, axis=0), 1e-9)
        angle = np.arccos(np.clip(spots.T.astype(np.float32) @ away, -1, 1).max(axis=0))
        return _mix(np.clip((size - angle) / (EDGE * size) + 0.5, 0, 1), a, b)

    return colour
