"""Matrix products by the core, on a CPU."""

from __future__ import annotations

from torch import Tensor

from epigraf.ops import _native

PANEL = 64
"""Columns that the core multiplies at a time."""


def products(left: Tensor, right: Tensor, result: Tensor) -> None:
    """result [R, M] = left [R, K] right; right: panels of PANEL columns one after another,
    [M / PANEL K, PANEL]. Dense matrices, float32 or float64."""
    sizes = (*left.shape, result.shape[1])
    addresses = _native.addresses(left, right, result)
    _native.core().panel_products(_native.launch(left), sizes, *addresses)


def sum_of_products(left: Tensor, right: Tensor, result: Tensor, *, add: bool = False) -> None:
    """result [O, I] = left^T right, or that added to it, of left [K, O], right [K, I]; I is a
    multiple of PANEL. Dense matrices, float32 or float64."""
    depth, rows = left.shape
    sizes = (rows, depth, right.shape[1])
    addresses = _native.addresses(left, right, result)
    _native.core().product_sum(_native.launch(left), sizes, add, *addresses)
