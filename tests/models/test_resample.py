"""The binomial filter against hand-worked values and against zero insertion by brute force."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from epigraf.models.resample import Resample, blur2d, conv2d_resample, downsample2d, upsample2d

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
KERNEL = torch.outer(TAPS, TAPS) / 64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zero_inserted(x: Tensor) -> Tensor:
    """One zero behind each pixel: [B, C, H, W] to [B, C, 2H, 2W]."""
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return y


def filtered(x: Tensor, pads: tuple[int, int], gain: float = 1.0) -> Tensor:
    """Filter each channel of x padded by (before, after) on both axes, tap by tap."""
    x = F.pad(x, (*pads, *pads))
    height, width = x.shape[2] - 3, x.shape[3] - 3
    y = x.new_zeros(*x.shape[:2], height, width)
    for i in range(4):
        for j in range(4):
            y += gain * KERNEL[i, j] * x[:, :, i : i + height, j : j + width]
    return y


def row(values: list[float]) -> Tensor:
    """An image that repeats `values` along y, high enough that its middle knows no border."""
    return torch.tensor(values, dtype=torch.float64).expand(1, 1, 8, len(values)).clone()


def test_upsample_by_hand() -> None:
    """Pixels 4 and 8: (0+12)/4, (12+8)/4, (4+24)/4, (24+0)/4."""
    y = upsample2d(row([4.0, 8.0]))
    assert y.shape == (1, 1, 16, 4)
    assert y[0, 0, 8].tolist() == [3.0, 5.0, 7.0, 6.0]


def test_downsample_by_hand() -> None:
    """Pixels 8 16 24 32: (0+24+48+24)/8, (16+72+96+0)/8."""
    y = downsample2d(row([8.0, 16.0, 24.0, 32.0]))
    assert y.shape == (1, 1, 4, 2)
    assert y[0, 0, 2].tolist() == [12.0, 23.0]


def test_blur_by_hand() -> None:
    """An impulse of 8 at pixel 1 reaches the outputs 0 to 3 of 5."""
    y = blur2d(row([0.0, 8.0, 0.0, 0.0]), pad=2)
    assert y.shape == (1, 1, 9, 5)
    assert y[0, 0, 4].tolist() == [1.0, 3.0, 3.0, 1.0, 0.0]


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    half=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels_last=st.booleans(),
)
def test_equals_zero_insertion_and_filtering(batch, channels, half, channels_last) -> None:
    x = normal(batch, channels, 2 * half[0], 2 * half[1])
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    pairs = [
        (upsample2d(x), filtered(zero_inserted(x), (2, 1), 4.0)),
        (downsample2d(x), filtered(x, (1, 1))[:, :, ::2, ::2]),
        (blur2d(x, pad=2), filtered(x, (2, 2))),
        (blur2d(x, pad=1, gain=4.0), filtered(x, (1, 1), 4.0)),
    ]
    for ours, expected in pairs:
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "function", [upsample2d, downsample2d, lambda x: blur2d(x, 1), lambda x: blur2d(x, 2)]
)
def test_derivatives(function) -> None:
    x = normal(1, 2, 4, 6).requires_grad_()
    assert gradcheck(function, [x])
    assert gradgradcheck(function, [x])


def test_up_convolution_is_a_true_convolution_of_the_zero_inserted_image() -> None:
    """Flipped kernel over the zero-inserted image with all its support, then the filter."""
    x, weight = normal(2, 3, 5, 4), normal(2, 3, 3, 3, seed=1)
    inserted = zero_inserted(x)[:, :, :-1, :-1]  # 2H - 1: no zero behind the last pixel
    full = F.conv2d(inserted, weight.flip(2, 3), padding=2)  # 2H + 1
    expected = filtered(full, (1, 1), 4.0)
    ours = conv2d_resample(x, weight, Resample.UP)
    assert ours.shape == (2, 2, 10, 8)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_down_convolution_filters_then_strides() -> None:
    x, weight = normal(2, 3, 6, 8), normal(2, 3, 3, 3, seed=1)
    expected = F.conv2d(filtered(x, (2, 2)), weight, stride=2)
    ours = conv2d_resample(x, weight, Resample.DOWN)
    assert ours.shape == (2, 2, 3, 4)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("resample", list(Resample))
@pytest.mark.parametrize("kernel", [1, 3])
def test_sizes(resample: Resample, kernel: int) -> None:
    y = conv2d_resample(normal(1, 2, 4, 4), normal(3, 2, kernel, kernel), resample)
    size = {Resample.NONE: 4, Resample.UP: 8, Resample.DOWN: 2}[resample]
    assert y.shape == (1, 3, size, size)


@pytest.mark.parametrize("resample", list(Resample))
def test_resampled_convolution_derivatives(resample: Resample) -> None:
    inputs = [normal(1, 2, 4, 4).requires_grad_(), normal(2, 2, 3, 3, seed=1).requires_grad_()]
    assert gradgradcheck(lambda x, w: conv2d_resample(x, w, resample), inputs)


def test_odd_sizes_cannot_be_halved() -> None:
    with pytest.raises(
        ValueError, match=r"downsample2d: height and width must be even, got \[5, 4\]"
    ):
        downsample2d(normal(1, 1, 5, 4))
