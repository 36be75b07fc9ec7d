"""`decode` against its reference and finite differences; blocks, odd sizes, second derivatives."""

from __future__ import annotations

import pytest
import torch

from epigraf.ops import decoder
from epigraf.ops.decoder import _decode_reference, decode


def network(sizes: list[int], points: int, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    x = torch.randn(points, sizes[0], dtype=dtype, requires_grad=True)
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [torch.randn(o, i, dtype=dtype, requires_grad=True) for o, i in pairs]
    biases = [torch.randn(o, dtype=dtype, requires_grad=True) for o, _ in pairs]
    return x, weights, biases


def test_by_hand() -> None:
    x = torch.tensor([[1.0, -2.0]])
    weights = [torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [10.0, 1.0]])]
    biases = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5])]
    # hidden = leaky([-1, 2]) = [-0.2, 2]; outputs = [-0.2, -2 + 2 + 0.5].
    rest, last = decode(x, weights, biases, 0.2)
    torch.testing.assert_close(rest, torch.tensor([[-0.2]]))
    torch.testing.assert_close(last, torch.tensor([0.5]))


@pytest.mark.parametrize("points", [0, 1, 7, 8, 33])
@pytest.mark.parametrize("sizes", [[5, 4], [5, 6, 4], [3, 8, 2, 9]])
def test_values_and_gradients_are_the_references(
    points: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_BLOCK", 8)
    x, weights, biases = network(sizes, points)
    params = [x, *weights, *biases]
    ours, expected = decode(x, weights, biases, 0.2), _decode_reference(x, weights, biases, 0.2)
    grads = [torch.randn_like(o) for o in expected]
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.is_contiguous()
    pairs = zip(
        torch.autograd.grad(ours, params, grads), torch.autograd.grad(expected, params, grads),
        strict=True,
    )  # fmt: skip
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("output", [0, 1])
def test_one_output_alone_has_its_gradient(output: int) -> None:
    x, weights, biases = network([3, 5, 4], 6)
    params = [x, *weights, *biases]
    ours = torch.autograd.grad(decode(x, weights, biases, 0.2)[output].square().sum(), params)
    theirs = torch.autograd.grad(
        _decode_reference(x, weights, biases, 0.2)[output].square().sum(), params
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_first_and_second_derivatives_by_finite_differences() -> None:
    x, weights, biases = network([3, 4, 3], 5)

    def function(x, *params):
        return decode(x, params[:2], params[2:], 0.2)

    inputs = (x, *weights, *biases)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_leading_shape_and_frozen_features() -> None:
    x, weights, biases = network([3, 4, 3], 24)
    rest, last = decode(x.detach().view(2, 3, 4, 3).transpose(0, 1), weights, biases, 0.2)
    assert rest.shape == (3, 2, 4, 2)
    assert last.shape == (3, 2, 4)
    rest.sum().backward()
    assert weights[0].grad is not None


def test_wrong_arguments() -> None:
    x, weights, biases = network([3, 4, 3], 2)
    with pytest.raises(
        ValueError, match=r"decode: weights\[0\] must have shape \[O, I\] = \[4, 2\]"
    ):
        decode(x[:, :2], weights, biases, 0.2)
    with pytest.raises(TypeError, match=r"decode: weights\[0\] must have the dtype of features"):
        decode(x.float(), weights, biases, 0.2)
    with pytest.raises(ValueError, match="at least 2 outputs, got 1"):
        decode(x, [torch.ones(1, 3).double()], [torch.ones(1).double()], 0.2)
    with pytest.raises(ValueError, match="must be as many and at least one, got 2 and 1"):
        decode(x, weights, biases[:1], 0.2)
