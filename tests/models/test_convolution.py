"""Convolutions and their derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from epigraf.models import convolution
from epigraf.models.convolution import conv2d, conv_transpose2d


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loop_conv(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Correlation as a sum over shifted copies of the zero-padded input."""
    k = weight.shape[2]
    x = F.pad(x, (padding,) * 4)
    height, width = ((n - k) // stride + 1 for n in x.shape[2:])
    y = x.new_zeros(len(x), len(weight), height, width)
    for i in range(k):
        for j in range(k):
            part = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            y = y + torch.einsum("bihw,oi->bohw", part[:, :, :height, :width], weight[:, :, i, j])
    return y


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    padding=st.integers(0, 1),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    channels_last=st.booleans(),
)
def test_conv2d_is_the_sum_over_taps(
    batch, channels, kernel, stride, padding, size, channels_last
) -> None:
    x = normal(batch, channels[0], *size)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = normal(channels[1], channels[0], kernel, kernel, seed=1)
    y = conv2d(x, weight, stride=stride, padding=padding)
    expected = loop_conv(x, weight, stride, padding)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pictures_much_smaller_than_the_weight(stride: int, channels_last: bool) -> None:
    """torch then gets them in plain order and with the gain; they come back in their order."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    x = normal(1, 24, 5, 5).contiguous(memory_format=order).requires_grad_()
    weight = normal(40, 24, 3, 3, seed=1).requires_grad_()
    y = conv2d(x, weight, stride=stride, gain=0.5)
    expected = loop_conv(x, weight * 0.5, stride, 0)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert y.is_contiguous(memory_format=order)
    grad = normal(*y.shape, seed=2).contiguous(memory_format=order)
    ours = torch.autograd.grad(y, [x, weight], grad)
    for got, theirs in zip(ours, torch.autograd.grad(expected, [x, weight], grad), strict=True):
        torch.testing.assert_close(got, theirs, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("few", [False, True], ids=["direct", "winograd"])
def test_a_gain_is_that_of_the_weight(
    kernel: int, stride: int, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In values, gradients and the gradients of a gradient penalty."""
    if few:
        one = (convolution.Least(1, 1),)
        monkeypatch.setattr(convolution, "LEAST", {1: one, 2: one})
        monkeypatch.setattr(convolution, "LEAST_OF_WEIGHTS", one)
    x, weight = normal(2, 3, 9, 9).requires_grad_(), normal(4, 3, kernel, kernel, seed=1)
    weight.requires_grad_()

    def of(y: Tensor) -> tuple[Tensor, ...]:
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return (y, grad, *torch.autograd.grad(grad.square().sum(), [x, weight]))

    ours = of(conv2d(x, weight, stride=stride, gain=0.25))
    theirs = of(F.conv2d(x, weight * 0.25, stride=stride))
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_transpose2d_is_the_adjoint(stride: int) -> None:
    """<conv(x), y> = <x, conv^T(y)> for any x and y."""
    weight, y = normal(3, 2, 3, 3), normal(2, 3, 4, 5, seed=1)
    up = conv_transpose2d(y, weight, stride=stride)
    x = normal(*up.shape, seed=2)
    down = loop_conv(x, weight, stride, 0)
    assert up.shape[2:] == (3 * stride + 3, 4 * stride + 3)
    torch.testing.assert_close((down * y).sum(), (x * up).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (3, 2, 1), (1, 1, 0)]
)
def test_conv2d_derivatives(kernel: int, stride: int, padding: int) -> None:
    inputs = [normal(2, 2, 6, 5), normal(3, 2, kernel, kernel, seed=1)]
    for tensor in inputs:
        tensor.requires_grad_()

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return conv2d(x, weight, stride=stride, padding=padding)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_conv_transpose2d_derivatives() -> None:
    inputs = [normal(2, 3, 3, 2).requires_grad_(), normal(3, 2, 3, 3, seed=1).requires_grad_()]
    assert gradcheck(lambda x, w: conv_transpose2d(x, w, stride=2), inputs)
    assert gradgradcheck(lambda x, w: conv_transpose2d(x, w, stride=2), inputs)


def test_gradient_penalty_equals_plain_torch() -> None:
    """d/dw of |dy/dx|^2 through two layers: the double backward that R1 needs."""
    x = normal(2, 3, 8, 8).requires_grad_()
    first, second = normal(4, 3, 3, 3, seed=1), normal(2, 4, 3, 3, seed=2)

    def penalty(conv) -> tuple[Tensor, ...]:
        weights = [first.clone().requires_grad_(), second.clone().requires_grad_()]
        y = conv(torch.tanh(conv(x, weights[0] * 2, padding=1)), weights[1] * 3, stride=2)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), weights)

    for ours, expected in zip(penalty(conv2d), penalty(F.conv2d), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-9)


def test_gradients_nobody_asks_for_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """R1 asks for the gradient of the image: no weight gradient may be spent on it."""
    calls: list[list[bool]] = []
    original = torch.ops.aten.convolution_backward

    def spy(*args):
        calls.append(args[-1])
        return original(*args)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    x, weight = normal(1, 2, 4, 4).requires_grad_(), normal(2, 2, 3, 3).requires_grad_()
    y = conv2d(conv2d(x, weight * 2, padding=1), weight * 3, padding=1).sum()
    torch.autograd.grad(y, x, retain_graph=True)
    assert calls == []
    y.backward()
    assert calls == [[False, True, False]] * 2
    assert weight.grad is not None
