"""Batches of matrix products by the core, on a CPU; torch's where columns are no whole panels."""

from __future__ import annotations

import torch
from torch import Tensor

from epigraf.ops import _native

PANEL = 64
"""Columns that the core multiplies at a time."""


def products(left: Tensor, right: Tensor, result: Tensor) -> None:
    """result [n, R, M] = left [n, R, K] right.

    right: panels of PANEL columns one after another, [n, M / PANEL K, PANEL], or [n, K, M] where M
    is no multiple of PANEL. Dense matrices, any distance apart, float32 or float64.
    """
    count, rows, depth = left.shape
    if right.shape[2] != PANEL:
        torch.bmm(left, right, out=result)
        return
    sizes, steps = (count, rows, depth, result.shape[2]), _steps(left, right, result)
    addresses = _native.addresses(left, right, result)
    _native.core().panel_products(_native.launch(left), sizes, steps, *addresses)


def add_products(left: Tensor, right: Tensor, result: Tensor, *, add: bool) -> None:
    """result [n, O, I] = left^T right, or that added to it, of left [n, K, O], right [n, K, I].
    Dense matrices, any distance apart, float32 or float64."""
    count, depth, rows = left.shape
    columns = right.shape[2]
    if columns % PANEL:
        result.baddbmm_(left.transpose(1, 2), right, beta=int(add))
        return
    sizes, steps = (count, rows, depth, columns), _steps(left, right, result)
    addresses = _native.addresses(left, right, result)
    _native.core().product_sums(_native.launch(left), sizes, steps, add, *addresses)


def _steps(*matrices: Tensor) -> tuple[int, ...]:
    """Numbers from a matrix to the next one."""
    return tuple(t.stride(0) for t in matrices)
