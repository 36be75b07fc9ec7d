"""Rays sampled by nerfacc; its CUDA traversal is replaced by ours, what is left is checked."""

from __future__ import annotations

import pytest
import torch

from epigraf.config import LastInterval, RenderSampler
from epigraf.ops import nerfacc as engine
from epigraf.ops.occupancy import Intervals, grid_from_binaries, traverse_grid
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.packed import in_rows
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import FieldSample, render_rays

SIDE = 0.1  # half the edge of a box of density SIGMA about the origin
SIGMA = 30.0


class Box:
    """A box that knows which cells it fills."""

    def __init__(self) -> None:
        cells = torch.zeros(1, 32, 32, 32, dtype=torch.bool)
        cells[:, 8:24, 8:24, 8:24] = True  # half the edge of the cube of half edge 0.2
        self.grid = grid_from_binaries(cells, 2 * SIDE)

    def __call__(self, points: torch.Tensor, directions: torch.Tensor) -> FieldSample:
        inside = (points.abs() < SIDE).all(dim=-1)
        return FieldSample(torch.ones_like(points) * 0.25, torch.where(inside, SIGMA, -50.0))


def rays() -> Rays:
    """One through the middle, one along an edge's inside, one that misses."""
    origins = torch.tensor([[[-1.0, 0.0, 0.0], [-1.0, 0.09, 0.0], [-1.0, 0.15, 0.0]]])
    return Rays(origins, torch.tensor([1.0, 0.0, 0.0]).expand(1, 3, 3).contiguous())


@pytest.mark.skipif(bool(engine.why_not_nerfacc()), reason=engine.why_not_nerfacc())
def test_a_box_absorbs_what_its_thickness_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "epigraf.rendering.packed.sample_occupied",
        lambda grid, o, d, near, far, step: traverse_grid(grid, o, d, near, far, step),
    )
    options = RenderOptions(
        num_coarse=200, num_fine=0, near=0.5, far=1.5, last_interval=LastInterval.FINITE,
        deterministic=True, sampler=RenderSampler.NERFACC, early_stop_eps=0.0,
    )  # fmt: skip
    with torch.no_grad():
        seen = render_rays(Box(), rays(), options, draws=RandomDraws(0))
    sigma = torch.nn.functional.softplus(torch.tensor(SIGMA))
    solid = 1 - torch.exp(-sigma * 2 * SIDE)
    expected = torch.stack([solid, solid, torch.tensor(0.0)])[None]
    torch.testing.assert_close(seen.opacity, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.features[..., 0], 0.25 * expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.transmittance, 1 - expected, rtol=0, atol=1e-5)


def test_without_its_kernels_it_is_an_error_and_not_another_sampler():
    options = RenderOptions(num_coarse=8, num_fine=0, near=0.5, far=1.5,
                            sampler=RenderSampler.NERFACC)  # fmt: skip
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"render\.sampler=occupancy"):
        render_rays(Box(), rays(), options, draws=RandomDraws(0))


def test_pieces_come_into_the_rows_of_their_rays():
    found = Intervals(
        torch.tensor([0, 0, 2]),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([1.5, 2.5, 3.5]),
        torch.tensor([[0, 2], [2, 0], [2, 1]]),
    )
    starts, ends, kept = in_rows(found, torch.zeros(1, 3))
    assert starts.tolist() == [[[1, 2], [0, 0], [3, 0]]]
    assert ends.tolist() == [[[1.5, 2.5], [0, 0], [3.5, 0]]]
    assert kept.tolist() == [[[True, True], [False, False], [True, False]]]
