"""Winograd's convolutions against direct ones, in values and derivatives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from epigraf.models import convolution
from epigraf.models.convolution import conv2d, conv_transpose2d
from epigraf.ops import Curve, activation, available, use_reference
from epigraf.ops import winograd as module
from epigraf.ops.winograd import runs_winograd, winograd, winograd_input, winograd_weight

pytestmark = pytest.mark.skipif(not available(), reason="no native core")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def _everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of any size take this way."""
    one = (convolution.Least(1, 1),)
    monkeypatch.setattr(convolution, "LEAST", {1: one, 2: one})
    monkeypatch.setattr(convolution, "LEAST_OF_WEIGHTS", one)


@pytest.fixture(params=["few", "runs"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways of the core, whatever the number of tiles."""
    most = 1 << 40 if request.param == "few" else -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epigraf.ops.winograd._busy", lambda tasks: True)
        patch.setattr("epigraf.ops.winograd._FEW_BYTES", most)
        patch.setattr("epigraf.ops.winograd._FEW_SUMS_BYTES", most)
        yield request.param


ONCE = [HealthCheck.function_scoped_fixture]  # the same way for all examples


def test_a_box_counts_the_pixels_under_it() -> None:
    ones = torch.ones(1, 1, 5, 6, dtype=torch.float64)
    y = winograd(ones, torch.ones(1, 1, 3, 3, dtype=torch.float64), padding=1)
    rows, columns = torch.tensor([2.0, 3, 3, 3, 2]), torch.tensor([2.0, 3, 3, 3, 3, 2])
    expected = torch.outer(rows, columns).double()
    torch.testing.assert_close(y[0, 0], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("tap", [(0, 0), (1, 1), (2, 0), (1, 2)])
def test_a_single_tap_moves_the_picture(tap: tuple[int, int]) -> None:
    x, weight = normal(1, 1, 9, 9), torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[0, 0, tap[0], tap[1]] = 1
    expected = F.pad(x, (1, 1, 1, 1))[:, :, tap[0] : tap[0] + 9, tap[1] : tap[1] + 9]
    torch.testing.assert_close(winograd(x, weight, padding=1), expected, rtol=0, atol=1e-13)


@settings(max_examples=30, deadline=None, suppress_health_check=ONCE)
@given(
    batch=st.integers(0, 3),
    channels=st.tuples(st.sampled_from([1, 2, 33, 65, 130]), st.sampled_from([1, 3, 33, 64, 129])),
    size=st.tuples(st.integers(3, 14), st.integers(3, 14)),
    stride=st.sampled_from([1, 2]),
    padding=st.integers(0, 2),
    channels_last=st.booleans(),
)
def test_equals_the_direct_convolution(
    way, batch, channels, size, stride, padding, channels_last
) -> None:
    x, weight = normal(batch, channels[0], *size), normal(channels[1], channels[0], 3, 3, seed=1)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(x, weight, stride=stride, padding=padding)
    y = winograd(x, weight, stride=stride, padding=padding)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None, suppress_health_check=ONCE)
@given(
    batch=st.integers(0, 3),
    channels=st.tuples(st.sampled_from([1, 33, 64, 129]), st.sampled_from([1, 3, 16, 65])),
    size=st.tuples(st.integers(3, 14), st.integers(3, 14)),
    padding=st.integers(0, 1),
    stride=st.sampled_from([1, 2]),
)
def test_adjoints_are_those_of_torch(way, batch, channels, size, padding, stride) -> None:
    x, weight = normal(batch, channels[0], *size), normal(channels[1], channels[0], 3, 3, seed=1)
    x.requires_grad_(), weight.requires_grad_()
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    grad_y = normal(*y.shape, seed=2)
    grad_x, grad_w = torch.autograd.grad(y, [x, weight], grad_y)
    got = winograd_weight(grad_y, x.detach(), stride=stride, padding=padding)
    torch.testing.assert_close(got, grad_w, rtol=1e-12, atol=1e-12)
    if stride == 1:
        got = winograd_input(grad_y, weight.detach(), size, padding=padding)
        torch.testing.assert_close(got, grad_x, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None, suppress_health_check=ONCE)
@given(
    batch=st.integers(0, 3),
    channels=st.tuples(st.sampled_from([1, 33, 65]), st.sampled_from([1, 2, 64, 129])),
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    turned=st.booleans(),
)
def test_the_transposed_convolution_is_that_of_torch(way, batch, channels, size, turned) -> None:
    """Whole tiles, whose last row and column are strips beyond them, and others; weights that are a
    view, as the generator's are."""
    y, weight = normal(batch, channels[0], *size), normal(*channels, 3, 3, seed=1)
    if turned:
        weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
    expected = F.conv_transpose2d(y, weight, stride=2)
    got = winograd_input(y, weight, tuple(expected.shape[2:]), stride=2)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_windows_may_begin_inside_of_the_picture() -> None:
    y, weight = normal(1, 3, 12, 11), normal(3, 2, 3, 3, seed=1)
    expected = F.conv_transpose2d(y, weight, padding=3)
    got = winograd_input(y, weight, (8, 7), padding=3)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_many_tiles_go_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epigraf.ops.winograd._FEW_BYTES", -1)
    monkeypatch.setattr("epigraf.ops.winograd._FEW_SUMS_BYTES", -1)
    monkeypatch.setattr("epigraf.ops.winograd._RUN_BYTES", 1)
    monkeypatch.setattr("epigraf.ops.winograd._LEAST_TILES", 5)
    x, weight = normal(2, 3, 35, 29), normal(4, 3, 3, 3, seed=1)
    for stride in (1, 2):
        expected = F.conv2d(x, weight, stride=stride, padding=1)
        got = winograd(x, weight, stride=stride, padding=1)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        got = winograd_weight(expected, x, stride=stride, padding=1)
        direct = torch.nn.grad.conv2d_weight(x, weight.shape, expected, stride=stride, padding=1)
        torch.testing.assert_close(got, direct, rtol=1e-12, atol=1e-11)
    expected = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    got = winograd_input(x, weight.transpose(0, 1), tuple(expected.shape[2:]), stride=2)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_float32_rounds_a_few_times_as_much_as_a_direct_sum(way: str) -> None:
    x, weight = normal(2, 64, 16, 16), normal(64, 64, 3, 3, seed=1)

    def error(y: Tensor, exact: Tensor) -> float:
        return float((y.double() - exact).std() / exact.std())

    for stride in (2, 1):
        exact = F.conv2d(x, weight, stride=stride, padding=1)
        direct = F.conv2d(x.float(), weight.float(), stride=stride, padding=1)
        ours = winograd(x.float(), weight.float(), stride=stride, padding=1)
        assert error(direct, exact) < 5e-7
        assert error(ours, exact) < 3e-6
    up = F.conv_transpose2d(x, weight, stride=2)
    ours = winograd_input(x.float(), weight.float(), tuple(up.shape[2:]), stride=2)
    assert error(ours, up) < 3e-6
    exact_weight = torch.nn.grad.conv2d_weight(x, weight.shape, exact, padding=1)
    got = winograd_weight(exact.float(), x.float(), padding=1)
    assert float((got - exact_weight).std() / exact_weight.std()) < 3e-6


@pytest.mark.parametrize("threads", [1, 3])
def test_two_runs_are_bit_equal_with_any_number_of_threads(way: str, threads: int) -> None:
    before = torch.get_num_threads()
    x, weight = normal(2, 65, 20, 9, dtype=torch.float32), normal(131, 65, 3, 3).float()

    def run(number: int) -> list[Tensor]:
        torch.set_num_threads(number)
        try:
            y = [winograd(x, weight, stride=stride, padding=1) for stride in (1, 2)]
            back = winograd_input(x, weight.transpose(0, 1), (41, 19), stride=2)
            return [
                *y,
                back,
                *(winograd_weight(t, x, stride=i + 1, padding=1) for i, t in enumerate(y)),
            ]
        finally:
            torch.set_num_threads(before)

    for one, other in zip(run(2), run(threads), strict=True):
        assert torch.equal(one, other)


def test_weight_gradients_of_several_uses_are_summed_up(way: str) -> None:
    for stride, padding in ((1, 1), (2, 0)):
        pairs = []
        for seed in range(3):
            x = normal(2, 5, 11, 9, seed=seed)
            pairs += [normal(2, 66, *((11, 9) if stride == 1 else (5, 4)), seed=seed + 9), x]
        got = winograd_weight(*pairs, stride=stride, padding=padding, gain=0.5)
        of_each = [
            torch.nn.grad.conv2d_weight(x, (66, 5, 3, 3), y, stride=stride, padding=padding)
            for y, x in zip(pairs[::2], pairs[1::2], strict=True)
        ]
        torch.testing.assert_close(got, 0.5 * sum(of_each), rtol=1e-12, atol=1e-11)


def test_kernels_may_lie_upon_each_other() -> None:
    """Vectors read a little beyond a kernel: there must be something."""
    for shape, base in (((64, 65, 3, 3), (1, 65, 3, 3)), ((64, 65, 3, 3), (64, 1, 3, 3))):
        x, weight = normal(1, 65, 9, 9, dtype=torch.float32), normal(*base, seed=1).float()
        got = winograd(x, weight.expand(shape), padding=1)
        expected = F.conv2d(x, weight.expand(shape), padding=1)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        kernels = module._Kernels(weight.expand(shape), 1.0)
        assert kernels.weight.is_contiguous()


def test_without_channels_there_are_zeros(way: str) -> None:
    x, weight = normal(2, 0, 8, 8), normal(3, 0, 3, 3)
    assert torch.equal(winograd(x, weight, padding=1), torch.zeros(2, 3, 8, 8).double())
    size, back = (17, 17), winograd_input(x, normal(0, 3, 3, 3), (17, 17), stride=2)
    assert torch.equal(back, torch.zeros(2, 3, *size).double())


def test_a_pixel_that_is_not_finite_spoils_the_tiles_that_read_it_and_no_other() -> None:
    x, weight = normal(1, 2, 16, 16), normal(3, 2, 3, 3, seed=1)
    x[0, 0, 5, 5] = float("nan")
    y = winograd(x, weight, padding=1)
    assert y[:, :, 4:8, 4:8].isnan().all()
    assert y[:, :, 8:, :].isfinite().all()
    assert y[:, :, :, 8:].isfinite().all()


@pytest.mark.usefixtures("_everywhere")
def test_derivatives_of_layers_that_take_this_way() -> None:
    x, weight, bias = normal(1, 2, 6, 5), normal(3, 2, 3, 3, seed=1), normal(3, seed=2)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return activation(conv2d(x, weight, padding=1), bias, Curve(0.2, 1.0, 4.0), overwrite=True)

    assert gradcheck(layer, inputs)
    assert gradgradcheck(layer, inputs)
    for side in (7, 6):  # 6: a pixel that no window reads, and whose gradient is direct
        x = normal(1, 2, side, side).requires_grad_()
        assert gradcheck(lambda x, w: conv2d(x, w, stride=2), (x, weight))
        assert gradgradcheck(lambda x, w: conv2d(x, w, stride=2), (x, weight))
    y = normal(1, 3, 4, 3).requires_grad_()
    assert gradcheck(lambda y, w: conv_transpose2d(y, w, stride=2), (y, weight))
    assert gradgradcheck(lambda y, w: conv_transpose2d(y, w, stride=2), (y, weight))


def test_only_large_convolutions_take_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(convolution, "winograd", lambda x, w, **_: taken.append(x.shape) or x)
    few, many = normal(1, 8, 32, 32).float(), normal(1, 64, 32, 32).float()
    conv2d(few, normal(8, 8, 3, 3).float(), padding=1)
    conv2d(many, normal(64, 64, 3, 3).float(), padding=1, stride=2)
    conv2d(many, normal(64, 64, 3, 3).float(), padding=1, stride=3)
    with use_reference():
        conv2d(many, normal(64, 64, 3, 3).float(), padding=1)
    assert taken == []
    conv2d(many, normal(64, 64, 3, 3).float(), padding=1)
    assert len(taken) == 1
    conv2d(normal(1, 256, 4, 4).float(), normal(256, 256, 3, 3).float(), padding=1)
    assert len(taken) == 2  # small pictures, large weights


def test_mistakes_are_named() -> None:
    x, weight = normal(1, 2, 8, 8), normal(3, 2, 3, 3)
    with pytest.raises(
        ValueError, match=r"winograd: x must have shape \[B, 2, H, W\], got \[2, 8, 8"
    ):
        winograd(x[0], weight)
    with pytest.raises(ValueError, match=r"winograd: weight must have shape \[O, I, 3, 3\], got"):
        winograd(x, weight[..., :2])
    with pytest.raises(TypeError, match=r"winograd: weight must have the dtype of x"):
        winograd(x, weight.float())
    with pytest.raises(ValueError, match=r"winograd: stride must be 1 or 2, got 4"):
        winograd(x, weight, stride=4)
    y = normal(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"winograd_input: stride 2 needs padding 0, got 1"):
        winograd_input(y, weight, (7, 7), stride=2, padding=1)
    for size, stride, fitting in (((8, 8), 2, 9), ((20, 20), 1, 6)):
        with pytest.raises(ValueError, match=rf"input: size must be \[{fitting}, {fitting}\] for"):
            winograd_input(y, weight, size, stride=stride)
    with pytest.raises(ValueError, match=r"winograd: padding must be at least 0, got -1"):
        winograd(x, weight, padding=-1)
    with pytest.raises(
        ValueError, match=r"winograd_weight: y must have shape \[B, O, H', W'\], got"
    ):
        winograd_weight(y[0, 0, 0], x)
    with pytest.raises(ValueError, match=r"winograd: x must have shape .* W at least 3, got"):
        winograd(x[:, :, :2], weight)
    with pytest.raises(ValueError, match=r"winograd_weight: x must have shape \[B, I, H, W\]"):
        winograd_weight(y[0], x[0])
    with pytest.raises(ValueError, match=r"winograd_weight: stride must be 1 or 2, got 3"):
        winograd_weight(x, x, stride=3)
    with pytest.raises(
        ValueError, match=r"winograd_weight: y must have shape \[B, O, H', W'\] = \[1, 3, 6, 6\]"
    ):
        winograd_weight(normal(1, 3, 8, 8), x)
    with pytest.raises(
        ValueError, match=r"winograd_weight: others must be pairs of y and x, got 1"
    ):
        winograd_weight(normal(1, 3, 6, 6), x, x)
    with pytest.raises(ValueError, match=r"winograd_weight: x of pair 0 must have shape that of x"):
        winograd_weight(normal(1, 3, 6, 6), x, normal(1, 3, 6, 6), x[:, :, 1:])
    with pytest.raises(ValueError, match=r"winograd: needs the native core, float32 or float64"):
        winograd(x.half(), weight.half())
    assert not runs_winograd(x.half())
