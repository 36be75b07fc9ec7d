"""Backgrounds: the inverted sphere by geometry, its network by loops, the plane by pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.config import BackgroundConfig, ClampMode
from epigraf.models.background import SphereBackground, inverse_sphere_points, plane_background
from epigraf.rendering.camera import cam2world
from epigraf.rendering.draws import RandomDraws, ReplayDraws
from epigraf.rendering.patches import PatchParams
from epigraf.rendering.rays import Rays, make_rays, pixel_directions


def bundle(side: int = 3, fov: float = 40.0) -> Rays:
    angles = torch.tensor([[0.3, 1.2, 0.0], [2.0, 2.2, 0.0]], dtype=torch.float64)
    return make_rays(cam2world(angles, 1.0), pixel_directions(side, side, fov).double())


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 1.0), st.floats(0.6, 1.6), st.integers(0, 1000))
def test_points_are_where_the_ray_has_that_radius(s: float, radius: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    angles = torch.tensor([[0.1, 0.4, 0.0]]) + torch.rand(1, 3, generator=generator) * 2
    rays = make_rays(cam2world(angles.double(), radius), pixel_directions(4, 4, 50.0).double())
    points = inverse_sphere_points(rays, torch.full((1, 16, 1), s, dtype=torch.float64))[:, :, 0]
    # Solve |o + t d| = 1 / s for the later t; the point is that direction and s.
    b = (rays.origins * rays.directions).sum(-1)
    t = -b + (b * b - rays.origins.square().sum(-1) + 1 / s**2).sqrt()
    expected = (rays.origins + t[..., None] * rays.directions) * s
    torch.testing.assert_close(points[..., :3], expected, atol=1e-6, rtol=0)
    assert (points[..., 3] == s).all()


def test_at_infinity_only_the_direction_counts_and_the_centre_ray_is_finite() -> None:
    rays = bundle()
    points = inverse_sphere_points(rays, torch.zeros(2, 9, 1, dtype=torch.float64))[:, :, 0, :3]
    torch.testing.assert_close(points, rays.directions, atol=1e-6, rtol=0)
    exact = Rays(torch.tensor([[[1.0, 0, 0]]]), torch.tensor([[[-1.0, 0, 0]]]))
    centre = inverse_sphere_points(exact, torch.tensor([[[1.0, 0.5, 0.0]]]))
    torch.testing.assert_close(centre[0, 0, :, :3], torch.tensor([[-1.0, 0, 0]]).expand(3, 3))


def test_inverse_radii_and_their_jitter() -> None:
    model = make(num_steps=3, start=1.0)
    rays = Rays(torch.zeros(1, 1, 3), torch.ones(1, 1, 3))
    even = model.inverse_radii(rays, False, RandomDraws(0))
    assert even.flatten().tolist() == [1.0, 0.5, 0.0]
    # Strata, downwards: [1, 0.75], [0.75, 0.25], [0.25, 0].
    draws = ReplayDraws([("u", torch.tensor([0.5, 0.5, 0.2]))])
    moved = model.inverse_radii(rays, True, draws).flatten()
    torch.testing.assert_close(moved, torch.tensor([0.875, 0.5, 0.2]))


def make(
    white_back: bool = False, clamp: ClampMode = ClampMode.SOFTPLUS, **changes
) -> SphereBackground:
    torch.manual_seed(0)
    cfg = BackgroundConfig.model_validate({"cmax": 6, "posenc_period_len": 4.0, **changes})
    model = SphereBackground(cfg, 5, clamp, white_back)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.add_(torch.randn_like(p) * 0.3)
    return model


def _layer(x, layer, w, out: bool) -> np.ndarray:
    get = lambda t: t.detach().double().numpy()  # noqa: E731
    style = get(layer.affine.weight) @ w / math.sqrt(len(w)) + get(layer.affine.bias)
    weight = get(layer.weight)
    if out:
        return weight @ (x * style / math.sqrt(len(x))) + get(layer.bias)
    weight = weight * style
    weight = weight / np.sqrt((weight**2).sum(1, keepdims=True) + 1e-8)
    x = weight @ x + get(layer.bias)
    return np.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def _network(point, model: SphereBackground, ws: np.ndarray) -> np.ndarray:
    x = []
    for value in point:  # T = 4: frequencies pi/4 and pi/2 of 4 value
        x += [math.sin(k * math.pi * value) for k in (1, 2)]
        x += [math.cos(k * math.pi * value) for k in (1, 2)]
    x, out, i = np.array(x), np.zeros(4), 0
    for number, block in enumerate(model.blocks):
        if number > 0:
            x, i = _layer(x, block.conv0, ws[i], False), i + 1
        x, i = _layer(x, block.conv1, ws[i], False), i + 1
        out = out + _layer(x, block.to_out, ws[i], True)  # shares its latent with the next block
    return out


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_network_is_the_loop_over_points(blocks: int) -> None:
    model = make(num_blocks=blocks)
    assert model.num_ws == 2 * blocks
    ws = torch.randn(2, model.num_ws, 5)
    points = torch.rand(2, 6, 4) * 2 - 1
    ours = model.field(points, ws).detach().numpy()
    for b in range(2):
        for p in range(6):
            expected = _network(points[b, p].double().tolist(), model, ws[b].double().numpy())
            np.testing.assert_allclose(ours[b, p], expected, atol=2e-5)


@pytest.mark.parametrize("clamp", list(ClampMode))
@pytest.mark.parametrize("white_back", [False, True])
def test_colours_are_the_integral_over_inverse_radius(clamp: ClampMode, white_back: bool) -> None:
    model, rays = make(white_back, clamp, num_steps=4, start=0.9).double(), bundle()
    ws = torch.randn(2, model.num_ws, 5, dtype=torch.float64)
    trace: dict = {}
    ours = model(ws, rays, jitter=False, draws=RandomDraws(0), trace=trace).detach()
    raw, s = trace["bg_rgb_sigma"].detach(), [0.9, 0.6, 0.3, 0.0]
    for b, r in np.ndindex(2, 9):
        light, colour, opacity = 1.0, np.zeros(3), 0.0
        for k in range(4):
            x = float(raw[b, r, k, 3])
            sigma = max(x, 0) if clamp is ClampMode.RELU else math.log1p(math.exp(x))
            alpha = 1 - math.exp(-(0.3 if k < 3 else 1e10) * sigma)
            colour += alpha * light * raw[b, r, k, :3].numpy()
            opacity += alpha * light
            light *= 1 - alpha + 1e-10
        colour += (1 - opacity) if white_back else 0
        np.testing.assert_allclose(ours[b, r].numpy(), colour, atol=1e-6)
    torch.testing.assert_close(trace["bg_z"][0, 0, :, 0], -torch.tensor(s).double())


def test_chunks_change_nothing() -> None:
    model, rays = make().double(), bundle()
    ws = torch.randn(2, model.num_ws, 5, dtype=torch.float64)
    with torch.no_grad():
        whole = model(ws, rays, jitter=True, draws=RandomDraws(1))
        parts = model(ws, rays, jitter=True, draws=RandomDraws(1), max_rays=4)
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)


def test_plane_is_resized_and_cut() -> None:
    picture = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 3, 4, 4)  # the column's index
    whole = plane_background(picture, 7, 7, None).view(7, 7, 3)
    torch.testing.assert_close(whole[2, :, 1], torch.linspace(0, 3, 7))
    patch = PatchParams(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.0]]))
    part = plane_background(picture, 7, 4, patch).view(4, 4, 3)
    torch.testing.assert_close(part[0, :, 0], torch.tensor([1.5, 2.0, 2.5, 3.0]))
    assert plane_background(picture, 7, 5, None).shape == (1, 25, 3)
