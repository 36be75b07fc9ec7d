"""Exact x2 resampling with the binomial filter [1, 3, 3, 1], alone and around convolutions.

Zeros lie outside of an image. Each map is an autograd function whose derivative is the map's
adjoint, again one of the maps here, so derivatives of any order are as cheap as the first.
Channels-last tensors are the fast ones: one depthwise pass of oneDNN costs about four copies.

Source: StyleGAN2 (Karras et al. 2020), appendix B; upfirdn with f = [1, 3, 3, 1] outer / 64.
Legend: B batch, C I O channels, k kernel size, H W.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from epigraf.models.convolution import conv2d, conv_transpose2d


class Resample(Enum):
    """Change of resolution of a convolution."""

    NONE = "none"
    UP = "up"
    DOWN = "down"


def _filter(x: Tensor, gain: float, pad: int, stride: int) -> Tensor:
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = (torch.outer(taps, taps) * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, stride=stride, padding=pad, groups=x.shape[1])


def _interpolate(x: Tensor) -> Tensor:
    x = F.pad(x.contiguous(memory_format=torch.channels_last), (1, 1, 1, 1))
    y = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return y[:, :, 2:-2, 2:-2]


class _Blur(Function):
    """Filter at full resolution; symmetric, so the adjoint pads by 3 - pad."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float, pad: int) -> Tensor:
        ctx.gain, ctx.pad = gain, pad
        return _filter(x, gain, pad, 1)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None]:
        return _Blur.apply(grad_y, ctx.gain, 3 - ctx.pad), None, None


class _Down(Function):
    """Filter and keep every second pixel; the adjoint is a quarter of `_Up`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _filter(x, 1.0, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:
        return _Up.apply(grad_y) / 4


class _Up(Function):
    """Insert zeros and filter with gain 4: bilinear interpolation that sees zeros outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _interpolate(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:
        return _Down.apply(grad_y) * 4


def blur2d(x: Tensor, pad: int, gain: float = 1.0) -> Tensor:
    """Filter ``x`` [B, C, H, W], padded by ``pad`` (1 or 2): [B, C, H + 2 pad - 3, ...]."""
    if torch.compiler.is_compiling():
        return _filter(x, gain, pad, 1)
    return _Blur.apply(x, gain, pad)


def upsample2d(x: Tensor) -> Tensor:
    """Double the size of ``x`` [B, C, H, W]; a constant stays constant away from the border.

    Zero insertion, padding (2, 1), filter, gain 4: y[2i] = (x[i-1] + 3 x[i]) / 4 and
    y[2i+1] = (3 x[i] + x[i+1]) / 4 along each axis.
    """
    return _interpolate(x) if torch.compiler.is_compiling() else _Up.apply(x)


def downsample2d(x: Tensor) -> Tensor:
    """Halve the even size of ``x`` [B, C, H, W].

    y[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2]) / 8 along each axis.
    """
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"downsample2d: height and width must be even, got {list(x.shape[2:])}")
    return _Down.apply(x)


def conv2d_resample(
    x: Tensor, weight: Tensor, resample: Resample = Resample.NONE, *, gain: float = 1.0
) -> Tensor:
    """Convolve and resample by 2.

    NONE pads by k // 2. DOWN filters, then convolves with stride 2 (k = 1: filters at every second
    pixel, then convolves, which is the same). UP is a transposed convolution with stride 2, then
    the filter.

    Args:
        x: [B, I, H, W].
        weight: [O, I, k, k], k = 1 or 3. A correlation kernel for NONE and DOWN; for UP a true
            convolution kernel over the zero-inserted image.
        resample: change of resolution.
        gain: of the weight.

    Returns:
        [B, O, H, W], [B, O, H/2, W/2] or [B, O, 2H, 2W].
    """
    k = weight.shape[2]
    if resample is Resample.NONE:
        return conv2d(x, weight, padding=k // 2, gain=gain)
    if k == 1:
        x = downsample2d(x) if resample is Resample.DOWN else upsample2d(x)
        return conv2d(x, weight, gain=gain)
    if resample is Resample.DOWN:
        return conv2d(blur2d(x, pad=2), weight, stride=2, gain=gain)
    return blur2d(conv_transpose2d(x, weight.transpose(0, 1), stride=2), pad=1, gain=4.0 * gain)
