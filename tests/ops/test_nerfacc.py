"""nerfacc as an engine of compositing, against ours."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.ops import composite
from epigraf.ops import nerfacc as engine

needs_nerfacc = pytest.mark.skipif(bool(engine.why_not_nerfacc()), reason=engine.why_not_nerfacc())


def scene(seed: int, batch: int, rays: int, samples: int):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    t = draw(batch, rays, samples).sort(-1).values + 0.5
    return draw(batch, rays, samples, 3), 20 * draw(batch, rays, samples), t, draw(batch, rays)


@needs_nerfacc
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(0, 5), st.integers(0, 33), st.booleans())
def test_every_output_agrees_with_ours(seed: int, batch: int, rays: int, samples: int, back: bool):
    arguments = scene(seed, batch, rays, samples)
    ours = composite(*arguments, last_back=back)
    theirs = engine.composite_nerfacc(*arguments, last_back=back)
    for name, mine, other in zip(ours._fields, ours, theirs, strict=True):
        torch.testing.assert_close(
            other, mine, rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )


@needs_nerfacc
def test_gradients_agree_with_ours():
    grads = []
    for run in (composite, engine.composite_nerfacc):
        arguments = [x.clone().requires_grad_() for x in scene(3, 2, 4, 7)]
        result = run(*arguments)
        (
            result.features.square().sum() + result.depth.sum() + result.transmittance.sum()
        ).backward()
        grads.append([x.grad for x in arguments])
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-6, atol=1e-7)


@needs_nerfacc
def test_an_early_stop_moves_no_colour_by_more_than_its_share():
    colors, sigma, t, last = scene(5, 1, 50, 40)
    whole = engine.composite_nerfacc(colors, sigma, t, last)
    short = engine.composite_nerfacc(colors, sigma, t, last, early_stop_eps=0.05)
    assert 0 < (whole.features - short.features).abs().max() <= 0.05
    assert (short.weights == 0).sum() > (whole.weights == 0).sum()


def test_wrong_shapes_are_refused_as_by_ours():
    colors, sigma, t, last = scene(0, 1, 2, 3)
    with pytest.raises(ValueError, match=r"densities must have shape \[B, R, S\] = \[1, 2, 3\]"):
        engine.composite_nerfacc(colors, sigma[:, :, 1:], t, last)


def test_a_missing_nerfacc_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nerfacc", None)
    engine._found.cache_clear()
    try:
        assert engine.why_not_nerfacc() == "nerfacc is not installed"
        with pytest.raises(RuntimeError, match="pip install nerfacc"):
            engine.composite_nerfacc(*scene(0, 1, 1, 1))
    finally:
        engine._found.cache_clear()


def test_a_placeholder_package_is_told_from_nerfacc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nerfacc", types.ModuleType("nerfacc"))
    engine._found.cache_clear()
    try:
        assert "has no render_weight_from_density" in engine.why_not_nerfacc()
    finally:
        engine._found.cache_clear()


def test_its_traversal_is_never_compiled_behind_the_back(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert "never starts a compilation" in (engine.why_no_traversal() or "")
    assert not list(tmp_path.iterdir())
