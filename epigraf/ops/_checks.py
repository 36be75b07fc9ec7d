"""Checks of the arguments of ops, and the error text that they share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_shape(op: str, name: str, tensor: Tensor, legend: str, expected: Sequence[int]) -> None:
    """Raises ValueError unless the shape is `expected`; `legend` names the sizes: ``[B, R]``."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"{op}: {name} must have shape {legend} = {list(expected)}, got {list(tensor.shape)}"
        )


def check_like(op: str, name: str, tensor: Tensor, like_name: str, like: Tensor) -> None:
    """Raises TypeError or ValueError unless `tensor` shares dtype and device with `like`."""
    if tensor.dtype != like.dtype:
        raise TypeError(
            f"{op}: {name} must have the dtype of {like_name}, {like.dtype}, got {tensor.dtype}"
        )
    if tensor.device != like.device:
        raise ValueError(
            f"{op}: {name} must be on the device of {like_name}, {like.device}, got {tensor.device}"
        )


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` has a floating-point dtype."""
    if not tensor.is_floating_point():
        raise TypeError(f"{op}: {name} must be floating point, got {tensor.dtype}")
