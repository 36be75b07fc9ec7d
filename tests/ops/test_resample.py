"""The binomial filter against hand-worked values and against zero insertion by brute force."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from epigraf.ops import available, blur2d, downsample2d, upsample2d, use_reference
from tests.ops.zero_insertion import filtered, zero_inserted

MAPS: list[Callable[[Tensor], Tensor]] = [
    upsample2d,
    downsample2d,
    lambda x: blur2d(x, 1, 4.0),
    lambda x: blur2d(x, 2),
]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ordered(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def brute_force(x: Tensor) -> list[Tensor]:
    """What `MAPS` make of x, whose sizes are even."""
    return [
        filtered(zero_inserted(x), (2, 1), 4.0),
        filtered(x, (1, 1))[:, :, ::2, ::2],
        filtered(x, (1, 1), 4.0),
        filtered(x, (2, 2)),
    ]


def row(values: list[float]) -> Tensor:
    """An image that repeats `values` along y, high enough that its middle knows no border."""
    return torch.tensor(values, dtype=torch.float64).expand(1, 1, 8, len(values)).clone()


@pytest.mark.usefixtures("backend")
def test_upsample_by_hand() -> None:
    """Pixels 4 and 8: (0+12)/4, (12+8)/4, (4+24)/4, (24+0)/4."""
    y = upsample2d(row([4.0, 8.0]))
    assert y.shape == (1, 1, 16, 4)
    assert y[0, 0, 8].tolist() == [3.0, 5.0, 7.0, 6.0]


@pytest.mark.usefixtures("backend")
def test_downsample_by_hand() -> None:
    """Pixels 8 16 24 32: (0+24+48+24)/8, (16+72+96+0)/8."""
    y = downsample2d(row([8.0, 16.0, 24.0, 32.0]))
    assert y.shape == (1, 1, 4, 2)
    assert y[0, 0, 2].tolist() == [12.0, 23.0]


@pytest.mark.usefixtures("backend")
def test_blur_by_hand() -> None:
    """An impulse of 8 at pixel 1 reaches the outputs 0 to 3 of 5."""
    y = blur2d(row([0.0, 8.0, 0.0, 0.0]), pad=2)
    assert y.shape == (1, 1, 9, 5)
    assert y[0, 0, 4].tolist() == [1.0, 3.0, 3.0, 1.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3),
    channels=st.sampled_from([1, 2, 31, 33, 64]),
    half=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels_last=st.booleans(),
    reference=st.booleans(),
)
def test_equals_zero_insertion_and_filtering(
    batch, channels, half, channels_last, reference
) -> None:
    x = ordered(normal(batch, channels, 2 * half[0], 2 * half[1]), channels_last)
    for run, expected in zip(MAPS, brute_force(x), strict=True):
        with use_reference(reference):
            ours = run(x)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    pad=st.sampled_from([1, 2]),
    channels_last=st.booleans(),
    reference=st.booleans(),
)
def test_blur_of_any_size(size, pad, channels_last, reference) -> None:
    x = ordered(normal(2, 3, *size), channels_last)
    with use_reference(reference):
        y = blur2d(x, pad, 1.5)
    assert y.shape[2:] == (size[0] + 2 * pad - 3, size[1] + 2 * pad - 3)
    torch.testing.assert_close(y, filtered(x, (pad, pad), 1.5), rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.sampled_from([1, 5, 32]),
    number=st.integers(0, 3),
    channels_last=st.booleans(),
    reference=st.booleans(),
)
def test_the_way_back_is_the_adjoint(size, channels, number, channels_last, reference) -> None:
    """<Ax, y> = <x, A'y>."""
    height, width = (2 * n for n in size) if number == 1 else size
    x = ordered(normal(2, channels, height, width), channels_last).requires_grad_()
    with use_reference(reference):
        ax = MAPS[number](x)
    y = ordered(normal(*ax.shape, seed=1), not channels_last)
    (back,) = torch.autograd.grad(ax, x, y)
    torch.testing.assert_close((ax * y).sum(), (x * back).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("function", MAPS)
def test_derivatives(function, channels_last: bool) -> None:
    x = ordered(normal(1, 2, 4, 6), channels_last).requires_grad_()
    assert gradcheck(function, [x])
    assert gradgradcheck(function, [x])


def test_on_every_device(device: torch.device, backend: str) -> None:
    for channels_last in (False, True):
        x = ordered(normal(2, 20, 6, 8, dtype=torch.float32), channels_last)
        for run, expected in zip(MAPS, brute_force(x.double()), strict=True):
            torch.testing.assert_close(run(x.to(device)).cpu(), expected.float())


@pytest.mark.usefixtures("backend")
def test_the_order_of_memory_stays() -> None:
    x = normal(2, 5, 6, 8)
    for run in MAPS:
        assert run(x).is_contiguous()
        last = run(ordered(x, True))
        assert last.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(last, run(x))
        sliced = normal(2, 5, 12, 16)[:, :, ::2, ::2]  # neither, not even dense
        torch.testing.assert_close(run(sliced), run(sliced.clone()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reference", [False, True])
def test_pictures_in_neither_order_come_out_channels_last(dtype, reference: bool) -> None:
    x = normal(2, 3, 9, 11, dtype=dtype)[:, :, 1:, 1:]
    for function in MAPS:
        with use_reference(reference):
            y = function(x)
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_round_once(dtype: torch.dtype, channels_last: bool) -> None:
    x = ordered(normal(2, 33, 6, 8, dtype=torch.float32), channels_last).to(dtype)
    for run in MAPS:
        y, wide = run(x), run(x.float())
        assert y.dtype == dtype
        assert torch.equal(y, wide.to(dtype))
        leaf = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(run(leaf), leaf, y)
        assert grad.dtype == dtype
        with use_reference():
            torch.testing.assert_close(run(x), y)


@pytest.mark.usefixtures("backend")
def test_nothing_of_nothing() -> None:
    for run in MAPS:
        for shape in ((0, 3, 4, 4), (2, 0, 4, 4)):
            x = normal(*shape).requires_grad_()
            run(x).sum().backward()
            assert x.grad is not None
            assert x.grad.shape == shape
    assert upsample2d(normal(1, 2, 0, 3)).shape == (1, 2, 0, 6)
    assert downsample2d(normal(1, 2, 4, 0)).shape == (1, 2, 2, 0)
    assert blur2d(normal(1, 2, 1, 3), pad=1).shape == (1, 2, 0, 2)
    assert torch.equal(blur2d(normal(1, 2, 0, 3), pad=2), torch.zeros(1, 2, 1, 4).double())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("channels_last", [False, True])
def test_what_is_not_finite_stays_near(channels_last: bool, value: float) -> None:
    """In the middle, at a border and in a corner of one picture of four."""
    for place in ((6, 5), (0, 4), (11, 9)):
        x = normal(2, 2, 12, 10)
        x[1, 0, place[0], place[1]] = value
        for run, expected in zip(MAPS, brute_force(x.nan_to_num(1e9, posinf=1e9)), strict=True):
            y = run(ordered(x, channels_last))
            assert torch.equal(y.isfinite(), expected.abs() < 1e6)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("channels_last", [False, True])
def test_runs_are_bit_equal_with_any_number_of_threads(channels_last: bool) -> None:
    x = ordered(normal(3, 40, 32, 34, dtype=torch.float32), channels_last).requires_grad_()
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            made = [run(x) for run in MAPS]
            results.append(made + [torch.autograd.grad(y.square().sum(), x)[0] for y in made])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("native")
def test_the_way_back_follows_the_way_there(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("epigraf.ops.resample")
    ran: list[str] = []
    for name in ("_resample_native", "_resample_reference"):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, n=name, f=original: ran.append(n) or f(*args)
        )
    x = normal(1, 2, 4, 4).requires_grad_()
    with use_reference():
        y = upsample2d(x)
    y.sum().backward()
    upsample2d(x).sum().backward()
    assert ran == ["_resample_reference"] * 2 + ["_resample_native"] * 2


@pytest.mark.skipif(not available(), reason="no native core")
@pytest.mark.parametrize("function", MAPS)
def test_it_compiles_as_one_graph(function) -> None:
    x = ordered(normal(1, 3, 4, 4, dtype=torch.float32), True).requires_grad_()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), function(x)
    torch.testing.assert_close(y, expected)
    for a, b in zip(
        torch.autograd.grad(y.square().sum(), x),
        torch.autograd.grad(expected.square().sum(), x),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("backend")
def test_mistakes_are_named() -> None:
    x = normal(1, 2, 5, 4)

    def fails(error: type[Exception], match: str, function, *args) -> None:
        with pytest.raises(error, match=match):
            function(*args)

    even = r"downsample2d: height and width must be even, got \[5, 4\]"
    fails(ValueError, even, downsample2d, x)
    fails(ValueError, "blur2d: pad must be 1 or 2, got 3", blur2d, x, 3)
    pixel = r"blur2d: pad 1 needs at least one pixel, got \[0, 4\]"
    fails(ValueError, pixel, blur2d, x[:, :, :0], 1)
    for name, function in (
        ("blur2d", lambda x: blur2d(x, 1)),
        ("downsample2d", downsample2d),
        ("upsample2d", upsample2d),
    ):
        shape = rf"{name}: x must have shape \[B, C, H, W\], got \[2, 5, 4\]"
        fails(ValueError, shape, function, x[0])
        dtype = f"{name}: x must be floating point, got torch.int64"
        fails(TypeError, dtype, function, x.long())
