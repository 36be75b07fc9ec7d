"""Random numbers that are a function of their place: (seed, stream, index).

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
Philox4x32-10. Formulas: docs/math/philox.md.

There is no state: whoever needs the number at an index computes it, on any device, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from epigraf.ops import _native

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_UNIT = 2.0**-24  # distance between neighbouring uniform numbers


def philox_uniform(
    seed: int, stream: int, shape: Sequence[int], like: Tensor, offset: int = 0
) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24, the same in float32 and float64 (philox 1-3).

    seed: in [0, 2^64); stream: in [0, 2^32), independent sequences of a seed; shape: of the result,
        filled row by row with the numbers offset, offset + 1, ... of the stream; offset: in
        [0, 2^63), so that a long row can be cut into calls. like: gives dtype (float32 or float64)
        and device; its values are not read.
    Bit-equal on every device, backend and number of threads. No gradient.
    Raises ValueError for a number out of range, TypeError for another dtype.
    """
    return _fill(seed, stream, tuple(shape), like, offset, normal=False)


def philox_normal(
    seed: int, stream: int, shape: Sequence[int], like: Tensor, offset: int = 0
) -> Tensor:
    """Normal numbers, mean 0 and variance 1, none beyond 5.77 (philox 1, 2, 4).

    Arguments and errors as for `philox_uniform`; a stream's normal numbers come from the same bits
    as its uniform ones, so use one kind of each. Bit-equal for any number of threads; devices,
    backends and dtypes differ by the rounding of log, sqrt, sin and cos.
    """
    return _fill(seed, stream, tuple(shape), like, offset, normal=True)


def _fill(
    seed: int, stream: int, shape: tuple[int, ...], like: Tensor, offset: int, *, normal: bool
) -> Tensor:
    _check("philox_normal" if normal else "philox_uniform", (seed, stream, offset), shape, like)
    if not _native.runs_native(like):
        return _philox_reference(seed, stream, shape, like, offset, normal)
    numbers = torch.empty(shape, dtype=like.dtype, device=like.device)
    place = (seed, stream, offset)
    _native.core().philox_fill(
        _native.launch(like), place, numbers.numel(), normal, numbers.data_ptr()
    )
    return numbers


def _philox_reference(
    seed: int, stream: int, shape: tuple[int, ...], like: Tensor, offset: int, normal: bool
) -> Tensor:
    """The same in plain torch: 32-bit words in int64 tensors."""
    count, skipped = math.prod(shape), offset % 4
    index = torch.arange((skipped + count + 3) // 4, dtype=torch.int64, device=like.device)
    index = index + offset // 4
    zero = torch.zeros_like(index)
    words = philox_rounds((index & _MASK, (index >> 32) & _MASK, zero + stream, zero), seed)
    units = [(word >> 8).to(like.dtype) * _UNIT for word in words]
    if normal:
        units = [*_normal_pair(units[0], units[1]), *_normal_pair(units[2], units[3])]
    return torch.stack(units, dim=-1).flatten()[skipped : skipped + count].view(shape)


def philox_rounds(counter: Sequence[Tensor], key: int) -> tuple[Tensor, ...]:
    """(philox 1) in plain torch: four words (int64 tensors in [0, 2^32)) under a key of 64 bits."""
    a, b, c, d = counter
    low, high = key & _MASK, key >> 32
    for _ in range(_ROUNDS):
        # The product wraps around at 2^64; its upper half, shifted down, is right after the mask.
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            ((second >> 32) & _MASK) ^ b ^ low,
            second & _MASK,
            ((first >> 32) & _MASK) ^ d ^ high,
            first & _MASK,
        )
        low, high = (low + _WEYL[0]) & _MASK, (high + _WEYL[1]) & _MASK
    return a, b, c, d


def _normal_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(philox 4): two normal numbers from two uniform ones."""
    radius = torch.sqrt(-2 * torch.log(first + _UNIT))
    angle = (2 * math.pi) * second
    return radius * torch.cos(angle), radius * torch.sin(angle)


def _check(op: str, place: tuple[int, int, int], shape: tuple[int, ...], like: Tensor) -> None:
    for name, value, bits in zip(("seed", "stream", "offset"), place, (64, 32, 63), strict=True):
        if not 0 <= value < 2**bits:
            raise ValueError(f"{op}: {name} must be in [0, 2^{bits}), got {value}")
    if any(size < 0 for size in shape):
        raise ValueError(f"{op}: shape must not be negative, got {list(shape)}")
    if place[2] + math.prod(shape) > 2**63:
        raise ValueError(
            f"{op}: the numbers must end below 2^63, got offset {place[2]} and shape {list(shape)}"
        )
    if like.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: like must be float32 or float64, got {like.dtype}")
