"""`sampling` beside nerfacc's plain-torch functions, a loop, and worked numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epigraf.ops.occupancy import OccupancyGrid, grid_from_binaries, traverse_grid
from epigraf.ops.visibility import sampling


def everything(batch: int = 1) -> OccupancyGrid:
    return grid_from_binaries(torch.ones(batch, 32, 32, 32, dtype=torch.bool), 1.0)


def random_case(seed: int) -> tuple[OccupancyGrid, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.rand(2, 32, 32, 32, generator=generator) < 0.3
    origins = torch.randn(2, 7, 3, generator=generator)
    return grid_from_binaries(cells, 1.0), origins, torch.randn(2, 7, 3, generator=generator)


def along_x(count: int = 1) -> tuple[Tensor, Tensor]:
    origins = torch.tensor([[[-2.0, 0.1, 0.1]]]).repeat(1, count, 1)
    return origins, torch.tensor([[[1.0, 0.0, 0.0]]]).repeat(1, count, 1)


def test_worked_by_hand():
    """Four pieces of length 1/2: opacities 0.5, 0.8, 0.1, 0.9, so light 1, 0.5, 0.1, 0.09."""
    alphas = torch.tensor([0.5, 0.8, 0.1, 0.9])

    def kept(**thresholds: float) -> list[float]:
        found = sampling(
            everything(), *along_x(), alpha_fn=lambda a, b, i: alphas, render_step_size=0.5,
            **thresholds,
        )  # fmt: skip
        assert found.packed_info.tolist() == [[0, len(found.t_starts)]]
        return found.t_starts.tolist()

    assert kept() == [1.0, 1.5, 2.0, 2.5]
    assert kept(early_stop_eps=0.095) == [1.0, 1.5, 2.0]
    assert kept(alpha_thre=0.3) == [1.0, 1.5, 2.5]
    assert kept(early_stop_eps=0.3, alpha_thre=0.6) == [1.5]


def test_a_wall_hides_what_is_behind_it():
    def wall(starts: Tensor, ends: Tensor, rays: Tensor) -> Tensor:
        return torch.where(starts == 1.5, torch.inf, 0.0)

    found = sampling(everything(), *along_x(3), sigma_fn=wall, render_step_size=0.5)
    assert found.t_starts.tolist() == [1.0, 1.5] * 3
    assert found.ray_indices.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.packed_info.tolist() == [[0, 2], [2, 2], [4, 2]]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    eps=st.sampled_from([0.0, 1e-4, 0.2, 0.7]),
    thre=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_any_rays_are_those_of_nerfacc(seed: int, eps: float, thre: float) -> None:
    """Ray by ray, by nerfacc's batched functions, which are plain torch."""
    nerfacc = pytest.importorskip("nerfacc")
    grid, *rays = random_case(seed)

    def sigma(starts: Tensor, ends: Tensor, indices: Tensor) -> Tensor:
        return 4 + 4 * torch.sin(31 * starts + indices)

    everywhere = traverse_grid(grid, *rays, render_step_size=0.05)
    found = sampling(
        grid, *rays, sigma_fn=sigma, render_step_size=0.05, early_stop_eps=eps, alpha_thre=thre
    )
    for ray, (first, count) in enumerate(everywhere.packed_info.tolist()):
        part = slice(first, first + count)
        starts, ends = everywhere.t_starts[part], everywhere.t_ends[part]
        seen = torch.ones_like(starts, dtype=torch.bool)
        if count:
            seen = nerfacc.render_visibility_from_density(
                starts[None], ends[None], sigma(starts, ends, everywhere.ray_indices[part])[None],
                early_stop_eps=eps, alpha_thre=thre,
            )[0]  # fmt: skip
        mine = found.ray_indices == ray
        torch.testing.assert_close(found.t_starts[mine], starts[seen], rtol=0, atol=0)
        torch.testing.assert_close(found.t_ends[mine], ends[seen], rtol=0, atol=0)
        begin, some = found.packed_info[ray].tolist()
        assert some == int(seen.sum())
        assert bool(mine[begin : begin + some].all())


def test_without_a_function_all_pieces_stay():
    grid, *rays = random_case(5)
    ours = sampling(grid, *rays, render_step_size=0.1)
    everywhere = traverse_grid(grid, *rays, render_step_size=0.1)
    assert all(torch.equal(a, b) for a, b in zip(ours, everywhere, strict=True))


def test_rays_that_miss_ask_for_nothing():
    def refuse(*_: Tensor) -> Tensor:
        raise AssertionError("there is nothing to ask for")

    origins, directions = along_x(2)
    found = sampling(everything(), origins, -directions, sigma_fn=refuse)
    assert len(found.t_starts) == 0
    assert found.packed_info[:, 1].tolist() == [0, 0]


def test_what_is_refused():
    rays = along_x()
    with pytest.raises(ValueError, match="give sigma_fn or alpha_fn, not both"):
        sampling(everything(), *rays, lambda *_: rays[0], lambda *_: rays[0])
    with pytest.raises(ValueError, match=r"alpha_thre must be in \[0, 1\], got 2"):
        sampling(everything(), *rays, alpha_thre=2)
    with pytest.raises(ValueError, match=r"alpha_fn\(...\) must have shape \[N\] = \[4\], got"):
        sampling(everything(), *rays, alpha_fn=lambda a, b, i: a[:, None], render_step_size=0.5)
