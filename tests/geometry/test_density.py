"""The lattice against a triple loop, blocks against one pass, and the errors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from epigraf.geometry.density import Bounds, Lattice, Volume, density_at, density_grid

BOX = Bounds((-1.0, -0.5, 0.0), (1.0, 0.5, 3.0))


def _linear(points: Tensor) -> Tensor:
    return 100 * points[..., 0] + 10 * points[..., 1] + points[..., 2]


def test_lattice_is_the_triple_loop_with_x_slowest_and_ends_exact() -> None:
    lattice = Lattice(4, BOX)
    ends = zip(BOX.low, BOX.high, strict=True)
    axes = [[low + (high - low) * i / 3 for i in range(4)] for low, high in ends]
    expected = torch.tensor(list(itertools.product(*axes)), dtype=torch.float64)
    torch.testing.assert_close(lattice.points(0, 64), expected, rtol=0, atol=1e-15)
    assert lattice.points(63, 64).tolist() == [[1.0, 0.5, 3.0]]
    assert lattice.points(0, 1).tolist() == [[-1.0, -0.5, 0.0]]
    np.testing.assert_allclose(lattice.spacing, [2 / 3, 1 / 3, 1.0])


@pytest.mark.parametrize("max_points", [1, 7, 64, 10_000])
def test_blocks_do_not_change_the_volume(max_points: int) -> None:
    sizes: list[int] = []

    def field(points: Tensor) -> Tensor:
        sizes.append(points.shape[1])
        return _linear(points)

    volume = density_grid(field, Lattice(4, BOX), max_points=max_points)
    assert max(sizes) <= max_points
    assert sum(sizes) == 64
    for i, j, k in itertools.product(range(4), repeat=3):
        expected = 100 * (-1 + i * 2 / 3) + 10 * (-0.5 + j / 3) + k
        assert volume.values[i, j, k] == pytest.approx(expected, abs=1e-4)


def test_density_at_splits_batches_of_points() -> None:
    points = torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(density_at(_linear, points, max_points=5), _linear(points))


def test_the_models_bounds() -> None:
    assert Bounds.model(0.2, None) == Bounds.cube(0.4)
    assert Bounds.model(0.475, 0.26) == Bounds.cube(0.52)
    assert Bounds.model(0.2, 0.3) == Bounds.cube(0.4)
    assert Bounds.cube(2.0, (1.0, 0.0, -1.0)) == Bounds((0.0, -1.0, -2.0), (2.0, 1.0, 0.0))


def test_errors_say_what_and_where() -> None:
    with pytest.raises(ValueError, match=r"Bounds: y must have low < high, got 0.0 and 0.0"):
        Bounds((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="resolution must be at least 2, got 1"):
        Lattice(1, BOX)
    with pytest.raises(ValueError, match=r"must return \[1, P\] = \[1, 8\], got \[1, 8, 3\]"):
        density_grid(lambda p: p, Lattice(2, BOX))
    with pytest.raises(ValueError, match=r"4 of 8 densities .* first at \[1.0, -0.5, 0.0\]"):
        density_grid(lambda p: torch.where(p[..., 0] > 0, math.nan, 0.0), Lattice(2, BOX))
    with pytest.raises(ValueError, match=r"Volume: values must be \[2, 2, 2\]"):
        Volume(np.zeros((2, 2, 3), np.float32), Lattice(2, BOX))
