"""How tensors lie in memory, as the core takes it: the order of pictures, and 16 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from epigraf.ops import _native

HALVES = (torch.float16, torch.bfloat16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic on numbers of `dtype`."""
    return torch.float32 if dtype in HALVES else dtype


def storage(dtype: torch.dtype) -> Any:
    """The type of planes, features and pictures as the core names it."""
    names = _native.core().Storage
    return {torch.float16: names.half, torch.bfloat16: names.bfloat16}.get(dtype, names.same)


def dense(x: Tensor) -> Tensor:
    """Pictures in one of the two orders of memory: `x` itself where it has one, else a copy."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def is_channels_last(x: Tensor) -> bool:
    """Whether dense pictures are channels-last in memory; those of one pixel are both."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    return not x.is_contiguous() or x.shape[1] > x.shape[2:].numel()


def order(x: Tensor) -> torch.memory_format:
    """The order of memory of dense pictures, for more of the kind."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format
