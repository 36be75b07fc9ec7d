"""Which parts of rays in occupied cells can be seen: nerfacc's `OccGridEstimator.sampling`.

Legend: B batch, R rays, N intervals, K intervals of the ray with most of them. Names of arguments
follow nerfacc (Li et al. 2023, arXiv:2305.04966), which does one scene at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from epigraf.ops._checks import check_like, check_shape
from epigraf.ops.occupancy import Intervals, OccupancyGrid, traverse_grid

Along = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Numbers [N] at intervals t_starts [N], t_ends [N] of rays ray_indices [N] (b R + r)."""


@torch.no_grad()
def sampling(
    grid: OccupancyGrid,
    rays_o: Tensor,
    rays_d: Tensor,
    sigma_fn: Along | None = None,
    alpha_fn: Along | None = None,
    *,
    near_plane: float | Tensor = 0.0,
    far_plane: float | Tensor = 1e10,
    render_step_size: float = 1e-3,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
) -> Intervals:
    """The pieces of rays in occupied cells (`traverse_grid`), without those that cannot be seen.

    With sigma_fn (densities >= 0) or alpha_fn (opacities in [0, 1]), not both, a piece stays where
    at least early_stop_eps of the ray's light reaches it and its own opacity is at least alpha_thre
    (occupancy 11). Without either all pieces stay. nerfacc lowers alpha_thre to the mean of its
    grid's opacities; this takes it as it is. Not differentiable.
    Raises ValueError for both functions, a threshold outside [0, 1] or numbers of another shape;
    and as `traverse_grid` does.
    """
    if sigma_fn is not None and alpha_fn is not None:
        raise ValueError("sampling: give sigma_fn or alpha_fn, not both")
    for name, value in (("early_stop_eps", early_stop_eps), ("alpha_thre", alpha_thre)):
        if not 0 <= value <= 1:
            raise ValueError(f"sampling: {name} must be in [0, 1], got {value}")
    found = traverse_grid(grid, rays_o, rays_d, near_plane, far_plane, render_step_size)
    along = sigma_fn or alpha_fn
    if along is None or len(found.t_starts) == 0:
        return found
    values = along(found.t_starts, found.t_ends, found.ray_indices)
    name = "sigma_fn(...)" if alpha_fn is None else "alpha_fn(...)"
    check_shape("sampling", name, values, "[N]", found.t_starts.shape)
    check_like("sampling", name, values, "rays_o", rays_o)
    if sigma_fn is not None:
        values = 1 - torch.exp(-values * (found.t_ends - found.t_starts))
    return _kept(found, (_light(found, values) >= early_stop_eps) & (values >= alpha_thre))


def _light(found: Intervals, alphas: Tensor) -> Tensor:
    """What reaches each interval, [N]: the product of 1 - alpha of those in front of it."""
    first, counts = found.packed_info.unbind(1)
    place = torch.arange(len(alphas), device=alphas.device) - first[found.ray_indices]
    rows = alphas.new_ones(len(counts), int(counts.max()) + 1)
    rows[found.ray_indices, place + 1] = 1 - alphas
    return rows.cumprod(dim=1)[found.ray_indices, place]


def _kept(found: Intervals, visible: Tensor) -> Intervals:
    """The intervals that are visible (bool [N])."""
    rays = found.ray_indices[visible]
    counts = torch.bincount(rays, minlength=len(found.packed_info))
    packed = torch.stack([counts.cumsum(0) - counts, counts], dim=1)
    return Intervals(rays, found.t_starts[visible], found.t_ends[visible], packed)
