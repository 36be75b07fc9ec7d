from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from epigraf.benchmarks.bench_mesh import BLOCKS, DENSE, by_blocks, from_dense_grid, mesh_lines
from epigraf.benchmarks.runner import Row
from epigraf.config import Config
from epigraf.geometry.extract import MeshOptions


class Ball:
    def __call__(self, points_world: Tensor, directions: Tensor) -> None: ...

    def density_raw(self, points_world: Tensor) -> Tensor:
        return 0.2 - points_world.norm(dim=-1)


def test_both_ways_find_the_same_surface():
    cfg = Config.from_dict({"dataset": {"cube_scale": 0.26, "object_radius": 0.26}})
    ours, theirs = (
        way(Ball(), cfg, MeshOptions(resolution=20), 0.0) for way in (by_blocks, from_dense_grid)
    )
    assert len(ours[1]) == len(theirs[1]) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
    order = [np.lexsort(np.round(part[0].numpy(), 6).T) for part in (ours, theirs)]
    torch.testing.assert_close(ours[0][order[0]], theirs[0][order[1]], rtol=0, atol=1e-6)


def test_lines_say_what_blocks_are_worth():
    rows = [
        Row("mesh", "64^3", BLOCKS, [2.0, 1.5], peak_mib=100.4),
        Row("mesh", "64^3", DENSE, [6.0, 7.0], peak_mib=800.0),
        Row("machine", "fma", "torch", [1.0]),
    ]
    assert list(mesh_lines(rows)) == [
        "64^3: 1.5 s, 4 times as fast as a dense grid and one call; 100 MiB instead of 800"
    ]
