"""Exact x2 resampling of pictures with the binomial filter [1, 3, 3, 1].

Zeros lie outside of a picture. The adjoint of each map is again one of the maps (resample 4), so
derivatives of any order are as cheap as the first.

Source: StyleGAN2 (Karras et al. 2020), appendix B; upfirdn with f = [1, 3, 3, 1] outer / 64.
Formulas: docs/math/resample.md. Legend: B batch, C channels, H W.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from epigraf.ops import _native
from epigraf.ops._checks import check_floating
from epigraf.ops._memory import dense, is_channels_last, order, storage, wide


def blur2d(x: Tensor, pad: int, gain: float = 1.0) -> Tensor:
    """Filter ``x`` [B, C, H, W], padded by ``pad`` (1 or 2): [B, C, H + 2 pad - 3, ...].

    y[i] = (x[i-pad] + 3 x[i-pad+1] + 3 x[i-pad+2] + x[i-pad+3]) / 8 along each axis, times gain
    (resample 1). Dtypes, memory and derivatives: see `upsample2d`.
    """
    _check("blur2d", x)
    if pad not in (1, 2):
        raise ValueError(f"blur2d: pad must be 1 or 2, got {pad}")
    if min(x.shape[2:]) + 2 * pad < 3:
        raise ValueError(f"blur2d: pad 1 needs at least one pixel, got {list(x.shape[2:])}")
    return _resample(x, _Call(_Map.BLUR, pad, gain))


def downsample2d(x: Tensor) -> Tensor:
    """Halve the even size of ``x`` [B, C, H, W].

    y[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2]) / 8 along each axis (resample 2). Dtypes,
    memory and derivatives: see `upsample2d`.
    """
    _check("downsample2d", x)
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"downsample2d: height and width must be even, got {list(x.shape[2:])}")
    return _resample(x, _Call(_Map.DOWN))


def upsample2d(x: Tensor) -> Tensor:
    """Double the size of ``x`` [B, C, H, W]; a constant stays constant away from the border.

    Zero insertion, padding (2, 1), filter, gain 4: y[2i] = (x[i-1] + 3 x[i]) / 4 and
    y[2i+1] = (3 x[i] + x[i+1]) / 4 along each axis (resample 3).

    The result has the dtype and memory order of x (channels-last where its strides are of neither
    order). float32, float64, float16 and bfloat16 run natively (16 bits in float32's arithmetic,
    rounded once), other dtypes in plain torch. Differentiable any number of times. A NaN reaches
    the pixels that see it. Two runs agree bit for bit, with any number of threads.
    Raises ValueError for a wrong shape, TypeError for a dtype that is not floating point.
    """
    _check("upsample2d", x)
    return _resample(x, _Call(_Map.UP))


class _Map(IntEnum):
    """As the core numbers them."""

    BLUR = 0
    DOWN = 1
    UP = 2


class _Call(NamedTuple):
    """A map; pad: zeros in front of the first pixel; gain: the result's factor."""

    map: _Map
    pad: int = 1
    gain: float = 1.0

    def made(self, pixels: int) -> int:
        """Pixels of the result along an axis."""
        if self.map is _Map.BLUR:
            return pixels + 2 * self.pad - 3
        return pixels // 2 if self.map is _Map.DOWN else 2 * pixels

    def size(self, x: Tensor) -> tuple[int, ...]:
        """Of the result."""
        return (*x.shape[:2], *(self.made(n) for n in x.shape[2:]))

    def adjoint(self) -> _Call:
        """The map back (resample 4)."""
        if self.map is _Map.BLUR:
            return self._replace(pad=3 - self.pad)
        if self.map is _Map.DOWN:
            return _Call(_Map.UP, gain=self.gain / 4)
        return _Call(_Map.DOWN, gain=self.gain * 4)


def _resample(x: Tensor, call: _Call) -> Tensor:
    """torch.compile traces the plain formulation, and differentiates it itself."""
    if torch.compiler.is_compiling():
        return _resample_reference(x, call)
    native = _native.runs_native(x.new_empty(0, dtype=wide(x.dtype)))
    return _Resample.apply(x, call, native)


def _resample_reference(x: Tensor, call: _Call) -> Tensor:
    """A map in plain torch: any dtype and device, differentiable at any order."""
    x, size = dense(x), call.size(x)
    if x.dtype != wide(x.dtype):
        return _resample_reference(x.to(wide(x.dtype)), call).to(x.dtype)
    if x.numel() == 0 or 0 in size:
        return x.new_zeros(size)
    if call.map is _Map.UP:
        y = F.interpolate(
            F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False
        )
        y = y[:, :, 2:-2, 2:-2]
        y = y if call.gain == 1 else y * call.gain
    else:
        taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = (torch.outer(taps, taps) * call.gain).expand(x.shape[1], 1, 4, 4)
        stride = 2 if call.map is _Map.DOWN else 1
        y = F.conv2d(x, kernel, stride=stride, padding=call.pad, groups=x.shape[1])
    return y.contiguous(memory_format=order(x))


class _Resample(Function):
    """A map, native or in plain torch; linear, and closed under differentiation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: _Call, native: bool) -> Tensor:
        ctx.call, ctx.native = call, native
        return _resample_native(x, call) if native else _resample_reference(x, call)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return _Resample.apply(grad_y, ctx.call.adjoint(), ctx.native), None, None


def _resample_native(x: Tensor, call: _Call) -> Tensor:
    x = dense(x)
    y = torch.empty(call.size(x), dtype=x.dtype, device=x.device, memory_format=order(x))
    core = _native.core()
    shape = core.ResampleShape(int(call.map), (*x.shape, call.pad), is_channels_last(x))
    core.resample(_native.launch(x), storage(x.dtype), shape, call.gain, x.data_ptr(), y.data_ptr())
    return y


def _check(op: str, x: Tensor) -> None:
    check_floating(op, "x", x)
    if x.ndim != 4:
        raise ValueError(f"{op}: x must have shape [B, C, H, W], got {list(x.shape)}")
