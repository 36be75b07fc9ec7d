"""Expected normals along rays, from the gradient of the density.

Legend: B batch, R rays, S samples per ray, P points. Formulas: docs/math/normals.md.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from epigraf.config import RenderBackend
from epigraf.rendering.draws import Draws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import Field, ray_chunks, render_rays
from epigraf.rendering.trace import Trace

_LIGHTEST = 1e-6
"""Samples of less weight are left out: all together they move a normal by S 1e-6 at most."""


def expected_normals(field: Field, rays: Rays, options: RenderOptions, *, draws: Draws) -> Tensor:
    """Normals [B, R, 3] in world coordinates, not longer than the ray's opacity (normals 2).

    The sum of weight times -grad sigma / |grad sigma| over the samples of a ray, with the weights
    that composite its colour. The gradient is that of the field's raw density, which has the same
    direction; the ops of the field differentiate it, look-up included. Memory is bounded by
    ``max_rays`` of the options.
    """
    count = rays.directions.shape[1]
    parts = [
        _normals(field, Rays(rays.origins[:, s], rays.directions[:, s]), options, draws)
        for s in ray_chunks(count, options.max_rays or max(count, 1))
    ]
    return torch.cat(parts, dim=1) if parts else torch.zeros_like(rays.directions)


def _normals(field: Field, rays: Rays, options: RenderOptions, draws: Draws) -> Tensor:
    trace: Trace = {}
    backend = options.backend
    if backend is RenderBackend.FUSED:  # it keeps no samples
        backend = RenderBackend.OPS
    with torch.no_grad():
        render_rays(field, rays, replace(options, backend=backend), draws=draws, trace=trace)
    t, weights = trace["final_z"], trace["final_weights"]  # [B, R, S, 1] each
    batch, count, samples, _ = t.shape
    kept = (weights > _LIGHTEST).any(dim=0).flatten().nonzero()[:, 0]  # of R S
    of_ray = kept // samples
    directions = rays.directions[:, of_ray]
    points = rays.origins[:, of_ray] + directions * t.flatten(1, 2)[:, kept]
    outwards = _outwards(field, points, directions) * weights.flatten(1, 2)[:, kept]
    return outwards.new_zeros(batch, count, 3).index_add(1, of_ray, outwards)


def _outwards(field: Field, points: Tensor, directions: Tensor) -> Tensor:
    """Unit vectors [B, P, 3] against the density's gradient (normals 1); 0 where it is flat."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        raw = field(points, directions).densities
        (gradient,) = torch.autograd.grad(raw.sum(), points)
    return -torch.nn.functional.normalize(gradient, dim=-1, eps=1e-20)
