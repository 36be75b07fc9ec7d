from __future__ import annotations

import pytest
import torch

from epigraf.benchmarks.bench_occupancy import DENSE, OCCUPANCY, balls, occupancy_lines, psnr
from epigraf.benchmarks.runner import Counts, Row


def test_decibels_worked_by_hand():
    black, grey = torch.full((1, 3, 4, 4), -1.0), torch.full((1, 3, 4, 4), -0.8)
    assert psnr(black, grey) == pytest.approx(20.0, abs=1e-4)  # a tenth of the range everywhere
    assert psnr(black, black) == pytest.approx(200.0)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_balls_fill_the_share_that_they_are_asked_for(share: float):
    grid = balls(share, 32, "cpu")
    assert share <= grid.share.item() < min(share + 0.02, 1.001)


def test_lines_say_what_a_grid_is_worth():
    counts = Counts(rays=2_000_000, images=100, decibels=51.25)
    rows = [
        Row("occupancy", "film", DENSE, [8.0, 9.0], counts),
        Row("occupancy", "film", OCCUPANCY, [2.5, 2.0], counts),
        Row("machine", "fma", "torch", [1.0]),
    ]
    assert list(occupancy_lines(rows)) == [
        "film: 4 times as fast as dense, 1 M rays/s, 50 frames/s (dense 12.5), 51.2 dB to dense"
    ]
