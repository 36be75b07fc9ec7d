"""The filters have the properties that define them; the matrices do what a loop does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epigraf.training.wavelets import (
    BAND_REACH,
    MARGIN,
    SYM2,
    SYM6,
    band_filters,
    band_matrices,
    downsampling_matrix,
    reflected,
    upsampling_matrix,
)


@pytest.mark.parametrize(("taps", "moments"), [(SYM2, 2), (SYM6, 6)])
def test_symlets_are_orthonormal_with_vanishing_moments(
    taps: tuple[float, ...], moments: int
) -> None:
    h = np.array(taps) * np.sqrt(2)
    assert h.sum() == pytest.approx(np.sqrt(2), abs=1e-12)
    for shift in range(0, len(h), 2):
        inner = (h[shift:] * h[: len(h) - shift]).sum()
        assert inner == pytest.approx(1.0 if shift == 0 else 0.0, abs=1e-11)
    k = np.arange(len(h))
    for power in range(moments):
        assert ((-1.0) ** k * k.astype(float) ** power * h).sum() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_reflection_is_numpys(size: int) -> None:
    if size == 1:
        assert reflected(torch.arange(-3, 4), 1).eq(0).all()
        return
    expected = np.pad(np.arange(size), 3 * size, mode="reflect")
    assert reflected(torch.arange(-3 * size, 4 * size), size).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [2, 5, 16, 33])
def test_down_undoes_up(size: int) -> None:
    wide = size + 4 * MARGIN  # twice the margin, so that zeros beyond it are not read
    up, down = upsampling_matrix(wide), downsampling_matrix(size)
    assert up.shape == (2 * wide, wide)
    assert down.shape == (size, 2 * (size + 2 * MARGIN))
    both = down @ up[2 * MARGIN : 2 * MARGIN + down.shape[1]]
    expected = torch.eye(wide, dtype=torch.float64)[2 * MARGIN : 2 * MARGIN + size]
    assert torch.allclose(both, expected, atol=1e-10)


def test_upsampling_is_zero_insertion_and_convolution() -> None:
    """Against numpy on a signal: insert zeros, convolve with 2 sym6, cut."""
    size = 16
    signal = np.random.default_rng(0).normal(size=size)
    fine = np.zeros(2 * size)
    fine[::2] = signal
    expected = np.convolve(fine, 2 * np.array(SYM6))[5 : 5 + len(fine)]
    ours = upsampling_matrix(size) @ torch.from_numpy(signal)
    assert np.allclose(ours.numpy(), expected, atol=1e-12)


def test_bands_split_the_identity() -> None:
    bands = band_filters()
    assert bands.shape == (4, 2 * BAND_REACH + 1)
    delta = torch.zeros(2 * BAND_REACH + 1, dtype=torch.float64)
    delta[BAND_REACH] = 1
    assert torch.allclose(bands.sum(dim=0), delta, atol=1e-12)
    assert torch.allclose(bands, bands.flip(1), atol=1e-12)
    assert torch.allclose(bands.sum(dim=1), torch.tensor([1.0, 0, 0, 0]).double(), atol=1e-12)


@pytest.mark.parametrize("size", [4, 50])
def test_band_matrices_are_reflected_convolutions(size: int) -> None:
    signal = np.random.default_rng(1).normal(size=size)
    padded = np.pad(signal, BAND_REACH, mode="reflect")
    ours = band_matrices(size) @ torch.from_numpy(signal)
    for band, taps in zip(ours, band_filters().numpy(), strict=True):
        assert np.allclose(band.numpy(), np.convolve(padded, taps, mode="valid"), atol=1e-12)
