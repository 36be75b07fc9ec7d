"""Convolutions that change the resolution, against zero insertion and filtering by brute force."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradgradcheck

from epigraf.models.resample import Resample, conv2d_resample
from tests.ops.zero_insertion import filtered, zero_inserted


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
