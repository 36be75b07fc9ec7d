"""Rays: worked directions, segments inside the object's ball, stratified depths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.rendering.camera import cam2world, clamp_pitch
from epigraf.rendering.patches import PatchParams, full_image
from epigraf.rendering.rays import (
    Rays,
    make_rays,
    patch_rays,
    pixel_directions,
    ray_segment,
    stratified_t,
)


def test_directions_of_a_wide_camera() -> None:
    # fov 90: the frustum's edges lie at slope 1; three columns, two rows (corner-aligned centres).
    directions = pixel_directions(2, 3, 90.0)[0].view(2, 3, 3)
    for row, y in ((0, 1), (1, -1)):
        for column, x in ((0, -1), (1, 0), (2, 1)):
            expected = np.array([x, y, -1]) / math.sqrt(x * x + y * y + 1)
            np.testing.assert_allclose(directions[row, column], expected, atol=1e-6)


def test_each_sample_has_its_own_fov() -> None:
    fov = torch.tensor([12.0, 30.0])
    both = pixel_directions(4, 4, fov)
    for b in range(2):
        torch.testing.assert_close(both[b], pixel_directions(4, 4, float(fov[b]))[0])


def test_an_anisotropic_patch_narrows_the_grid() -> None:
    # x in [-1, 1] of the patch maps to [-0.8, 0.2], y to [0.4, 0.8] (offset y from the bottom).
    patch = PatchParams(torch.tensor([[0.5, 0.2]]), torch.tensor([[0.1, 0.7]]))
    d = pixel_directions(3, 3, 90.0, patch)[0].view(3, 3, 3)
    slopes = d[..., :2] / -d[..., 2:]
    np.testing.assert_allclose(slopes[0, :, 0], [-0.8, -0.3, 0.2], atol=1e-6)
    np.testing.assert_allclose(slopes[:, 0, 1], [0.8, 0.6, 0.4], atol=1e-6)
    whole = pixel_directions(3, 3, 90.0, full_image(1, d))
    torch.testing.assert_close(whole, pixel_directions(3, 3, 90.0))


def test_patch_rays_are_pixel_directions_turned_by_the_camera() -> None:
    angles = torch.tensor([[0.3, 1.1, 0.0], [2.0, 0.7, 0.0]])
    fov = torch.tensor([20.0, 40.0])
    for patch in (
        None,
        PatchParams(torch.tensor([[0.5, 0.2]]), torch.tensor([[0.1, 0.7]])),
        PatchParams(torch.tensor([[0.5, 0.2], [1, 0.4]]), torch.tensor([[0.1, 0.7], [0, 0.2]])),
    ):
        expected = make_rays(cam2world(angles, 1.5), pixel_directions(3, 4, fov, patch))
        ours = patch_rays(cam2world(angles, 1.5), 3, 4, fov, patch)
        torch.testing.assert_close(ours.origins, expected.origins)
        torch.testing.assert_close(ours.directions, expected.directions)


def test_the_centre_ray_meets_the_origin() -> None:
    angles = clamp_pitch(torch.tensor([[0.3, 1.1, 0.0], [2.0, 0.0, 0.0], [-1.0, math.pi, 0.0]]))
    rays = make_rays(cam2world(angles, 1.5), pixel_directions(3, 3, 25.0))
    ends = rays.origins[:, 4] + 1.5 * rays.directions[:, 4]
    torch.testing.assert_close(ends, torch.zeros(3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(3, 9))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.9))
def test_segments_lie_in_the_ball(seed: int, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand(2, 3, generator=generator, dtype=torch.float64) * 3
    directions = pixel_directions(5, 5, 50.0).double()
    rays = make_rays(cam2world(clamp_pitch(angles), 1.0), directions)
    segment = ray_segment(rays, 0.05, 1.95, radius)
    t = torch.linspace(0.05, 1.95, 4001, dtype=torch.float64)
    points = rays.origins[:, :, None] + rays.directions[:, :, None] * t[:, None]
    inside = points.norm(dim=-1) <= radius
    sure = inside.sum(-1) != 1  # a chord shorter than the grid's step
    assert segment.hit is not None
    assert torch.equal((segment.hit & sure), inside.any(-1) & sure) or _short(segment, sure, inside)
    first = torch.where(inside, t, math.inf).amin(-1)
    last = torch.where(inside, t, -math.inf).amax(-1)
    both = segment.hit & inside.any(-1)
    assert (first - segment.near)[both].abs().max() < 1e-3
    assert (last - segment.far)[both].abs().max() < 1e-3
    assert torch.equal(segment.near[~segment.hit], segment.far[~segment.hit])


def _short(segment, sure, inside) -> bool:
    differs = (segment.hit != inside.any(-1)) & sure
    return bool(((segment.far - segment.near)[differs] < 1e-3).all())


def test_without_a_ball_the_segment_is_near_to_far() -> None:
    rays = Rays(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
    near, far, hit = ray_segment(rays, 0.5, 1.5)
    assert near.tolist() == [[0.5, 0.5]]
    assert far.tolist() == [[1.5, 1.5]]
    assert hit is None


def test_near_and_far_still_bound_the_ball() -> None:
    rays = Rays(torch.tensor([[[1.0, 0, 0]]]), torch.tensor([[[-1.0, 0, 0]]]))
    near, far, _ = ray_segment(rays, 0.8, 1.1, 0.5)
    assert near.item() == pytest.approx(0.8)
    assert far.item() == pytest.approx(1.1)


def test_stratified_depths_by_hand() -> None:
    rays = Rays(torch.zeros(1, 1, 3), torch.ones(1, 1, 3))
    segment = ray_segment(rays, 1.0, 3.0)
    torch.testing.assert_close(stratified_t(segment, 3, None), torch.tensor([[[1.0, 2.0, 3.0]]]))
    # Strata [1, 1.5], [1.5, 2.5], [2.5, 3].
    jitter = torch.tensor([[[0.5, 0.25, 0.0]]])
    torch.testing.assert_close(
        stratified_t(segment, 3, jitter), torch.tensor([[[1.25, 1.75, 2.5]]])
    )
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        stratified_t(segment, 1, None)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="fov must have 1 or 2 elements"):
        pixel_directions(2, 2, torch.ones(3), full_image(2, torch.zeros(())))
    with pytest.raises(ValueError, match=r"cam2world must have shape \[B, 4, 4\]"):
        make_rays(torch.zeros(4, 4), torch.zeros(1, 1, 3))
