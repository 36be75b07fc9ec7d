"""Latents and labels from integer seeds, the same numbers as the official tools draw.

N seeds; a seed is an integer in [0, 2^32).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def latents_from_seeds(seeds: Sequence[int], z_dim: int) -> Tensor:
    """z [N, z_dim] float32: row i is `RandomState(seeds[i]).randn(z_dim)`, so that a seed means the
    same object in every batch.
    """
    rows = [_state(seed).randn(z_dim).astype(np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, z_dim)


def labels_from_seeds(seeds: Sequence[int], c_dim: int) -> Tensor:
    """One-hot labels [N, c_dim] float32: class i is `RandomState(seeds[i]).choice(c_dim)`.

    Without classes (c_dim 0) the result is [N, 0].
    """
    if c_dim == 0:
        return torch.zeros(len(seeds), 0)
    return labels_from_classes([int(_state(seed).choice(c_dim)) for seed in seeds], c_dim)


def labels_from_classes(classes: Sequence[int], c_dim: int) -> Tensor:
    """One-hot labels [N, c_dim] float32 of class numbers in [0, c_dim)."""
    for index in classes:
        if not 0 <= index < c_dim:
            raise ValueError(
                f"labels_from_classes: class must be in [0, {c_dim}), got {index}"
                + (": the model has no classes" if c_dim == 0 else "")
            )
    labels = torch.zeros(len(classes), c_dim)
    labels[torch.arange(len(classes)), torch.tensor(list(classes), dtype=torch.long)] = 1.0
    return labels


def _state(seed: int) -> np.random.RandomState:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seeds: a seed must be in [0, 2^32), got {seed}")
    return np.random.RandomState(seed)
