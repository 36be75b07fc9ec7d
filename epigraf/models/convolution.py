"""Convolutions whose second derivatives cost no more than their first.

PyTorch differentiates a convolution's gradient (R1, path length) through convolutions with kernels
as large as the image. Here the three maps that a convolution consists of - forward, its adjoint in
the input and its adjoint in the weight - are closed under differentiation, so that every derivative
of any order is one of the three, all of them with fast kernels.

Legend: B batch, I input channels, O output channels, k kernel size, H W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True)
class ConvGeometry:
    """Stride and padding of a convolution and the size [H, W] of its input."""

    stride: int
    padding: int
    size: tuple[int, int]


class _Forward(Function):
    """y = x * w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, stride=geometry.stride, padding=geometry.padding)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, _ = ctx.needs_input_grad
        grad_x = _InputAdjoint.apply(grad_y, weight, ctx.geometry) if need_x else None
        grad_w = _WeightAdjoint.apply(grad_y, x, weight.shape, ctx.geometry) if need_weight else None
        return grad_x, grad_w, None


class _InputAdjoint(Function):
    """x = y *^T w, also the transposed convolution."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
        ctx.save_for_backward(y, weight)
        ctx.geometry = geometry
        s, p, k = geometry.stride, geometry.padding, weight.shape[2]
        extra = [n - ((m - 1) * s - 2 * p + k) for n, m in zip(geometry.size, y.shape[2:], strict=True)]
        return F.conv_transpose2d(y, weight, stride=s, padding=p, output_padding=extra)

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        y, weight = ctx.saved_tensors
        need_y, need_weight, _ = ctx.needs_input_grad
        grad_y = _Forward.apply(grad_x, weight, ctx.geometry) if need_y else None
        grad_w = _WeightAdjoint.apply(y, grad_x, weight.shape, ctx.geometry) if need_weight else None
        return grad_y, grad_w, None


class _WeightAdjoint(Function):
    """w[o, i, k] = sum_{b, h} y[b, o, h] x[b, i, h stride + k - padding]."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, shape: torch.Size, geometry: ConvGeometry
    ) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.geometry = geometry
        s, p = [geometry.stride] * 2, [geometry.padding] * 2
        weight = y.new_empty(1).expand(shape)
        wanted = [False, True, False]
        return torch.ops.aten.convolution_backward(
            y, x, weight, None, s, p, [1, 1], False, [0, 0], 1, wanted
        )[1]

    @staticmethod
    def backward(ctx: Any, grad_w: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        y, x = ctx.saved_tensors
        need_y, need_x = ctx.needs_input_grad[:2]
        grad_y = _Forward.apply(x, grad_w, ctx.geometry) if need_y else None
        grad_x = _InputAdjoint.apply(y, grad_w, ctx.geometry) if need_x else None
        return grad_y, grad_x, None, None


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Correlate ``x`` [B, I, H, W] with ``weight`` [O, I, k, k]: [B, O, H', W'].

    H' = floor((H + 2 padding - k) / stride) + 1. Differentiable to any order.
    """
    height, width = x.shape[2:]
    return _Forward.apply(x, weight, ConvGeometry(stride, padding, (height, width)))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    """The adjoint of `conv2d` without padding: ``x`` [B, O, H, W], ``weight`` [O, I, k, k].

    Returns [B, I, H', W'] with H' = (H - 1) stride + k. Differentiable to any order.
    """
    height, width = ((n - 1) * stride + weight.shape[2] for n in x.shape[2:])
    return _InputAdjoint.apply(x, weight, ConvGeometry(stride, 0, (height, width)))


class _LeakyClamp(Function):
    """Leaky ReLU and clamp, in place, from whose output alone the gradient is found."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, clamp: float) -> Tensor:
        ctx.mark_dirty(x)
        y = F.leaky_relu_(x, slope) if slope != 1 else x
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
    def forward(
        ctx: Any, grad_y: Tensor, y: Tensor, slope: float, clamp: float | None
    ) -> Tensor:
        ctx.save_for_backward(y)
        ctx.slope, ctx.clamp = slope, clamp
        if slope != 1:
            grad_y = torch.ops.aten.leaky_relu_backward(grad_y, y, slope, True)
        if clamp is not None:
            grad_y = torch.ops.aten.hardtanh_backward(grad_y, y, -clamp, clamp)
        return grad_y if slope != 1 or clamp is not None else grad_y.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (y,) = ctx.saved_tensors
        return _LeakyClampGrad.apply(grad, y, ctx.slope, ctx.clamp), None, None, None


def _reaches(y: Tensor, clamp: float) -> bool:
    """Whether clamping would change anything; on a GPU, where asking costs a wait, always True."""
    if y.device.type != "cpu" or y.numel() == 0:
        return True
    flat = y.permute(0, 2, 3, 1) if y.is_contiguous(memory_format=torch.channels_last) else y
    low, high = flat.aminmax()
    return not (float(low) > -clamp and float(high) < clamp)


def leaky_clamp_(x: Tensor, slope: float, clamp: float | None) -> Tensor:
    """Leaky ReLU of ``x`` [B, C, H, W], then clamping to +-``clamp``. Overwrites ``x``."""
    if clamp is None:
        return x if slope == 1 else F.leaky_relu(x, slope)
    return _LeakyClamp.apply(x, slope, clamp)
