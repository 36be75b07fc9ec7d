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

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from epigraf.ops._autograd import wanted
from epigraf.ops.pointwise import pointwise, pointwise_input, pointwise_weight
from epigraf.ops.weight_sums import collects
from epigraf.ops.winograd import TILE, runs_winograd, winograd, winograd_input, winograd_weight


class Least(NamedTuple):
    """From where on Winograd's transforms pay on a CPU (docs/training-speed.md)."""

    channels: int  # on both sides
    tiles: int


_SMALL = Least(256, 1)  # large weights on small pictures, which torch reads at its own pace
LEAST = {  # by stride, one of them; with other strides never
    1: (Least(64, 32), _SMALL),
    2: (Least(128, 64), _SMALL),
}
LEAST_OF_WEIGHTS = Least(64, 16), _SMALL  # of a weight gradient, where torch's are slower


@dataclass(frozen=True)
class ConvGeometry:
    """Stride and padding of a convolution, the size [H, W] of its input, the gain of its weight."""

    stride: int
    padding: int
    size: tuple[int, int]
    gain: float = 1.0

    def scaled(self, tensor: Tensor) -> Tensor:
        """`tensor` times the gain."""
        return tensor if self.gain == 1.0 else tensor * self.gain

    def operands(self, picture: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Both as torch's convolutions take them, one of them times the gain."""
        if _is_small(picture, weight.shape):
            return self.scaled(_plain(picture, weight.shape)), weight
        return picture, self.scaled(weight)


def _is_small(picture: Tensor, weight: torch.Size) -> bool:
    """Whether the gain costs less on the picture; not in 16 bits, which have no room below."""
    return picture.numel() < weight.numel() and picture.element_size() >= 4


def _plain(picture: Tensor, weight: torch.Size) -> Tensor:
    """In plain order where the weight is much larger, which torch else copies on every call."""
    much_smaller = picture.device.type == "cpu" and weight.numel() > 8 * picture.numel()
    return picture.contiguous() if much_smaller else picture


def _takes_winograd(
    x: Tensor, weight: torch.Size, size: tuple[int, ...], least: tuple[Least, ...]
) -> bool:
    """Whether a convolution takes Winograd's way; its tiles are of pictures of `size`."""
    tiles = len(x) * -(-size[0] // TILE) * -(-size[1] // TILE)
    large = any(min(weight[:2]) >= at.channels and tiles >= at.tiles for at in least)
    return large and weight[2:] == (3, 3) and runs_winograd(x)


def _is_pointwise(weight: torch.Size, g: ConvGeometry) -> bool:
    return weight[2:] == (1, 1) and g.stride == 1 and g.padding == 0


def _in_order_of(x: Tensor, y: Tensor) -> Tensor:
    """y in the memory order of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last) if last else y


def _correlate(x: Tensor, weight: Tensor, g: ConvGeometry) -> Tensor:
    if _is_pointwise(weight.shape, g):
        return pointwise(x, weight, g.gain)
    size = tuple((n + 2 * g.padding - 3) // g.stride + 1 for n in x.shape[2:])
    if g.stride in LEAST and _takes_winograd(x, weight.shape, size, LEAST[g.stride]):
        return winograd(x, weight, stride=g.stride, padding=g.padding, gain=g.gain)
    y = F.conv2d(*g.operands(x, weight), stride=g.stride, padding=g.padding)
    return _in_order_of(x, y)


def _spread(y: Tensor, weight: Tensor, g: ConvGeometry) -> Tensor:
    if _is_pointwise(weight.shape, g):
        return pointwise_input(y, weight, g.gain)
    small = tuple(y.shape[2:])
    whole = g.padding == 0 and g.size == tuple(2 * n + 1 for n in small)
    size = g.size if g.stride == 1 else small
    able = g.stride == 1 or (g.stride == 2 and whole)
    if able and _takes_winograd(y, weight.shape, size, LEAST[g.stride]):
        return winograd_input(y, weight, g.size, stride=g.stride, padding=g.padding, gain=g.gain)
    s, p, k = g.stride, g.padding, weight.shape[2]
    extra = [n - ((m - 1) * s - 2 * p + k) for n, m in zip(g.size, y.shape[2:], strict=True)]
    x = F.conv_transpose2d(*g.operands(y, weight), stride=s, padding=p, output_padding=extra)
    return _in_order_of(y, x)


def _gather(y: Tensor, x: Tensor, *others: Tensor, shape: torch.Size, g: ConvGeometry) -> Tensor:
    """The weight gradient of pairs of y and x, one for each use of the weight."""
    if _is_pointwise(shape, g):
        return g.scaled(pointwise_weight(y, x, *others))
    if g.stride in LEAST and _takes_winograd(y, shape, tuple(y.shape[2:]), LEAST_OF_WEIGHTS):
        return winograd_weight(y, x, *others, stride=g.stride, padding=g.padding, gain=g.gain)
    if others:
        return _gather(y, x, shape=shape, g=g) + _gather(*others, shape=shape, g=g)
    s, p = [g.stride] * 2, [g.padding] * 2
    weight, mask = y.new_empty(1).expand(shape), [False, True, False]
    small = _is_small(y, shape)
    if small:
        y = g.scaled(_plain(y, shape))
        x = x if y.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
    grads = torch.ops.aten.convolution_backward(
        y, x, weight, None, s, p, [1, 1], False, [0, 0], 1, mask
    )
    return grads[1] if small else g.scaled(grads[1])


def _weight_gradient(ctx: Any, y: Tensor, x: Tensor, weight: Tensor) -> Tensor | None:
    """None where the gradients of all uses are summed up later."""
    g = ctx.geometry
    if collects(ctx, g, partial(_gather, shape=weight.shape, g=g), y, x):
        return None
    return _WeightAdjoint.apply(y, x, weight.shape, g)


class _Forward(Function):
    """y = x * w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _correlate(x, weight, geometry)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight = wanted(ctx, (True, True))
        grad_x = _InputAdjoint.apply(grad_y, weight, ctx.geometry) if need_x else None
        grad_w = _weight_gradient(ctx, grad_y, x, weight) if need_weight else None
        return grad_x, grad_w, None


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
        need_y, need_weight = wanted(ctx, (True, True))
        grad_y = _Forward.apply(grad_x, weight, ctx.geometry) if need_y else None
        grad_w = _weight_gradient(ctx, y, grad_x, weight) if need_weight else None
        return grad_y, grad_w, None


class _WeightAdjoint(Function):
    """w[o, i, k] = sum_{b, h} y[b, o, h] x[b, i, h stride + k - padding]."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, shape: torch.Size, geometry: ConvGeometry
    ) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.geometry = geometry
        return _gather(y, x, shape=shape, g=geometry)

    @staticmethod
    def backward(ctx: Any, grad_w: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        y, x = ctx.saved_tensors
        need_y, need_x = wanted(ctx, (True, True))
        grad_y = _Forward.apply(x, grad_w, ctx.geometry) if need_y else None
        grad_x = _InputAdjoint.apply(y, grad_w, ctx.geometry) if need_x else None
        return grad_y, grad_x, None, None


def conv2d(
    x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, gain: float = 1.0
) -> Tensor:
    """Correlate ``x`` [B, I, H, W] with ``gain`` times ``weight`` [O, I, k, k].

    Returns [B, O, H', W'] with H' = floor((H + 2 padding - k) / stride) + 1. Differentiable to any
    order. Its bias, where it has one, comes with what follows it (`epigraf.ops.activation`).
    """
    if torch.compiler.is_compiling():
        return F.conv2d(x, weight * gain, stride=stride, padding=padding)
    height, width = x.shape[2:]
    return _Forward.apply(x, weight, ConvGeometry(stride, padding, (height, width), gain))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1, gain: float = 1.0) -> Tensor:
    """The adjoint of `conv2d` without padding: ``x`` [B, O, H, W], ``weight`` [O, I, k, k].

    Returns [B, I, H', W'] with H' = (H - 1) stride + k. Differentiable to any order.
    """
    if torch.compiler.is_compiling():
        return F.conv_transpose2d(x, weight * gain, stride=stride)
    height, width = ((n - 1) * stride + weight.shape[2] for n in x.shape[2:])
    return _InputAdjoint.apply(x, weight, ConvGeometry(stride, 0, (height, width), gain))
