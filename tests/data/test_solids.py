"""Signed distances: worked values, and never more than the distance to the surface."""

from __future__ import annotations

import numpy as np
import pytest

from epigraf.data.solids import Above, Blend, Box, Capsule, Disc, Ellipsoid, Frustum, Solid, Torus

SOLIDS: dict[str, Solid] = {
    "ellipsoid": Ellipsoid((0.01, 0.0, -0.02), (0.1, 0.06, 0.08)),
    "capsule": Capsule((0, -0.05, 0), (0.05, 0.1, 0.02), 0.04, 0.02),
    "frustum": Frustum(-0.1, 0.05, 0.05, 0.1, x=0.02),
    "box": Box((0.01, 0.02, 0.03), (0.1, 0.05, 0.07), 0.01),
    "disc": Disc((0, 0.05, 0), 0.08, 0.02),
    "window": Disc((0, 0.05, 0), 0.08, 0.02, along_x=True),
    "torus": Torus((0, 0, 0.03), 0.08, 0.02),
    "ring": Torus((0, 0, 0.03), 0.08, 0.02, flat=True),
    "blend": Blend([Ellipsoid((0, 0, 0), (0.1,) * 3), Box((0.1, 0, 0), (0.05,) * 3)], 0.04),
    "above": Above(Ellipsoid((0, 0, 0), (0.1,) * 3), 0.02),
}


def column(*point: float) -> np.ndarray:
    return np.array(point, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("solid", "point", "expected"),
    [
        (Ellipsoid((0, 1, 0), (0.5, 0.5, 0.5)), (0, 3, 0), 1.5),
        (Ellipsoid((0, 0, 0), (0.5, 0.5, 0.5)), (0.25, 0, 0), -0.25),
        (Capsule((0, 0, 0), (0, 1, 0), 0.25, 0.25), (1, 0.5, 0), 0.75),
        (Capsule((0, 0, 0), (0, 1, 0), 0.25, 0.25), (0, 2, 0), 0.75),
        (Frustum(-1, 1, 1, 1), (0, 3, 0), 2),
        (Frustum(-1, 1, 1, 1), (3, 0, 0), 2),
        (Frustum(-1, 1, 1, 1), (0, 0, 0), -1),
        (Box((0, 0, 0), (1, 2, 3)), (0, 0, 5), 2),
        (Box((0, 0, 0), (1, 2, 3)), (0, 0, 0), -1),
        (Disc((0, 0, 0), 1, 0.5), (0, 0, 2), 1.5),
        (Disc((0, 0, 0), 1, 0.5, along_x=True), (2, 0, 0), 1.5),
        (Torus((0, 0, 0), 1, 0.25), (2, 0, 0), 0.75),
        (Torus((0, 0, 0), 1, 0.25, flat=True), (0, 0, 0), 0.75),
        (Above(Ellipsoid((0, 0, 0), (1, 1, 1)), 0.5), (0, 0, 0), 0.5),
        (Above(Ellipsoid((0, 0, 0), (1, 1, 1)), 0.5, below=True), (0, 0.75, 0), 0.25),
    ],
)
def test_distances_by_hand(solid: Solid, point: tuple[float, ...], expected: float) -> None:
    assert solid.distance(column(*point))[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", sorted(SOLIDS))
def test_a_step_never_crosses_the_surface(name: str) -> None:
    """Brute force: outside, the distance (times the tracer's 0.9) stays below the distance to the
    nearest point of a lattice inside the solid; inside and outside agree with the sign."""
    solid = SOLIDS[name]
    ticks = np.linspace(-0.16, 0.16, 41, dtype=np.float32)
    lattice = np.stack(np.meshgrid(ticks, ticks, ticks)).reshape(3, -1)
    inside = lattice[:, solid.distance(lattice) <= 0]
    assert inside.shape[1] > 50
    points = np.random.default_rng(0).uniform(-0.25, 0.25, (3, 300)).astype(np.float32)
    distances = solid.distance(points)
    outside = distances > 0
    gaps = np.linalg.norm(points[:, outside, None] - inside[:, None, :], axis=0).min(axis=1)
    assert (0.9 * distances[outside] <= gaps + 1e-5).all()
