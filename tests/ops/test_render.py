"""The fused renderer against a loop over samples, the composable path, and differences.

Legend: B batch, R rays, S coarse and F fine samples, C plane channels, H W plane size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epigraf.config import ClampMode, LastInterval, RenderBackend
from epigraf.ops import (
    FieldTensors,
    March,
    RayTensors,
    _native,
    available,
    reason,
    render,
    use_reference,
)
from epigraf.ops.render import MAX_LAYERS, RaySeeds, RenderedRays, _why_not_on_gpu, why_not
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import TensorField, fused_reason, render_rays
from tests.ops.conftest import DEVICES

pytestmark = pytest.mark.skipif(not available(), reason=reason() or "core found")

SLOPE = 0.2
OPTIONS = RenderOptions(num_coarse=7, num_fine=5, near=0.6, far=1.4)
VARIANTS = {
    "official": OPTIONS,
    "one pass": replace(OPTIONS, num_fine=0, deterministic=True),
    "even": replace(OPTIONS, deterministic=True, black_back=True),
    "noise": replace(OPTIONS, density_noise_std=0.7),
    "relu, last back": replace(OPTIONS, clamp_mode=ClampMode.RELU, last_back=True),
    "ball": replace(
        OPTIONS, object_radius=0.3, last_interval=LastInterval.FINITE, density_gain=20.0,
        density_shift=-3.0, white_back=True,
    ),
    "background": replace(OPTIONS, has_background=True, last_interval=LastInterval.AUTO),
}  # fmt: skip


def make_field(
    widths: Sequence[int] = (5, 6, 4),
    batch: int = 2,
    size: tuple[int, int] = (9, 7),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    prior: float = 0.0,
    device: torch.device | str = "cpu",
) -> FieldTensors:
    """Random planes and decoder; all of it wants a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).to(device).requires_grad_()

    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    return FieldTensors(
        planes=normal(batch, 3, widths[0], *size),
        weights=[normal(o, i) for o, i in pairs],
        biases=[normal(o) for o, _ in pairs],
        slope=SLOPE,
        cube_scale=0.4,
        prior_strength=prior,
        prior_slope=prior / 0.2,
    )


def make_rays(
    batch: int = 2,
    count: int = 33,
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
    device: torch.device | str = "cpu",
) -> Rays:
    """Cameras on the unit sphere that look at about the origin; some rays miss the planes."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(batch, 1, 3, generator=generator, dtype=dtype)
    origins = torch.nn.functional.normalize(origins, dim=-1).expand(batch, count, 3)
    spread = 0.25 * torch.randn(batch, count, 3, generator=generator, dtype=dtype)
    directions = torch.nn.functional.normalize(spread - origins, dim=-1)
    return Rays(origins.to(device), directions.to(device))


class TensorDraws(RandomDraws):
    """Numbers along rays as tensors, not by a seed."""

    def ray_seed(self) -> None:
        return None


def rendered(
    backend: RenderBackend,
    tensors: FieldTensors,
    rays: Rays,
    options: RenderOptions,
    draws: type[RandomDraws] = TensorDraws,
) -> list[Tensor]:
    """All outputs, then the gradients of a weighted sum of them."""
    field, options = TensorField(tensors), replace(options, backend=backend)
    assert bool(fused_reason(field, rays, options)) is (backend is not RenderBackend.FUSED)
    outputs = render_rays(field, rays, options, draws=draws(3))
    loss = sum(
        (x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype, device=x.device).view(x.shape)).sum()
        for x in outputs
    )
    inputs = [tensors.planes, *tensors.weights, *tensors.biases]
    return [*(x.detach() for x in outputs), *torch.autograd.grad(loss, inputs)]


def assert_close(ours: Sequence[Tensor], expected: Sequence[Tensor], rtol: float) -> None:
    """Every tensor to `rtol` of its largest value."""
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * float(b.abs().max().clamp_min(1e-30)))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("widths", [(5, 6, 4), (32, 64, 4), (16, 4), (3, 20, 9, 4)], ids=str)
def test_equals_ops_and_reference_in_double(
    widths: tuple, options: RenderOptions, device: torch.device
) -> None:
    if device.type == "cuda" and len(widths) != 3:
        pytest.skip("on a GPU the fused renderer takes two layers")
    prior = 3.0 if len(widths) == 3 else 0.0
    tensors, rays = make_field(widths, prior=prior, device=device), make_rays(device=device)
    ours = rendered(RenderBackend.FUSED, tensors, rays, options)
    for backend in (RenderBackend.OPS, RenderBackend.REFERENCE):
        assert_close(ours, rendered(backend, tensors, rays, options), 1e-10)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_float_is_as_near_to_double_as_the_ops_are(
    options: RenderOptions, device: torch.device
) -> None:
    """Rounding decides which importance bin a draw falls into and which side of a leaky ReLU a
    hidden unit is on; so the bound is the composable path's own distance from double."""
    rays = make_rays(dtype=torch.float32, device=device)
    tensors = make_field((16, 32, 4), dtype=torch.float32, device=device)
    exact = FieldTensors(
        **{**vars(tensors), "planes": tensors.planes.double().detach().requires_grad_(),
           "weights": [w.double().detach().requires_grad_() for w in tensors.weights],
           "biases": [b.double().detach().requires_grad_() for b in tensors.biases]}
    )  # fmt: skip
    exact_rays = Rays(*(x.double() for x in rays))
    draws_are_float = replace(options, deterministic=True, density_noise_std=0.0)
    expected = rendered(RenderBackend.FUSED, exact, exact_rays, draws_are_float)
    ours = rendered(RenderBackend.FUSED, tensors, rays, draws_are_float)
    theirs = rendered(RenderBackend.OPS, tensors, rays, draws_are_float)
    for a, b, e in zip(ours, theirs, expected, strict=True):
        scale = float(e.abs().max())
        error, allowed = (float((x - e).norm()) / e.numel() ** 0.5 for x in (a, b))
        assert error <= 3 * allowed + 3e-6 * scale


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3),
    count=st.sampled_from([0, 1, 2, 31, 33, 70]),
    coarse=st.sampled_from([3, 4, 17]),
    fine=st.sampled_from([0, 1, 16]),
    channels=st.sampled_from([1, 3, 8, 17, 32]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 1000),
    device=st.sampled_from(DEVICES),
)
def test_any_size(
    batch: int,
    count: int,
    coarse: int,
    fine: int,
    channels: int,
    size: tuple,
    seed: int,
    device: str,
) -> None:
    tensors = make_field((channels, 7, 4), batch, size, seed=seed, device=device)
    rays = make_rays(batch, count, seed=seed, device=device)
    options = replace(OPTIONS, num_coarse=coarse, num_fine=fine)
    ours = rendered(RenderBackend.FUSED, tensors, rays, options)
    expected = rendered(RenderBackend.REFERENCE, tensors, rays, options)
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_worked_by_hand() -> None:
    """Constant planes: one colour and density everywhere, so that the integral has a closed form.

    Planes of 1 give features 1; outputs (0.5, -1, 2, raw 1). Samples at t = 0, 1, 2 inside; sigma =
    relu(1) = 1; finite last interval 3 - 2 = 1: opacity = 1 - exp(-3) up to 1e-10 a sample.
    """
    field = FieldTensors(
        planes=torch.ones(1, 3, 1, 2, 2, dtype=torch.float64),
        weights=[torch.tensor([[0.5], [-1.0], [2.0], [1.0]], dtype=torch.float64)],
        biases=[torch.zeros(4, dtype=torch.float64)],
        slope=SLOPE,
        cube_scale=10.0,
    )
    one = torch.ones(1, 1, dtype=torch.float64)
    rays = RayTensors(
        origins=torch.zeros(1, 1, 3, dtype=torch.float64),
        directions=torch.tensor([[[1.0, 0, 0]]], dtype=torch.float64),
        near=0 * one,
        far=3 * one,
        last_delta=one,
        even=torch.tensor([0.0, 1 / 3, 2 / 3], dtype=torch.float64),
    )
    out = render(field, rays, March(relu=True, finite_interval=True))
    light = torch.exp(torch.tensor(-1.0, dtype=torch.float64))
    opacity = 1 - light**3
    assert out.opacity.item() == pytest.approx(float(opacity), abs=1e-9)
    expected = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64) * opacity
    torch.testing.assert_close(out.features[0, 0], expected, atol=1e-9, rtol=0)
    weights = [float((1 - light) * light**k) for k in range(3)]
    assert out.depth.item() == pytest.approx(weights[1] + 2 * weights[2], abs=1e-9)
    assert out.transmittance.item() == pytest.approx(float(light**2), abs=1e-9)


def test_gradcheck(device: torch.device) -> None:
    tensors, rays = make_field((2, 3, 4), 1, (4, 3), device=device), make_rays(1, 4, device=device)
    options = replace(OPTIONS, num_coarse=4, num_fine=0, backend=RenderBackend.FUSED)

    def outputs(planes: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        field = replace(tensors, planes=planes, weights=params[:2], biases=params[2:])
        return tuple(render_rays(TensorField(field), rays, options, draws=RandomDraws(3)))

    inputs = [tensors.planes, *tensors.weights, *tensors.biases]
    any_order = 1e-12 if device.type == "cuda" else 0.0  # gradients are sums by atomics there
    assert torch.autograd.gradcheck(outputs, inputs, nondet_tol=any_order)


def test_second_derivatives_take_the_composable_path_and_say_so(device: torch.device) -> None:
    tensors, rays = make_field((3, 4, 4), 1, device=device), make_rays(1, 5, device=device)
    options = replace(OPTIONS, num_fine=0)

    def second(backend: RenderBackend) -> list[Tensor]:
        chosen = replace(options, backend=backend)
        out = render_rays(TensorField(tensors), rays, chosen, draws=RandomDraws(3))
        weights = tensors.weights[0]
        (slope,) = torch.autograd.grad(out.features.square().sum(), weights, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), [tensors.planes, weights]))

    with pytest.warns(UserWarning, match="create_graph=True takes the composable path"):
        ours = second(RenderBackend.FUSED)
    assert_close(ours, second(RenderBackend.REFERENCE), 1e-10)


@pytest.mark.parametrize("layout", ["channels last", "batch of one latent", "slice", "NCHW"])
def test_any_strides(layout: str, device: torch.device) -> None:
    tensors, rays = make_field((16, 8, 4), device=device), make_rays(device=device)
    planes = tensors.planes.detach()
    if layout == "channels last":
        planes = planes.movedim(2, 4).contiguous().movedim(4, 2)
    elif layout == "batch of one latent":
        planes = planes[:1].movedim(2, 4).contiguous().movedim(4, 2).expand(2, -1, -1, -1, -1)
    elif layout == "slice":
        planes = torch.cat([planes, planes], dim=4).movedim(2, 4).contiguous().movedim(4, 2)
        planes = planes[..., 1:8]
    tensors = replace(tensors, planes=planes.requires_grad_())
    ours = rendered(RenderBackend.FUSED, tensors, rays, OPTIONS)
    expected = rendered(RenderBackend.REFERENCE, tensors, rays, OPTIONS)
    assert_close(ours, expected, 1e-10)


def test_one_scene_whose_batch_has_any_stride() -> None:
    """Torch gives a dimension of size one any stride; threads add up gradients by elements."""
    field, rays = make_field(batch=1, size=(32, 32)), make_rays(batch=1, count=1024)
    pixels = field.planes.detach().permute(0, 3, 4, 1, 2).contiguous()  # [1, H, W, 3, C]
    odd = pixels.as_strided(pixels.shape, (2, *pixels.stride()[1:])).permute(0, 3, 4, 1, 2)
    threads, grads = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for planes in (field.planes.detach(), odd):
            leaf = planes.requires_grad_()
            seen = rendered(RenderBackend.FUSED, replace(field, planes=leaf), rays, OPTIONS)
            grads.append(seen)
    finally:
        torch.set_num_threads(threads)
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_draws_may_be_one_row_for_all_rays(device: torch.device) -> None:
    tensors, rays = make_field(device=device), make_rays(device=device)
    even = replace(OPTIONS, deterministic=True)
    ours = rendered(RenderBackend.FUSED, tensors, rays, even)  # u is expanded there
    assert_close(ours, rendered(RenderBackend.REFERENCE, tensors, rays, even), 1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_rays(bad: float, device: torch.device) -> None:
    """One bad texel: the rays that do not read it are as they were, to the last bit."""
    tensors, rays = make_field(size=(16, 16), device=device), make_rays(count=60, device=device)
    options = replace(OPTIONS, backend=RenderBackend.FUSED, num_fine=0, object_radius=0.35)
    planes = tensors.planes.detach().clone()
    planes[0, 0, :, 8, 8] = bad

    def run(p: Tensor) -> RenderedRays:
        field = TensorField(replace(tensors, planes=p))
        with torch.no_grad():
            return render_rays(field, rays, options, draws=RandomDraws(3))

    good, ours = run(tensors.planes), run(planes)
    with use_reference(), torch.no_grad():
        field = TensorField(replace(tensors, planes=planes))
        chosen = replace(options, backend=RenderBackend.REFERENCE)
        expected = render_rays(field, rays, chosen, draws=RandomDraws(3))
    touched = ~expected.features.isfinite().all(-1)
    assert 0 < int(touched.sum()) < touched.numel() / 2
    assert torch.equal(ours.features.isfinite().all(-1), ~touched)
    assert torch.equal(ours.features[~touched], good.features[~touched])


def test_threads_change_nothing_in_the_forward_pass() -> None:
    tensors, rays = (
        make_field((16, 32, 4), 3, dtype=torch.float32),
        make_rays(3, 130, torch.float32),
    )
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(rendered(RenderBackend.FUSED, tensors, rays, OPTIONS))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0][:4], other[:4], strict=True))
        assert_close(other, results[0], 1e-5)  # gradients: sums in another order
    assert all(torch.equal(a, b) for a, b in zip(results[1], results[3], strict=True))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_seed_is_the_numbers_of_its_streams(options: RenderOptions, device: torch.device) -> None:
    """The same rays in every backend, whole or cut into calls."""
    tensors, rays = make_field((8, 16, 4), device=device), make_rays(device=device)
    whole = rendered(RenderBackend.FUSED, tensors, rays, options, RandomDraws)
    for backend in (RenderBackend.OPS, RenderBackend.REFERENCE):
        assert_close(whole, rendered(backend, tensors, rays, options, RandomDraws), 1e-10)
    cut = replace(options, backend=RenderBackend.OPS, max_rays=7)
    parts = render_rays(TensorField(tensors), rays, cut, draws=RandomDraws(3))
    assert_close([x.detach() for x in parts], whole[:4], 1e-10)


def test_the_reference_has_the_numbers_of_the_core(
    native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Philox in plain torch would take longer than the rendering."""
    tensors, rays = make_field((8, 16, 4)), make_rays()
    noisy = replace(OPTIONS, density_noise_std=0.5)
    fused = rendered(RenderBackend.FUSED, tensors, rays, noisy, RandomDraws)
    monkeypatch.setattr("epigraf.ops.random._philox_reference", None)
    assert_close(fused, rendered(RenderBackend.REFERENCE, tensors, rays, noisy, RandomDraws), 1e-10)


def test_seeds_go_on_where_rays_are_cut() -> None:
    field, rays = make_field(), make_rays()
    march, seed = March(noise_std=0.5), torch.tensor([-7])  # 64 bits, whatever their sign
    near = torch.full((2, 33), 0.6, dtype=torch.float64)
    even = torch.linspace(0, 1, 5, dtype=torch.float64)
    seeds = RaySeeds(seed, 33, 0, True, 4, True)
    every = RayTensors(*rays, near, near + 0.8, near, even, seeds=seeds)
    part = slice(10, 33)
    some = RayTensors(
        *(x[:, part] for x in (*rays, near, near + 0.8, near)), even,
        seeds=replace(seeds, first=10),
    )  # fmt: skip
    with torch.no_grad():
        whole, cut = render(field, every, march), render(field, some, march)
        drawn = render(field, every.drawn(), march)
    for a, b, c in zip(whole, cut, drawn, strict=True):
        assert torch.equal(a[:, part], b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("hidden", [3, 16, 64, 70])
def test_projected_planes(hidden: int) -> None:
    """Without gradients and with many samples to a pixel the first layer goes to the planes."""
    tensors, rays = make_field((6, hidden, 4), size=(5, 4), prior=2.0), make_rays(count=64)
    options = replace(OPTIONS, num_coarse=9, num_fine=7, row_length=8)
    expected = rendered(RenderBackend.REFERENCE, tensors, rays, options)[:4]
    for planes in (tensors.planes, tensors.planes.movedim(2, 4).contiguous().movedim(4, 2)):
        field = TensorField(replace(tensors, planes=planes))
        with torch.no_grad():
            ours = render_rays(field, rays, options, draws=TensorDraws(3))
        assert_close(ours, expected, 1e-10)


@pytest.mark.parametrize("fine", [0, 7])
def test_early_stop_is_within_its_bound(fine: int) -> None:
    tensors, rays = make_field((6, 16, 4)), make_rays(count=70)
    options = replace(OPTIONS, num_coarse=40, num_fine=fine, density_gain=30.0, row_length=10)
    field = TensorField(tensors)
    with torch.no_grad():
        whole = render_rays(field, rays, options, draws=TensorDraws(3))
        for eps in (1e-3, 0.2):
            stopped = replace(options, early_stop_eps=eps)
            ours = render_rays(field, rays, stopped, draws=TensorDraws(3))
            ops = replace(stopped, backend=RenderBackend.OPS)
            assert_close(ours, render_rays(field, rays, ops, draws=TensorDraws(3)), 1e-10)
            largest = 200.0  # of a colour in this field, generously
            assert float((ours.features - whole.features).abs().max()) <= eps * largest
            assert float((whole.opacity - ours.opacity).max()) <= eps
        assert not torch.equal(ours.features, whole.features)
    recorded = replace(options, early_stop_eps=0.2)  # with gradients nothing stops
    with_grad = render_rays(field, rays, recorded, draws=TensorDraws(3))
    assert_close([with_grad.features.detach()], [whole.features], 1e-10)


def _seeded(
    planes: Tensor, params: Sequence[Tensor], rays: Sequence[Tensor], seed: Tensor
) -> RenderedRays:
    field = FieldTensors(planes, params[:2], params[2:], SLOPE, 0.4)
    near = torch.full((2, 33), 0.6, dtype=planes.dtype)
    even = torch.linspace(0, 1, 5, dtype=planes.dtype)
    seeds = RaySeeds(seed, 33, 0, True, 4, False)
    tensors = RayTensors(*rays, near, near + 0.8, near, even, seeds=seeds)
    return render(field, tensors, March())


def test_compiles_as_one_op() -> None:
    field = make_field()
    params, seed = [*field.weights, *field.biases], torch.tensor([11])
    inputs = [field.planes, *params]
    compiled = torch.compile(_seeded, fullgraph=True, backend="aot_eager")
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            ours, expected = (
                f(field.planes, params, list(make_rays()), seed) for f in (compiled, _seeded)
            )
        assert_close([x.detach() for x in ours], [x.detach() for x in expected], 1e-15)
    grads = [torch.autograd.grad(x.features.square().sum(), inputs) for x in (ours, expected)]
    assert_close(grads[0], grads[1], 1e-12)


@pytest.mark.parametrize("recorded", [False, True])
def test_opcheck(recorded: bool) -> None:
    field, rays = make_field(), _ray_tensors()
    planes = field.planes.detach().movedim(2, 4).contiguous().requires_grad_(recorded)
    params = [x.detach().clone().requires_grad_(recorded) for x in (*field.weights, *field.biases)]
    numbers = [SLOPE, 0.4, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 1.0]
    flags = [False, False, False, False, recorded, True, False, False, False]
    given = [planes.new_empty(0) if x is None else x for x in rays.tensors()]
    given += [planes.new_empty(0, dtype=torch.int32), planes.new_empty(0)]
    sizes = [2, 0, 3, 0, 0]
    arguments = (planes, params, given, torch.tensor([3]), sizes, numbers, flags)
    torch.library.opcheck(torch.ops.epigraf.render, arguments)


def test_nothing_is_saved_without_a_gradient(device: torch.device) -> None:
    tensors, rays = make_field(device=device), make_rays(device=device)
    with torch.no_grad():
        out = render_rays(TensorField(tensors), rays, OPTIONS, draws=RandomDraws(3))
    assert not any(x.requires_grad for x in out)


def test_reasons_against_it() -> None:
    field, rays = make_field(), make_rays()
    options = replace(OPTIONS, backend=RenderBackend.FUSED)
    assert fused_reason(TensorField(field), rays, options) == ""
    assert fused_reason(lambda p, d: None, rays, options).startswith("the field is more")
    assert fused_reason(TensorField(field), rays, replace(options, backend=RenderBackend.OPS)) == (
        "render.backend=ops"
    )
    moving = Rays(rays.origins.clone().requires_grad_(), rays.directions)
    assert "no gradient with respect to rays" in fused_reason(TensorField(field), moving, options)
    deep = make_field((3, *[3] * MAX_LAYERS, 4))
    assert "more than 8 layers" in why_not(deep)
    assert "5 outputs, not 4" in why_not(make_field((3, 5)))
    half = replace(field, planes=field.planes.half())
    assert "torch.float16" in why_not(half)
    with use_reference():
        assert why_not(field) == "the reference was asked for"


class _Gpu:
    """What `why_not` asks about a GPU: a core with CUDA code, and so much shared memory."""

    def __init__(self, room: int, compiled: bool = True) -> None:
        self.shared_memory_per_block_optin = room
        self.cuda_compiled = lambda: compiled
        self.render_shared_bytes = _native.core().render_shared_bytes


def test_shared_memory_that_a_ray_needs() -> None:
    """By hand, in floats, for 32-64-4 and 48 + 48 samples: 64 (32 + 5) + 4 of the decoder, rounded
    up to 16; two tiles of 32 x 33, hidden units 32 x 20, five rows of 96."""
    expected = 4 * (2384 + 2 * 32 * 33 + 32 * 20 + 5 * 96)
    assert _native.core().render_shared_bytes(32, 64, 48, 48, False) == expected


def test_reasons_against_it_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason_there(gpu: _Gpu, widths: tuple, samples: tuple[int, int] = (48, 48)) -> str:
        monkeypatch.setattr(_native, "core", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
        return _why_not_on_gpu(make_field(widths, dtype=torch.float32), samples)

    gpu, without, small = _Gpu(99 * 1024), _Gpu(99 * 1024, compiled=False), _Gpu(22463)
    assert reason_there(gpu, (32, 64, 4)) == ""
    assert "built without CUDA" in reason_there(without, (32, 64, 4))
    assert "two layers, not 3" in reason_there(gpu, (3, 20, 9, 4))
    assert "two layers, not 1" in reason_there(gpu, (16, 4))
    assert reason_there(small, (32, 64, 4)) == (
        "32 channels, 64 hidden units and 48 + 48 samples need 22464 bytes of shared memory, "
        "the GPU has 22463"
    )
    assert "need " in reason_there(gpu, (32, 64, 4), (9000, 0))


def test_a_moving_camera_falls_back_and_has_its_gradient(device: torch.device) -> None:
    tensors, rays = make_field(device=device), make_rays(device=device)
    origins = rays.origins.clone().requires_grad_()
    options = replace(OPTIONS, num_fine=0)
    out = render_rays(
        TensorField(tensors), Rays(origins, rays.directions), options, draws=RandomDraws(3)
    )
    out.features.sum().backward()
    assert origins.grad is not None
    assert origins.grad.abs().max() > 0


def _ray_tensors(batch: int = 2, count: int = 3, coarse: int = 4, fine: int = 2) -> RayTensors:
    rays = make_rays(batch, count)
    row = torch.ones(batch, count, dtype=torch.float64)
    return RayTensors(
        origins=rays.origins, directions=rays.directions, near=row, far=row, last_delta=row,
        even=torch.linspace(0, 1, coarse, dtype=torch.float64),
        u=torch.rand(batch, count, fine, dtype=torch.float64),
    )  # fmt: skip


_SEED = RaySeeds(torch.tensor([1]), total=3, num_fine=2)
WRONG = [
    ({"seeds": _SEED}, ValueError, "comes as a tensor or from the seed, not both"),
    ({"u": None, "seeds": replace(_SEED, first=1)}, ValueError, "rays 1 to 4 are not among"),
    ({"u": None, "seeds": replace(_SEED, seed=torch.ones(1))}, ValueError, "must be one int64"),
    ({"far": torch.ones(2, 4)}, ValueError, "far must have shape [B, R] = [2, 3], got [2, 4]"),
    ({"far": torch.ones(2, 3)}, TypeError, "far must have the dtype of planes"),
    ({"near": torch.ones(3, 3)}, ValueError, "near must have shape [B, R] with B = 2"),
    ({"jitter": torch.ones(2, 3, 5)}, ValueError, "jitter must have shape [B, R, S] = [2, 3, 4]"),
    ({"u": torch.ones(2, 3)}, ValueError, "u must have shape [B, R, F], got [2, 3]"),
    ({"final_noise": torch.ones(2, 3, 4)}, ValueError, "final_noise must have shape [B, R, N]"),
    ({"even": torch.ones(1)}, ValueError, "even must have at least 2 elements"),
    ({"even": torch.ones(2).double()}, ValueError, "fine samples need at least 3 coarse ones"),
    ({"origins": torch.ones(2, 3)}, ValueError, "origins must have shape [B, R, 3] = [2, 3, 3]"),
]


@pytest.mark.parametrize(("change", "error", "text"), WRONG)
def test_wrong_rays_are_named(change: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        render(make_field(), replace(_ray_tensors(), **change), March())


def test_wrong_fields_are_named() -> None:
    field, rays = make_field(), _ray_tensors()
    cases = [
        (replace(field, planes=torch.ones(2, 3, 5, 4).double()), "planes must have shape"),
        (replace(field, planes=torch.ones(2, 3, 5, 0, 4).double()), "at least one pixel"),
        (replace(field, weights=field.weights[:1]), "as many and at least one, got 1 and 2"),
        (replace(field, weights=[field.weights[1], field.weights[0]]), "weights[0] must have"),
        (replace(field, weights=[field.biases[0], field.weights[1]]), "must be a matrix"),
    ]
    for wrong, text in cases:
        with pytest.raises(ValueError, match=re.escape(text)):
            render(wrong, rays, March())
    with pytest.raises(RuntimeError, match="5 outputs, not 4"):
        render(make_field((3, 5)), rays, March())
