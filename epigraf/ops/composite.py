"""Volume compositing along rays (Max 1995, equations 4-6; NeRF, arXiv:2003.08934, equation 3).

Legend: B batch, R rays, S samples per ray, C channels. Formulas: docs/math/composite.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._autograd import composable_grads
from epigraf.ops._checks import check_floating, check_like, check_shape


class Composite(NamedTuple):
    """What `composite` returns."""

    features: Tensor  # [B, R, C] sum of weights * colors
    depth: Tensor  # [B, R] sum of weights * t, not normalised
    weights: Tensor  # [B, R, S] after the last_back edit
    transmittance: Tensor  # [B, R] light that reaches the last sample (its own alpha not included)
    opacity: Tensor  # [B, R] sum of the weights before the last_back edit


def composite(
    colors: Tensor,
    densities: Tensor,
    t: Tensor,
    last_delta: float | Tensor,
    *,
    last_back: bool = False,
    early_stop_eps: float = 0.0,
) -> Composite:
    """Integrates colour and depth along rays (composite 1-5).

    delta_k = t_{k+1} - t_k, the last one is `last_delta`; alpha_k = 1 - exp(-delta_k sigma_k);
    T_k = prod_{j<k} (1 - alpha_j + 1e-10); w_k = alpha_k T_k; features = sum w_k c_k;
    depth = sum w_k t_k; opacity = sum w_k; transmittance = T of the last sample.

    colors: [B, R, S, C]. densities: [B, R, S], activated (>= 0), per unit of t.
    t: [B, R, S], distance along the ray, ascending. last_delta: length of the last interval, finite
        and >= 0, one number or [B, R] (1e10: the last sample takes all that is left).
    last_back: adds what the ray has not absorbed, 1 - sum w, to the last weight before the sums of
        features and depth; `opacity` is taken before.
    early_stop_eps: in [0, 1); where no gradient is wanted, a ray ends at the first sample that less
        than this share of its light reaches (composite 10): weights from there on are 0 (but for
        last_back), colours are not read, `transmittance` is what reached that sample. No feature
        moves by more than eps max|c|, or 2 eps max|c| with last_back. With a gradient: not applied.
    Returns `Composite`. Differentiable in colors, densities, t and last_delta; the second
    derivative runs through plain torch. float32 and float64 run natively, other dtypes in plain
    torch. Two runs agree bit for bit. No samples: features, depth and opacity 0, transmittance 1.
    Raises ValueError for a wrong shape, device, last_delta or early_stop_eps, TypeError for a wrong
    dtype.
    """
    check_composite(colors, densities, t, last_delta, early_stop_eps)
    last = last_delta if isinstance(last_delta, Tensor) else t.new_full(t.shape[:2], last_delta)
    wants_grad = any(x.requires_grad for x in (colors, densities, t, last))
    eps = 0.0 if wants_grad and torch.is_grad_enabled() else early_stop_eps
    if not _native.runs_native(colors):
        return _composite_reference(colors, densities, t, last, last_back, eps)
    tensors = [x.contiguous() for x in (colors, densities, t, last)]
    return Composite(*_Composite.apply(*tensors, last_back, eps))


def _composite_reference(
    colors: Tensor,
    densities: Tensor,
    t: Tensor,
    last_delta: Tensor,
    last_back: bool,
    early_stop_eps: float = 0.0,
) -> Composite:
    """`composite` in plain torch: any dtype and device, differentiable at any order."""
    samples = t.shape[-1]
    delta = torch.cat([t[..., 1:] - t[..., :-1], last_delta.unsqueeze(-1)], -1)[..., :samples]
    decay = torch.exp(-delta * densities)
    light = torch.cat([torch.ones_like(last_delta).unsqueeze(-1), decay + 1e-10], -1).cumprod(-1)
    weights = (1 - decay) * light[..., :-1]
    last_lit = torch.full_like(last_delta, max(samples - 1, 0), dtype=torch.int64)
    if early_stop_eps > 0 and samples:
        dark = (light[..., :-1] < early_stop_eps).cummax(-1).values
        weights = torch.where(dark, 0, weights)
        last_lit = torch.where(dark[..., -1], dark.to(torch.uint8).argmax(-1), last_lit)
        colors = torch.where(dark[..., None] & _all_but_last(dark, last_back), 0, colors)
    opacity = weights.sum(-1)
    if last_back and samples:
        weights = torch.cat([weights[..., :-1], (weights[..., -1] + 1 - opacity).unsqueeze(-1)], -1)
    features = (weights.unsqueeze(-1) * colors).sum(-2)
    return Composite(
        features,
        (weights * t).sum(-1),
        weights,
        light.gather(-1, last_lit.unsqueeze(-1)).squeeze(-1),
        opacity,
    )


def _all_but_last(dark: Tensor, last_back: bool) -> Tensor:
    """[S, 1]: the samples whose colour an early stop leaves unread."""
    unread = torch.ones(dark.shape[-1], 1, dtype=torch.bool, device=dark.device)
    unread[-1] = not last_back
    return unread


class _Composite(torch.autograd.Function):
    """The native op on contiguous tensors; last_delta is [B, R]."""

    @staticmethod
    def forward(
        ctx: Any,
        colors: Tensor,
        densities: Tensor,
        t: Tensor,
        last_delta: Tensor,
        last_back: bool,
        early_stop_eps: float,
    ) -> tuple[Tensor, ...]:
        inputs = (colors, densities, t, last_delta)
        rays, channels = t.shape[:2], colors.shape[-1]
        sizes = ((*rays, channels), rays, t.shape, rays, rays)
        outputs = tuple(t.new_empty(size) for size in sizes)
        _native.core().composite_forward(
            _native.launch(t),
            _shape(colors, last_back, early_stop_eps),
            _native.addresses(*inputs),
            _native.addresses(*outputs),
        )
        ctx.save_for_backward(*inputs)
        ctx.last_back = last_back
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():

            def reference(
                colors: Tensor, densities: Tensor, t: Tensor, last_delta: Tensor
            ) -> Composite:
                return _composite_reference(colors, densities, t, last_delta, ctx.last_back)

            return *composable_grads(reference, inputs, needed, grad_outputs), None, None
        grads = [None if grad is None else grad.contiguous() for grad in grad_outputs]
        grad_inputs = [
            torch.empty_like(x) if need else None for x, need in zip(inputs, needed, strict=True)
        ]
        # The core keeps T_k in the gradient of the densities while it works.
        scratch = [grad_inputs[0], torch.empty_like(inputs[1]), *grad_inputs[2:]]
        _native.core().composite_backward(
            _native.launch(inputs[2]),
            _shape(inputs[0], ctx.last_back),
            _native.addresses(*inputs),
            _native.addresses(*grads),
            _native.addresses(*scratch),
        )
        return scratch[0], scratch[1] if needed[1] else None, *scratch[2:], None, None


def _shape(colors: Tensor, last_back: bool, early_stop_eps: float = 0.0) -> Any:
    """Sizes as the core takes them: B and R are one."""
    batch, rays, samples, channels = colors.shape
    return _native.core().CompositeShape(batch * rays, samples, channels, last_back, early_stop_eps)


def check_composite(
    colors: Tensor,
    densities: Tensor,
    t: Tensor,
    last_delta: float | Tensor,
    early_stop_eps: float,
) -> None:
    op = "composite"
    if not 0 <= early_stop_eps < 1:
        raise ValueError(f"{op}: early_stop_eps must be in [0, 1), got {early_stop_eps}")
    check_floating(op, "colors", colors)
    if colors.ndim != 4:
        raise ValueError(f"{op}: colors must have shape [B, R, S, C], got {list(colors.shape)}")
    for name, tensor in (("densities", densities), ("t", t)):
        check_shape(op, name, tensor, "[B, R, S]", colors.shape[:3])
        check_like(op, name, tensor, "colors", colors)
    if isinstance(last_delta, Tensor):
        check_shape(op, "last_delta", last_delta, "[B, R]", colors.shape[:2])
        check_like(op, "last_delta", last_delta, "colors", colors)
    elif not (math.isfinite(last_delta) and last_delta >= 0):
        raise ValueError(f"{op}: last_delta must be finite and >= 0, got {last_delta}")
