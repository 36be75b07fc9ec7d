"""The decoder of a radiance field: a small fully connected network, one density per point.

Legend: P points, F input features, O outputs, I inputs of a layer. Source: EG3D (arXiv:2112.07945,
section 4); blocks: Chen et al., arXiv:1604.06174. Formulas: docs/math/decoder.md.

The hidden activations of all points are many times larger than the input and the output; so the
kernels work through the points tile by tile, in the first-level cache of a CPU or the shared memory
of a GPU, and the backward pass computes a tile's activations again (gradient checkpointing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._autograd import composable_grads
from epigraf.ops._checks import check_floating, check_like, check_shape

_MAX_LAYERS = 8
_SHARED_BYTES, _TILE_STRIDE = 48 * 1024, 9  # a GPU's smallest tile, 8 points and one of padding


def decode(
    features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], slope: float
) -> tuple[Tensor, Tensor]:
    """Apply linear layers with leaky ReLUs between them; the last output is split off as density.

    h_0 = features; h_{i+1} = leaky_relu(h_i W_i^T + b_i), without the nonlinearity in the last
    layer (decoder 2-4).

    Args:
        features: [..., F].
        weights: one [O_i, I_i] per layer, the first with I_0 = F, the last with O >= 2; as they
            are used, with all gains (decoder 1).
        biases: one [O_i] per layer, likewise.
        slope: of the leaky ReLU for negative values, finite and >= 0.

    Returns:
        The first O - 1 outputs [..., O - 1], and the last one [...]; both contiguous.

    Differentiable in features, weights and biases; second derivatives run through plain torch.
    float32 and float64 go tile by tile (up to 8 layers; on a GPU their widths must fit its shared
    memory), all else through plain torch. Two runs with the same number of
    threads agree bit for bit; on a GPU the gradients of weights and biases agree but for rounding.
    Raises ValueError for a wrong shape, device or slope, TypeError for a wrong dtype.
    """
    check_decode(features, weights, biases, slope)
    flat = features.reshape(features.shape[:-1].numel(), features.shape[-1])
    if _native.runs_native(flat) and _fits(flat, weights):
        tensors = [x.contiguous() for x in (flat, *weights, *biases)]
        rest, last = _Decode.apply(slope, *tensors)
    else:
        rest, last = _decode_reference(flat, weights, biases, slope)
    shape = features.shape[:-1]
    return rest.view(*shape, rest.shape[-1]), last.view(shape)


def _decode_reference(
    features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], slope: float
) -> tuple[Tensor, Tensor]:
    """`decode` in plain torch on [P, F]: any device, differentiable any number of times."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        features = F.leaky_relu(F.linear(features, weight, bias), slope)
    outputs = F.linear(features, weights[-1], biases[-1])
    rest, last = outputs.split([outputs.shape[-1] - 1, 1], dim=-1)
    return rest.contiguous(), last.squeeze(-1).contiguous()


class _Decode(torch.autograd.Function):
    """The native op on contiguous tensors; keeps the inputs only (decoder 9)."""

    @staticmethod
    def forward(ctx: Any, slope: float, features: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        points, outputs = len(features), len(params[-1])
        rest, last = features.new_empty(points, outputs - 1), features.new_empty(points)
        _native.core().decoder_forward(
            _native.launch(features),
            _widths(features, params),
            slope,
            points,
            _native.addresses(*params),
            _native.addresses(features, rest, last),
        )
        ctx.save_for_backward(features, *params)
        ctx.slope = slope
        ctx.set_materialize_grads(False)
        return rest, last

    @staticmethod
    def backward(
        ctx: Any, grad_rest: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        features, *params = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_second_order(ctx, features, params, (grad_rest, grad_last))
        wanted = zip(params, ctx.needs_input_grad[2:], strict=True)
        grad_params = [torch.zeros_like(p) if need else None for p, need in wanted]
        grad_features = torch.empty_like(features) if ctx.needs_input_grad[1] else None
        grads = [None if g is None else g.contiguous() for g in (grad_rest, grad_last)]
        _native.core().decoder_backward(
            _native.launch(features),
            _widths(features, params),
            ctx.slope,
            len(features),
            _native.addresses(*params),
            _native.addresses(features, *grads, grad_features),
            _native.addresses(*grad_params),
        )
        return None, grad_features, *grad_params


def _widths(features: Tensor, params: Sequence[Tensor]) -> list[int]:
    """Of the input and of every layer's outputs."""
    return [features.shape[-1], *(len(w) for w in params[: len(params) // 2])]


def _fits(features: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the kernels take these layers."""
    if features.device.type == "cpu":
        return len(weights) <= _MAX_LAYERS
    widths = _widths(features, [*weights, *weights])
    rows = max(sum(widths), 2 * max(widths))
    bytes_needed = rows * _TILE_STRIDE * features.element_size()
    return len(weights) <= _MAX_LAYERS and bytes_needed <= _SHARED_BYTES


def _second_order(
    ctx: Any, features: Tensor, params: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again."""
    layers = len(params) // 2

    def reference(features: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        return _decode_reference(features, params[:layers], params[layers:], ctx.slope)

    return composable_grads(reference, (features, *params), ctx.needs_input_grad[1:], grads)


def check_decode(
    features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], slope: float
) -> None:
    op = "decode"
    check_floating(op, "features", features)
    if features.ndim == 0:
        raise ValueError(f"{op}: features must have shape [..., F], got []")
    if not (math.isfinite(slope) and slope >= 0):
        raise ValueError(f"{op}: slope must be finite and >= 0, got {slope}")
    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"{op}: weights and biases must be as many and at least one, "
            f"got {len(weights)} and {len(biases)}"
        )
    width = features.shape[-1]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.ndim != 2:
            raise ValueError(f"{op}: weights[{i}] must be a matrix, got {list(weight.shape)}")
        check_shape(op, f"weights[{i}]", weight, "[O, I]", (weight.shape[0], width))
        check_shape(op, f"biases[{i}]", bias, "[O]", weight.shape[:1])
        for name, tensor in ((f"weights[{i}]", weight), (f"biases[{i}]", bias)):
            check_like(op, name, tensor, "features", features)
        width = weight.shape[0]
    if width < 2:
        raise ValueError(f"{op}: the last layer must have at least 2 outputs, got {width}")
