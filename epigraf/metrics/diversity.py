"""How varied samples are within their classes. N samples, D features."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_PER_CLASS = 1024


def class_diversity(features: Tensor, classes: Tensor) -> float:
    """Mean distance between two samples of the same class, averaged over classes.

    Args:
        features: [N, D].
        classes: [N] integers; classes of one sample are left out, of large ones the first
            MAX_PER_CLASS count.
    Returns:
        NaN where no class has two samples.
    """
    if features.ndim != 2 or classes.shape != features.shape[:1]:
        raise ValueError(
            f"class_diversity: features [N, D] and classes [N], got {list(features.shape)} and "
            f"{list(classes.shape)}"
        )
    means = []
    for index in classes.unique():
        members = features[classes == index][:MAX_PER_CLASS].double()
        if len(members) > 1:
            means.append(torch.pdist(members).mean())
    return float(torch.stack(means).mean()) if means else float("nan")
