"""importance_t and merge_samples against plain loops, torch's sort, and their references.

Legend: B batch, R rays, S coarse and F fine samples, C channels.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epigraf.ops import importance_t, merge_samples, use_reference


def make_rays(
    shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """t, weights and u for (B, R, S, F)."""
    batch, rays, samples, draws = shape
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(batch, rays, samples, generator=generator, dtype=dtype).sort(-1).values + 1
    weights = torch.rand(batch, rays, samples, generator=generator, dtype=dtype) / samples
    return t, weights, torch.rand(batch, rays, draws, generator=generator, dtype=dtype)


def depth_by_loop(t: list[float], weights: list[float], u: float) -> float:
    """(render 4, 5) for one draw, in Python."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(t)]
    masses = [w + 2e-5 for w in weights[1:-1]]
    cdf = [0.0]
    for mass in masses:
        cdf.append(cdf[-1] + mass / sum(masses))
    above = bisect.bisect_left(cdf, u)
    below, above = max(above - 1, 0), min(above, len(middles) - 1)
    width = cdf[above] - cdf[below]
    width = 1.0 if width < 1e-5 else width
    return middles[below] + (u - cdf[below]) / width * (middles[above] - middles[below])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_depths_worked_by_hand(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Inner weights 3/4 and 1/4 between the midpoints 0.5, 1.5, 2.5."""
    t = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]], dtype=dtype, device=device)
    weights = torch.tensor([[[9.0, 3e3, 1e3, 9.0]]], dtype=dtype, device=device)
    u = torch.tensor([[[0.75, 0.0, 0.375, 1.0, 0.875]]], dtype=dtype, device=device)
    expected = torch.tensor([[[1.5, 0.5, 1.0, 2.5, 2.0]]], dtype=dtype, device=device)
    torch.testing.assert_close(importance_t(t, weights, u), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(3, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**31),
    empty=st.booleans(),
)
def test_any_size_is_the_loop(shape: tuple[int, int, int, int], seed: int, empty: bool) -> None:
    t, weights, u = make_rays(shape, seed=seed)
    if empty:
        weights = weights * (weights > 0.8 / shape[2])
    depths = importance_t(t, weights, u)
    for b in range(shape[0]):
        for r in range(shape[1]):
            row = t[b, r].tolist(), weights[b, r].tolist()
            expected = [depth_by_loop(*row, x) for x in u[b, r].tolist()]
            torch.testing.assert_close(depths[b, r].tolist(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rays", [0, 1, 31, 33, 130])
@pytest.mark.parametrize("draws", [0, 1, 31, 33])
@pytest.mark.parametrize("samples", [3, 4, 48])
def test_importance_is_its_reference(
    native: None, device: torch.device, rays: int, draws: int, samples: int
) -> None:
    inputs = [x.to(device) for x in make_rays((2, rays, samples, draws))]
    ours = importance_t(*inputs)
    with use_reference():
        theirs = importance_t(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_float32_depths_are_as_accurate_as_torch(native: None) -> None:
    """The error against double precision is at most twice that of the reference."""
    inputs = make_rays((1, 2000, 48, 48), torch.float32)
    exact = importance_t(*(x.double() for x in inputs))
    ours = (importance_t(*inputs) - exact).abs()
    with use_reference():
        theirs = (importance_t(*inputs) - exact).abs()
    assert ours.mean() <= 2 * theirs.mean()
    assert ours.max() <= 2 * theirs.max()


def test_strided_and_shared_inputs(backend: str, device: torch.device) -> None:
    t, weights, u = (x.to(device) for x in make_rays((2, 9, 12, 7)))
    expected = importance_t(t, weights, u)
    wide = [x.repeat_interleave(2, -1)[..., ::2] for x in (t, weights, u)]
    assert torch.equal(importance_t(*wide), expected)
    one_row = u[0, 0].expand(2, 9, 7)
    assert torch.equal(
        importance_t(t, weights, one_row), importance_t(t, weights, one_row.contiguous())
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_bad_value_stays_in_its_ray(backend: str, which: int, bad: float) -> None:
    inputs = make_rays((2, 9, 12, 7), torch.float32)
    expected = importance_t(*inputs)
    inputs[which][1, 4, 5] = bad
    depths = importance_t(*inputs)
    others = torch.ones(2, 9, dtype=torch.bool)
    others[1, 4] = False
    assert torch.equal(depths[others], expected[others])
    if math.isnan(bad):
        assert depths[1, 4].isnan().any()


def test_no_gradient(backend: str) -> None:
    t, weights, u = (x.requires_grad_() for x in make_rays((1, 3, 5, 4)))
    assert not importance_t(t, weights, u).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_the_reference(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in make_rays((1, 5, 8, 4))]
    depths = importance_t(*inputs)
    assert depths.dtype == dtype
    exact = importance_t(*(x.double() for x in inputs))
    torch.testing.assert_close(depths.double(), exact, rtol=0.1, atol=0.1)


def make_samples(
    shape: tuple[int, int, int, int], channels: int = 3, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Fine and coarse colours, densities and t for (B, R, S, F); some depths are equal."""
    batch, rays, samples, draws = shape
    generator = torch.Generator().manual_seed(samples * 64 + draws)
    result = []
    for count in (draws, samples):
        result.append(torch.randn(batch, rays, count, channels, generator=generator, dtype=dtype))
        result.append(torch.randn(batch, rays, count, generator=generator, dtype=dtype))
        depths = torch.randint(0, 20, (batch, rays, count), generator=generator).to(dtype)
        result.append(depths if count == draws else depths.sort(-1).values)
    return [x.requires_grad_() for x in result]


def merge(*samples: Tensor) -> tuple[Tensor, ...]:
    return merge_samples((samples[0], samples[1], samples[2]), (samples[3], samples[4], samples[5]))


def merge_by_loop(samples: list[Tensor], b: int, r: int) -> list[tuple]:
    """One ray: Python's sort is stable, and fine samples are listed first."""
    fine = zip(*(x[b, r].tolist() for x in samples[:3]), strict=True)
    coarse = zip(*(x[b, r].tolist() for x in samples[3:]), strict=True)
    return sorted([*fine, *coarse], key=lambda sample: sample[2])


@pytest.mark.parametrize("samples", [0, 1, 31, 33])
@pytest.mark.parametrize("draws", [0, 1, 31, 33, 100])
def test_merge_is_pythons_sort(
    backend: str, device: torch.device, samples: int, draws: int
) -> None:
    inputs = make_samples((2, 3, samples, draws))
    colors, raw, t = merge(*(x.to(device) for x in inputs))
    for b in range(2):
        for r in range(3):
            rows = (colors[b, r].tolist(), raw[b, r].tolist(), t[b, r].tolist())
            assert list(zip(*rows, strict=True)) == merge_by_loop(inputs, b, r)


@pytest.mark.parametrize("rays", [0, 1, 31, 33, 130])
@pytest.mark.parametrize("channels", [0, 1, 3, 5])
def test_merge_gradients_are_the_references(
    native: None, device: torch.device, rays: int, channels: int
) -> None:
    inputs = [x.to(device) for x in make_samples((2, rays, 7, 6), channels)]

    def value_and_grads() -> list[Tensor]:
        outputs = merge(*inputs)
        steps = [torch.linspace(-1, 2, o.numel(), device=device).view(o.shape) for o in outputs]
        weights = [s.to(o) for s, o in zip(steps, outputs, strict=True)]
        return [*outputs, *torch.autograd.grad(outputs, inputs, weights)]

    ours = value_and_grads()
    with use_reference():
        theirs = value_and_grads()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def distinct(shape: tuple[int, int, int, int]) -> list[Tensor]:
    """Depths further apart than a finite difference."""
    inputs = [x.detach() for x in make_samples(shape)]
    count = shape[2] + shape[3]
    depths = torch.randperm(count, generator=torch.Generator().manual_seed(1)).double()
    inputs[2] = depths[: shape[3]].expand_as(inputs[2]).clone()
    inputs[5] = depths[shape[3] :].sort().values.expand_as(inputs[5]).clone()
    return [x.requires_grad_() for x in inputs]


def test_merge_gradcheck(backend: str) -> None:
    inputs = distinct((1, 2, 4, 3))
    assert torch.autograd.gradcheck(merge, inputs)
    assert torch.autograd.gradgradcheck(merge, inputs)


@pytest.mark.parametrize("wanted", range(6))
def test_only_the_wanted_gradient(backend: str, wanted: int) -> None:
    inputs = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(distinct((1, 2, 4, 3)))]
    outputs = merge(*inputs)
    (grad,) = torch.autograd.grad(sum(o.sum() for o in outputs), inputs[wanted])
    assert torch.equal(grad, torch.ones_like(grad))


def test_merge_of_strided_input(backend: str) -> None:
    inputs = [x.detach() for x in make_samples((2, 5, 6, 4))]
    wide = [x.repeat_interleave(2, 2)[:, :, ::2] for x in inputs]
    assert all(torch.equal(a, b) for a, b in zip(merge(*wide), merge(*inputs), strict=True))


def test_nan_comes_last_and_stays_in_its_ray(backend: str) -> None:
    inputs = [x.detach() for x in make_samples((1, 3, 4, 3))]
    expected = merge(*inputs)
    inputs[2][0, 1, 0] = math.nan
    merged = merge(*inputs)
    assert merged[2][0, 1, :-1].isfinite().all()
    assert merged[2][0, 1, -1].isnan()
    assert torch.equal(merged[0][0, 1, -1], inputs[0][0, 1, 0])
    for a, b in zip(merged, expected, strict=True):
        assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bit_equal_for_any_number_of_threads(native: None, threads: int) -> None:
    rays, samples = make_rays((2, 500, 24, 24), torch.float32), make_samples((2, 500, 24, 24))
    first = [importance_t(*rays), *merge(*samples)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        second = [importance_t(*rays), *merge(*samples)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


T, U = torch.zeros(2, 64, 48), torch.zeros(2, 64, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((T[0], T, U), "t must have shape [B, R, S], got [64, 48]"),
        ((T[..., :2], T, U), "t must have at least 3 samples, got 2"),
        ((T, U, U), "weights must have shape [B, R, S] = [2, 64, 48], got [2, 64, 16]"),
        ((T, T, U[0]), "u must have shape [B, R, F], got [64, 16]"),
        ((T, T, U[:1]), "u must have shape [B, R, F] = [2, 64, 16], got [1, 64, 16]"),
        ((T, T, U.to("meta")), "u must be on the device of t, cpu, got meta"),
    ],
)
def test_wrong_values(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'importance_t: {message}')}$"):
        importance_t(*arguments)


def test_wrong_dtypes() -> None:
    message = "importance_t: u must have the dtype of t, torch.float32, got torch.float64"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        importance_t(T, T, U.double())
    with pytest.raises(TypeError, match=r"^importance_t: t must be floating point, got torch.int"):
        importance_t(T.int(), T, U)


C, D = torch.zeros(2, 5, 4, 3), torch.zeros(2, 5, 4)


@pytest.mark.parametrize(
    ("fine", "coarse", "message"),
    [
        ((D, D, D), (C, D, D), "fine colours must have shape [B, R, F, C], got [2, 5, 4]"),
        ((C, D, D), (D, D, D), "coarse colours must have shape [B, R, S, C], got [2, 5, 4]"),
        (
            (C, D, D[..., :3]),
            (C, D, D),
            "fine t must have shape [B, R, F] = [2, 5, 4], got [2, 5, 3]",
        ),
        (
            (C, D, D),
            (C[..., :2], D, D),
            "coarse colours must have shape [B, R, S, C] = [2, 5, 4, 3], got [2, 5, 4, 2]",
        ),
        (
            (C, D, D),
            (C, D[:1], D),
            "coarse densities must have shape [B, R, S] = [2, 5, 4], got [1, 5, 4]",
        ),
    ],
)
def test_wrong_samples(
    fine: tuple[Tensor, Tensor, Tensor], coarse: tuple[Tensor, Tensor, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'merge_samples: {message}')}$"):
        merge_samples(fine, coarse)


def test_wrong_sample_dtypes() -> None:
    message = (
        "merge_samples: coarse t must have the dtype of fine colours, torch.float32, "
        "got torch.float64"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        merge_samples((C, D, D), (C, D, D.double()))
