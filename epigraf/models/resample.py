"""Convolutions that change the resolution by two, with the filter of `epigraf.ops.resample`.

Source: StyleGAN2 (Karras et al. 2020), appendix B.
Legend: B batch, I O channels, k kernel size, H W.
"""

from __future__ import annotations

from enum import Enum

from torch import Tensor

from epigraf.models.convolution import conv2d, conv_transpose2d
from epigraf.ops.resample import blur2d, downsample2d, upsample2d


class Resample(Enum):
    """Change of resolution of a convolution."""

    NONE = "none"
    UP = "up"
    DOWN = "down"


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
    up = conv_transpose2d(x, weight.transpose(0, 1), stride=2, gain=gain)
    return blur2d(up, pad=1, gain=4.0)
