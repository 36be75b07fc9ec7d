"""Kernel distance between two sets of features (Binkowski et al. 2018, Demystifying MMD GANs,
section 4): the unbiased squared MMD with the kernel (x . y / D + 1)^3, averaged over random
subsets. N real and M fake samples, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from epigraf.rendering.draws import Draws

Subset = tuple[np.ndarray, np.ndarray]
"""Indices of fakes [m] and of reals [m]."""


def draw_subsets(
    num_real: int, num_fake: int, *, count: int = 100, size: int = 1000, draws: Draws
) -> list[Subset]:
    """`count` pairs of random index sets without repetition, of `size` or as many as there are."""
    size = min(num_real, num_fake, size)
    return [
        (_choose("kid_fake", num_fake, size, draws), _choose("kid_real", num_real, size, draws))
        for _ in range(count)
    ]


def _choose(name: str, n: int, size: int, draws: Draws) -> np.ndarray:
    return draws.permutation(name, n)[:size].numpy()


def kid(real: np.ndarray, fake: np.ndarray, subsets: Sequence[Subset]) -> float:
    """The mean over subsets of the unbiased squared MMD; real [N, D], fake [M, D].

    It can be slightly negative when the two distributions agree.
    """
    if not subsets:
        raise ValueError("kid: at least one subset is needed")
    return float(np.mean([_squared_mmd(real[r], fake[f]) for f, r in subsets]))


def _squared_mmd(real: np.ndarray, fake: np.ndarray) -> float:
    """Unbiased estimate from m real and m fake samples [m, D], m >= 2."""
    m = len(real)
    if m < 2:
        raise ValueError(f"kid: subsets need at least 2 samples, got {m}")
    within = sum(_off_diagonal_sum(_kernel(x, x)) for x in (real, fake))
    return (within / (m - 1) - 2 * _kernel(real, fake).sum() / m) / m


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def _off_diagonal_sum(matrix: np.ndarray) -> float:
    return float(matrix.sum() - np.trace(matrix))
