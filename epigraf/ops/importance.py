"""Importance samples: where a first pass found something, and both passes in the order of depth.

Legend: B batch, R rays, S samples of the first pass, F draws (fine samples), N = F + S, C channels
of a colour. Source: NeRF (Mildenhall et al. 2020, arXiv:2003.08934), section 5.2. Formulas:
docs/math/render.md.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._checks import check_floating, check_like, check_shape

PDF_EPSILON = 1e-5
_SHARED_BYTES = 48 * 1024  # of a GPU block, which keeps a ray's distribution there

Samples = tuple[Tensor, Tensor, Tensor]


def importance_t(t: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Depths [B, R, F] where the weights say that there is something, in the order of u.

    The inverse of the piecewise linear distribution function that has the weights of the inner
    samples between the midpoints of t (render 4, 5).

    t: [B, R, S], ascending, S >= 3. weights: [B, R, S], >= 0. u: [B, R, F] in [0, 1], in any order.
    No gradient. float32 and float64 run natively, other dtypes in plain torch. Two runs agree bit
    for bit; a value that is not finite stays in its ray.
    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype.
    """
    _check_importance(t, weights, u)
    with torch.no_grad():
        on_gpu = t.device.type == "cuda"
        too_long = on_gpu and (t.shape[-1] - 1) * t.element_size() > _SHARED_BYTES
        if too_long or not _native.runs_native(t):
            return _importance_reference(t, weights, u)
        t, weights = t.contiguous(), weights.contiguous()
        if u.stride() != (0, 0, 1):  # one row for all rays stays one row
            u = u.contiguous()
        batch, rays, samples = t.shape
        depths = t.new_empty(u.shape)
        sizes = (batch * rays, samples, u.shape[-1], u.stride(1))
        _native.core().importance_forward(
            _native.launch(t), sizes, _native.addresses(t, weights, u), depths.data_ptr()
        )
        return depths


def _importance_reference(t: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """`importance_t` in plain torch."""
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


def merge_samples(fine: Samples, coarse: Samples) -> Samples:
    """Join two sets of samples, sorted by depth (render 6).

    fine: colours [B, R, F, C], raw densities [B, R, F] and t [B, R, F]; coarse: the same of S
        samples. Either set may be in any order; a fine sample comes first where depths are equal,
        NaN last.
    Returns colours [B, R, N, C], raw densities [B, R, N] and t [B, R, N]. Differentiable in all
    six: the gradient goes back by the same permutation. float32 and float64 run natively, other
    dtypes in plain torch. Two runs agree bit for bit.
    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype.
    """
    _check_merge(fine, coarse)
    if not _native.runs_native(fine[2]):
        return _merge_reference(*fine, *coarse)
    return _Merge.apply(*(x.contiguous() for x in (*fine, *coarse)))


def _merge_reference(*samples: Tensor) -> Samples:
    """`merge_samples` in plain torch, on the three fine tensors and the three coarse ones."""
    colors, raw, t = (torch.cat(pair, dim=2) for pair in zip(samples[:3], samples[3:], strict=True))
    t, order = torch.sort(t, dim=2, stable=True)
    return colors.gather(2, order[..., None].expand_as(colors)), raw.gather(2, order), t


class _Merge(torch.autograd.Function):
    """The native op on contiguous tensors; keeps the order only."""

    @staticmethod
    def forward(ctx: Any, *samples: Tensor) -> tuple[Tensor, ...]:
        fine, coarse = samples[:3], samples[3:]
        merged = tuple(
            a.new_empty(*a.shape[:2], a.shape[2] + b.shape[2], *a.shape[3:])
            for a, b in zip(fine, coarse, strict=True)
        )
        order = torch.empty(merged[2].shape, dtype=torch.int32, device=merged[2].device)
        ctx.sizes = (fine[2].shape, coarse[2].shape, fine[0].shape[-1])
        _native.core().merge_forward(
            _native.launch(fine[2]),
            _sizes(ctx),
            [_native.addresses(*x) for x in (fine, coarse, merged)],
            order.data_ptr(),
        )
        ctx.save_for_backward(order)
        ctx.set_materialize_grads(False)
        return merged

    @staticmethod
    def backward(ctx: Any, *grad_merged: Tensor | None) -> tuple[Tensor | None, ...]:
        (order,) = ctx.saved_tensors
        like = next((g for g in grad_merged if g is not None), None)
        if like is None:
            return (None,) * 6
        if torch.is_grad_enabled():
            return _second_order(ctx, order, grad_merged)
        grads = [None if g is None else g.contiguous() for g in grad_merged]
        shapes = [s for t in ctx.sizes[:2] for s in ((*t, ctx.sizes[2]), t, t)]
        outputs = [
            like.new_empty(shape) if need and grad_merged[i % 3] is not None else None
            for i, (shape, need) in enumerate(zip(shapes, ctx.needs_input_grad, strict=True))
        ]
        _native.core().merge_backward(
            _native.launch(like),
            _sizes(ctx),
            order.data_ptr(),
            [_native.addresses(*x) for x in (outputs[:3], outputs[3:], grads)],
        )
        return tuple(outputs)


def _second_order(
    ctx: Any, order: Tensor, grad_merged: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again: the permutation, undone in plain torch."""
    back = torch.argsort(order.long(), dim=2)
    split = ctx.sizes[0][2]
    grads: list[Tensor | None] = [None] * 6
    for i, grad in enumerate(grad_merged):
        if grad is not None:
            index = back[..., None].expand_as(grad) if grad.ndim == 4 else back
            moved = grad.gather(2, index)
            grads[i], grads[i + 3] = moved[:, :, :split], moved[:, :, split:]
    return tuple(g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=True))


def _sizes(ctx: Any) -> tuple[int, int, int, int]:
    """Rays, F, S and C as the core takes them: B and R are one."""
    (batch, rays, fine), (_, _, coarse), channels = ctx.sizes
    return batch * rays, fine, coarse, channels


def _check_importance(t: Tensor, weights: Tensor, u: Tensor) -> None:
    op = "importance_t"
    check_floating(op, "t", t)
    if t.ndim != 3:
        raise ValueError(f"{op}: t must have shape [B, R, S], got {list(t.shape)}")
    if t.shape[-1] < 3:
        raise ValueError(f"{op}: t must have at least 3 samples, got {t.shape[-1]}")
    check_shape(op, "weights", weights, "[B, R, S]", t.shape)
    if u.ndim != 3:
        raise ValueError(f"{op}: u must have shape [B, R, F], got {list(u.shape)}")
    check_shape(op, "u", u, "[B, R, F]", (*t.shape[:2], u.shape[-1]))
    for name, tensor in (("weights", weights), ("u", u)):
        check_like(op, name, tensor, "t", t)


def _check_merge(fine: Samples, coarse: Samples) -> None:
    op = "merge_samples"
    like = fine[0]
    check_floating(op, "fine colours", like)
    if like.ndim != 4:
        raise ValueError(f"{op}: fine colours must have shape [B, R, F, C], got {list(like.shape)}")
    if coarse[0].ndim != 4:
        raise ValueError(
            f"{op}: coarse colours must have shape [B, R, S, C], got {list(coarse[0].shape)}"
        )
    batch, rays, draws, channels = like.shape
    samples = coarse[0].shape[2]
    for name, letter, count, (colors, raw, t) in (
        ("fine", "F", draws, fine),
        ("coarse", "S", samples, coarse),
    ):
        shape = (batch, rays, count)
        check_shape(op, f"{name} colours", colors, f"[B, R, {letter}, C]", (*shape, channels))
        check_shape(op, f"{name} densities", raw, f"[B, R, {letter}]", shape)
        check_shape(op, f"{name} t", t, f"[B, R, {letter}]", shape)
        for kind, tensor in (("colours", colors), ("densities", raw), ("t", t)):
            check_like(op, f"{name} {kind}", tensor, "fine colours", like)
