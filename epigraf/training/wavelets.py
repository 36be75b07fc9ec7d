"""Symlet filters and the resampling that the augmentations use, as small matrices.

A filter along one axis of an image is a linear map, and the images that are augmented are small,
so every filter here becomes a matrix [out, in] that is applied from the left to columns and from
the right to rows: `M @ X @ M^T`. Reflection at the border is part of the matrix. A matrix product
is fast on every device and can be differentiated twice.

Legend: N pixels along an axis, K filter taps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Symlets are Daubechies' least asymmetric orthonormal wavelets (I. Daubechies, Ten Lectures on
# Wavelets, 1992, table 6.3). Low-pass taps, scaled to sum 1; sym2 has a closed form.
SYM2 = tuple(
    (a + b * math.sqrt(3.0)) / 8.0 for a, b in ((1.0, 1.0), (3.0, 1.0), (3.0, -1.0), (1.0, -1.0))
)
_SYM6_UNIT_NORM = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
SYM6 = tuple(tap / math.sqrt(2.0) for tap in _SYM6_UNIT_NORM)
MARGIN = 3  # pixels that the downsampling filter reads beyond the image on both sides
BAND_REACH = 21  # the filters of `band_filters` have 2 * 21 + 1 taps


def reflected(index: Tensor, size: int) -> Tensor:
    """Index of the pixel that a mirror at the first and last pixel shows at `index`.

    Args:
        index: integers, any shape; outside [0, size) they are reflected without repeating the
            border pixel (numpy's "reflect"), as often as needed.
        size: N, number of pixels.
    """
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded)


def upsampling_matrix(size: int) -> Tensor:
    """Doubles the resolution of an axis with the sym6 low-pass.

    Zeros are put between the pixels (and beyond the borders), and the result is filtered with
    twice the taps. The matrix of a shorter axis is the first corner of that of a longer one.

    Returns:
        float64 [2N, N]. Row n lies at pixel n/2: tap 5 is next to the centre of mass (5.10) of
        the asymmetric filter.
    """
    taps = 2.0 * torch.tensor(SYM6, dtype=torch.float64)
    out = torch.arange(2 * size)
    matrix = torch.zeros(2 * size, size, dtype=torch.float64)
    for k in range(len(taps)):
        fine = out - k + 5  # position on the fine grid that tap k reads
        source = torch.div(fine, 2, rounding_mode="floor")
        read = (fine % 2 == 0) & (source >= 0) & (source < size)
        matrix[out[read], source[read]] += taps[k]
    return matrix


def downsampling_matrix(size: int) -> Tensor:
    """Halves the resolution with the mirrored sym6 low-pass; undoes `upsampling_matrix`.

    Args:
        size: N of the result; the fine axis extends MARGIN pixels beyond it on both sides.

    Returns:
        float64 [N, 2(N + 2 MARGIN)].
    """
    taps = torch.tensor(SYM6, dtype=torch.float64)
    fine_size = 2 * (size + 2 * MARGIN)
    out = torch.arange(size)
    matrix = torch.zeros(size, fine_size, dtype=torch.float64)
    for k in range(len(taps)):
        fine = 2 * (out + MARGIN) + k - 5
        read = (fine >= 0) & (fine < fine_size)
        matrix[out[read], fine[read]] += taps[k]
    return matrix


def band_filters() -> Tensor:
    """Four symmetric filters that split an axis into octaves and sum to the identity.

    From sym2 by repeated splitting with the zero-phase low-pass h(z)h(1/z) and its high-pass
    (Karras et al. 2020, appendix B "image-space filtering").

    Returns:
        float64 [4, 43], lowest band first, centre at tap 21.
    """
    low = torch.tensor(SYM2, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    low2, high2 = _convolve(low, low.flip(0)), _convolve(low * signs, (low * signs).flip(0))
    bands = [torch.ones(1, dtype=torch.float64)]
    for _ in range(3):
        bands = [_convolve(_with_zeros(band), low2) for band in bands]
        high = torch.zeros_like(bands[0])
        start = (len(high) - len(high2)) // 2
        high[start : start + len(high2)] = high2
        bands.append(high)
    return torch.stack(bands)


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    out = torch.zeros(len(a) + len(b) - 1, dtype=a.dtype)
    for shift, tap in enumerate(b):
        out[shift : shift + len(a)] += tap * a
    return out


def _with_zeros(taps: Tensor) -> Tensor:
    out = torch.zeros(2 * len(taps) - 1, dtype=taps.dtype)
    out[::2] = taps
    return out


def band_matrices(size: int) -> Tensor:
    """`band_filters` along a reflected axis of N pixels: float64 [4, N, N]."""
    bands = band_filters()
    matrices = torch.zeros(4, size, size, dtype=torch.float64)
    rows = torch.arange(size)
    for k in range(2 * BAND_REACH + 1):
        columns = reflected(rows + k - BAND_REACH, size)
        matrices[:, rows, columns] += bands[:, k : k + 1]
    return matrices
