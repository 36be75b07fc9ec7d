"""Inception score (Salimans et al. 2016, section 4). N samples, K classes."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


def inception_score(probabilities: np.ndarray, *, splits: int = 10) -> InceptionScore:
    """exp(E_x KL(p(y|x) || p(y))) of class probabilities [N, K], over consecutive splits."""
    n = len(probabilities)
    if n < splits:
        raise ValueError(f"inception_score: {splits} splits need as many samples, got {n}")
    p = probabilities.astype(np.float64)
    bounds = [n * i // splits for i in range(splits + 1)]
    scores = [_score(p[a:b]) for a, b in pairwise(bounds)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(p: np.ndarray) -> float:
    """One split; classes of probability 0 contribute nothing."""
    marginal = p.mean(axis=0, keepdims=True)
    ratio = np.log(np.where(p > 0, p, 1)) - np.log(np.where(marginal > 0, marginal, 1))
    return float(np.exp((p * ratio).sum(axis=1).mean()))
