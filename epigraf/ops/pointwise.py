"""1x1 convolutions: matrix products over pixels, by the core where torch's BLAS is slower.

Three maps, as in `epigraf.ops.winograd`: the convolution, its adjoint in the input, and its adjoint
in the weight; each derivative of a map is again one of them. Here is no autograd.
Legend: B batch, I input channels, O output channels, H W, R = B H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._products import PANEL, products, sum_of_products


@torch.no_grad()
def pointwise(x: Tensor, weight: Tensor, gain: float = 1.0) -> Tensor:
    """x [B, I, H, W] with gain * weight [O, I, 1, 1]: [B, O, H, W], channels-last; any dtype."""
    return _pictures(_product(_pixels(x), weight[:, :, 0, 0].T, gain), x)


@torch.no_grad()
def pointwise_input(y: Tensor, weight: Tensor, gain: float = 1.0) -> Tensor:
    """The adjoint of `pointwise` in its input: y [B, O, H, W] to [B, I, H, W], channels-last."""
    return _pictures(_product(_pixels(y), weight[:, :, 0, 0], gain), y)


@torch.no_grad()
def pointwise_weight(y: Tensor, x: Tensor, *others: Tensor) -> Tensor:
    """The adjoint of `pointwise` in its weight: [O, I, 1, 1] of y [B, O, H, W], x [B, I, H, W].

    others: y and x of further uses of the weight, the gradients of which are summed up."""
    pairs = zip((y, *others[::2]), (x, *others[1::2]), strict=True)
    return _sum_of_products([(_pixels(a), _pixels(b)) for a, b in pairs])[:, :, None, None]


def _pixels(x: Tensor) -> Tensor:
    """[R, C] of x [B, C, H, W], without a copy where x is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous().view(-1, x.shape[1])


def _pictures(pixels: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[2:]
    return pixels.view(-1, height, width, pixels.shape[1]).permute(0, 3, 1, 2)


def _product(pixels: Tensor, weight: Tensor, gain: float) -> Tensor:
    """[R, M] of pixels [R, K] and gain * weight [K, M]."""
    depth, columns = weight.shape
    if not _by_the_core(pixels, columns):
        return pixels @ (weight if gain == 1.0 else weight * gain)
    panels = weight.new_empty(columns // PANEL, depth, PANEL)
    torch.mul(weight.unflatten(1, (-1, PANEL)).transpose(0, 1), gain, out=panels)
    result = pixels.new_empty(len(pixels), columns)
    products(pixels, panels.flatten(0, 1), result)
    return result


def _sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """[O, I], the sum of left^T right over pairs of left [R, O], right [R, I]. A panel is one
    thread's work: where there are fewer of them than threads, on the other side too, torch's BLAS
    does it."""
    left, right = pairs[0]
    if not _busy(right) and _busy(left):
        return _sum_of_products([(b, a) for a, b in pairs]).T
    if not _busy(right):
        return sum((a.T @ b for a, b in pairs[1:]), start=left.T @ right)
    result = right.new_empty(left.shape[1], right.shape[1])
    for number, (a, b) in enumerate(pairs):
        sum_of_products(a, b, result, add=number > 0)
    return result


def _busy(right: Tensor) -> bool:
    """Whether panels of `right` keep every thread of the core busy."""
    columns = right.shape[1]
    return columns // PANEL >= torch.get_num_threads() and _by_the_core(right, columns)


def _by_the_core(x: Tensor, columns: int) -> bool:
    whole = columns > 0 and columns % PANEL == 0 and x.numel() > 0
    return whole and x.device.type == "cpu" and _native.runs_native(x)
