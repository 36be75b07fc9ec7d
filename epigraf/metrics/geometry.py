"""Distances between surfaces: chamfer and F-score of points spread over them, by a k-d tree.

Legend: N points of one surface, M of the other. World units.
Source: Knapitsch et al. 2017 (Tanks and Temples) for precision, recall and F-score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree


@dataclass(frozen=True)
class SurfaceDistance:
    """accuracy: mean distance from ours to theirs; completeness: from theirs to ours; chamfer: the
    mean of the two. precision, recall: shares of points closer than the threshold; f_score: their
    harmonic mean.
    """

    accuracy: float
    completeness: float
    chamfer: float
    precision: float
    recall: float
    f_score: float
    threshold: float

    def __str__(self) -> str:
        return (
            f"chamfer {self.chamfer:.3g} (to the truth {self.accuracy:.3g}, from it "
            f"{self.completeness:.3g}), F-score {self.f_score:.3f} at {self.threshold:.3g} "
            f"(precision {self.precision:.3f}, recall {self.recall:.3f})"
        )


def surface_points(
    vertices: np.ndarray, faces: np.ndarray, count: int, seed: int = 0
) -> np.ndarray:
    """Points [count, 3] drawn evenly by area from triangles faces [F, 3] of vertices [V, 3].

    Raises:
        ValueError: the surface has no area.
    """
    draws = np.random.default_rng(seed)
    corners = np.asarray(vertices, np.float64)[faces]
    sides = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    if not area.sum() > 0:
        raise ValueError("surface_points: the surface has no area")
    chosen = draws.choice(len(area), count, p=area / area.sum())
    u = draws.random((count, 2))
    u = np.where(u.sum(1, keepdims=True) > 1, 1 - u, u)  # the other half of the parallelogram
    return corners[chosen, 0] + (u[..., None] * sides[chosen]).sum(1)


Nearest = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Points [N, 3] and others [M, 3] -> distance [N] of each point to the nearest other."""


def nearest_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance [N] of each of points [N, 3] to the nearest of others [M, 3], on the CPU."""
    return KDTree(others).query(points)[0]


def surface_distance(
    ours: np.ndarray, theirs: np.ndarray, threshold: float, nearest: Nearest = nearest_distances
) -> SurfaceDistance:
    """Distances between points ours [N, 3] and theirs [M, 3], both at least one.

    Args:
        ours: of the surface under test.
        theirs: of the true one.
        threshold: world units, of precision, recall and F-score.
        nearest: how distances are found.
    """
    there, back = nearest(ours, theirs), nearest(theirs, ours)
    precision, recall = float((there < threshold).mean()), float((back < threshold).mean())
    both = precision + recall
    return SurfaceDistance(
        accuracy=float(there.mean()),
        completeness=float(back.mean()),
        chamfer=float((there.mean() + back.mean()) / 2),
        precision=precision,
        recall=recall,
        f_score=2 * precision * recall / both if both > 0 else 0.0,
        threshold=threshold,
    )
