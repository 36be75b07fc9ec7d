"""1x1 convolutions against torch's, in panels and not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epigraf.ops import use_reference
from epigraf.ops.pointwise import pointwise, pointwise_input, pointwise_weight


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(0, 3),
    channels=st.tuples(*[st.sampled_from([1, 3, 33, 64, 128])] * 2),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels_last=st.booleans(),
)
def test_all_three_maps_are_those_of_torch(batch, channels, size, channels_last) -> None:
    order = torch.channels_last if channels_last else torch.contiguous_format
    x = normal(batch, channels[0], *size).contiguous(memory_format=order).requires_grad_()
    weight = normal(channels[1], channels[0], 1, 1, seed=1).requires_grad_()
    y = F.conv2d(x, weight)
    grad_y = normal(*y.shape, seed=2).contiguous(memory_format=order)
    grad_x, grad_w = torch.autograd.grad(y, [x, weight], grad_y)
    for got, expected in (
        (pointwise(x, weight), y),
        (pointwise(x, weight, 0.5), y / 2),
        (pointwise_input(grad_y, weight, 0.5), grad_x / 2),
        (pointwise_weight(grad_y, x), grad_w),
    ):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("threads", [1, 3])
def test_float32_is_as_near_as_torch_with_any_number_of_threads(threads: int) -> None:
    x, weight = normal(2, 128, 16, 16), normal(64, 128, 1, 1, seed=1)
    exact, before = F.conv2d(x, weight), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = pointwise(x.float(), weight.float())
        theirs = F.conv2d(x.float(), weight.float())
        again = pointwise(x.float(), weight.float())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours, again)
    assert (ours - exact).abs().max() <= 4 * (theirs - exact).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_multiplied_by_torch(dtype: torch.dtype) -> None:
    x, weight = normal(2, 64, 4, 4, dtype=dtype), normal(64, 64, 1, 1, seed=1, dtype=dtype)
    assert pointwise(x, weight).dtype == dtype
    with use_reference():
        expected = pointwise(x, weight)
    assert torch.equal(pointwise(x, weight), expected)


def test_nan_stays_in_its_pixel() -> None:
    x = normal(1, 64, 4, 4)
    x[0, 5, 1, 2] = torch.nan
    bad = pointwise(x, normal(64, 64, 1, 1, seed=1)).isnan().any(dim=1)[0]
    assert bad[1, 2]
    assert bad.sum() == 1
