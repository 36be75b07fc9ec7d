"""Latents and labels from seeds; the numbers are NumPy's documented legacy stream."""

from __future__ import annotations

import pytest
import torch

from epigraf.rendering.seeds import labels_from_classes, labels_from_seeds, latents_from_seeds


def test_seed_zero_starts_with_the_well_known_numbers() -> None:
    z = latents_from_seeds([7, 0], 512)
    assert z.shape == (2, 512)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z[1, :3], torch.tensor([1.7640524, 0.40015721, 0.97873798]))


def test_a_seed_means_the_same_latent_alone_and_in_company() -> None:
    assert torch.equal(latents_from_seeds([3], 8)[0], latents_from_seeds([1, 2, 3], 8)[2])
    assert latents_from_seeds([], 8).shape == (0, 8)


def test_labels_are_one_hot_and_empty_without_classes() -> None:
    assert labels_from_seeds([0, 1, 7], 10).argmax(dim=1).tolist() == [5, 5, 4]
    assert labels_from_seeds([0, 1], 10).sum(dim=1).tolist() == [1, 1]
    assert labels_from_seeds([0, 1], 0).shape == (2, 0)
    assert labels_from_classes([2, 0], 3).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"class must be in \[0, 3\), got 3"):
        labels_from_classes([3], 3)
    with pytest.raises(ValueError, match="the model has no classes"):
        labels_from_classes([0], 0)
    with pytest.raises(ValueError, match=r"a seed must be in \[0, 2\^32\), got -1"):
        latents_from_seeds([-1], 4)
