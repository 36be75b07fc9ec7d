"""composite against values worked by hand, a loop over samples, and its own reference.

Legend: B batch, R rays, S samples per ray, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epigraf.ops import Composite, composite, use_reference

LN2 = math.log(2)


def composite_by_loop(
    colors: Tensor, densities: Tensor, t: Tensor, last_delta: Tensor, last_back: bool
) -> Composite:
    """The definition, sample by sample."""
    samples = t.shape[-1]
    light, opacity = torch.ones_like(last_delta), torch.zeros_like(last_delta)
    transmittance, weights = light, []
    for k in range(samples):
        delta = t[..., k + 1] - t[..., k] if k + 1 < samples else last_delta
        alpha = 1 - torch.exp(-delta * densities[..., k])
        weights.append(alpha * light)
        opacity = opacity + weights[-1]
        transmittance, light = light, light * (1 - alpha + 1e-10)
    if last_back and weights:
        weights[-1] = weights[-1] + 1 - opacity
    w = torch.stack(weights, -1) if weights else torch.zeros_like(t)
    features = sum(
        (w[..., k, None] * colors[..., k, :] for k in range(samples)), 0 * colors.sum(-2)
    )
    return Composite(features, (w * t).sum(-1), w, transmittance, opacity)


def make_inputs(
    sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """colors, densities, t and last_delta for (B, R, S, C)."""
    batch, rays, samples, channels = sizes
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype)

    colors = uniform(batch, rays, samples, channels) * 2 - 1
    densities = uniform(batch, rays, samples) * 8
    t = uniform(batch, rays, samples).sort(-1).values + 0.5
    inputs = (colors, densities, t, uniform(batch, rays))
    return tuple(x.requires_grad_() for x in inputs)  # type: ignore[return-value]


def value_and_grads(
    function: Callable[..., Composite], inputs: tuple[Tensor, ...], last_back: bool
) -> list[Tensor]:
    """All outputs, and the gradients of a weighted sum of all outputs."""
    outputs = function(*inputs, last_back=last_back)
    loss = sum(
        (o * torch.linspace(-1, 2, o.numel(), dtype=o.dtype, device=o.device).view(o.shape)).sum()
        for o in outputs
    )
    return [*outputs, *torch.autograd.grad(loss, inputs, materialize_grads=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_worked_by_hand(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Three intervals that each absorb half: weights 1/2, 1/4, 1/8."""
    t = torch.tensor([[[1.0, 2.0, 4.0]]], dtype=dtype, device=device)
    densities = torch.tensor([[[LN2, LN2 / 2, LN2 / 3]]], dtype=dtype, device=device)
    colors = torch.tensor([[[[8.0], [16.0], [32.0]]]], dtype=dtype, device=device)
    result = composite(colors, densities, t, 3.0)
    assert result.weights.flatten().tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 8])
    assert result.features.item() == pytest.approx(4 + 4 + 4)
    assert result.depth.item() == pytest.approx(0.5 + 0.5 + 0.5)
    assert result.transmittance.item() == pytest.approx(1 / 4)  # before the last sample
    assert result.opacity.item() == pytest.approx(7 / 8)


def test_last_back_worked_by_hand(backend: str) -> None:
    """The missing eighth goes to the last sample; opacity stays what the ray absorbed."""
    t = torch.tensor([[[1.0, 2.0, 4.0]]])
    densities = torch.tensor([[[LN2, LN2 / 2, LN2 / 3]]])
    colors = torch.tensor([[[[8.0], [16.0], [32.0]]]])
    result = composite(colors, densities, t, 3.0, last_back=True)
    assert result.weights.flatten().tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 4])
    assert result.features.item() == pytest.approx(4 + 4 + 8)
    assert result.depth.item() == pytest.approx(0.5 + 0.5 + 1)
    assert result.opacity.item() == pytest.approx(7 / 8)


def test_infinite_last_interval_takes_the_rest(backend: str) -> None:
    t = torch.tensor([[[1.0, 2.0]]])
    densities = torch.tensor([[[LN2, 1e-3]]])
    result = composite(torch.ones(1, 1, 2, 3), densities, t, 1e10)
    assert result.weights.flatten().tolist() == pytest.approx([0.5, 0.5])
    assert result.opacity.item() == pytest.approx(1)


def test_empty_space_gives_nothing(backend: str) -> None:
    result = composite(torch.ones(1, 2, 5, 3), torch.zeros(1, 2, 5), torch.ones(1, 2, 5), 1e10)
    assert not any(x.any() for x in (result.features, result.depth, result.weights, result.opacity))
    torch.testing.assert_close(result.transmittance, torch.ones(1, 2))


@pytest.mark.parametrize("last_back", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 2, 31, 33])
def test_agrees_with_a_loop(backend: str, samples: int, last_back: bool) -> None:
    inputs = make_inputs((2, 33, samples, 3))
    ours = value_and_grads(composite, inputs, last_back)
    theirs = value_and_grads(composite_by_loop, inputs, last_back)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("sizes", [(0, 3, 4, 3), (2, 0, 4, 3), (1, 1, 1, 1), (1, 65, 7, 0)])
def test_sizes_agree_with_reference(
    native: None, device: torch.device, sizes: tuple[int, int, int, int]
) -> None:
    inputs = tuple(x.detach().to(device).requires_grad_() for x in make_inputs(sizes))
    ours = value_and_grads(composite, inputs, False)
    with use_reference():
        theirs = value_and_grads(composite, inputs, False)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 40), st.integers(1, 7)),
    last_back=st.booleans(),
    opacity=st.sampled_from([1e-6, 1.0, 100.0]),
    seed=st.integers(0, 2**31),
)
def test_any_size_agrees_with_a_loop(
    sizes: tuple[int, int, int, int], last_back: bool, opacity: float, seed: int
) -> None:
    colors, densities, t, last_delta = make_inputs(sizes, seed=seed)
    inputs = (colors, (densities.detach() * opacity).requires_grad_(), t, last_delta)
    ours = value_and_grads(composite, inputs, last_back)
    theirs = value_and_grads(composite_by_loop, inputs, last_back)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(sizes=st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 40), st.just(1)))
def test_what_is_absorbed_and_what_passes_add_up(sizes: tuple[int, int, int, int]) -> None:
    """opacity + transmittance * exp(-last thickness) = 1 (up to the 1e-10 of each sample)."""
    colors, densities, t, last_delta = make_inputs(sizes)
    result = composite(colors, densities, t, last_delta)
    passes = result.transmittance * torch.exp(-last_delta * densities[..., -1])
    torch.testing.assert_close(result.opacity + passes, torch.ones_like(passes), atol=1e-8, rtol=0)


@pytest.mark.parametrize("last_back", [False, True])
def test_gradcheck(backend: str, last_back: bool) -> None:
    inputs = make_inputs((1, 3, 5, 2))
    assert torch.autograd.gradcheck(lambda *x: tuple(composite(*x, last_back=last_back)), inputs)


@pytest.mark.parametrize("last_back", [False, True])
def test_second_derivative(backend: str, last_back: bool) -> None:
    """Under create_graph the composable path takes over, and it is right."""
    inputs = make_inputs((1, 2, 3, 2))
    assert torch.autograd.gradgradcheck(
        lambda *x: tuple(composite(*x, last_back=last_back)), inputs
    )


@pytest.mark.parametrize("output", Composite._fields)
@pytest.mark.parametrize("last_back", [False, True])
def test_gradient_of_each_output_alone(native: None, output: str, last_back: bool) -> None:
    inputs = make_inputs((2, 9, 6, 3))
    grads = []
    for forced in (False, True):
        with use_reference(forced):
            value = getattr(composite(*inputs, last_back=last_back), output)
        loss = (value**2).sum()
        grads.append(torch.autograd.grad(loss, inputs, materialize_grads=True))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_gradients_of_opaque_rays_are_finite(backend: str) -> None:
    """Where the light is gone after the first sample no gradient overflows."""
    colors, densities, t, _ = make_inputs((1, 4, 48, 3), torch.float32)
    dense = (densities.detach() * 1e6).requires_grad_()
    result = composite(colors, dense, t, 1e10)
    loss = result.features.sum() + result.depth.sum() + result.opacity.sum()
    for grad in torch.autograd.grad(loss, (colors, dense, t)):
        assert grad.isfinite().all()


def test_strided_inputs_agree(backend: str) -> None:
    inputs = make_inputs((2, 31, 6, 3))
    expected = value_and_grads(composite_by_loop, inputs, False)
    strided = tuple(
        x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in inputs
    )
    for a, b in zip(value_and_grads(composite, strided, False), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_number_is_a_tensor_of_it(backend: str) -> None:
    colors, densities, t, last_delta = make_inputs((2, 5, 6, 3))
    one = composite(colors, densities, t, 0.25)
    other = composite(colors, densities, t, torch.full_like(last_delta, 0.25))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_bad_value_stays_in_its_ray(backend: str, which: int, bad: float) -> None:
    inputs = make_inputs((2, 33, 8, 3), torch.float32)
    expected = value_and_grads(composite, inputs, False)
    spoiled = [x.detach().clone() for x in inputs]
    spoiled[which][1, 7, 3] = bad
    ours = value_and_grads(composite, tuple(x.requires_grad_() for x in spoiled), False)
    others = torch.ones(2, 33, dtype=torch.bool)
    others[1, 7] = False
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a[others], b[others])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bit_equal_for_any_number_of_threads(native: None, threads: int) -> None:
    inputs = make_inputs((2, 300, 16, 3), torch.float32)
    first = value_and_grads(composite, inputs, True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        second = value_and_grads(composite, inputs, True)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_float32_is_as_accurate_as_torch(native: None) -> None:
    """The error against double precision is at most twice that of the reference."""
    inputs = make_inputs((1, 500, 96, 3), torch.float32)
    exact = value_and_grads(
        composite, tuple(x.detach().double().requires_grad_() for x in inputs), False
    )
    ours = value_and_grads(composite, inputs, False)
    with use_reference():
        theirs = value_and_grads(composite, inputs, False)
    for a, b, e in zip(ours, theirs, exact, strict=True):
        assert (a - e).abs().max() <= 2 * (b - e).abs().max() + 1e-7 * e.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_the_reference(dtype: torch.dtype) -> None:
    inputs = tuple(x.detach() for x in make_inputs((1, 9, 8, 3), dtype))
    result = composite(*inputs)
    assert result.features.dtype == dtype
    exact = composite(*(x.double() for x in inputs))
    torch.testing.assert_close(result.features.double(), exact.features, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("wanted", range(4))
def test_only_the_wanted_gradient(backend: str, wanted: int) -> None:
    inputs = [x.detach() for x in make_inputs((1, 5, 6, 3))]
    inputs[wanted].requires_grad_()
    result = composite(*inputs)
    loss = result.features.sum() + result.depth.sum()
    assert torch.autograd.grad(loss, inputs[wanted])[0].any()


C, D = torch.zeros(2, 64, 48, 3), torch.zeros(2, 64, 48)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (C, torch.zeros(2, 48, 64), D, 1.0),
            ValueError,
            r"composite: densities must have shape \[B, R, S\] = \[2, 64, 48\], "
            r"got \[2, 48, 64\]",
        ),
        (
            (C, D, D[..., :-1], 1.0),
            ValueError,
            r"composite: t must have shape \[B, R, S\] = \[2, 64, 48\], got \[2, 64, 47\]",
        ),
        (
            (D, D, D, 1.0),
            ValueError,
            r"composite: colors must have shape \[B, R, S, C\], got \[2, 64, 48\]",
        ),
        (
            (C, D, D, torch.zeros(2, 1)),
            ValueError,
            r"composite: last_delta must have shape \[B, R\] = \[2, 64\], got \[2, 1\]",
        ),
        (
            (C, D.double(), D, 1.0),
            TypeError,
            r"composite: densities must have the dtype of colors, torch.float32, "
            r"got torch.float64",
        ),
        (
            (C.long(), D, D, 1.0),
            TypeError,
            r"composite: colors must be floating point, got torch.int64",
        ),
        ((C, D, D, -1.0), ValueError, r"composite: last_delta must be finite and >= 0, got -1.0"),
        (
            (C, D, D, math.inf),
            ValueError,
            r"composite: last_delta must be finite and >= 0, got inf",
        ),
    ],
)
def test_wrong_arguments(
    arguments: tuple[Tensor, Tensor, Tensor, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        composite(*arguments)


@pytest.mark.parametrize("last_back", [False, True])
def test_early_stop_by_hand(backend: str, device: torch.device, last_back: bool) -> None:
    """Half and a quarter are absorbed; a quarter, less than eps, reaches the third sample."""
    place = {"dtype": torch.float64, "device": device}
    colors = torch.tensor([2.0, 4.0, math.nan, 8.0], **place).view(1, 1, 4, 1)
    densities = torch.tensor([math.log(2), math.log(2), 0, 5], **place).view(1, 1, 4)
    t = torch.arange(1.0, 5, **place).view(1, 1, 4)
    result = composite(colors, densities, t, 1.0, last_back=last_back, early_stop_eps=0.3)
    rest = 0.25 if last_back else 0.0
    expected = torch.tensor([0.5, 0.25, 0, rest], **place).view(1, 1, 4)
    torch.testing.assert_close(result.weights, expected, rtol=0, atol=1e-9)
    numbers = [result.features, result.depth, result.opacity, result.transmittance]
    for value, known in zip(numbers, (2 + rest * 8, 1 + rest * 4, 0.75, 0.25), strict=True):
        assert value.item() == pytest.approx(known, abs=1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(0, 70), st.integers(1, 4)),
    eps=st.floats(0, 0.99),
    last_back=st.booleans(),
    reference=st.booleans(),
)
def test_early_stop_keeps_its_bound(
    shape: tuple[int, int, int, int], eps: float, last_back: bool, reference: bool
) -> None:
    """(composite 10): features within eps max|c| (twice with last_back), the rest within eps."""
    inputs = tuple(x.detach() for x in make_inputs(shape))
    with use_reference(reference):
        exact = composite(*inputs, last_back=last_back)
        ours = composite(*inputs, last_back=last_back, early_stop_eps=eps)
    largest = inputs[0].abs().max() if inputs[0].numel() else 0
    bound = eps * (1 + 1e-7) * (2 if last_back else 1)
    assert ((ours.features - exact.features).abs() <= bound * largest + 1e-12).all()
    assert ((ours.opacity - exact.opacity).abs() <= bound + 1e-12).all()
    assert ((ours.transmittance - exact.transmittance).abs() <= bound + 1e-12).all()
    lit = exact.weights == ours.weights
    assert (lit | (ours.weights == 0) | last_back).all()


@pytest.mark.parametrize("last_back", [False, True])
def test_early_stop_is_its_reference(native: None, device: torch.device, last_back: bool) -> None:
    inputs = [x.detach().to(device) for x in make_inputs((2, 33, 70, 3))]
    ours = composite(*inputs, last_back=last_back, early_stop_eps=0.05)
    with use_reference():
        theirs = composite(*inputs, last_back=last_back, early_stop_eps=0.05)
    assert (theirs.weights[..., -2] == 0).any()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_early_stop_waits_where_a_gradient_is_wanted(backend: str) -> None:
    inputs = make_inputs((1, 5, 40, 3))
    exact = composite(*inputs)
    assert torch.equal(composite(*inputs, early_stop_eps=0.5).features, exact.features)
    with torch.no_grad():
        assert not torch.equal(composite(*inputs, early_stop_eps=0.5).features, exact.features)


@pytest.mark.parametrize("eps", [-0.1, 1.0, math.nan])
def test_wrong_early_stop(eps: float) -> None:
    with pytest.raises(ValueError, match=r"^composite: early_stop_eps must be in \[0, 1\), got "):
        composite(C, D, D, 1.0, early_stop_eps=eps)
