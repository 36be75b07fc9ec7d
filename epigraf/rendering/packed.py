"""Rays sampled by nerfacc: steps of one length through occupied cells, and its compositing.

Legend: B batch, R rays, K pieces of the ray with most of them. For inference. Source: nerfacc (Li
et al. 2023, arXiv:2305.04966).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from epigraf.ops.composite import Composite
from epigraf.ops.nerfacc import composite_intervals, sample_occupied
from epigraf.ops.occupancy import Intervals, OccupancyGrid
from epigraf.rendering.occupancy import ask_where_kept
from epigraf.rendering.rays import Rays, RaySegment


def march_packed(
    field: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    grid: OccupancyGrid,
    rays: Rays,
    segment: RaySegment,
    samples: int,
    activate: Callable[[Tensor], Tensor],
    early_stop_eps: float,
) -> Composite:
    """Integrate what rays [B, R] meet in occupied cells of their segment.

    samples: as many steps fill the longest segment. activate: raw densities to sigma >= 0.
    What lies behind the last occupied cell of a ray is empty, whatever the last interval of other
    samplers is; `transmittance` is what passes through all of them.
    Raises RuntimeError where nerfacc's traversal is not compiled.
    """
    longest = float((segment.far - segment.near).max()) if segment.near.numel() else 0.0
    step = max(longest / samples, 1e-6)
    found = sample_occupied(grid, *rays, segment.near, segment.far, step)
    starts, ends, kept = in_rows(found, segment.near)
    middles = (starts + ends) / 2
    points = torch.addcmul(
        rays.origins[:, :, None], rays.directions[:, :, None], middles[..., None]
    )
    colors, raw = ask_where_kept(field, points, rays.directions, kept)
    sigma = torch.where(kept, activate(raw), 0)
    result = composite_intervals(colors, sigma, starts, ends, early_stop_eps)
    return result._replace(transmittance=1 - result.opacity)


def in_rows(found: Intervals, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, ends [B, R, K] of the pieces of each ray, and which of them there are (bool); the
    others have no length. like: [B, R]."""
    counts = found.packed_info[:, 1]
    most = int(counts.max()) if len(counts) else 0
    place = torch.arange(len(found.ray_indices), device=like.device)
    place = place - found.packed_info[:, 0][found.ray_indices]
    starts, ends = like.new_zeros(2, len(counts), most)
    starts[found.ray_indices, place] = found.t_starts
    ends[found.ray_indices, place] = found.t_ends
    kept = torch.arange(most, device=like.device) < counts[:, None]
    rows = (*like.shape, most)
    return starts.view(rows), ends.view(rows), kept.view(rows)
