"""The ray march against one written for one ray with plain Python loops."""

from __future__ import annotations

import bisect
import itertools
import math

import numpy as np
import pytest
import torch

from epigraf.config import ClampMode, LastInterval
from epigraf.ops.importance import importance_t
from epigraf.rendering.camera import cam2world
from epigraf.rendering.draws import RandomDraws, ReplayDraws
from epigraf.rendering.options import RenderOptions, activate_density
from epigraf.rendering.rays import Rays, make_rays, pixel_directions
from epigraf.rendering.renderer import FieldSample, render_rays

NEAR, FAR = 0.6, 1.5


def _colour_density(p: np.ndarray) -> tuple[np.ndarray, float]:
    """A smooth scene: colours and raw density of a point [3]."""
    x, y, z = p
    colour = np.array([math.sin(3 * x), math.cos(2 * y + z), x - z])
    return colour, 6 * math.exp(-8 * (x * x + 2 * y * y + z * z)) - 2 + y


def field(points: torch.Tensor, directions: torch.Tensor) -> FieldSample:
    x, y, z = points.unbind(-1)
    colours = torch.stack([torch.sin(3 * x), torch.cos(2 * y + z), x - z], dim=-1)
    return FieldSample(colours, 6 * torch.exp(-8 * (x * x + 2 * y * y + z * z)) - 2 + y)


def options(**changes) -> RenderOptions:
    return RenderOptions(**{"num_coarse": 5, "num_fine": 4, "near": NEAR, "far": FAR, **changes})


def rays(batch: int = 2, side: int = 3) -> Rays:
    angles = torch.tensor([[0.4, 1.1, 0.0], [2.5, 1.9, 0.0]], dtype=torch.float64)[:batch]
    return make_rays(cam2world(angles, 1.0), pixel_directions(side, side, 40.0).double())


def _sigma(raw: float, noise: float, o: RenderOptions) -> float:
    raw = raw + o.density_noise_std * noise + o.density_shift
    soft = o.clamp_mode is ClampMode.SOFTPLUS
    return o.density_gain * (math.log1p(math.exp(raw)) if soft else max(raw, 0.0))


def _weights(t: list, sigma: list, last: float) -> tuple[list, float]:
    light, weights = 1.0, []
    for k in range(len(t)):
        delta = t[k + 1] - t[k] if k + 1 < len(t) else last
        alpha = 1 - math.exp(-delta * sigma[k])
        weights.append(alpha * light)
        before, light = light, light * (1 - alpha + 1e-10)
    return weights, before


def _fine(t: list, weights: list, u: np.ndarray) -> list:
    bins = [(a + b) / 2 for a, b in itertools.pairwise(t)]
    pdf = np.array(weights[1:-1]) + 2e-5
    cdf = [0.0, *np.cumsum(pdf / pdf.sum())]
    out = []
    for x in u:
        above = bisect.bisect_left(cdf, x)
        below, above = max(above - 1, 0), min(above, len(bins) - 1)
        width = cdf[above] - cdf[below]
        width = 1.0 if width < 1e-5 else width
        out.append(bins[below] + (x - cdf[below]) / width * (bins[above] - bins[below]))
    return out


def _segment(origin: np.ndarray, direction: np.ndarray, o: RenderOptions) -> tuple[float, float]:
    if o.object_radius is None:
        return o.near, o.far
    b = float(origin @ direction)
    disc = b * b - float(origin @ origin) + o.object_radius**2
    if disc <= 0:
        return -b, -b
    return max(-b - math.sqrt(disc), o.near), min(-b + math.sqrt(disc), o.far)


def march(origin, direction, o: RenderOptions, jitter, n1, u, n2) -> dict:
    near, far = _segment(origin, direction, o)
    even = [near + (far - near) * k / (o.num_coarse - 1) for k in range(o.num_coarse)]
    if jitter is not None:
        middle = [(a + b) / 2 for a, b in itertools.pairwise(even)]
        low, high = [even[0], *middle], [*middle, even[-1]]
        even = [a + (b - a) * x for a, b, x in zip(low, high, jitter, strict=True)]
    finite = o.last_interval is LastInterval.FINITE
    closed = o.last_interval is LastInterval.AUTO and o.has_background
    endless = 0.0 if far <= near else 1e-3 if closed else 1e10

    def weights_of(t: list, noise) -> tuple[list, float]:
        raw = [_colour_density(origin + x * direction)[1] for x in t]
        sigma = [
            _sigma(r, 0 if noise is None else n, o)
            for r, n in zip(raw, _zip(noise, t), strict=True)
        ]
        return _weights(t, sigma, far - t[-1] if finite else endless)

    t = even
    if o.num_fine:
        t = sorted(t + _fine(t, weights_of(t, n1)[0], u))
    weights, light = weights_of(t, n2)
    opacity = sum(weights)
    if o.last_back:
        weights[-1] += 1 - opacity
    features = sum(
        w * _colour_density(origin + x * direction)[0] for w, x in zip(weights, t, strict=True)
    )
    return {
        "features": features + (1 - opacity if o.white_back else 0),
        "depth": sum(w * x for w, x in zip(weights, t, strict=True)),
        "opacity": opacity,
        "transmittance": 1 - opacity if finite else light,
    }


def _zip(noise, t: list):
    return noise if noise is not None else [0.0] * len(t)


CASES = {
    "official": {},
    "coarse only": {"num_fine": 0},
    "more fine than coarse": {"num_fine": 9},
    "relu": {"clamp_mode": ClampMode.RELU},
    "white and last back": {"white_back": True, "last_back": True, "has_background": True},
    "background": {"has_background": True},
    "noise": {"density_noise_std": 0.7},
    "noise, coarse only": {"density_noise_std": 0.7, "num_fine": 0},
    "finite, gain and shift": {
        "last_interval": LastInterval.FINITE, "density_gain": 3.0, "density_shift": -1.0,
        "white_back": True,
    },
    "ball": {"object_radius": 0.3, "last_interval": LastInterval.FINITE},
    "ball, infinite": {"object_radius": 0.2, "white_back": True},
    "infinite and background": {"last_interval": LastInterval.INFINITE, "has_background": True},
}  # fmt: skip


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_march_is_the_loop_over_one_ray(name: str, deterministic: bool) -> None:
    o = options(**CASES[name], deterministic=deterministic)
    bundle, generator = rays(), torch.Generator().manual_seed(3)
    batch, count = bundle.directions.shape[:2]
    sizes = {
        "jitter": o.num_coarse,
        "n1": o.num_coarse,
        "u": o.num_fine,
        "n2": o.num_coarse + o.num_fine,
    }
    numbers = {
        k: (torch.rand if k in ("jitter", "u") else torch.randn)(
            batch, count, n, generator=generator, dtype=torch.float64
        )
        for k, n in sizes.items()
    }
    if deterministic:
        numbers["jitter"] = None
        numbers["u"] = torch.linspace(0, 1, o.num_fine).double().expand(batch, count, -1)
    noisy = o.density_noise_std > 0
    wanted = [
        k for k, used in (
            ("jitter", not deterministic), ("n1", noisy and o.num_fine),
            ("u", o.num_fine and not deterministic), ("n2", noisy),
        ) if used
    ]  # fmt: skip
    draws = ReplayDraws([(k, numbers[k]) for k in wanted])
    ours = render_rays(field, bundle, o, draws=draws)
    draws.finish()
    for b in range(batch):
        for r in range(count):
            row = {k: None if v is None else v[b, r].numpy() for k, v in numbers.items()}
            if not noisy:
                row["n1"] = row["n2"] = None
            expected = march(
                bundle.origins[b, r].numpy(), bundle.directions[b, r].numpy(), o, **row
            )
            for key, value in expected.items():
                got = getattr(ours, key)[b, r].numpy()
                np.testing.assert_allclose(got, value, atol=2e-7, err_msg=f"{key} of ray {r}")


def test_rays_that_miss_the_ball_see_nothing() -> None:
    o = options(object_radius=0.05, white_back=True)
    ours = render_rays(field, rays(), o, draws=RandomDraws(0))
    corner, centre = ours.opacity[:, 0], ours.opacity[:, 4]
    assert torch.equal(corner, torch.zeros(2).double())
    assert (centre > 0.9).all()
    assert torch.equal(ours.features[:, 0], torch.ones(2, 3).double())
    torch.testing.assert_close(ours.transmittance[:, 0], torch.ones(2).double())


@pytest.mark.parametrize("max_rays", [1, 4, 9, 100])
def test_chunks_change_nothing(max_rays: int) -> None:
    def render(chunk: int | None):
        o = options(density_noise_std=0.5, max_rays=chunk)
        return render_rays(field, rays(), o, draws=RandomDraws(5))

    for whole, parts in zip(render(None), render(max_rays), strict=True):
        assert torch.equal(whole, parts)


@pytest.mark.parametrize("last_back", [False, True])
def test_early_stop_leaves_out_what_is_hidden(last_back: bool) -> None:
    def render(eps: float):
        o = options(density_gain=30.0, last_back=last_back, early_stop_eps=eps)
        return render_rays(field, rays(), o, draws=RandomDraws(5))

    exact, stopped = render(0.0), render(0.1)
    error = (stopped.features - exact.features).abs().max()
    assert 0 < error < 0.1 * 2.0 * (2 if last_back else 1)  # colours are at most 2
    assert (stopped.opacity - exact.opacity).abs().max() < 0.1


def test_importance_follows_the_weights() -> None:
    t = torch.linspace(0, 1, 11).expand(1, 1, 11)
    weights = torch.zeros(1, 1, 11)
    weights[..., 4] = 1.0  # its bin reaches from 0.35 to 0.45
    u = torch.linspace(0.05, 0.95, 7).expand(1, 1, 7)
    fine = importance_t(t, weights, u)
    assert (fine > 0.3499).all()
    assert (fine < 0.4501).all()
    expected = 0.35 + 0.1 * u
    torch.testing.assert_close(fine, expected, atol=2e-4, rtol=0)


def test_importance_of_equal_weights_is_uniform() -> None:
    t = torch.linspace(0, 1, 9).expand(1, 2, 9)
    u = torch.rand(1, 2, 100, generator=torch.Generator().manual_seed(0))
    fine = importance_t(t, torch.ones(1, 2, 9), u)
    torch.testing.assert_close(fine, 0.0625 + 0.875 * u, atol=1e-5, rtol=0)


def test_gradients_reach_coarse_and_fine_samples_but_not_the_weights() -> None:
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    seen = []

    def scaled(points, directions):
        sample = field(points, directions)
        densities = sample.densities * scale
        densities.retain_grad()
        seen.append(densities)
        return FieldSample(sample.colors, densities)

    rendered = render_rays(scaled, rays(), options(), draws=RandomDraws(0))
    rendered.features.sum().backward()
    assert len(seen) == 2
    assert all(d.grad.abs().sum() > 0 for d in seen)
    # With the importance samples held, the derivative is that of the final integral alone.
    eps = 1e-6
    trace: dict = {}
    render_rays(field, rays(), options(), draws=RandomDraws(0), trace=trace)
    t = trace["final_z"][..., 0]

    def total(s: float) -> float:
        bundle = rays()
        points = bundle.origins[:, :, None] + bundle.directions[:, :, None] * t[..., None]
        sample = field(points, points)
        value = 0.0
        for b, r in np.ndindex(*t.shape[:2]):
            sigma = [_sigma(float(x) * s, 0, options()) for x in sample.densities[b, r]]
            weights, _ = _weights(t[b, r].tolist(), sigma, 1e10)
            weight = torch.tensor(weights, dtype=torch.float64)[:, None]
            value += float((weight * sample.colors[b, r]).sum())
        return value

    numeric = (total(1 + eps) - total(1 - eps)) / (2 * eps)
    assert float(scale.grad) == pytest.approx(numeric, rel=1e-5)


def test_activation_by_hand() -> None:
    raw = torch.tensor([-1.0, 0.0, 2.0])
    o = options(clamp_mode=ClampMode.RELU, density_shift=0.5, density_gain=2, density_noise_std=0.1)
    ours = activate_density(raw, o, torch.tensor([0.0, 10.0, -10.0]))
    torch.testing.assert_close(ours, torch.tensor([0.0, 3.0, 3.0]))


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match="num_coarse must be at least 2"):
        options(num_coarse=2)
    assert options(num_coarse=2, num_fine=0).num_coarse == 2
