"""3x3 convolutions with fewer multiplications: Winograd's transforms around matrix products.

Three maps: the convolution with stride 1, its adjoint in the input, and its adjoint in the weight,
that with stride 2 as well. Each derivative of a map is again one of them (or a direct convolution),
so `epigraf.models.convolution` differentiates them any number of times; here is no autograd.
Source: Lavin and Gray 2016 (arXiv:1509.09308). Formulas: docs/math/winograd.md.
Legend: B batch, I input channels, O output channels, H W, n = 36 or 81 points, T tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._checks import check_floating, check_like, check_shape
from epigraf.ops._products import PANEL, add_products, products

TILE = 4  # pixels a side
_CHUNK_BYTES = 4 << 20  # of points at a time: what stays in a cache of this core
_LEAST_TILES = 128  # ... but enough rows for a matrix product
_NEAR, _FAR = (2 / 3, 3 / 2), (1 / 2, 3 / 2)  # the points +-a, +-b of stride 1 and 2
# Points that share a weight (winograd 6): the first, how many weights, points of each.
_GROUPS = {36: ((0, 36, 1),), 81: ((0, 25, 1), (25, 5, 4), (45, 5, 4), (65, 1, 16))}


class _Transform(IntEnum):
    """As csrc/include/epigraf/winograd.h numbers them."""

    STRIDE1_INPUT = 0
    STRIDE1_OUTPUT = 1
    STRIDE1_OUTPUT_ADJOINT = 2
    STRIDE2_INPUT = 3
    STRIDE2_OUTPUT_ADJOINT = 4
    STRIDE1_KERNEL = 5
    STRIDE1_TURNED_KERNEL = 6


@dataclass(frozen=True)
class _Tiling:
    """Tiles of a batch: their rows and columns in a picture, and how many there are."""

    rows: int
    columns: int
    tiles: int
    points: int

    def chunks(self, channels: int, itemsize: int) -> Iterator[tuple[int, int]]:
        """(first, count) of runs of tiles whose points of all channels fit the cache."""
        fitting = _CHUNK_BYTES // (self.points * channels * itemsize)
        size = max(fitting, _LEAST_TILES)
        for first in range(0, self.tiles, size):
            yield first, min(size, self.tiles - first)


def _tiling(batch: int, height: int, width: int, stride: int) -> _Tiling:
    rows, columns = -(-height // TILE), -(-width // TILE)
    return _Tiling(rows, columns, batch * rows * columns, 36 if stride == 1 else 81)


def runs_winograd(x: Tensor) -> bool:
    """Whether the core transforms tensors like `x` here and now."""
    return x.device.type == "cpu" and _native.runs_native(x)


@torch.no_grad()
def winograd(x: Tensor, weight: Tensor, *, padding: int = 0) -> Tensor:
    """Correlate x [B, I, H, W] with weight [O, I, 3, 3]: [B, O, H', W'], channels-last.

    H' = H + 2 padding - 2, and W' alike (winograd 7). float32 or float64 on a CPU; a float32 result
    is off by about six times as much as a direct sum (winograd 3). Two runs agree bit for bit.
    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype.
    """
    _check("winograd", "x", x, weight, 1)
    height, width = (n + 2 * padding - 2 for n in x.shape[2:])
    points = _weight_points(_Transform.STRIDE1_KERNEL, weight.transpose(0, 1))
    return _convolve(x, points, len(weight), (height, width), padding)


@torch.no_grad()
def winograd_input(y: Tensor, weight: Tensor, size: tuple[int, int], *, padding: int = 0) -> Tensor:
    """The adjoint of `winograd` in its input: y [B, O, H', W'] to [B, I, H, W], size = (H, W).

    It is the convolution with the kernel turned by 180 degrees (winograd 8). Raises as `winograd`.
    """
    _check("winograd_input", "y", y, weight, 0)
    points = _weight_points(_Transform.STRIDE1_TURNED_KERNEL, weight)
    return _convolve(y, points, weight.shape[1], size, 2 - padding)


@torch.no_grad()
def winograd_weight(y: Tensor, x: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """The adjoint of `winograd` in its weight (winograd 9): [O, I, 3, 3] of y [B, O, H', W'] and
    x [B, I, H, W]; H' = (H + 2 padding - 3) // stride + 1. Raises as `winograd`."""
    op = "winograd_weight"
    check_like(op, "y", y, "x", x)
    _check_place(op, "x", x)
    if stride not in (1, 2):
        raise ValueError(f"{op}: stride must be 1 or 2, got {stride}")
    height, width = ((n + 2 * padding - 3) // stride + 1 for n in x.shape[2:])
    check_shape(op, "y", y, "[B, O, H', W']", (len(x), y.shape[1], height, width))
    tiling = _tiling(len(y), height, width, stride)
    y, x = _channels_last(y), _channels_last(x)
    kind = _Transform
    of_y, of_x = (
        (kind.STRIDE1_OUTPUT_ADJOINT, kind.STRIDE1_INPUT)
        if stride == 1
        else (kind.STRIDE2_OUTPUT_ADJOINT, kind.STRIDE2_INPUT)
    )
    channels_y, channels_x = y.shape[1], x.shape[1]
    make = x.new_empty if tiling.tiles else x.new_zeros
    total = make(36, channels_y, channels_x)
    for first, count in tiling.chunks(channels_y + channels_x, x.element_size()):
        points_y = _to_points(of_y, y, tiling, first, count, 0)
        points_x = _to_points(of_x, x, tiling, first, count, padding)
        place = 0
        for start, weights, copies in _GROUPS[tiling.points]:
            rows = slice(start, start + weights * copies)
            left = points_y[rows].view(weights, copies * count, channels_y)
            right = points_x[rows].view(weights, copies * count, channels_x)
            add_products(left, right, total[place : place + weights], add=first > 0)
            place += weights
    taps = _taps(stride, x.dtype)
    return (taps.T @ total.view(36, -1)).T.reshape(channels_y, channels_x, 3, 3)


def _convolve(
    x: Tensor, weights: Tensor, outputs: int, size: tuple[int, int], padding: int
) -> Tensor:
    """Pictures x [B, I, H, W] to points, one product with weights (of `_weight_points`) at each,
    points to pictures [B, O, *size]."""
    x, inputs = _channels_last(x), x.shape[1]
    tiling = _tiling(len(x), *size, stride=1)
    y = torch.empty(
        (len(x), outputs, *size),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    for first, count in tiling.chunks(inputs + outputs, x.element_size()):
        read = _to_points(_Transform.STRIDE1_INPUT, x, tiling, first, count, padding)
        written = products(read, weights, outputs)
        _run(_Transform.STRIDE1_OUTPUT, y, written, tiling, first, count, 0)
    return y


def _to_points(
    transform: _Transform, x: Tensor, tiling: _Tiling, first: int, count: int, padding: int
) -> Tensor:
    """[n, count, C] of a run of tiles of x [B, C, H, W], channels-last."""
    points = x.new_empty(tiling.points, count, x.shape[1])
    _run(transform, x, points, tiling, first, count, padding)
    return points


def _run(
    transform: _Transform,
    pixels: Tensor,
    points: Tensor,
    tiling: _Tiling,
    first: int,
    count: int,
    padding: int,
) -> None:
    sizes = (*pixels.shape[2:], pixels.shape[1], tiling.rows, tiling.columns, padding, first, count)
    launch = _native.launch(pixels)
    _native.core().winograd(launch, int(transform), sizes, *_native.addresses(pixels, points))


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _weight_points(transform: _Transform, weight: Tensor) -> Tensor:
    """Values of weight [I, O, 3, 3] at the points of stride 1: [36, O / 64 I, 64], panels of 64
    columns of the matrices [I, O] one after another; [36, I, O] where O is no multiple of 64."""
    columns = weight.shape[1]
    width = columns if columns % PANEL else PANEL
    pixels = weight.unflatten(1, (-1, width)).permute(1, 0, 3, 4, 2).flatten(0, 1).contiguous()
    tiling = _Tiling(1, 1, len(pixels), 36)  # a kernel is a picture of one tile
    return _to_points(transform, pixels.permute(0, 3, 1, 2), tiling, 0, len(pixels), 0)


@functools.cache
def _taps(stride: int, dtype: torch.dtype) -> Tensor:
    """[36, 9]: the value of a 3x3 kernel at each pair of points (winograd 4, 6)."""
    if stride == 1:
        lines = _kernel_values((0.0, *_signed(_NEAR)), 3)
        return torch.einsum("ik,jl->ijkl", lines, lines).reshape(36, 9).to(dtype)
    outer = torch.zeros(5, 3, dtype=torch.float64)
    outer[:, ::2] = _kernel_values(_signed(_FAR), 2)
    middle = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    groups = ((outer, outer), (outer, middle), (middle, outer), (middle, middle))
    parts = [torch.einsum("ik,jl->ijkl", a, b).reshape(-1, 9) for a, b in groups]
    return torch.cat(parts).to(dtype)


def _signed(points: tuple[float, float]) -> tuple[float, ...]:
    a, b = points
    return (a, -a, b, -b)


def _kernel_values(points: tuple[float, ...], taps: int) -> Tensor:
    """[points + 1, taps]: powers of each point over the product of its distances; infinity last."""
    values = torch.zeros(len(points) + 1, taps, dtype=torch.float64)
    for i, p in enumerate(points):
        distances = torch.tensor([p - q for q in points if q != p], dtype=torch.float64)
        values[i] = p ** torch.arange(taps, dtype=torch.float64) / distances.prod()
    values[-1, -1] = 1.0
    return values


def _check(op: str, name: str, x: Tensor, weight: Tensor, axis: int) -> None:
    _check_place(op, name, x)
    if weight.ndim != 4 or weight.shape[2:] != (3, 3):
        raise ValueError(f"{op}: weight must have shape [O, I, 3, 3], got {list(weight.shape)}")
    check_like(op, "weight", weight, name, x)
    channels = weight.shape[axis]
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{op}: {name} must have shape [B, {channels}, H, W], got {list(x.shape)}")


def _check_place(op: str, name: str, x: Tensor) -> None:
    check_floating(op, name, x)
    if not runs_winograd(x):
        raise ValueError(
            f"{op}: needs the native core, float32 or float64, and a CPU; {name} is {x.dtype} on "
            f"{x.device}"
        )
