"""Convolutions whose second derivatives cost no more than their first.

PyTorch differentiates a convolution's gradient (R1, path length) through convolutions with kernels
as large as the image. Here a convolution is three maps, closed under differentiation
(`epigraf.ops.bilinear`), all of them with fast kernels. On a CPU large 3x3 ones go through
`epigraf.ops.winograd`. While torch.compile traces, each function is the torch function that it
stands for: compiled code is differentiated once.

Legend: B batch, I input channels, O output channels, k kernel size, H W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops.bilinear import InputAdjoint, Product
from epigraf.ops.pointwise import pointwise, pointwise_input, pointwise_weight
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
    """Stride and padding of a convolution, the size [H, W] of its input, the gain of its weight;
    and the three maps of it (`epigraf.ops.bilinear.Maps`)."""

    stride: int
    padding: int
    size: tuple[int, int]
    gain: float = 1.0

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """y [B, O, H', W']: the correlation of x [B, I, H, W] with the weight [O, I, k, k]."""
        s, p = self.stride, self.padding
        if self._is_pointwise(weight.shape):
            return pointwise(x, weight, self.gain)
        size = tuple((n + 2 * p - 3) // s + 1 for n in x.shape[2:])
        if s in LEAST and _takes_winograd(x, weight.shape, size, LEAST[s]):
            return winograd(x, weight, stride=s, padding=p, gain=self.gain)
        y = F.conv2d(*self._operands(x, weight), stride=s, padding=p)
        return _in_order_of(x, y)

    def input_adjoint(self, y: Tensor, weight: Tensor) -> Tensor:
        """x [B, I, H, W], also the transposed convolution."""
        s, p, k = self.stride, self.padding, weight.shape[2]
        if self._is_pointwise(weight.shape):
            return pointwise_input(y, weight, self.gain)
        small = tuple(y.shape[2:])
        whole = p == 0 and self.size == tuple(2 * n + 1 for n in small)
        size = self.size if s == 1 else small
        able = s == 1 or (s == 2 and whole)
        if able and _takes_winograd(y, weight.shape, size, LEAST[s]):
            return winograd_input(y, weight, self.size, stride=s, padding=p, gain=self.gain)
        extra = [n - ((m - 1) * s - 2 * p + k) for n, m in zip(self.size, small, strict=True)]
        operands = self._operands(y, weight)
        x = F.conv_transpose2d(*operands, stride=s, padding=p, output_padding=extra)
        return _in_order_of(y, x)

    def weight_adjoint(self, shape: torch.Size, y: Tensor, x: Tensor, *others: Tensor) -> Tensor:
        """w[o, i, k] = sum_{b, h} y[b, o, h] x[b, i, h stride + k - padding], over all pairs."""
        s, p = self.stride, self.padding
        if self._is_pointwise(shape):
            return self._scaled(pointwise_weight(y, x, *others))
        if s in LEAST and _takes_winograd(y, shape, tuple(y.shape[2:]), LEAST_OF_WEIGHTS):
            return winograd_weight(y, x, *others, stride=s, padding=p, gain=self.gain)
        if others:
            return self.weight_adjoint(shape, y, x) + self.weight_adjoint(shape, *others)
        weight, mask = y.new_empty(1).expand(shape), [False, True, False]
        small = _is_small(y, shape)
        if small:
            y = self._scaled(_plain(y, shape))
            x = x if y.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
        grads = torch.ops.aten.convolution_backward(
            y, x, weight, None, [s] * 2, [p] * 2, [1, 1], False, [0, 0], 1, mask
        )
        return grads[1] if small else self._scaled(grads[1])

    def _is_pointwise(self, weight: torch.Size) -> bool:
        return weight[2:] == (1, 1) and self.stride == 1 and self.padding == 0

    def _scaled(self, tensor: Tensor) -> Tensor:
        """`tensor` times the gain."""
        return tensor if self.gain == 1.0 else tensor * self.gain

    def _operands(self, picture: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Both as torch's convolutions take them, one of them times the gain."""
        if _is_small(picture, weight.shape):
            return self._scaled(_plain(picture, weight.shape)), weight
        return picture, self._scaled(weight)


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


def _in_order_of(x: Tensor, y: Tensor) -> Tensor:
    """y in the memory order of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last) if last else y


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
    return Product.apply(x, weight, ConvGeometry(stride, padding, (height, width), gain))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1, gain: float = 1.0) -> Tensor:
    """The adjoint of `conv2d` without padding: ``x`` [B, O, H, W], ``weight`` [O, I, k, k].

    Returns [B, I, H', W'] with H' = (H - 1) stride + k. Differentiable to any order.
    """
    if torch.compiler.is_compiling():
        return F.conv_transpose2d(x, weight * gain, stride=stride)
    height, width = ((n - 1) * stride + weight.shape[2] for n in x.shape[2:])
    return InputAdjoint.apply(x, weight, ConvGeometry(stride, 0, (height, width), gain))
