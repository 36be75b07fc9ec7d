"""Which parts of a scene rays may skip: grids of fields, and the field at the samples that count.

Legend: B batch, R rays, S samples per ray, P points, G cells along an edge. Formulas:
docs/math/occupancy.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from epigraf.config import LastInterval
from epigraf.ops.occupancy import OccupancyGrid, build_occupancy, lattice_ticks, may_absorb
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import RaySegment

SATURATED = 1e-3
"""Rays with a grid end where less than this share of their light is left, unless told otherwise."""

_POINTS = 131_072  # of one pass: their features stay small


@runtime_checkable
class Charted(Protocol):
    """A field that may know where it is empty."""

    grid: OccupancyGrid | None


@dataclass(frozen=True)
class Cube:
    """G cells along an edge of the cube of half edge `half_edge` (world units) about the origin;
    rays see of it what lies in the ball of radius `ball_radius` about the origin (None:
    everything)."""

    resolution: int
    half_edge: float
    ball_radius: float | None = None


def grid_of(field: object) -> OccupancyGrid | None:
    """The grid of a field, where it has one and no gradient is wanted."""
    if torch.is_grad_enabled() or not isinstance(field, Charted):
        return None
    return field.grid


def early_stop(field: object, early_stop_eps: float | None) -> float:
    """The share of its light below which a ray ends; None: SATURATED where there is a grid."""
    if early_stop_eps is not None:
        return early_stop_eps
    return 0.0 if grid_of(field) is None else SATURATED


def last_counts(segment: RaySegment, options: RenderOptions) -> Tensor | bool:
    """Whether the last sample of a ray counts wherever it lies, since it stands for all that is
    behind it, [B, R] or for all rays (occupancy 9)."""
    if options.last_back or options.last_interval is LastInterval.FINITE:
        return options.last_back
    return True if segment.hit is None else segment.hit


def kept_samples(grid: OccupancyGrid, points: Tensor, last: Tensor | bool) -> Tensor:
    """The samples at points_world [B, R, S, 3] that a field is asked for, bool [B, R, S]; the last
    ones too where `last` (of `last_counts`) says so."""
    kept = may_absorb(grid, points)
    kept[..., -1] |= last
    return kept


@torch.no_grad()
def chart(
    densities: Callable[[Tensor], Tensor],
    cube: Cube,
    alpha_thre: float,
    like: Tensor,
    halved: bool = False,
) -> OccupancyGrid:
    """The occupancy grid of B scenes.

    densities: sigma >= 0 [B, P] at points_world [B, P, 3]; like: any tensor [B, ...] of the scenes'
    dtype and device; for alpha_thre see `build_occupancy`. halved: look on a grid of half the
    resolution first (a multiple of 64 then) and then only into its occupied cells (occupancy 10).
    Cells that rays do not see are not looked into (occupancy 13).
    """
    kept = _cells_in_ball(cube, like)
    if halved:
        half = replace(cube, resolution=cube.resolution // 2)
        finer = chart(densities, half, alpha_thre, like).binaries
        for axis in (1, 2, 3):
            finer = finer.repeat_interleave(2, dim=axis)
        kept = finer if kept is None else finer & kept
    ticks, centres = lattice_ticks(cube.resolution, cube.half_edge, like)
    asked = None if kept is None else _corners_of(kept)
    return build_occupancy(
        _ask_lattice(densities, ticks, asked, len(like)),
        _ask_lattice(densities, centres, kept, len(like)),
        cube.half_edge,
        alpha_thre,
    )


def _cells_in_ball(cube: Cube, like: Tensor) -> Tensor | None:
    """The cells [1, G, G, G] that may reach into the ball that is seen; None: all do."""
    if cube.ball_radius is None:
        return None
    _, centres = lattice_ticks(cube.resolution, cube.half_edge, like)
    square = centres.square()
    distance = square[:, None, None] + square[:, None] + square
    reach = cube.ball_radius + math.sqrt(3) * cube.half_edge / cube.resolution  # half a diagonal
    return (distance <= reach * reach * (1 + 1e-6))[None]


def _corners_of(cells: Tensor) -> Tensor:
    """The corners [B, G + 1, G + 1, G + 1] of the cells [B, G, G, G] that are True."""
    for axis in (1, 2, 3):
        end = [0, 0] * (3 - axis)
        cells = F.pad(cells, [*end, 0, 1]) | F.pad(cells, [*end, 1, 0])
    return cells


def _ask_lattice(
    densities: Callable[[Tensor], Tensor], ticks: Tensor, asked: Tensor | None, batch: int
) -> Tensor:
    """Densities [B, N, N, N] where all coordinates are one of ticks [N]; 0 at points of the lattice
    that no scene asks for (asked: bool [B, N, N, N], or None for all)."""
    side = (len(ticks),) * 3
    sigma = ticks.new_zeros(batch, *side)
    every = torch.ones((), dtype=torch.bool, device=ticks.device).expand(side)
    for part in (every if asked is None else asked.any(dim=0)).nonzero().split(_POINTS):
        x, y, z = part.unbind(1)
        sigma[:, x, y, z] = densities(ticks[part].expand(batch, -1, -1))
    return sigma


def chart_points(resolution: int) -> int:
    """How many points a grid is made from, where none is left out."""
    return (resolution + 1) ** 3 + resolution**3


def ask_where_kept(
    field: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    points: Tensor,
    directions: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor]:
    """Colours [B, R, S, C] and raw densities [B, R, S] of a field, asked at the kept samples alone.

    field: as in `epigraf.rendering.renderer`; points: [B, R, S, 3], world; directions: [B, R, 3];
    kept: bool [B, R, S]. What is not kept has colour 0 and raw density -inf: nothing.
    """
    numbers = [row.nonzero()[:, 0] for row in kept.flatten(1)]
    index = pad_sequence(numbers, batch_first=True)[..., None]  # [B, P, 1]; 0 where there is none
    if index.shape[1] == 0:
        index = index.new_zeros(len(kept), 1, 1)
    ray = index // kept.shape[2]
    colors, raw = field(
        points.flatten(1, 2).gather(1, index.expand(-1, -1, 3)),
        directions.gather(1, ray.expand(-1, -1, 3)),
    )
    channels = colors.shape[-1]
    all_raw = raw.new_zeros(kept.flatten(1).shape).scatter_(1, index[..., 0], raw)
    all_colors = colors.new_zeros(*all_raw.shape, channels)
    all_colors.scatter_(1, index.expand(-1, -1, channels), colors)
    all_raw = all_raw.view(kept.shape).masked_fill(~kept, -torch.inf)
    return all_colors.view(*kept.shape, channels).masked_fill(~kept[..., None], 0), all_raw
