"""class_diversity against distances worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from epigraf.metrics.diversity import class_diversity


def test_worked_example():
    features = torch.tensor(
        [[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]
    )
    classes = torch.tensor([5, 5, 2, 2, 2, 7])  # distances 5 | 1, 1, sqrt 2 | a single sample
    expected = (5 + (2 + math.sqrt(2)) / 3) / 2
    assert class_diversity(features, classes) == pytest.approx(expected, rel=1e-12)


def test_collapsed_classes_have_none_and_single_samples_no_value():
    assert class_diversity(torch.ones(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])) == 0.0
    assert math.isnan(class_diversity(torch.ones(2, 3), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"features \[N, D\] and classes \[N\], got \[4, 3\] and"):
        class_diversity(torch.ones(4, 3), torch.zeros(3))
