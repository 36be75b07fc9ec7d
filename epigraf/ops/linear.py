"""Linear layers of few rows: on a CPU the core reads their weight once, at the speed of memory.

Three maps - the product, its adjoint in the input, its adjoint in the weight - are closed under
differentiation, so that every derivative of any order is one of them.
Legend: R rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from epigraf.ops import _native
from epigraf.ops._autograd import wanted
from epigraf.ops.weight_sums import collects

_MOST_ROWS = 8  # torch's BLAS is quicker with more,
_LEAST_WEIGHTS = 1 << 20  # ... or less to read
_Y, _X, _WEIGHT = 0, 1, 2  # what the core finds, as csrc/bindings.cpp numbers them


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I] weight^T + bias: [..., O], of weight [O, I] and bias [O]; as torch's `linear`.

    Few rows of float32 or float64 on a CPU go through the core. Differentiable any number of times.
    Two runs agree bit for bit, with any number of threads.
    """
    if x.ndim != 2 or weight.ndim != 2 or not _by_the_core(x, weight):
        return F.linear(x, weight, bias)
    y = _Product.apply(x, weight)
    return y if bias is None else y + bias


def _by_the_core(x: Tensor, weight: Tensor) -> bool:
    fits = x.shape[1] == weight.shape[1] and x.dtype == weight.dtype
    few = 0 < len(x) <= _MOST_ROWS and weight.numel() >= _LEAST_WEIGHTS
    on_cpu = x.device == weight.device == torch.device("cpu")
    if not (fits and few and on_cpu) or torch.is_autocast_enabled("cpu"):
        return False
    return _native.runs_native(x)


def _find(which: int, x: Tensor, weight: Tensor, y: Tensor) -> None:
    sizes = len(x), x.shape[1], y.shape[1]
    _native.core().few_rows(_native.launch(x), which, sizes, *_native.addresses(x, weight, y))


def _outer(y: Tensor, x: Tensor, *others: Tensor) -> Tensor:
    """[O, I], the sum of y^T x over pairs of y [R, O] and x [R, I]."""
    y, x = torch.cat((y, *others[::2])), torch.cat((x, *others[1::2]))
    weight = x.new_empty(y.shape[1], x.shape[1])
    _find(_WEIGHT, x.contiguous(), weight, y.contiguous())
    return weight


def _weight_gradient(ctx: Any, y: Tensor, x: Tensor) -> Tensor | None:
    """None where the gradients of all uses are summed up later."""
    return None if collects(ctx, "linear", _outer, y, x) else _WeightAdjoint.apply(y, x)


class _Product(Function):
    """y = x w^T."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.new_empty(len(x), len(weight))
        _find(_Y, x.contiguous(), weight.contiguous(), y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight = wanted(ctx, (True, True))
        grad_x = _InputAdjoint.apply(grad, weight) if need_x else None
        return grad_x, _weight_gradient(ctx, grad, x) if need_weight else None


class _InputAdjoint(Function):
    """x = y w."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(y, weight)
        x = y.new_empty(len(y), weight.shape[1])
        _find(_X, x, weight.contiguous(), y.contiguous())
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        y, weight = ctx.saved_tensors
        need_y, need_weight = wanted(ctx, (True, True))
        grad_y = _Product.apply(grad, weight) if need_y else None
        return grad_y, _weight_gradient(ctx, y, grad) if need_weight else None


class _WeightAdjoint(Function):
    """w = y^T x."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(y, x)
        return _outer(y, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        y, x = ctx.saved_tensors
        need_y, need_x = wanted(ctx, (True, True))
        grad_y = _Product.apply(x, grad) if need_y else None
        return grad_y, _InputAdjoint.apply(y, grad) if need_x else None
