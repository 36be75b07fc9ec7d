"""FID, KID, precision and recall, inception score against closed forms and brute-force loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from epigraf.metrics.fid import Gaussian, fid, fit_gaussian, frechet_distance
from epigraf.metrics.inception_score import inception_score
from epigraf.metrics.kid import draw_subsets, kid
from epigraf.metrics.precision_recall import precision_recall
from epigraf.rendering.draws import RandomDraws


def _features(n: int, d: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + generator.normal(size=d)


def test_frechet_distance_in_one_dimension_by_hand() -> None:
    a = Gaussian(np.array([1.0]), np.array([[4.0]]))
    b = Gaussian(np.array([-2.0]), np.array([[9.0]]))
    assert frechet_distance(a, b) == pytest.approx(9 + (3 - 2) ** 2)


def test_frechet_distance_is_that_of_the_matrix_square_root() -> None:
    a, b = fit_gaussian(_features(50, 6, 0)), fit_gaussian(_features(40, 6, 1))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    trace = np.trace(a.covariance + b.covariance - 2 * np.real(root))
    assert frechet_distance(a, b) == pytest.approx(((a.mean - b.mean) ** 2).sum() + trace)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_frechet_distance_with_fewer_samples_than_dimensions_is_finite() -> None:
    few = _features(5, 20, 2)
    assert fid(few, few) == pytest.approx(0, abs=1e-3)
    assert math.isfinite(fid(few, _features(5, 20, 3)))


def test_covariance_is_divided_by_n() -> None:
    gaussian = fit_gaussian(np.array([[0.0], [2.0]]))
    assert (gaussian.mean.item(), gaussian.covariance.item()) == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"features must be \[N >= 2, D\], got \[1, 3\]"):
        fit_gaussian(np.zeros((1, 3)))


def test_kid_is_the_loop_over_pairs() -> None:
    real, fake = _features(9, 3, 4), _features(8, 3, 5)
    f, r = np.array([0, 3, 5, 7]), np.array([8, 1, 2, 6])

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(x * y) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(4) for j in range(4)]
    within = sum(
        kernel(fake[f[i]], fake[f[j]]) + kernel(real[r[i]], real[r[j]]) for i, j in pairs if i != j
    )
    across = sum(kernel(fake[f[i]], real[r[j]]) for i, j in pairs)
    assert kid(real, fake, [(f, r)]) == pytest.approx(within / 12 - 2 * across / 16)


def test_kid_of_equal_distributions_is_about_zero_on_average() -> None:
    x = np.random.default_rng(0).normal(size=(400, 4))
    subsets = draw_subsets(200, 200, count=50, size=100, draws=RandomDraws(0))
    assert abs(kid(x[:200], x[200:], subsets)) < 0.02
    assert kid(x[:200], x[200:] + 1, subsets) > 0.5


def test_subsets_have_no_repetition_and_fit() -> None:
    subsets = draw_subsets(30, 20, count=3, size=1000, draws=RandomDraws(0))
    assert len(subsets) == 3
    for fake, real in subsets:
        assert len(set(fake.tolist())) == len(set(real.tolist())) == 20
        assert (fake.max() < 20, real.max() < 30) == (True, True)
    with pytest.raises(ValueError, match="at least one subset"):
        kid(np.zeros((3, 2)), np.zeros((3, 2)), [])


def test_precision_and_recall_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0]])  # balls of radius 1 around each (k = 1)
    fake = torch.tensor([[2.5], [10.0], [10.25], [3.25]])  # radii 0.75, 0.25, 0.25, 0.75
    result = precision_recall(real, fake, neighbours=1)
    assert result.precision == 0.25  # only 2.5 lies on the reals' balls, which end at 3
    assert result.recall == pytest.approx(1 / 3)  # only 2 lies on the fakes' balls: [1.75, 3.25]
    with pytest.raises(ValueError, match="more than 3 samples are needed, got 3"):
        precision_recall(real, fake)


def test_inception_score_by_hand() -> None:
    sure = np.eye(4)[np.arange(40) % 4]
    assert inception_score(sure, splits=10).mean == pytest.approx(4)
    assert inception_score(np.full((40, 4), 0.25)).mean == pytest.approx(1)
    mixed = np.array([[0.9, 0.1], [0.2, 0.8]])
    q = mixed.mean(0)
    expected = math.exp(sum(p * math.log(p / q[i % 2]) for i, p in enumerate(mixed.ravel())) / 2)
    assert inception_score(mixed, splits=1).mean == pytest.approx(expected)
    with pytest.raises(ValueError, match="10 splits need as many samples, got 3"):
        inception_score(sure[:3])
