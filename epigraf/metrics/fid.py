"""Fréchet distance between two sets of features (Heusel et al. 2017, GANs Trained by a Two
Time-Scale Update Rule, section 3.1). N samples, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """The mean [D] and covariance [D, D] (divided by N) of a set of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def fit_gaussian(features: np.ndarray) -> Gaussian:
    """Mean and covariance of features [N, D], N >= 2."""
    if features.ndim != 2 or features.shape[0] < 2:
        raise ValueError(f"fid: features must be [N >= 2, D], got {list(features.shape)}")
    x = features.astype(np.float64)
    mean = x.mean(axis=0)
    return Gaussian(mean, (x - mean).T @ (x - mean) / len(x))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of the symmetric
    C_a^(1/2) C_b C_a^(1/2), which has the eigenvalues of C_a C_b: real, and no iteration.
    """
    root = _symmetric_root(a.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(eigenvalues.clip(min=0)).sum()
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(((a.mean - b.mean) ** 2).sum() + trace)


def fid(real: np.ndarray, fake: np.ndarray) -> float:
    """Fréchet distance of real [N, D] and fake [M, D] features."""
    return frechet_distance(fit_gaussian(real), fit_gaussian(fake))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
