"""Expected normals: closed forms, and finite differences of a tri-plane field."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from epigraf.config import ClampMode, Config, RenderBackend
from epigraf.models.generator import Generator
from epigraf.rendering.camera import cam2world
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.frame import Frame, frame_rays
from epigraf.rendering.normals import expected_normals
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import FieldSample, render_rays

SIDE = 7
OPTIONS = RenderOptions(
    24, 24, near=0.5, far=1.5, clamp_mode=ClampMode.RELU, deterministic=True, max_rays=10
)


def rays(dtype: torch.dtype = torch.float32) -> Rays:
    camera = cam2world(torch.tensor([[0.3, 1.1, 0.0]], dtype=dtype), 1.0)
    return frame_rays(camera, 20.0, Frame(SIDE), Frame(SIDE).box)


class Ball:
    """A hard ball about the origin."""

    radius = 0.3

    def __call__(self, points_world: Tensor, directions: Tensor) -> FieldSample:
        raw = 1e5 * (self.radius - points_world.norm(dim=-1))
        return FieldSample(torch.zeros_like(points_world), raw)


class Slope:
    """A density that grows along one direction, here and there transparent."""

    towards = torch.tensor([1.0, -2.0, 2.0])  # of length 3

    def __call__(self, points_world: Tensor, directions: Tensor) -> FieldSample:
        return FieldSample(torch.zeros_like(points_world), points_world @ self.towards + 0.2)


def test_a_ball_shows_where_its_rays_meet_it() -> None:
    seen = rays()
    o, d = seen
    t = -(o * d).sum(-1) - ((o * d).sum(-1) ** 2 - (o * o).sum(-1) + Ball.radius**2).sqrt()
    surface = (o + t[..., None] * d) / Ball.radius
    options = RenderOptions(
        96, 96, near=0.5, far=1.5, clamp_mode=ClampMode.RELU, deterministic=True
    )
    normals = expected_normals(Ball(), seen, options, draws=RandomDraws(0))
    torch.testing.assert_close(normals, surface, atol=0.02, rtol=0)


@pytest.mark.parametrize("backend", list(RenderBackend))
def test_a_slope_has_one_normal_as_long_as_the_opacity(backend: RenderBackend) -> None:
    options = RenderOptions(
        12, 12, near=0.5, far=1.5, clamp_mode=ClampMode.RELU, deterministic=True, max_rays=10,
        backend=backend, has_background=True,
    )  # fmt: skip
    normals = expected_normals(Slope(), rays(), options, draws=RandomDraws(0))
    opacity = render_rays(Slope(), rays(), options, draws=RandomDraws(0)).opacity
    assert 0.001 < float(opacity.min()) < 0.9
    expected = -Slope.towards / 3 * opacity[..., None]
    torch.testing.assert_close(normals, expected, atol=1e-4, rtol=0)


def test_no_rays() -> None:
    none = Rays(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3))
    assert expected_normals(Ball(), none, OPTIONS, draws=RandomDraws(0)).shape == (1, 0, 3)


def test_a_triplane_field_against_finite_differences() -> None:
    torch.manual_seed(0)
    values = {
        "dataset": {"resolution": 8, "cube_scale": 0.6},
        "model": {
            "generator": {
                "z_dim": 4,
                "w_dim": 8,
                "cmax": 8,
                "density_prior_radius": 0.4,
                "tri_plane": {"res": 8, "feat_dim": 4, "mlp": {"hid_dim": 8}},
            }
        },
        "training": {"patch": {"enabled": False}},
    }
    generator = Generator(Config.from_dict(values)).double().eval().requires_grad_(False)
    field = generator.field(torch.randn(1, 12, 8, 8, dtype=torch.float64))
    seen, trace = rays(torch.float64), {}
    options = RenderOptions(8, 8, near=0.6, far=1.4, deterministic=True, density_gain=9.0)
    normals = expected_normals(field, seen, options, draws=RandomDraws(0))
    render_rays(field, seen, options, draws=RandomDraws(0), trace=trace)
    points = seen.origins[:, :, None] + trace["final_z"] * seen.directions[:, :, None]
    flat, h, slopes = points.flatten(1, 2), 1e-6, []
    for axis in torch.eye(3, dtype=torch.float64) * h:
        slopes.append((field.density_raw(flat + axis) - field.density_raw(flat - axis)) / (2 * h))
    gradient = torch.stack(slopes, dim=-1)
    unit = -gradient / gradient.norm(dim=-1, keepdim=True)
    expected = (unit.view_as(points) * trace["final_weights"]).sum(2)
    torch.testing.assert_close(normals, expected, atol=5e-5, rtol=0)
