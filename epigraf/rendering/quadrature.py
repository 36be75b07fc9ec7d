"""Midpoint quadrature along rays: colours and raw densities are averaged over each interval.

Source: mip-NeRF (Barron et al. 2021), as EG3D (Chan et al. 2022) uses it. With samples at t_k,
colours c_k and raw densities s_k the intervals d_k = t_{k+1} - t_k have c = (c_k + c_{k+1}) / 2,
sigma = clamp((s_k + s_{k+1}) / 2), and there is no interval behind the last sample.
Legend: B batch, R rays, S samples per ray, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from epigraf.ops.composite import Composite, composite


def integrate_midpoints(
    colors: Tensor,
    raw: Tensor,
    t: Tensor,
    activate: Callable[[Tensor], Tensor],
    *,
    last_back: bool = False,
    early_stop_eps: float = 0.0,
) -> Composite:
    """Composite the S - 1 intervals between samples.

    Args:
        colors: [B, R, S, C]. raw: [B, R, S] raw densities. t: [B, R, S], increasing.
        activate: raw densities of the intervals [B, R, S - 1] to densities.
        last_back: the last interval takes what is left of the light.
        early_stop_eps: as for `composite`.

    Returns:
        As `composite`; depth is the sum of weight times the interval's middle, and each sample's
        weight [B, R, S] half of those of the intervals beside it.
    """
    result = composite(
        (colors[..., 1:, :] + colors[..., :-1, :]) / 2,
        activate((raw[..., 1:] + raw[..., :-1]) / 2),
        t[..., :-1],
        t[..., -1] - t[..., -2],
        last_back=last_back,
        early_stop_eps=early_stop_eps,
    )
    middle = (t[..., 1:] + t[..., :-1]) / 2
    halves = result.weights / 2
    return result._replace(
        depth=(result.weights * middle).sum(-1),
        weights=F.pad(halves, (1, 0)) + F.pad(halves, (0, 1)),
    )
