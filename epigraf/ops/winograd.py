"""3x3 convolutions with fewer multiplications: Winograd's transforms around matrix products.

Three maps, with stride 1 or 2: the convolution, its adjoint in the input, and its adjoint in the
weight. Each derivative of a map is again one of them, so `epigraf.models.convolution`
differentiates them any number of times; here is no autograd.
Source: Lavin and Gray 2016 (arXiv:1509.09308). Formulas: docs/math/winograd.md.
Legend: B batch, I input channels, O output channels, H W, n = 36 or 81 points.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._checks import check_floating, check_like, check_shape
from epigraf.ops._products import PANEL

TILE = 4  # pixels a side
_RUN_BYTES = 8 << 20  # of points of a run of tiles: what stays in a cache of this core
_LEAST_TILES = 32  # ... but enough rows for matrix products,
_PAIRS_A_ROW = 1024  # ... the more, the larger the weights, which come from memory for each run,
_MOST_BYTES = 64 << 20  # ... up to here
_FEW_BYTES = 3 << 20  # Tiles are few whose points of a panel of channels take no more than this,
_FEW_SUMS_BYTES = (
    24 << 20
)  # in a weight gradient, those of both pictures and all channels than this


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
    """Transforms to points and back, and how many points there are (winograd 1, 5)."""

    stride: int
    points: int
    read: _Transform
    write: _Transform


_T = _Transform
_STRIDE1 = _Way(1, 36, _T.STRIDE1_INPUT, _T.STRIDE1_OUTPUT)
_STRIDE2 = _Way(2, 81, _T.STRIDE2_INPUT, _T.STRIDE2_OUTPUT)
_TRANSPOSED = _Way(2, 81, _T.TRANSPOSED_INPUT, _T.TRANSPOSED_OUTPUT)
_WAYS = {1: _STRIDE1, 2: _STRIDE2}
_WRITE_ADJOINT = {1: _T.STRIDE1_OUTPUT_ADJOINT, 2: _T.STRIDE2_OUTPUT_ADJOINT}


@dataclass(frozen=True)
class _Tiling:
    """Tiles of a batch: their rows and columns in a picture, and how many there are."""

    way: _Way
    rows: int
    columns: int
    tiles: int

    def bytes(self, channels: int, like: Tensor) -> int:
        """Of the points of all tiles."""
        return self.tiles * self.way.points * channels * like.element_size()

    def run(self, inputs: int, outputs: int, like: Tensor) -> int:
        """Tiles at a time, so that their points of all channels fit the cache."""
        tile = self.way.points * max(inputs + outputs, 1) * like.element_size()
        enough = inputs * outputs // _PAIRS_A_ROW * 36 // self.way.points
        size = max(_RUN_BYTES // tile, min(enough, _MOST_BYTES // tile), _LEAST_TILES)
        return max(1, min(size, self.tiles))


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
    (winograd 3). Two runs with the same number of threads agree bit for bit.
    Raises ValueError for a wrong shape, stride or device, TypeError for a wrong dtype.
    """
    _check("winograd", "x", x, weight, 1, stride)
    size = _output_size("winograd", x, stride, padding)
    y = _pictures(x, len(weight), size)
    tiling = _tiling(_WAYS[stride], len(x), size)
    kernels = _Kernels(weight.transpose(0, 1), gain)
    _convolve(_channels_last(x), kernels, y, tiling, padding)
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
    kernels = _Kernels(weight, gain, turned=True)
    if stride == 1:
        _convolve(y, kernels, x, _tiling(_STRIDE1, len(y), size), 2 - padding)
    else:
        _convolve(y, kernels, x, _tiling(_TRANSPOSED, len(y), (height, width)), 1)
    return x


@torch.no_grad()
def winograd_weight(
    y: Tensor,
    x: Tensor,
    *others: Tensor,
    stride: int = 1,
    padding: int = 0,
    gain: float = 1.0,
) -> Tensor:
    """The adjoint of `winograd` in its weight (winograd 9): [O, I, 3, 3] of y [B, O, H', W'] and
    x [B, I, H, W]; H' = (H + 2 padding - 3) // stride + 1. Raises as `winograd`.

    others: y and x of further uses of the weight, of the same shapes: the gradients are summed up.
    """
    op = "winograd_weight"
    check_like(op, "y", y, "x", x)
    _check_place(op, "x", x)
    _check_stride(op, stride)
    size = _output_size(op, x, stride, padding)
    if y.ndim != 4:
        raise ValueError(f"{op}: y must have shape [B, O, H', W'], got {list(y.shape)}")
    check_shape(op, "y", y, "[B, O, H', W']", (len(x), y.shape[1], *size))
    tiling = _tiling(_WAYS[stride], len(y), size)
    if len(others) % 2:
        raise ValueError(f"{op}: others must be pairs of y and x, got {len(others)} tensors")
    for number, (left, right) in enumerate(zip(others[::2], others[1::2], strict=True)):
        for name, tensor, like in (("y", left, y), ("x", right, x)):
            check_like(op, f"{name} of pair {number}", tensor, name, like)
            check_shape(op, f"{name} of pair {number}", tensor, f"that of {name}", like.shape)
    pictures = tuple(_channels_last(t) for t in (y, x, *others))
    outputs, inputs = y.shape[1], x.shape[1]
    if tiling.tiles == 0:
        return x.new_zeros(outputs, inputs, 3, 3)
    weight = x.new_empty(outputs, inputs, 3, 3)
    blocks = -(-inputs // PANEL) * -(-outputs // PANEL)
    points = tiling.bytes(inputs + outputs, x) * len(pictures) // 2
    few = points <= _FEW_SUMS_BYTES and _busy(blocks)
    run = 0 if few else tiling.run(inputs, outputs, x)
    transforms = _WRITE_ADJOINT[stride], tiling.way.read
    _run(pictures, transforms, (0, padding), _Kernels(weight, gain), tiling, run, gradient=True)
    return weight


@dataclass(frozen=True)
class _Kernels:
    """gain * weight [rows, columns, 3, 3], each kernel turned by 180 degrees or not."""

    weight: Tensor
    gain: float
    turned: bool = False

    def __post_init__(self) -> None:
        """The core reads the nine taps of a kernel as a run, and a little beyond all but the last
        one: kernels may not lie upon each other, as those of expanded tensors do."""
        apart = all(
            step >= 9 or count == 1
            for count, step in zip(self.weight.shape[:2], self.weight.stride()[:2], strict=True)
        )
        if not apart or self.weight.stride()[2:] != (3, 1):
            dense = self.weight.clone(memory_format=torch.contiguous_format)
            object.__setattr__(self, "weight", dense)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Rows, columns, and the numbers from one to the next."""
        rows, columns = self.weight.shape[:2]
        down, right = self.weight.stride()[:2]
        return rows, columns, down, right


def _busy(tasks: int) -> bool:
    return tasks >= torch.get_num_threads()


def _convolve(x: Tensor, kernels: _Kernels, y: Tensor, tiling: _Tiling, padding: int) -> None:
    """Pictures x [B, I, H, W] with kernels [I, O] to pictures y [B, O, H', W'], both channels-last.

    Tiles are few where a core can keep all their points of a panel of channels, and there is a
    panel for each."""
    inputs, outputs = x.shape[1], y.shape[1]
    if inputs == 0:
        y.zero_()
        return
    few = tiling.bytes(PANEL, x) <= _FEW_BYTES and _busy(-(-outputs // PANEL))
    run = 0 if few else tiling.run(inputs, outputs, x)
    way = tiling.way
    _run((x, y), (way.read, way.write), (padding, 0), kernels, tiling, run, gradient=False)


def _run(
    pictures: tuple[Tensor, ...],
    transforms: tuple[_Transform, _Transform],
    padding: tuple[int, int],
    kernels: _Kernels,
    tiling: _Tiling,
    run: int,
    *,
    gradient: bool,
) -> None:
    """The core's convolution, from the first picture to the second, `run` tiles at a time (0: they
    are few); or the gradient of the kernels, over pairs of pictures."""
    first = pictures[0]
    core, launch = _native.core(), _native.launch(first)
    sizes = tuple(
        (*t.shape[2:], t.shape[1], tiling.rows, tiling.columns, before, tiling.tiles)
        for t, before in zip(pictures[:2], padding, strict=True)
    )
    call = core.WinogradCall(
        stride=tiling.way.stride,
        gradient=gradient,
        turned=kernels.turned,
        gain=kernels.gain,
        run=run,
        transforms=tuple(map(int, transforms)),
        pictures=sizes,
        kernels=kernels.sizes,
    )
    pixels = _native.addresses(*pictures)
    scratch = first.new_empty(core.winograd_scratch(launch, call, pixels))
    core.winograd(launch, call, pixels, *_native.addresses(kernels.weight, scratch))


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _pictures(like: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """[B, C, *size], channels-last, to be written."""
    shape, order = (len(like), channels, *size), torch.channels_last
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)


def _output_size(op: str, x: Tensor, stride: int, padding: int) -> tuple[int, int]:
    if padding < 0:
        raise ValueError(f"{op}: padding must be at least 0, got {padding}")
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
