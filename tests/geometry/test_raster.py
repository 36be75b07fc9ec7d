"""The z-buffer against analytic rays and a brute-force loop over all triangles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from epigraf.geometry.raster import rasterize
from epigraf.rendering.camera import cam2world
from epigraf.rendering.rays import patch_rays

POSE = cam2world(torch.tensor([[0.7, 1.1, 0.0]], dtype=torch.float64), 1.0)
FOV = 30.0


def test_distances_to_a_sphere_are_those_of_the_rays() -> None:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.2)
    hits = rasterize(ball.vertices, ball.faces, POSE[0].numpy(), FOV, 48)
    origins, directions = (x[0].numpy() for x in patch_rays(POSE, 48, 48, FOV))
    middle = -(origins * directions).sum(1)
    square = 0.2**2 - ((origins**2).sum(1) - middle**2)
    expected = np.where(square > 0, middle - np.sqrt(np.maximum(square, 0)), np.inf)
    inside = square > 4e-3
    np.testing.assert_allclose(hits.t[inside], expected[inside], atol=3e-4)
    assert np.isinf(hits.t[square < -1e-3]).all()
    places = hits.interpolate(ball.vertices, ball.faces)[inside]
    along = origins + directions * hits.t[:, None].clip(max=9)
    np.testing.assert_allclose(places, along[inside], atol=1e-9)


def test_a_soup_of_triangles_is_what_a_loop_over_all_of_them_sees() -> None:
    draws = np.random.default_rng(3)
    corners = draws.normal(0, 0.1, (40, 1, 3)) + draws.normal(0, 0.08, (40, 3, 3))
    vertices, faces = corners.reshape(-1, 3), np.arange(120).reshape(-1, 3)
    side = 21
    hits = rasterize(vertices, faces, POSE[0].numpy(), FOV, side)
    origins, directions = (x[0].numpy() for x in patch_rays(POSE, side, side, FOV))
    for ray in range(side * side):
        nearest = np.inf
        for a, b, c in corners:
            system = np.stack([b - a, c - a, -directions[ray]], axis=1)
            u, v, t = np.linalg.solve(system, origins[ray] - a)
            if min(u, v, 1 - u - v) >= 0 and t > 0:
                nearest = min(nearest, t)
        assert hits.t[ray] == pytest.approx(nearest, abs=1e-9)


def test_what_lies_behind_the_camera_is_not_seen() -> None:
    behind = POSE[0, :3, 3].numpy() * 2
    vertices = behind + np.array([[0, 0, 0], [0.3, 0, 0], [0, 0.3, 0]])
    hits = rasterize(vertices, np.array([[0, 1, 2]]), POSE[0].numpy(), FOV, 8)
    assert (hits.face == -1).all()
