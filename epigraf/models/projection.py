"""Planes of other conventions as planes that are read at (x, y), (x, z) and (y, z).

EG3D's scenes face +z, and a point (x', y', z') of them is (-z, y, x) here, where scenes face +x.
Its released models read their planes at (x', y'), (x', z') and (z', x'): the last two see the same
coordinates, so that no plane sees (y', z'). Later versions read the third at (z', y'). Reading is
linear in the planes, so turned and added planes give the same features.

Legend: B batch, F features, H = W plane size. Source: EG3D (Chan et al. 2022), section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from epigraf.config import Projection


def as_read_here(planes: Tensor, projection: Projection) -> Tensor:
    """Planes [B, 3 F, H, H] of a projection, rearranged for `sample_triplane`.

    A plane indexed by (width, height) = (-z, c) becomes one indexed by (c, z): mirrored along its
    width, then transposed.
    """
    if projection is Projection.EPIGRAF:
        return planes
    first, second, third = planes.chunk(3, dim=1)
    yz = first.flip(-1).transpose(-1, -2)  # (x', y') = (-z, y)
    xz = second.flip(-1).transpose(-1, -2)  # (x', z') = (-z, x)
    if projection is Projection.EG3D:
        return torch.cat([third, xz, yz], dim=1)  # (z', y') = (x, y)
    xz = xz + third.flip(-2)  # (z', x') = (x, -z)
    return torch.cat([torch.zeros_like(third), xz, yz], dim=1)
