"""Weight gradients of several uses in one product: the same numbers, found once."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from epigraf.models import convolution
from epigraf.models.convolution import ConvGeometry, conv2d
from epigraf.ops import available
from epigraf.ops import linear as linear_module
from epigraf.ops.linear import linear
from epigraf.ops.weight_sums import summed_weight_gradients


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).requires_grad_()


class Network:
    """Every kind of weight, used forwards and, in the penalty, in the derivative; tanh sends a
    gradient back through the forward pass as well."""

    def __init__(self) -> None:
        self.weights = [
            normal(8, 3, 3, 3, seed=1),
            normal(70, 8, 3, 3, seed=2),
            normal(4, 70, 1, 1, seed=3),
            normal(5, 4 * 16, seed=4),
        ]

    def __call__(self, x: Tensor) -> Tensor:
        first, second, third, last = self.weights
        x = conv2d(x, first, padding=1, gain=0.3).tanh()
        x = conv2d(x, second, stride=2, gain=0.2).tanh()
        return linear(conv2d(x, third, gain=0.1).tanh().flatten(1), last)

    def penalty(self, order: torch.memory_format = torch.contiguous_format) -> Tensor:
        x = normal(2, 3, 9, 9).detach().contiguous(memory_format=order).requires_grad_()
        (grad,) = torch.autograd.grad(self(x).square().sum(), x, create_graph=True)
        return grad.square().sum()


@pytest.fixture
def _native_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    one = (convolution.Least(1, 1),)
    monkeypatch.setattr(convolution, "LEAST", {1: one, 2: one})
    monkeypatch.setattr(convolution, "LEAST_OF_WEIGHTS", one)
    monkeypatch.setattr(linear_module, "_LEAST_WEIGHTS", 1)


def gradients(network: Network) -> list[Tensor]:
    found = [w.grad for w in network.weights]
    for weight in network.weights:
        weight.grad = None
    assert all(g is not None for g in found)
    return [g for g in found if g is not None]


def check_both_ways() -> None:
    network = Network()
    network.penalty().backward()
    expected = gradients(network)
    loss = network.penalty()
    with summed_weight_gradients():
        loss.backward()
        assert network.weights[0].grad is None  # not yet
    for got, theirs in zip(gradients(network), expected, strict=True):
        torch.testing.assert_close(got, theirs, rtol=1e-10, atol=1e-10)


def test_the_gradients_are_those_of_autograd() -> None:
    check_both_ways()


@pytest.mark.usefixtures("_native_ways")
@pytest.mark.skipif(not available(), reason="no native core")
def test_those_of_the_core_too() -> None:
    check_both_ways()


def test_gradients_lie_as_their_weights_do() -> None:
    """As optimisers need it that walk over memory: of 1x1 and of direct convolutions, whose
    gradients torch lays channels-last."""
    network = Network()
    network.weights[2] = normal(128, 70, 1, 1, seed=3)
    network.weights[3] = normal(5, 128 * 16, seed=4)
    results = []
    for block in (nullcontext, summed_weight_gradients):
        weights = [w.detach().clone().requires_grad_() for w in network.weights]
        network.weights, before = weights, network.weights
        adam = torch.optim.Adam(weights, 0.1, fused=True)
        for _ in range(2):
            adam.zero_grad(set_to_none=True)
            loss = network.penalty(torch.channels_last)
            with block():
                loss.backward()
            assert all(w.grad is not None and w.grad.stride() == w.stride() for w in weights)
            adam.step()
        results.append(weights)
        network.weights = before
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_weights_with_hooks_go_their_usual_way() -> None:
    x, weight = normal(2, 3, 6, 6), normal(4, 3, 3, 3, seed=1)
    conv2d(x, weight, padding=1).sum().backward()
    assert weight.grad is not None
    expected, weight.grad = 2 * weight.grad, None
    handle = weight.register_hook(lambda grad: 2 * grad)
    loss = conv2d(x, weight, padding=1).sum()
    with summed_weight_gradients():
        loss.backward()
    handle.remove()
    torch.testing.assert_close(weight.grad, expected)


def test_a_checkpoint_fills_the_weight_itself() -> None:
    x, weight = normal(2, 3, 6, 6), normal(4, 3, 3, 3, seed=1)
    conv2d(x, weight, padding=1).square().sum().backward()
    expected, weight.grad = weight.grad, None
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        loss = conv2d(x, weight, padding=1).square().sum()
    with summed_weight_gradients():
        loss.backward()
    torch.testing.assert_close(weight.grad, expected)


def test_what_is_changed_before_the_end_is_told() -> None:
    x, weight = normal(2, 3, 6, 6), normal(4, 3, 3, 3, seed=1)
    loss = conv2d(x, weight, padding=1).sum()

    def changed() -> None:
        with summed_weight_gradients():
            loss.backward()
            x.data.zero_()
            with torch.no_grad():
                x.zero_()

    with pytest.raises(RuntimeError, match="changed in place before the end of the block"):
        changed()


def test_each_weight_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []
    original = ConvGeometry.weight_adjoint

    def spy(self, shape, *tensors: Tensor) -> Tensor:
        pairs.append(len(tensors) // 2)
        return original(self, shape, *tensors)

    network = Network()
    loss = network.penalty()
    monkeypatch.setattr(ConvGeometry, "weight_adjoint", spy)
    with summed_weight_gradients():
        loss.backward()
    assert pairs.count(2) == 3  # of three convolutions; the sum of two has calls of its own


def test_they_are_added_to_what_is_there() -> None:
    network = Network()
    network.penalty().backward()
    once = [w.grad.clone() for w in network.weights if w.grad is not None]
    loss = network.penalty()
    with summed_weight_gradients():
        loss.backward()
    for got, single in zip(gradients(network), once, strict=True):
        torch.testing.assert_close(got, 2 * single, rtol=1e-10, atol=1e-10)


def test_weights_that_are_no_leaves_go_their_usual_way() -> None:
    x, base = normal(2, 3, 6, 6), normal(4, 3, 3, 3, seed=1)
    conv2d(x, base * 2, padding=1).sum().backward()
    assert base.grad is not None
    expected, base.grad = base.grad, None
    loss = conv2d(x, base * 2, padding=1).sum()
    with summed_weight_gradients():
        loss.backward()
        assert base.grad is not None
    torch.testing.assert_close(base.grad, expected)


def test_gradients_that_are_differentiated_again_go_their_usual_way() -> None:
    x, weight = normal(1, 2, 5, 5), normal(3, 2, 3, 3, seed=1)
    with summed_weight_gradients():
        y = conv2d(x, weight, padding=1).square().sum()
        (grad,) = torch.autograd.grad(y, weight, create_graph=True)
    assert grad.requires_grad
    assert weight.grad is None


def test_after_an_error_there_are_none() -> None:
    network = Network()
    loss = network.penalty()

    def interrupted() -> None:
        with summed_weight_gradients():
            loss.backward()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(w.grad is None for w in network.weights[:3])  # the small linear layer is torch's
    network.weights[3].grad = None
    network.penalty().backward()  # as if nothing had been
    assert len(gradients(network)) == 4
