"""Importance samples: where a first pass found something, and both passes in the order of depth.

Legend: B batch, R rays, S samples per ray, F fine samples per ray. Source: NeRF (Mildenhall et al.
2020), section 5.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PDF_EPSILON = 1e-5


def importance_t(t: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Depths [B, R, F], unsorted, where the weights say that there is something (NeRF, section
    5.2).

    The inverse of the piecewise linear distribution function with the weights of the inner samples
    between the midpoints of t [B, R, S]; weights [B, R, S], u [B, R, F] in [0, 1]. No gradient.
    """
    bins = 0.5 * (t[..., :-1] + t[..., 1:])
    pdf = (weights[..., 1:-1] + PDF_EPSILON) + PDF_EPSILON
    pdf = pdf / pdf.sum(-1, keepdim=True)
    cdf = F.pad(torch.cumsum(pdf, dim=-1), (1, 0))
    above = torch.searchsorted(cdf, u.contiguous())
    below = (above - 1).clamp_min(0)
    above = above.clamp_max(bins.shape[-1] - 1)
    cdf_below, bins_below = cdf.gather(-1, below), bins.gather(-1, below)
    width = cdf.gather(-1, above) - cdf_below
    width = torch.where(width < PDF_EPSILON, torch.ones_like(width), width)
    return torch.addcmul(bins_below, (u - cdf_below) / width, bins.gather(-1, above) - bins_below)


def merge_samples(
    fine: tuple[Tensor, Tensor, Tensor], coarse: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Join two sets of (colours [B, R, S, 3], raw densities [B, R, S], t [B, R, S]), sorted by
    t."""
    colors, raw, t = (torch.cat(pair, dim=2) for pair in zip(fine, coarse, strict=True))
    t, order = torch.sort(t, dim=2)
    return colors.gather(2, order[..., None].expand_as(colors)), raw.gather(2, order), t
