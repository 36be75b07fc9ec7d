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
from epigraf.ops.occupancy import grid_from_binaries, traverse_grid

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


def grid(seed: int, scenes: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return grid_from_binaries(torch.rand(scenes, 32, 32, 32, generator=generator) < 0.02, 0.25)


@needs_nerfacc
def test_a_grid_becomes_an_estimator_and_comes_back():
    ours = grid(0)
    estimator = engine.grid_to_estimator(ours)
    assert torch.equal(estimator.binaries[0], ours.binaries[0])
    assert estimator.aabbs.tolist() == [[-0.25] * 3 + [0.25] * 3]
    again = engine.grid_from_estimator(estimator)
    assert torch.equal(again.words, ours.words)
    assert (again.resolution, again.half_edge) == (32, 0.25)
    state = estimator.state_dict()  # what a user of nerfacc saves
    assert state["binaries"].sum() == ours.binaries.sum() == state["occs"].sum()


@needs_nerfacc
def test_grids_that_do_not_fit_are_refused():
    import nerfacc

    with pytest.raises(ValueError, match=r"knows one scene, and the grid has 2"):
        engine.grid_to_estimator(grid(0, scenes=2))
    with pytest.raises(ValueError, match="one level, equal edges and a cube about the origin"):
        engine.grid_from_estimator(nerfacc.OccGridEstimator([-1, -1, -1, 1, 1, 2.0], 32))
    with pytest.raises(ValueError, match="got 2 levels"):
        engine.grid_from_estimator(nerfacc.OccGridEstimator([-1, -1, -1, 1, 1, 1.0], 32, levels=2))


@needs_nerfacc
def test_its_traversal_scene_by_scene_is_packed_as_ours(monkeypatch: pytest.MonkeyPatch):
    """nerfacc's kernel is replaced by our traversal: what is left is the packing."""
    import nerfacc

    ours = grid(1, scenes=2)
    origins = torch.tensor([[-1.0, 0.02, 0.03]]).expand(2, 20, 3).contiguous()
    aims = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(2)) * 0.4 - 0.2
    directions = torch.nn.functional.normalize(aims - origins, dim=-1)
    near, far = torch.full((2, 20), 0.5), torch.full((2, 20), 1.5)

    def sampling(self, rays_o, rays_d, *, t_min, t_max, render_step_size, early_stop_eps):
        assert early_stop_eps == 0
        one = engine.grid_from_estimator(self)
        found = traverse_grid(one, rays_o[None], rays_d[None], t_min[None], t_max[None],
                              render_step_size)  # fmt: skip
        return found.ray_indices, found.t_starts, found.t_ends

    monkeypatch.setattr(nerfacc.OccGridEstimator, "sampling", sampling)
    monkeypatch.setattr(engine, "why_no_traversal", lambda: "")
    found = engine.sample_occupied(ours, origins, directions, near, far, 0.01)
    expected = traverse_grid(ours, origins, directions, near, far, 0.01)
    for mine, other in zip(expected, found, strict=True):
        assert torch.equal(mine, other)


def test_without_its_kernels_the_traversal_is_an_error():
    rays = torch.zeros(1, 1, 3)
    with pytest.raises(RuntimeError, match=r"nerfacc: .*render\.sampler=occupancy"):
        engine.sample_occupied(grid(0), rays, rays, rays[..., 0], rays[..., 0], 0.1)
