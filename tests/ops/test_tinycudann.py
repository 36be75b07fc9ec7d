"""tiny-cuda-nn as an engine of the decoder, by a stand-in of its documented layout."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from epigraf.ops import decode
from epigraf.ops import tinycudann as engine
from tests.ops import tiny_cuda_nn_stand_in as stand_in


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tinycudann", stand_in)
    monkeypatch.setattr(engine, "DEVICE", "cpu")
    engine._found.cache_clear()
    engine._network.cache_clear()
    yield
    engine._found.cache_clear()
    engine._network.cache_clear()


def layers(widths: list[int], seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weights = [
        torch.randn(o, i, generator=generator) / i**0.5 for i, o in itertools.pairwise(widths)
    ]
    return weights, [torch.randn(o, generator=generator) for o in widths[1:]]


def unrolled(flat: torch.Tensor, x: torch.Tensor, shapes: list[tuple[int, int]]) -> torch.Tensor:
    """The network that the flat vector describes, in full precision, by the documentation."""
    h = F.pad(x, (0, shapes[0][1] - x.shape[1]), value=1.0)
    parts = flat.split([rows * columns for rows, columns in shapes])
    for index, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        h = h @ part.view(shape).T
        h = h.relu() if index < len(parts) - 1 else h
    return h


@pytest.mark.parametrize("widths", [[32, 64, 4], [5, 8, 4], [16, 16, 4], [32, 31, 17, 4]])
def test_packed_layers_compute_the_decoder_exactly(widths: list[int]):
    """In full precision nothing is lost: two ReLUs are a leaky one, the ones carry the biases."""
    weights, biases = layers(widths)
    x = torch.randn(50, widths[0])
    width = engine.network_width(weights)
    inputs, hidden = -(-(widths[0] + 1) // 16) * 16, len(weights) - 1
    shapes = [(width, inputs), *[(width, width)] * (hidden - 1), (16, width)]
    flat = engine.pack(weights, biases, 0.2)
    found = unrolled(flat, F.pad(x, (0, 1), value=1.0), shapes)[:, : widths[-1]] + biases[-1]
    rest, last = decode(x, weights, biases, 0.2)
    torch.testing.assert_close(found, torch.cat([rest, last[:, None]], dim=1), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("installed")
def test_outputs_agree_within_half_precision():
    weights, biases = layers([32, 64, 4])
    x = torch.randn(2, 25, 32)
    for found, exact in zip(
        engine.decode_tinycudann(x, weights, biases, 0.2),
        decode(x, weights, biases, 0.2),
        strict=True,
    ):
        assert found.shape == exact.shape
        assert found.dtype == torch.float32
        assert float((found - exact).abs().max()) < 4e-3 * float(exact.abs().max())


@pytest.mark.usefixtures("installed")
def test_gradients_reach_our_own_parameters():
    grads = []
    for run in (decode, engine.decode_tinycudann):
        weights, biases = layers([32, 64, 4])
        x = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
        leaves = [p.requires_grad_() for p in (x, *weights, *biases)]
        rest, last = run(x, weights, biases, 0.2)
        (rest.square().mean() + last.square().mean()).backward()
        grads.append([leaf.grad for leaf in leaves])
    for exact, found in zip(*grads, strict=True):
        assert found is not None
        assert float((found - exact).norm()) < 1e-2 * float(exact.norm())


@pytest.mark.usefixtures("installed")
def test_layers_that_do_not_fit_say_so():
    weights, biases = layers([32, 65, 4])
    with pytest.raises(RuntimeError, match=r"at most 128 wide, and 65 hidden units .* need 130"):
        engine.decode_tinycudann(torch.randn(3, 32), weights, biases, 0.2)
    assert "need 129" in engine.why_not_layers(layers([32, 64, 64, 4])[0])
    assert "hidden layer" in engine.why_not_layers(layers([32, 4])[0])


@pytest.mark.usefixtures("installed")
def test_another_layout_is_noticed(monkeypatch: pytest.MonkeyPatch):
    weights, biases = layers([32, 64, 4])
    monkeypatch.setattr(engine, "pack", lambda *_: torch.zeros(7))
    with pytest.raises(RuntimeError, match="documented layout has 7"):
        engine.decode_tinycudann(torch.randn(3, 32), weights, biases, 0.2)


def test_without_the_package_the_reason_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    engine._found.cache_clear()
    try:
        with pytest.raises(
            RuntimeError, match=r"tinycudann is not installed; or --set decoder\.engine"
        ):
            engine.decode_tinycudann(torch.randn(3, 8), *layers([8, 8, 4]), 0.2)
    finally:
        engine._found.cache_clear()


@pytest.mark.usefixtures("installed")
def test_a_tensor_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "DEVICE", "cuda")
    with pytest.raises(RuntimeError, match="computes on cuda only, and the features are on cpu"):
        engine.decode_tinycudann(torch.randn(3, 8), *layers([8, 8, 4]), 0.2)
