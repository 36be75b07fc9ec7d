"""Linear layers of few rows: on a CPU the core reads their weight once, at the speed of memory.

Legend: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops.bilinear import Product

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
    y = Product.apply(x, weight, _MAPS)
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


class _Maps:
    """Of x [R, I], weight [O, I] and y [R, O] (`epigraf.ops.bilinear.Maps`)."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """y = x w^T."""
        y = x.new_empty(len(x), len(weight))
        _find(_Y, x.contiguous(), weight.contiguous(), y)
        return y

    def input_adjoint(self, y: Tensor, weight: Tensor) -> Tensor:
        """x = y w."""
        x = y.new_empty(len(y), weight.shape[1])
        _find(_X, x, weight.contiguous(), y.contiguous())
        return x

    def weight_adjoint(self, shape: torch.Size, y: Tensor, x: Tensor, *others: Tensor) -> Tensor:
        """w = y^T x, of all pairs."""
        y, x = torch.cat((y, *others[::2])), torch.cat((x, *others[1::2]))
        weight = x.new_empty(shape)
        _find(_WEIGHT, x, weight, y)
        return weight


_MAPS = _Maps()
