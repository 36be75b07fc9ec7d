"""Linear layers of few rows against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from epigraf.ops import available, use_reference
from epigraf.ops import linear as module
from epigraf.ops.linear import linear

pytestmark = pytest.mark.skipif(not available(), reason="no native core")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True, scope="module")
def _everywhere() -> None:
    """Weights of any size go through the core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LEAST_WEIGHTS", 1)
        yield


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 9),
    sizes=st.tuples(*[st.sampled_from([1, 3, 16, 33, 64, 131])] * 2),
    turned=st.booleans(),
    with_bias=st.booleans(),
)
def test_values_and_gradients_are_those_of_torch(rows, sizes, turned, with_bias) -> None:
    inputs, outputs = sizes
    x, weight = normal(rows, inputs), normal(outputs, inputs, seed=1)
    if turned:
        weight = normal(inputs, outputs, seed=1).T
    bias = normal(outputs, seed=2).requires_grad_() if with_bias else None
    leaves = [t for t in (x.requires_grad_(), weight.requires_grad_(), bias) if t is not None]
    ours, theirs = linear(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    grad = normal(*theirs.shape, seed=3)
    for got, expected in zip(
        torch.autograd.grad(ours, leaves, grad),
        torch.autograd.grad(theirs, leaves, grad),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_derivatives_of_any_order() -> None:
    inputs = [normal(3, 5).requires_grad_(), normal(4, 5, seed=1).requires_grad_()]
    assert gradcheck(linear, inputs)
    assert gradgradcheck(linear, inputs)
    (grad,) = torch.autograd.grad(linear(*inputs).square().sum(), inputs[0], create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), inputs[0], create_graph=True)
    x, weight = inputs  # grad = 2 x w^T w, second = 8 x (w^T w)^2
    power = torch.linalg.matrix_power(weight.T @ weight, 2)
    torch.testing.assert_close(second, 8 * x @ power, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_two_runs_are_bit_equal_with_any_number_of_threads(threads: int) -> None:
    x, weight = normal(5, 301).float(), normal(77, 301, seed=1).float()
    y = normal(5, 77, seed=2).float()

    def run(number: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
            result = linear(*leaves)
            return [result.detach(), *torch.autograd.grad(result, leaves, y)]
        finally:
            torch.set_num_threads(before)

    for one, other in zip(run(2), run(threads), strict=True):
        assert torch.equal(one, other)


def test_what_the_core_does_not_take_goes_to_torch() -> None:
    weight = normal(6, 5, seed=1)
    for x in (normal(2, 3, 5), normal(5), normal(40, 5)):
        assert torch.equal(linear(x, weight), F.linear(x, weight))
    half = normal(2, 5).half(), weight.half()
    assert torch.equal(linear(*half), F.linear(*half))
    with use_reference():
        assert torch.equal(linear(normal(2, 5), weight), F.linear(normal(2, 5), weight))
    with pytest.raises(RuntimeError, match="shapes"):
        linear(normal(2, 4), weight)


def test_nan_stays_in_its_row() -> None:
    x = normal(4, 33)
    x[2, 7] = torch.nan
    assert linear(x, normal(9, 33, seed=1)).isnan().any(dim=1).tolist() == [
        False,
        False,
        True,
        False,
    ]
