"""Midpoint quadrature: values by hand, gradients, its place in the renderer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from epigraf.config import Config
from epigraf.errors import ConfigError
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.quadrature import integrate_midpoints
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import FieldSample, fused_reason, render_rays


def test_two_intervals_by_hand() -> None:
    """Densities 1 over 0.5 and 3 over 1: alphas 1 - e^-0.5 and 1 - e^-3."""
    colors = torch.tensor([[[[0.0], [2.0], [4.0]]]], dtype=torch.float64)
    raw = torch.tensor([[[0.0, 2.0, 4.0]]], dtype=torch.float64)
    t = torch.tensor([[[1.0, 1.5, 2.5]]], dtype=torch.float64)
    result = integrate_midpoints(colors, raw, t, torch.relu)
    first, second = 1 - math.exp(-0.5), math.exp(-0.5) * (1 - math.exp(-3))
    assert result.opacity.item() == pytest.approx(first + second)
    assert result.features.item() == pytest.approx(first * 1 + second * 3)
    assert result.depth.item() == pytest.approx(first * 1.25 + second * 2.0)
    halves = [first / 2, (first + second) / 2, second / 2]
    assert result.weights[0, 0].tolist() == pytest.approx(halves)
    assert result.transmittance.item() == pytest.approx(math.exp(-0.5))


def test_gradients() -> None:
    torch.manual_seed(0)
    colors, raw = torch.randn(1, 2, 5, 2).double(), torch.rand(1, 2, 5).double()
    t = torch.rand(1, 2, 5).double().cumsum(-1)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(integrate_midpoints(*tensors, torch.nn.functional.softplus)[:3])

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in (colors, raw, t)])


def constant_field(points: Tensor, directions: Tensor) -> FieldSample:
    """Colour 0.5 and raw density 2 everywhere."""
    return FieldSample(torch.full_like(points, 0.5), torch.full_like(points[..., 0], 2.0))


def options(**changes: object) -> RenderOptions:
    values = {"num_coarse": 4, "num_fine": 4, "near": 1.0, "far": 2.0, "midpoints": True}
    return RenderOptions(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("back", "behind"), [({"black_back": True}, -1), ({"white_back": True}, 1)]
)
def test_a_constant_medium_and_what_is_behind(back: dict[str, bool], behind: int) -> None:
    """Light e^-sigma over the unit segment, whatever the samples; no endless last interval."""
    rays = Rays(torch.zeros(1, 3, 3), torch.eye(3)[None])
    rendered = render_rays(constant_field, rays, options(**back), draws=RandomDraws(0))
    light = math.exp(-math.log1p(math.exp(2.0)))
    spans = (1 - rendered.opacity).log().neg() / math.log1p(math.exp(2.0))
    assert (spans <= 1 + 1e-5).all()  # jittered samples cover most of the segment
    deterministic = options(deterministic=True, **back)
    rendered = render_rays(constant_field, rays, deterministic, draws=RandomDraws(0))
    expected = torch.full((1, 3, 3), 0.5 * (1 - light) + behind * light)
    torch.testing.assert_close(rendered.features, expected)


def test_noise_is_averaged_too() -> None:
    rays = Rays(torch.zeros(1, 1, 3), torch.eye(3)[None, :1])
    noisy = options(density_noise_std=1.0, deterministic=True)
    images = [
        render_rays(constant_field, rays, noisy, draws=RandomDraws(s)).opacity for s in (0, 1)
    ]
    assert not torch.equal(*images)


def test_the_fused_renderer_says_no() -> None:
    class Planes:
        def tensors(self) -> object:
            return object()

    rays = Rays(torch.zeros(1, 1, 3), torch.eye(3)[None, :1])
    assert fused_reason(Planes(), rays, options()) == "model.generator.quadrature=midpoints"  # type: ignore[arg-type]


def test_one_colour_behind() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        Config().with_overrides(["dataset.white_back=true", "dataset.black_back=true"])
