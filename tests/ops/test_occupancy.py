"""occupancy against a loop over cells, worked values, brute-force neighbourhoods, and nerfacc."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.ops import use_reference
from epigraf.ops.occupancy import (
    OccupancyGrid,
    build_occupancy,
    grid_from_binaries,
    lattice_ticks,
    occupied,
    threshold_density,
    traverse_grid,
)

both = pytest.mark.usefixtures("backend")
N = 32


def one_cell(x: int, y: int, z: int, half_edge: float = 1.0) -> OccupancyGrid:
    cells = torch.zeros(1, N, N, N, dtype=torch.bool)
    cells[0, x, y, z] = True
    return grid_from_binaries(cells, half_edge)


def rays(*pairs: tuple[tuple[float, ...], tuple[float, ...]], dtype: torch.dtype = torch.float64):
    ends = torch.tensor(pairs, dtype=dtype)
    return ends[None, :, 0].contiguous(), ends[None, :, 1].contiguous()


@both
def test_a_ray_through_one_cell_has_the_interval_worked_by_hand():
    # cells are 1/16 wide; cell 20 along x is [0.25, 0.3125], cell 16 along y and z is [0, 0.0625]
    grid = one_cell(20, 16, 16)
    o, d = rays(((-2, 0.01, 0.01), (1, 0, 0)), ((2, 0.01, 0.01), (-1, 0, 0)))
    found = traverse_grid(grid, o, d)
    assert found.ray_indices.tolist() == [0, 1]
    assert found.t_starts.tolist() == [2.25, 1.6875]
    assert found.t_ends.tolist() == [2.3125, 1.75]
    assert found.packed_info.tolist() == [[0, 1], [1, 1]]


@both
def test_steps_cut_an_interval_into_the_fewest_equal_pieces():
    found = traverse_grid(
        one_cell(20, 16, 16), *rays(((-2, 0.01, 0.01), (1, 0, 0))), render_step_size=0.02
    )
    assert found.packed_info.tolist() == [[0, 4]]
    edges = [2.25 + k / 64 for k in range(5)]
    assert found.t_starts.tolist() == edges[:4]
    assert found.t_ends.tolist() == edges[1:]


def brute_force(
    cells: np.ndarray, half_edge: float, ray: tuple[np.ndarray, np.ndarray], near: float, far: float
) -> list[tuple[float, float]]:
    """Every occupied cell on its own: its slabs, the part inside, touching parts joined."""
    n, (o, d) = len(cells), ray
    if not np.isfinite(np.concatenate([o, d])).all():
        return []
    index = np.argwhere(cells)
    low, high = np.full(len(index), near), np.full(len(index), far)
    for axis in range(3):
        below = half_edge * ((2 * index[:, axis] - n) / n)
        above = half_edge * ((2 * index[:, axis] + 2 - n) / n)
        if d[axis] == 0:
            last = index[:, axis] == n - 1
            here = (below <= o[axis]) & ((o[axis] < above) | (last & (o[axis] == half_edge)))
            high = np.where(here, high, -np.inf)
            continue
        a, b = (below - o[axis]) / d[axis], (above - o[axis]) / d[axis]
        low, high = np.maximum(low, np.minimum(a, b)), np.minimum(high, np.maximum(a, b))
    parts = sorted((x, y) for x, y in zip(low, high, strict=True) if x < y)
    joined: list[tuple[float, float]] = []
    for x, y in parts:
        if joined and x <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(y, joined[-1][1]))
        else:
            joined.append((x, y))
    return joined


def random_rays(generator: np.random.Generator, count: int, half_edge: float) -> np.ndarray:
    """[count, 2, 3]: from inside and outside, along axes and diagonals, through corners, broken."""
    inside = generator.uniform(-half_edge, half_edge, (count, 3))
    outside = generator.normal(size=(count, 3)) * 2 * half_edge
    on_corner = half_edge * (2 * generator.integers(0, N + 1, (count, 3)) / N - 1)
    kind = generator.integers(0, 8, count)[:, None]
    o = np.where(kind < 2, inside, np.where(kind == 5, on_corner - 4 * half_edge, outside))
    d = generator.normal(size=(count, 3))
    aim = generator.uniform(-half_edge, half_edge, (count, 3))
    d = np.where((kind == 2) | (kind == 7), aim - o, d)
    axis = np.eye(3)[generator.integers(0, 3, count)] * generator.choice([-1, 1], (count, 1))
    o = np.where(kind == 3, aim - 3 * half_edge * axis, o)
    d = np.where(kind == 3, axis, d)
    o = np.where(kind == 4, on_corner - 4 * half_edge * axis, o)  # within the faces of cells
    d = np.where(kind == 4, axis, np.where(kind == 5, 1.0, d))  # through corners
    broken = generator.integers(0, 3, count) == 0
    d = np.where(kind == 6, np.where(broken[:, None], 0.0, [np.nan, 1, 1]), d)
    return np.stack([o, d], axis=1)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 31, 33]),
    st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]),
    st.sampled_from([0.5, 1.0, 2.0]),
)
@pytest.mark.parametrize("reference", [False, True])
def test_traversal_finds_what_a_loop_over_cells_finds(
    reference: bool, seed: int, count: int, fill: float, half_edge: float
):
    generator = np.random.default_rng(seed)
    cells = generator.uniform(size=(2, N, N, N)) < fill
    pairs = np.stack([random_rays(generator, count, half_edge) for _ in range(2)])
    near = generator.uniform(-1, 2, (2, count))
    far = near + generator.uniform(0, 6, (2, count)) * generator.integers(0, 2, (2, count))
    grid = grid_from_binaries(torch.from_numpy(cells), half_edge)
    o, d, t0, t1 = map(torch.from_numpy, (pairs[:, :, 0], pairs[:, :, 1], near, far))
    with use_reference(reference):
        found = traverse_grid(grid, o, d, t0, t1)
    starts, counts = found.packed_info.T.tolist() if count else ([], [])
    assert (found.t_ends > found.t_starts).all()
    for i in range(2 * count):
        b, r = divmod(i, count)
        expected = brute_force(cells[b], half_edge, tuple(pairs[b, r]), near[b, r], far[b, r])
        own = slice(starts[i], starts[i] + counts[i])
        assert (found.ray_indices[own] == i).all()
        got = torch.stack([found.t_starts[own], found.t_ends[own]], dim=1)
        wanted = torch.tensor(expected, dtype=torch.float64).reshape(-1, 2)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12, msg=f"ray {i}: {pairs[b, r]}")


@pytest.mark.parametrize("fill", [False, True])
@both
def test_an_empty_grid_has_no_intervals_and_a_full_one_the_whole_cube(fill: bool):
    grid = grid_from_binaries(torch.full((1, N, N, N), fill), 0.26)
    found = traverse_grid(grid, *rays(((0, 0, 1), (0, 0, -1)), ((0, 0, 0), (0, 0, 0))), 0.5, 2.0)
    assert found.t_starts.tolist() == pytest.approx([0.74, 0.5] if fill else [])
    assert found.t_ends.tolist() == pytest.approx([1.26, 2.0] if fill else [])


@both
def test_float32_rays_find_the_same_cells_up_to_rounding():
    generator = torch.Generator().manual_seed(0)
    cells = torch.rand(1, N, N, N, generator=generator) < 0.1
    grid = grid_from_binaries(cells, 0.26)
    o = torch.randn(1, 64, 3, generator=generator)
    d = torch.nn.functional.normalize(0.2 * torch.randn(1, 64, 3, generator=generator) - o, dim=-1)
    length = [
        torch.zeros(64, dtype=torch.float64).index_add_(
            0, found.ray_indices, (found.t_ends - found.t_starts).double()
        )
        for found in (traverse_grid(grid, o, d), traverse_grid(grid, o.double(), d.double()))
    ]
    torch.testing.assert_close(length[0], length[1], rtol=0, atol=1e-4)


def dilated(dense: np.ndarray) -> np.ndarray:
    """Each cell asks its 26 neighbours."""
    padded = np.pad(dense, 1)
    views = [
        padded[1 + i : 1 + i + N, 1 + j : 1 + j + N, 1 + k : 1 + k + N]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        for k in (-1, 0, 1)
    ]
    return np.any(views, axis=0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0001, 0.5))
@pytest.mark.parametrize("reference", [False, True])
def test_a_cell_is_occupied_where_its_neighbourhood_reaches_the_threshold(
    reference: bool, seed: int, alpha_thre: float
):
    generator = np.random.default_rng(seed)
    diagonal = math.sqrt(3) * 2 * 0.26 / N
    level = -math.log(1 - alpha_thre) / diagonal
    corners = level * generator.uniform(0, 1.0005, (2, N + 1, N + 1, N + 1))
    centres = level * generator.uniform(0, 1.0005, (2, N, N, N))
    centres[1, 3, 4, 5] = np.nan
    with use_reference(reference):
        samples = torch.from_numpy(corners), torch.from_numpy(centres)
        grid = build_occupancy(samples[0], samples[1], 0.26, alpha_thre)
    for b in range(2):
        dense = 1 - np.exp(-centres[b] * diagonal) >= alpha_thre
        dense |= np.isnan(centres[b])
        for i in range(8):
            x, y, z = i >> 2, i >> 1 & 1, i & 1
            corner = corners[b, x : x + N, y : y + N, z : z + N]
            dense |= 1 - np.exp(-corner * diagonal) >= alpha_thre
        assert np.array_equal(grid.binaries[b].numpy(), dilated(dense))
    assert grid.binaries[1, 2:5, 3:6, 4:7].all()


def test_words_hold_cells_along_z():
    grid = one_cell(1, 2, 31)
    assert grid.words[0].nonzero().tolist() == [[1 * N + 2]]
    assert int(grid.words[0, N + 2]) == -(2**31)
    assert grid.binaries.nonzero().tolist() == [[0, 1, 2, 31]]
    assert grid.share.tolist() == [1 / N**3]


@pytest.mark.parametrize("count", [0, 1, 31, 33])
@both
def test_points_are_occupied_as_their_cells(count: int):
    generator = torch.Generator().manual_seed(count)
    cells = torch.rand(3, 64, 64, 64, generator=generator) < 0.4
    points = 1.2 * (torch.rand(3, count, 3, generator=generator) - 0.5)
    found = occupied(grid_from_binaries(cells, 0.5), points)
    for b in range(3):
        for p in range(count):
            x, y, z = (math.floor((v + 0.5) * 64) for v in points[b, p].tolist())
            inside = all(0 <= i < 64 for i in (x, y, z))
            assert bool(found[b, p]) == (inside and bool(cells[b, x, y, z]))


@both
def test_nan_points_count_and_points_outside_do_not():
    nan, inf = float("nan"), float("inf")
    points = torch.tensor([[[nan, 0, 0], [inf, 0, 0], [0, -inf, 0], [0.3, 0, 0], [nan, 9, 0]]])
    grid = grid_from_binaries(torch.zeros(1, N, N, N), 0.26)
    assert occupied(grid, points).tolist() == [[True, False, False, False, False]]
    full = grid_from_binaries(torch.ones(1, N, N, N), 0.26)
    edge = torch.tensor([[[0.26, -0.26, 0.26], [0.2600001, 0, 0]]])
    assert occupied(full, edge).tolist() == [[True, False]]


def test_the_lattice_holds_corners_and_centres():
    corners, centres = lattice_ticks(N, 0.5)
    assert corners.tolist() == [i / 32 - 0.5 for i in range(33)]
    assert centres.tolist() == [(i + 0.5) / 32 - 0.5 for i in range(32)]


@pytest.mark.parametrize("radius_in_cells", [0.57, 1.3])
@both
def test_no_ball_above_the_bound_is_missed(radius_in_cells: float):
    generator = torch.Generator().manual_seed(7)
    corners, centres = (
        torch.cartesian_prod(x, x, x)
        for x in lattice_ticks(N, 1.0, torch.empty(0, dtype=torch.float64))
    )
    radius = radius_in_cells * 2 / N
    for _ in range(12):
        middle = 1.6 * torch.rand(3, generator=generator, dtype=torch.float64) - 0.8
        sizes = ((corners, N + 1), (centres, N))
        sigma = [
            1e3 * ((points - middle).norm(dim=-1) < radius).double().view(1, n, n, n)
            for points, n in sizes
        ]
        grid = build_occupancy(sigma[0], sigma[1], 1.0, 0.5)
        shell = torch.randn(64, 3, generator=generator, dtype=torch.float64)
        inside = middle + radius * torch.nn.functional.normalize(shell, dim=-1) * 0.999
        # 0.57: some cell of the ball is found, and with its neighbours the whole ball
        assert occupied(grid, inside[None]).all()


@both
def test_nerfacc_sees_the_same_cells_and_the_same_cube():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nerfacc_grid = pytest.importorskip("nerfacc.grid")
    generator = torch.Generator().manual_seed(3)
    cells = torch.rand(1, N, N, N, generator=generator) < 0.3
    grid = grid_from_binaries(cells, 0.5)
    points = 1.4 * (torch.rand(1, 500, 3, generator=generator) - 0.5)
    theirs, _ = nerfacc_grid._query(points[0], cells.float(), grid.aabbs[0])
    assert torch.equal(occupied(grid, points)[0], theirs.bool())
    o = torch.randn(1, 100, 3, generator=generator)
    d = torch.nn.functional.normalize(-o + 0.4 * torch.randn(o.shape, generator=generator), dim=-1)
    full = grid_from_binaries(torch.ones(1, N, N, N), 0.5)
    found = traverse_grid(full, o, d, 0.0, 10.0)
    low, high, hit = nerfacc_grid._ray_aabb_intersect(o[0], d[0], full.aabbs, 0.0, 10.0)
    assert torch.equal(found.packed_info[:, 1].bool(), hit[:, 0])
    torch.testing.assert_close(found.t_starts, low[hit], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.t_ends, high[hit], rtol=0, atol=1e-6)


@both
def test_two_runs_with_any_number_of_threads_agree():
    generator = torch.Generator().manual_seed(5)
    grid = grid_from_binaries(torch.rand(1, N, N, N, generator=generator) < 0.2, 0.5)
    o = torch.randn(1, 333, 3, generator=generator)
    threads = torch.get_num_threads()
    first = traverse_grid(grid, o, -o)
    torch.set_num_threads(3)
    again = traverse_grid(grid, o, -o)
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


GRID = OccupancyGrid(torch.zeros(1, N**2, dtype=torch.int32), N, 0.5)
ZEROS = torch.zeros(1, 4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: lattice_ticks(48, 1.0),
            "lattice_ticks: resolution must be a multiple of 32, got 48",
        ),
        (
            lambda: occupied(GRID, torch.zeros(2, 4, 3)),
            r"occupied: points must have shape \[B, P, 3\] = \[1, 4, 3\], got \[2, 4, 3\]",
        ),
        (
            lambda: traverse_grid(GRID, ZEROS, ZEROS[:, :3]),
            r"traverse_grid: rays_d must have shape \[B, R, 3\] = \[1, 4, 3\], got \[1, 3, 3\]",
        ),
        (
            lambda: traverse_grid(GRID, ZEROS, ZEROS, render_step_size=0.0),
            "traverse_grid: render_step_size must be positive, got 0.0",
        ),
        (
            lambda: traverse_grid(
                grid_from_binaries(torch.ones(1, N, N, N), 0.5), ZEROS, ZEROS, 0.0, 1e10, 1e-9
            ),
            r"traverse_grid: the rays would be cut into 2\^31 pieces or more; use a larger",
        ),
        (
            lambda: OccupancyGrid(torch.zeros(1, 5, dtype=torch.int32), N, 0.5),
            r"OccupancyGrid: words must have shape \[B, G G G / 32\] = \[1, 1024\], got \[1, 5\]",
        ),
        (
            lambda: build_occupancy(torch.zeros(1, 9, 9, 9), torch.zeros(1, 32, 32, 32), 0.5, 0.1),
            r"build_occupancy: corners must have shape .* = \[1, 33, 33, 33\], got \[1, 9, 9, 9\]",
        ),
        (
            lambda: threshold_density(1.0, 32, 0.5),
            r"build_occupancy: alpha_thre must be in \[0, 1\), got 1.0",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
