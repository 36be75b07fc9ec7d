"""nerfacc (Li et al. 2023, arXiv:2305.04966) as an engine; the only file that imports it.

nerfacc's batched volume rendering is plain torch, so it runs on any device; its packed functions
and its traversal are CUDA code that it compiles on first use, which nothing here triggers.
Legend: B batch, R rays, S samples per ray, C channels.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from epigraf.ops.composite import Composite, check_composite
from epigraf.ops.occupancy import Intervals, OccupancyGrid, grid_from_binaries
from epigraf.optional import Optional, import_optional

INSTALL = "pip install nerfacc"


@functools.cache
def _found() -> Optional:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of a missing CUDA toolkit when imported
        return import_optional("nerfacc", ("render_weight_from_density", "accumulate_along_rays"))


def why_not_nerfacc() -> str:
    """Why nerfacc cannot composite; empty where it can."""
    return _found().reason


def nerfacc_module() -> ModuleType:
    """The package. Raises RuntimeError, with the command that installs it, where it is missing."""
    found = _found()
    if found.module is None:
        raise RuntimeError(f"nerfacc: {found.reason}; install it with `{INSTALL}`")
    return found.module


def why_no_traversal() -> str:
    """Why nerfacc's own traversal (CUDA) cannot be used; empty where it is compiled already.

    It is never compiled here: nerfacc compiles it silently, for minutes, on first use.
    """
    if reason := why_not_nerfacc():
        return reason
    if not torch.cuda.is_available():
        return "nerfacc's traversal is CUDA code, and torch sees no CUDA device"
    if importlib.util.find_spec("nerfacc.csrc") is not None or _compiled_before():
        return ""
    return (
        "nerfacc's CUDA extension is not compiled (its sources do not compile against the C++20 "
        "of current torch), and epigraf never starts a compilation by itself"
    )


def _compiled_before() -> bool:
    """Whether an earlier compilation by nerfacc itself lies in torch's folder of extensions."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(root) if root else Path.home() / ".cache" / "torch_extensions"
    return any(folder.glob("**/nerfacc_cuda/nerfacc_cuda.so"))


def composite_nerfacc(
    colors: Tensor,
    densities: Tensor,
    t: Tensor,
    last_delta: float | Tensor,
    *,
    last_back: bool = False,
    early_stop_eps: float = 0.0,
) -> Composite:
    """`composite` by nerfacc: arguments, results and errors are those of `ops.composite`.

    T_k = exp(-sum_{j<k} delta_j sigma_j), without the 1e-10 of (composite 2): weights differ by at
    most S * 1e-10 and rounding. Differentiable at any order. Where a ray stops early,
    `transmittance` is still that in front of the last sample.
    Raises RuntimeError where nerfacc is not installed.
    """
    check_composite(colors, densities, t, last_delta, early_stop_eps)
    last = last_delta if isinstance(last_delta, Tensor) else t.new_full(t.shape[:2], last_delta)
    ends = torch.cat([t[..., 1:], (t[..., -1:] + last[..., None])[..., : t.shape[-1]]], dim=-1)
    return _integrate(colors, densities, (t, ends, t), last_back, early_stop_eps)


def composite_intervals(
    colors: Tensor, densities: Tensor, t_starts: Tensor, t_ends: Tensor, early_stop_eps: float = 0.0
) -> Composite:
    """Integrate intervals that need not touch: colors [B, R, S, C], densities [B, R, S], t_starts
    and t_ends [B, R, S], in order along each ray. Depth is that of their middles.

    Raises RuntimeError where nerfacc is not installed.
    """
    middles = (t_starts + t_ends) / 2
    return _integrate(colors, densities, (t_starts, t_ends, middles), False, early_stop_eps)


def _integrate(
    colors: Tensor,
    densities: Tensor,
    intervals: tuple[Tensor, Tensor, Tensor],
    last_back: bool,
    early_stop_eps: float,
) -> Composite:
    """Intervals are where they start and end and what depth they count for, [B, R, S] each."""
    nerfacc: Any = nerfacc_module()
    batch, rays = densities.shape[:2]
    if densities.numel() == 0:
        zero = densities.new_zeros(batch, rays)
        features = colors.new_zeros(batch, rays, colors.shape[-1])
        weights = torch.zeros_like(densities)
        return Composite(features, zero, weights, torch.ones_like(zero), zero)
    starts, ends, places = (x.flatten(0, 1) for x in intervals)  # [B R, S]: it knows one scene
    weights, light, _ = nerfacc.render_weight_from_density(starts, ends, densities.flatten(0, 1))
    if early_stop_eps > 0 and not (torch.is_grad_enabled() and weights.requires_grad):
        weights = torch.where(light < early_stop_eps, 0, weights)
    opacity = weights.sum(-1)
    if last_back:
        weights = torch.cat([weights[:, :-1], weights[:, -1:] + (1 - opacity)[:, None]], dim=-1)
    features = nerfacc.accumulate_along_rays(weights, colors.flatten(0, 1))
    depth = nerfacc.accumulate_along_rays(weights, places[..., None])
    return Composite(
        features.view(batch, rays, -1),
        depth.view(batch, rays),
        weights.view(densities.shape),
        light[:, -1].view(batch, rays),
        opacity.view(batch, rays),
    )


def grid_to_estimator(grid: OccupancyGrid) -> Any:
    """nerfacc's OccGridEstimator of one level, with the cells of a grid of one scene.

    Its `occs` are 1 where a cell is occupied and 0 elsewhere, so that its own updates go on from
    there.
    Raises ValueError for more scenes than one, RuntimeError where nerfacc is not installed.
    """
    nerfacc: Any = nerfacc_module()
    if len(grid) != 1:
        raise ValueError(
            f"grid_to_estimator: nerfacc knows one scene, and the grid has {len(grid)}; "
            "take grid.scene(index)"
        )
    aabb = grid.aabbs[0].cpu()
    estimator = nerfacc.OccGridEstimator(aabb, resolution=grid.resolution, levels=1)
    estimator.to(grid.words.device)
    estimator.binaries.copy_(grid.binaries)
    estimator.occs.copy_(grid.binaries.flatten().to(estimator.occs.dtype))
    return estimator


def grid_from_estimator(estimator: Any) -> OccupancyGrid:
    """The grid of one scene that an OccGridEstimator holds.

    Raises ValueError where it is not one cube about the origin with equal, even edges.
    """
    sizes, corners = estimator.resolution.tolist(), estimator.aabbs[0].tolist()
    half = corners[3]
    if len(estimator.aabbs) != 1 or len(set(sizes)) != 1 or corners != [-half] * 3 + [half] * 3:
        raise ValueError(
            "grid_from_estimator: the estimator must have one level, equal edges and a cube about "
            f"the origin, got {len(estimator.aabbs)} levels, {sizes} cells and {corners}"
        )
    return grid_from_binaries(estimator.binaries, half)


def sample_occupied(
    grid: OccupancyGrid,
    rays_o: Tensor,
    rays_d: Tensor,
    near: Tensor,
    far: Tensor,
    render_step_size: float,
) -> Intervals:
    """The pieces of rays in occupied cells, by nerfacc's own traversal (CUDA), scene by scene.

    Arguments and result as of `ops.occupancy.traverse_grid`; its pieces start at multiples of the
    step from the near plane, ours at the border of a cell.
    Raises RuntimeError where its CUDA extension is not compiled.
    """
    if reason := why_no_traversal():
        raise RuntimeError(f"nerfacc: {reason}; use --set render.sampler=occupancy")
    found = []
    for index in range(len(grid)):
        estimator = grid_to_estimator(grid.scene(index))
        rays, starts, ends = estimator.sampling(
            rays_o[index],
            rays_d[index],
            t_min=near[index],
            t_max=far[index],
            render_step_size=render_step_size,
            early_stop_eps=0.0,
        )
        found.append((rays.long() + index * rays_o.shape[1], starts, ends))
    indices, starts, ends = (torch.cat(parts) for parts in zip(*found, strict=True))
    counts = torch.bincount(indices, minlength=rays_o.shape[0] * rays_o.shape[1])
    return Intervals(indices, starts, ends, torch.stack([counts.cumsum(0) - counts, counts], 1))
