"""Rearranged planes against reads at the coordinates that EG3D uses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.config import Projection
from epigraf.models.projection import as_read_here
from epigraf.ops.triplane import sample_triplane

# Coordinates (width, height) of each plane in EG3D's axes: 0 = x', 1 = y', 2 = z'.
PAIRS = {
    Projection.EG3D_LEGACY: ((0, 1), (0, 2), (2, 0)),
    Projection.EG3D: ((0, 1), (0, 2), (2, 1)),
}


def mean_of_reads(planes: Tensor, points: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    total = torch.zeros(())
    for plane, pair in zip(planes.chunk(3, dim=1), pairs, strict=True):
        uv = points[:, None][..., list(pair)]
        total = total + F.grid_sample(plane, uv, align_corners=True)[:, :, 0] / 3
    return total.transpose(1, 2)


@pytest.mark.parametrize("projection", PAIRS)
def test_features_are_those_of_eg3d(projection: Projection) -> None:
    torch.manual_seed(0)
    planes = torch.randn(2, 9, 7, 7, dtype=torch.float64)
    ours = torch.rand(2, 200, 3, dtype=torch.float64) * 2.4 - 1.2  # some outside
    x, y, z = ours.unbind(-1)
    theirs = torch.stack([-z, y, x], dim=-1)
    expected = mean_of_reads(planes, theirs, PAIRS[projection])
    found = sample_triplane(as_read_here(planes, projection).unflatten(1, (3, -1)), ours)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_our_own_planes_are_left_alone() -> None:
    planes = torch.randn(1, 6, 4, 4)
    assert as_read_here(planes, Projection.EPIGRAF) is planes
