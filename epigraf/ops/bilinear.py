"""Products of an input and a weight, differentiable to any order by three maps.

The product, its adjoint in the input and its adjoint in the weight are closed under
differentiation: each derivative of one of them is another one. Convolutions
(`epigraf.models.convolution`) and linear layers (`epigraf.ops.linear`) are such products.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from epigraf.ops._autograd import wanted
from epigraf.ops.weight_sums import collects


class Maps(Protocol):
    """The three maps, without autograd. Equal ones may share a weight gradient, so: hashable."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """y of x and the weight, linear in both."""
        ...

    def input_adjoint(self, y: Tensor, weight: Tensor) -> Tensor:
        """x, of the shape that `product` takes."""
        ...

    def weight_adjoint(self, shape: torch.Size, y: Tensor, x: Tensor, *others: Tensor) -> Tensor:
        """The weight, of `shape`: the sum over pairs of y and x."""
        ...


class Product(Function):
    """y of x and the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, maps: Maps) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.maps = maps
        return maps.product(x, weight)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight = wanted(ctx, (True, True))
        grad_x = InputAdjoint.apply(grad_y, weight, ctx.maps) if need_x else None
        grad_w = _weight_gradient(ctx, weight.shape, grad_y, x) if need_weight else None
        return grad_x, grad_w, None


class InputAdjoint(Function):
    """x of y and the weight; of a convolution the transposed one."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, maps: Maps) -> Tensor:
        ctx.save_for_backward(y, weight)
        ctx.maps = maps
        return maps.input_adjoint(y, weight)

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        y, weight = ctx.saved_tensors
        need_y, need_weight = wanted(ctx, (True, True))
        grad_y = Product.apply(grad_x, weight, ctx.maps) if need_y else None
        grad_w = _weight_gradient(ctx, weight.shape, y, grad_x) if need_weight else None
        return grad_y, grad_w, None


class _WeightAdjoint(Function):
    """The weight of y and x."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, shape: torch.Size, maps: Maps) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.maps = maps
        return maps.weight_adjoint(shape, y, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        y, x = ctx.saved_tensors
        need_y, need_x = wanted(ctx, (True, True))
        grad_y = Product.apply(x, grad, ctx.maps) if need_y else None
        grad_x = InputAdjoint.apply(y, grad, ctx.maps) if need_x else None
        return grad_y, grad_x, None, None


def _weight_gradient(ctx: Any, shape: torch.Size, y: Tensor, x: Tensor) -> Tensor | None:
    """None where the gradients of all uses are summed up later."""
    maps: Maps = ctx.maps
    if collects(ctx, maps, partial(maps.weight_adjoint, shape), y, x):
        return None
    return _WeightAdjoint.apply(y, x, shape, maps)
