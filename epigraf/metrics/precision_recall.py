"""Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

The manifold of a set is the union of balls around its samples that reach to their k-th neighbour;
precision is the share of fakes on the manifold of reals, recall the share of reals on that of
fakes. N and M samples, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 4096


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]."""

    precision: float
    recall: float


def precision_recall(
    real: Tensor, fake: Tensor, *, neighbours: int = 3, dtype: torch.dtype = torch.float64
) -> PrecisionRecall:
    """Precision and recall of real [N, D] and fake [M, D] features, N and M > neighbours.

    `dtype` is the precision of features and distances. The official code uses float16, in which
    a few samples in a thousand that lie near a ball's edge change sides.
    """
    real, fake = real.to(dtype), fake.to(dtype)
    return PrecisionRecall(
        _share_on_manifold(fake, real, neighbours), _share_on_manifold(real, fake, neighbours)
    )


def _share_on_manifold(samples: Tensor, manifold: Tensor, neighbours: int) -> float:
    if len(manifold) <= neighbours:
        raise ValueError(
            f"precision_recall: more than {neighbours} samples are needed, got {len(manifold)}"
        )
    radii = _neighbour_distances(manifold, neighbours)
    inside = [(torch.cdist(part, manifold) <= radii).any(dim=1) for part in samples.split(_BLOCK)]
    return float(torch.cat(inside).double().mean())


def _neighbour_distances(samples: Tensor, neighbours: int) -> Tensor:
    """Distance [N] of each sample to its k-th neighbour other than itself."""
    rows = [
        torch.cdist(part, samples).double().kthvalue(neighbours + 1, dim=1).values
        for part in samples.split(_BLOCK)
    ]
    return torch.cat(rows).to(samples.dtype)
