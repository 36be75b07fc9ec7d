"""Intermediate tensors of a rendering, by the names of the reference cases.

Legend: B batch, R rays, S samples per ray.
"""

from __future__ import annotations

import torch
from torch import Tensor

from epigraf.ops.composite import Composite
from epigraf.ops.importance import PDF_EPSILON

Trace = dict[str, Tensor]


def trace_importance(trace: Trace | None, t: Tensor, weights: Tensor, t_fine: Tensor) -> None:
    """Record what the importance pass read and drew; t, weights [B, R, S], t_fine [B, R, F]."""
    if trace is None:
        return
    trace["coarse_weights"] = weights[..., None]
    trace["pdf_bins"] = 0.5 * (t[..., :-1] + t[..., 1:])
    trace["pdf_weights"] = weights[..., 1:-1] + PDF_EPSILON
    trace["fine_z"] = t_fine


def trace_final(
    trace: Trace | None, colors: Tensor, raw: Tensor, t: Tensor, result: Composite
) -> None:
    """Record the merged samples (colours [B, R, S, 3], raw and t [B, R, S]) and their weights."""
    if trace is None:
        return
    trace["final_rgb_sigma"] = torch.cat([colors, raw[..., None]], dim=-1)
    trace["final_z"] = t[..., None]
    trace["final_weights"] = result.weights[..., None]
    trace["final_depth"] = result.depth[..., None]
    trace["final_final_transmittance"] = result.transmittance
