"""3x3 convolutions with fewer multiplications: Winograd's transforms around matrix products.

Three maps, with stride 1 or 2: the convolution, its adjoint in the input, and its adjoint in the
weight. Each derivative of a map is again one of them, so `epigraf.models.convolution`
differentiates them any number of times; here is no autograd.
Source: Lavin and Gray 2016 (arXiv:1509.09308). Formulas: docs/math/winograd.md.
Legend: B batch, I input channels, O output channels, H W, n = 36 or 81 points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._checks import check_floating, check_like, check_shape
from epigraf.ops._products import PANEL, add_products, products

TILE = 4  # pixels a side
_CHUNK_BYTES = 4 << 20  # of points at a time: what stays in a cache of this core
_LEAST_TILES = 32  # ... but enough rows for matrix products,
_PAIRS_A_ROW = 1024  # ... the more, the larger the weights, which come from memory for each run,
_MOST_BYTES = 64 << 20  # ... up to here
_APART = 80  # numbers between matrices: else they begin in the same few lines of a cache


class _Transform(IntEnum):
    """As csrc/include/epigraf/winograd.h numbers them."""

    STRIDE1_INPUT = 0
    STRIDE1_OUTPUT = 1
    STRIDE1_OUTPUT_ADJOINT = 2
    STRIDE2_INPUT = 3
    STRIDE2_OUTPUT = 4
    STRIDE2_OUTPUT_ADJOINT = 5
    TRANSPOSED_INPUT = 6
    TRANSPOSED_OUTPUT = 7


@dataclass(frozen=True)
class _Way:
    """Transforms to points and back, and groups of points that share one of the 36 weights
    (winograd 6): how many weights, points of each."""

    stride: int
    groups: tuple[tuple[int, int], ...]
    read: _Transform
    write: _Transform

    @property
    def points(self) -> int:
        return sum(count * copies for count, copies in self.groups)

    def room(self, like: Tensor, count: int, channels: int) -> Tensor:
        """[n, count, C] to be written; where points share a weight, and are rows of one matrix, of
        an odd number of rows: the last one may lie beyond the tiles."""
        if self.stride == 1:
            return _apart(like, self.points, count, channels)
        return like.new_empty(self.points, count | 1, channels)

    def by_weight(self, *points: Tensor) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """The weights of each group, and its points [n, count, C] as matrices, those that share a
        weight below one another: [weights, copies count, C]."""
        place = first = 0
        for weights, copies in self.groups:
            rows = slice(first, first + weights * copies)
            matrices = (t[rows].view(weights, copies * t.shape[1], t.shape[2]) for t in points)
            yield slice(place, place + weights), tuple(matrices)
            place, first = place + weights, rows.stop


_T = _Transform
_GROUPS = ((25, 1), (5, 4), (5, 4), (1, 16))
_STRIDE1 = _Way(1, ((36, 1),), _T.STRIDE1_INPUT, _T.STRIDE1_OUTPUT)
_STRIDE2 = _Way(2, _GROUPS, _T.STRIDE2_INPUT, _T.STRIDE2_OUTPUT)
_TRANSPOSED = _Way(2, _GROUPS, _T.TRANSPOSED_INPUT, _T.TRANSPOSED_OUTPUT)
_WAYS = {1: _STRIDE1, 2: _STRIDE2}
_WRITE_ADJOINT = {1: _T.STRIDE1_OUTPUT_ADJOINT, 2: _T.STRIDE2_OUTPUT_ADJOINT}


@dataclass(frozen=True)
class _Tiling:
    """Tiles of a batch: their rows and columns in a picture, and how many there are."""

    way: _Way
    rows: int
    columns: int
    tiles: int

    def chunks(self, inputs: int, outputs: int, itemsize: int) -> Iterator[tuple[int, int]]:
        """(first, count) of runs of tiles whose points of all channels fit the cache."""
        tile = self.way.points * max(inputs + outputs, 1) * itemsize
        enough = inputs * outputs // _PAIRS_A_ROW * 36 // self.way.points
        size = max(_CHUNK_BYTES // tile, min(enough, _MOST_BYTES // tile), _LEAST_TILES)
        for first in range(0, self.tiles, size):
            yield first, min(size, self.tiles - first)


def _apart(like: Tensor, count: int, rows: int, columns: int) -> Tensor:
    """[count, rows, columns] to be written, dense matrices a little apart."""
    numbers = rows * columns
    return like.new_empty(count, numbers + _APART)[:, :numbers].view(count, rows, columns)


def _tiling(way: _Way, batch: int, size: tuple[int, ...]) -> _Tiling:
    """Tiles of pictures of `size`: of those that are small, with stride 2."""
    rows, columns = (-(-n // TILE) for n in size)
    return _Tiling(way, rows, columns, batch * rows * columns)


def runs_winograd(x: Tensor) -> bool:
    """Whether the core transforms tensors like `x` here and now."""
    return x.device.type == "cpu" and _native.runs_native(x)


@torch.no_grad()
def winograd(
    x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, gain: float = 1.0
) -> Tensor:
    """Correlate x [B, I, H, W] with gain * weight [O, I, 3, 3]: [B, O, H', W'], channels-last.

    H' = (H + 2 padding - 3) // stride + 1, and W' alike (winograd 7); stride 1 or 2. float32 or
    float64 on a CPU; a float32 result is off by about six times as much as a direct sum
    (winograd 3). Two runs agree bit for bit.
    Raises ValueError for a wrong shape, stride or device, TypeError for a wrong dtype.
    """
    _check("winograd", "x", x, weight, 1, stride)
    size = _output_size("winograd", x, stride, padding)
    tiling = _tiling(_WAYS[stride], len(x), size)
    y = _pictures(x, len(weight), size)
    points = _weight_points(weight.transpose(0, 1), tiling.way, gain, turned=False)
    _convolve(_channels_last(x), points, y, tiling, padding)
    return y


@torch.no_grad()
def winograd_input(
    y: Tensor,
    weight: Tensor,
    size: tuple[int, int],
    *,
    stride: int = 1,
    padding: int = 0,
    gain: float = 1.0,
) -> Tensor:
    """The adjoint of `winograd` in its input: y [B, O, H', W'] to [B, I, H, W], size = (H, W).

    With stride 1 it is the convolution with the kernel turned by 180 degrees (winograd 8), with
    stride 2 the transposed one (winograd 10), without padding: H = 2 H' + 1. Raises as `winograd`.
    """
    op = "winograd_input"
    _check(op, "y", y, weight, 0, stride)
    height, width = y.shape[2:]
    if stride == 2 and padding != 0:
        raise ValueError(f"{op}: stride 2 needs padding 0, got {padding}")
    fitting = [(n - 1) * stride + 3 - 2 * padding for n in (height, width)]
    if list(size) != fitting or min(height, width) < 1:
        raise ValueError(
            f"{op}: size must be {fitting} for pictures {[height, width]}, got {list(size)}"
        )
    x, y = _pictures(y, weight.shape[1], size), _channels_last(y)
    if stride == 1:
        tiling = _tiling(_STRIDE1, len(y), size)
        _convolve(y, _weight_points(weight, tiling.way, gain, turned=True), x, tiling, 2 - padding)
        return x
    tiling = _tiling(_TRANSPOSED, len(y), (height, width))
    _convolve(y, _weight_points(weight, tiling.way, gain, turned=True), x, tiling, 1)
    if height % TILE == 0 and x.numel():  # the last row and column lie beyond whole tiles
        taps = weight[:, :, 2:] * gain
        x[:, :, -1:] = F.conv_transpose2d(y[:, :, -1:], taps, stride=(1, 2))
    if width % TILE == 0 and x.numel():
        taps = weight[..., 2:] * gain
        x[..., -1:] = F.conv_transpose2d(y[..., -1:], taps, stride=(2, 1))
    return x


@torch.no_grad()
def winograd_weight(
    y: Tensor, x: Tensor, *, stride: int = 1, padding: int = 0, gain: float = 1.0
) -> Tensor:
    """The adjoint of `winograd` in its weight (winograd 9): [O, I, 3, 3] of y [B, O, H', W'] and
    x [B, I, H, W]; H' = (H + 2 padding - 3) // stride + 1. Raises as `winograd`."""
    op = "winograd_weight"
    check_like(op, "y", y, "x", x)
    _check_place(op, "x", x)
    _check_stride(op, stride)
    size = _output_size(op, x, stride, padding)
    check_shape(op, "y", y, "[B, O, H', W']", (len(x), y.shape[1], *size))
    tiling = _tiling(_WAYS[stride], len(y), size)
    y, x, way = _channels_last(y), _channels_last(x), tiling.way
    outputs, inputs = y.shape[1], x.shape[1]
    total = _apart(x, 36, outputs, inputs)
    if tiling.tiles == 0:
        total.zero_()
    for first, count in tiling.chunks(inputs, outputs, x.element_size()):
        points_y = _to_points(_WRITE_ADJOINT[stride], y, tiling, first, count, 0)
        points_x = _to_points(way.read, x, tiling, first, count, padding)
        for place, (left, right) in way.by_weight(points_y, points_x):
            add_products(left, right, total[place], add=first > 0)
    weight = x.new_empty(outputs, inputs, 3, 3)
    _run_kernels(weight, total, way, gain, adjoint=True)
    return weight


def _convolve(x: Tensor, weights: Tensor, y: Tensor, tiling: _Tiling, padding: int) -> None:
    """Pictures x [B, I, H, W] to points, products with weights (of `_weight_points`) there, points
    to pictures y [B, O, H', W']; both channels-last."""
    way, outputs = tiling.way, y.shape[1]
    for first, count in tiling.chunks(x.shape[1], outputs, x.element_size()):
        points_x = _to_points(way.read, x, tiling, first, count, padding)
        points_y = way.room(x, count, outputs)
        for place, (left, result) in way.by_weight(points_x, points_y):
            products(left, weights[place], result)
        _run(way.write, y, points_y, tiling, first, count, 0)


def _to_points(
    transform: _Transform, x: Tensor, tiling: _Tiling, first: int, count: int, padding: int
) -> Tensor:
    """[n, count, C] of a run of tiles of x [B, C, H, W], channels-last; zeros beyond them."""
    points = tiling.way.room(x, count, x.shape[1])
    if points.shape[1] > count:
        points[:, count:] = 0
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
    height, width = pixels.shape[2:]
    sizes = (height, width, pixels.shape[1], tiling.rows, tiling.columns, padding, first, count)
    launch = _native.launch(pixels)
    _native.core().winograd(
        launch, int(transform), (*sizes, points.stride(0)), *_native.addresses(pixels, points)
    )


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _pictures(like: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """[B, C, *size], channels-last, to be written."""
    shape, order = (len(like), channels, *size), torch.channels_last
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)


def _weight_points(weight: Tensor, way: _Way, gain: float, *, turned: bool) -> Tensor:
    """Values of gain * weight [I, O, 3, 3] at the points of a way: [36, O / 64 I, 64], panels of 64
    columns of the matrices [I, O] one after another; [36, I, O] where O is no multiple of 64."""
    rows, columns = weight.shape[:2]
    width = columns if columns % PANEL else PANEL
    points = _apart(weight, 36, rows * columns // max(width, 1), width)
    _run_kernels(weight, points, way, gain, turned=turned)
    return points


def _run_kernels(
    weight: Tensor,
    points: Tensor,
    way: _Way,
    gain: float,
    *,
    turned: bool = False,
    adjoint: bool = False,
) -> None:
    """Kernels [rows, columns, 3, 3] to points in panels of points.shape[2] columns, or back."""
    if weight.stride()[2:] != (3, 1):
        weight = weight.contiguous()
    sizes = (*weight.shape[:2], *weight.stride()[:2], points.shape[2], points.stride(0))
    addresses = weight.data_ptr(), points.data_ptr()
    launch = _native.launch(weight)
    _native.core().winograd_kernels(launch, way.stride, turned, adjoint, gain, sizes, *addresses)


def _output_size(op: str, x: Tensor, stride: int, padding: int) -> tuple[int, int]:
    if x.ndim != 4 or min(x.shape[2:]) + 2 * padding < 3:
        raise ValueError(
            f"{op}: x must have shape [B, I, H, W] with H and W at least {3 - 2 * padding}, "
            f"got {list(x.shape)}"
        )
    height, width = ((n + 2 * padding - 3) // stride + 1 for n in x.shape[2:])
    return height, width


def _check(op: str, name: str, x: Tensor, weight: Tensor, axis: int, stride: int) -> None:
    _check_place(op, name, x)
    _check_stride(op, stride)
    if weight.ndim != 4 or weight.shape[2:] != (3, 3):
        raise ValueError(f"{op}: weight must have shape [O, I, 3, 3], got {list(weight.shape)}")
    check_like(op, "weight", weight, name, x)
    channels = weight.shape[axis]
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{op}: {name} must have shape [B, {channels}, H, W], got {list(x.shape)}")


def _check_stride(op: str, stride: int) -> None:
    if stride not in (1, 2):
        raise ValueError(f"{op}: stride must be 1 or 2, got {stride}")


def _check_place(op: str, name: str, x: Tensor) -> None:
    check_floating(op, name, x)
    if not runs_winograd(x):
        raise ValueError(
            f"{op}: needs the native core, float32 or float64, and a CPU; {name} is {x.dtype} on "
            f"{x.device}"
        )
