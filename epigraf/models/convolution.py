"""Convolutions whose second derivatives cost no more than their first.

PyTorch differentiates a convolution's gradient (R1, path length) through convolutions with kernels
as large as the image. Here the three maps that a convolution consists of - forward, its adjoint in
the input and its adjoint in the weight - are closed under differentiation, so that every derivative
of any order is one of the three, all of them with fast kernels. On a CPU large 3x3 ones go through
`epigraf.ops.winograd`. While torch.compile traces, each function is the torch function that it
stands for: compiled code is differentiated once.

Legend: B batch, I input channels, O output channels, k kernel size, H W.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from epigraf.ops.winograd import TILE, runs_winograd, winograd, winograd_input, winograd_weight

# Where Winograd's transforms pay on a CPU (docs/training-speed.md): channels on both sides, tiles.
WINOGRAD_CHANNELS = 64
WINOGRAD_TILES = 32


@dataclass(frozen=True)
class ConvGeometry:
    """Stride and padding of a convolution and the size [H, W] of its input."""

    stride: int
    padding: int
    size: tuple[int, int]


def _few_products(x: Tensor, weight: torch.Size, batch: int, size: tuple[int, ...]) -> bool:
    """Whether a convolution that writes pictures of `size` takes Winograd's way."""
    tiles = batch * -(-size[0] // TILE) * -(-size[1] // TILE)
    large = min(weight[:2]) >= WINOGRAD_CHANNELS and tiles >= WINOGRAD_TILES
    return large and weight[2:] == (3, 3) and runs_winograd(x)


def _correlate(x: Tensor, weight: Tensor, bias: Tensor | None, g: ConvGeometry) -> Tensor:
    size = tuple(n + 2 * g.padding - 2 for n in x.shape[2:])
    if g.stride == 1 and _few_products(x, weight.shape, len(x), size):
        y = winograd(x, weight, padding=g.padding)
        return y if bias is None else y.add_(bias[:, None, None])
    return F.conv2d(x, weight, bias, stride=g.stride, padding=g.padding)


def _spread(y: Tensor, weight: Tensor, g: ConvGeometry) -> Tensor:
    if g.stride == 1 and _few_products(y, weight.shape, len(y), g.size):
        return winograd_input(y, weight, g.size, padding=g.padding)
    s, p, k = g.stride, g.padding, weight.shape[2]
    extra = [n - ((m - 1) * s - 2 * p + k) for n, m in zip(g.size, y.shape[2:], strict=True)]
    return F.conv_transpose2d(y, weight, stride=s, padding=p, output_padding=extra)


def _gather(y: Tensor, x: Tensor, shape: torch.Size, g: ConvGeometry) -> Tensor:
    if g.stride in (1, 2) and _few_products(x, shape, len(y), tuple(y.shape[2:])):
        return winograd_weight(y, x, stride=g.stride, padding=g.padding)
    s, p = [g.stride] * 2, [g.padding] * 2
    weight, wanted = y.new_empty(1).expand(shape), [False, True, False]
    return torch.ops.aten.convolution_backward(
        y, x, weight, None, s, p, [1, 1], False, [0, 0], 1, wanted
    )[1]


def _wanted(ctx: Any) -> Iterator[bool]:
    """For each tensor input, whether this backward pass leads on to it.

    ``ctx.needs_input_grad`` only says which inputs require gradients at all: R1, which asks for the
    gradient of the image alone, would pay for that of every weight as well.
    """
    for needed, (node, _) in zip(ctx.needs_input_grad, ctx.next_functions, strict=False):
        yield needed and _will_run(node)


def _will_run(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except (AttributeError, RuntimeError):  # a torch without it; a leaf that autograd.grad asks for
        return True


class _Forward(Function):
    """y = x * w + b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _correlate(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, *need_bias = _wanted(ctx)
        grad_x = _InputAdjoint.apply(grad_y, weight, ctx.geometry) if need_x else None
        grad_w = (
            _WeightAdjoint.apply(grad_y, x, weight.shape, ctx.geometry) if need_weight else None
        )
        return grad_x, grad_w, grad_y.sum((0, 2, 3)) if any(need_bias) else None, None


class _InputAdjoint(Function):
    """x = y *^T w, also the transposed convolution."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
        ctx.save_for_backward(y, weight)
        ctx.geometry = geometry
        return _spread(y, weight, geometry)

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        y, weight = ctx.saved_tensors
        need_y, need_weight = _wanted(ctx)
        grad_y = _Forward.apply(grad_x, weight, None, ctx.geometry) if need_y else None
        grad_w = (
            _WeightAdjoint.apply(y, grad_x, weight.shape, ctx.geometry) if need_weight else None
        )
        return grad_y, grad_w, None


class _WeightAdjoint(Function):
    """w[o, i, k] = sum_{b, h} y[b, o, h] x[b, i, h stride + k - padding]."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, shape: torch.Size, geometry: ConvGeometry
    ) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.geometry = geometry
        return _gather(y, x, shape, geometry)

    @staticmethod
    def backward(ctx: Any, grad_w: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        y, x = ctx.saved_tensors
        need_y, need_x = _wanted(ctx)
        grad_y = _Forward.apply(x, grad_w, None, ctx.geometry) if need_y else None
        grad_x = _InputAdjoint.apply(y, grad_w, ctx.geometry) if need_x else None
        return grad_y, grad_x, None, None


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0
) -> Tensor:
    """Correlate ``x`` [B, I, H, W] with ``weight`` [O, I, k, k], add ``bias`` [O].

    Returns [B, O, H', W'] with H' = floor((H + 2 padding - k) / stride) + 1. Differentiable to any
    order.
    """
    if torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)
    if weight.shape[2] == 1 and stride == 1 and padding == 0:
        return _conv1x1(x, weight, bias)
    height, width = x.shape[2:]
    return _Forward.apply(x, weight, bias, ConvGeometry(stride, padding, (height, width)))


def _conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A matrix product over pixels, without a copy if ``x`` is channels-last."""
    return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    """The adjoint of `conv2d` without padding: ``x`` [B, O, H, W], ``weight`` [O, I, k, k].

    Returns [B, I, H', W'] with H' = (H - 1) stride + k. Differentiable to any order.
    """
    if torch.compiler.is_compiling():
        return F.conv_transpose2d(x, weight, stride=stride)
    height, width = ((n - 1) * stride + weight.shape[2] for n in x.shape[2:])
    return _InputAdjoint.apply(x, weight, ConvGeometry(stride, 0, (height, width)))


class _ScaleShift(Function):
    """y = x * scale + shift, per sample and channel; cheaper to differentiate than addcmul."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return torch.addcmul(shift[:, None, None], x, scale[:, :, None, None])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        grad_x = grad_y * scale[:, :, None, None]
        return grad_x, (grad_y * x).sum((2, 3)), grad_y.sum((0, 2, 3))


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x`` [B, C, H, W] * ``scale`` [B, C] + ``shift`` [C]."""
    if torch.compiler.is_compiling():
        return torch.addcmul(shift[:, None, None], x, scale[:, :, None, None])
    return _ScaleShift.apply(x, scale, shift)


class _LeakyClamp(Function):
    """Leaky ReLU and clamp, in place, from whose output alone the gradient is found."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, clamp: float) -> Tensor:
        ctx.mark_dirty(x)
        y = F.leaky_relu_(x, slope)
        ctx.clamped = _reaches(y, clamp)
        if ctx.clamped:
            y.clamp_(-clamp, clamp)
        ctx.save_for_backward(y)
        ctx.slope, ctx.clamp = slope, clamp if ctx.clamped else None
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return _LeakyClampGrad.apply(grad_y, y.detach(), ctx.slope, ctx.clamp), None, None


class _LeakyClampGrad(Function):
    """grad_x = grad_y * (1 or slope or, where clamped, 0): linear in grad_y and its own adjoint."""

    @staticmethod
    def forward(ctx: Any, grad_y: Tensor, y: Tensor, slope: float, clamp: float | None) -> Tensor:
        ctx.save_for_backward(y)
        ctx.slope, ctx.clamp = slope, clamp
        grad_x = torch.ops.aten.leaky_relu_backward(grad_y, y, slope, True)
        if clamp is not None:
            grad_x = torch.ops.aten.hardtanh_backward(grad_x, y, -clamp, clamp)
        return grad_x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (y,) = ctx.saved_tensors
        return _LeakyClampGrad.apply(grad, y, ctx.slope, ctx.clamp), None, None, None


def _reaches(y: Tensor, clamp: float) -> bool:
    """Whether clamping would change anything; on a GPU, where asking costs a wait, always True."""
    if y.device.type != "cpu" or y.numel() == 0:
        return True
    y = y.detach()
    flat = y.permute(0, 2, 3, 1) if y.is_contiguous(memory_format=torch.channels_last) else y
    low, high = flat.aminmax()
    return not (float(low) > -clamp and float(high) < clamp)


def leaky_clamp_(x: Tensor, slope: float, clamp: float | None) -> Tensor:
    """Leaky ReLU of ``x`` [B, C, H, W], then clamping to +-``clamp``. Overwrites ``x``."""
    if torch.compiler.is_compiling():
        y = x if slope == 1 else F.leaky_relu(x, slope)
        return y if clamp is None else y.clamp(-clamp, clamp)
    if slope == 1:
        return x if clamp is None or not _reaches(x, clamp) else x.clamp(-clamp, clamp)
    if clamp is None:
        return F.leaky_relu(x, slope)
    return _LeakyClamp.apply(x, slope, clamp)
