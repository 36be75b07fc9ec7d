"""Patches: laws of scale and offset, extraction against a pixel loop, second derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.config import PatchConfig, PatchDistribution
from epigraf.rendering.draws import RandomDraws, ReplayDraws
from epigraf.rendering.patches import (
    PatchParams,
    extract_patches,
    full_image,
    patch_grid,
    sample_patch_params,
)


def _patch_by_pixel(image: np.ndarray, scale: np.ndarray, offset: np.ndarray, r: int) -> np.ndarray:
    """Bilinear patch of image [C, H, W], pixel by pixel; offset y from the bottom."""
    channels, height, width = image.shape
    out = np.zeros((channels, r, r))
    for i in range(r):
        for j in range(r):
            x = (j / (r - 1) * scale[0] + offset[0]) * (width - 1)
            from_bottom = (1 - i / (r - 1)) * scale[1] + offset[1]
            y = (1 - from_bottom) * (height - 1)
            for yi in (int(np.floor(y)), int(np.floor(y)) + 1):
                for xi in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= yi < height and 0 <= xi < width:
                        out[:, i, j] += image[:, yi, xi] * (1 - abs(x - xi)) * (1 - abs(y - yi))
    return out


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(*[st.floats(0.1, 1.0)] * 2),
    st.tuples(*[st.floats(0, 1)] * 2),
    st.integers(2, 7),
    st.integers(2, 9),
)
def test_extraction_is_the_pixel_loop(scale: tuple, place: tuple, r: int, width: int) -> None:
    scales = torch.tensor([scale, (1.0, 0.5)], dtype=torch.float64)
    offsets = (1 - scales) * torch.tensor([place, (0.5, 1.0)], dtype=torch.float64)
    images = torch.randn(2, 3, 8, width, dtype=torch.float64)
    ours = extract_patches(images, PatchParams(scales, offsets), r)
    for b in range(2):
        expected = _patch_by_pixel(images[b].numpy(), scales[b].numpy(), offsets[b].numpy(), r)
        np.testing.assert_allclose(ours[b].numpy(), expected, atol=1e-9)


def test_extraction_of_the_whole_image_is_the_identity() -> None:
    images = torch.randn(2, 3, 16, 16)
    ours = extract_patches(images, full_image(2, images), 16)
    torch.testing.assert_close(ours, images, atol=2e-5, rtol=0)


def test_offset_counts_from_the_bottom() -> None:
    images = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 5)  # row index, top is 0
    bottom = PatchParams(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 0.0]]))
    assert extract_patches(images, bottom, 3)[0, 0, :, 0].tolist() == [2, 3, 4]


def test_outside_of_the_image_is_zero() -> None:
    images = torch.ones(1, 1, 4, 4)
    patch = PatchParams(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, 0.0]]))
    columns = extract_patches(images, patch, 5)[0, 0, 0]
    # Pixels 1.5, 2.25, 3, 3.75, 4.5 of 0..3.
    torch.testing.assert_close(columns, torch.tensor([1, 1, 1, 0.25, 0]))


def test_extraction_has_a_second_derivative() -> None:
    images = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    patch = PatchParams(torch.tensor([[0.6, 0.7]]).double(), torch.tensor([[0.1, 0.2]]).double())
    assert torch.autograd.gradgradcheck(lambda x: extract_patches(x, patch, 3) ** 2, images)


def test_grid_agrees_with_torchs_sampler() -> None:
    images = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    patch = PatchParams(torch.tensor([[0.3, 0.8]]).double(), torch.tensor([[0.6, 0.1]]).double())
    theirs = torch.nn.functional.grid_sample(
        images, patch_grid(patch, 5), align_corners=True, mode="bilinear"
    )
    torch.testing.assert_close(extract_patches(images, patch, 5), theirs)


def test_groups_are_consecutive_and_patches_stay_inside() -> None:
    patch = sample_patch_params(
        PatchConfig(distribution=PatchDistribution.UNIFORM), 12, 4, 0.25, 1.0, draws=RandomDraws(0)
    )
    for values in (patch.scales, patch.offsets):
        assert torch.equal(values.view(3, 4, 2), values.view(3, 4, 2)[:, :1].expand(3, 4, 2))
    assert len(patch.scales.unique()) == 3
    assert torch.equal(patch.scales[:, 0], patch.scales[:, 1])
    assert (patch.offsets >= 0).all()
    assert (patch.scales + patch.offsets <= 1).all()


def test_scale_laws_by_worked_numbers() -> None:
    offsets = torch.full((2, 2), 0.5)
    unit = torch.tensor([0.2, 1.0], dtype=torch.float64)
    for law in (PatchDistribution.BETA, PatchDistribution.UNIFORM):
        draws = ReplayDraws([("scale", unit), ("offset", offsets)])
        cfg = PatchConfig(distribution=law, max_scale=0.9)
        patch = sample_patch_params(cfg, 2, 1, 0.4, 0.8, draws=draws)
        torch.testing.assert_close(patch.scales[:, 0], torch.tensor([0.5, 0.9]))
        torch.testing.assert_close(patch.offsets[:, 1], torch.tensor([0.25, 0.05]))


def test_beta_law_starts_with_whole_images() -> None:
    cfg = PatchConfig(distribution=PatchDistribution.BETA)
    early = sample_patch_params(cfg, 4000, 1, 0.25, 0.001, draws=RandomDraws(0)).scales
    late = sample_patch_params(cfg, 4000, 1, 0.125, 0.8, draws=RandomDraws(0)).scales
    assert early.mean() > 0.997
    # The mean of Beta(1, 0.8) is 1 / 1.8.
    assert late.mean() == pytest.approx(0.875 / 1.8 + 0.125, abs=0.02)


@pytest.mark.parametrize(("smallest", "allowed"), [(0.2, {0.25, 0.5, 1.0}), (0.3, {0.5, 1.0})])
def test_discrete_law_takes_what_the_schedule_allows(smallest: float, allowed: set) -> None:
    cfg = PatchConfig(
        distribution=PatchDistribution.DISCRETE_UNIFORM, discrete_support=(0.25, 0.5, 1.0)
    )
    patch = sample_patch_params(cfg, 200, 1, smallest, 1.0, draws=RandomDraws(0))
    assert set(patch.scales[:, 0].tolist()) == allowed
    narrow = PatchConfig(distribution=PatchDistribution.DISCRETE_UNIFORM, discrete_support=(0.25,))
    with pytest.raises(ValueError, match="no scale of discrete_support"):
        sample_patch_params(narrow, 4, 4, 0.9, 1.0, draws=RandomDraws(0))


def test_wrong_sizes() -> None:
    with pytest.raises(ValueError, match="batch must be a multiple of the group size 4, got 6"):
        sample_patch_params(PatchConfig(), 6, 4, 0.5, 1.0, draws=RandomDraws(0))
    with pytest.raises(
        ValueError, match=r"PatchParams: scales must have shape \[B, 2\], got \[2\]"
    ):
        PatchParams(torch.ones(2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="with B = 1, got"):
        extract_patches(torch.zeros(2, 3, 4, 4), full_image(1, torch.zeros(())), 2)
