"""Models as commands use them: loaded with the user's choice of samples, styles by seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from epigraf.errors import EpigrafError
from epigraf.models.loading import LoadedModel, load
from epigraf.models.sampling import Truncation, styles_from_seeds


def open_model(path: Path, ray_steps: int | None = None) -> LoadedModel:
    """Load MODEL onto the GPU if there is one.

    Args:
        path: run folder or snapshot.
        ray_steps: stratified samples a ray; None keeps the model's own number.
    """
    loaded = load(path, "cuda" if torch.cuda.is_available() else "cpu")
    if ray_steps is None:
        return loaded
    cfg = loaded.config.with_overrides([f"model.generator.test_ray_steps={ray_steps}"])
    loaded.generator.cfg = cfg
    return replace(loaded, config=cfg)


def object_styles(
    loaded: LoadedModel, seeds: list[int], psi: float, class_index: int | None
) -> Tensor:
    """Styles [N, num_ws, w_dim] of the seeds; a class that does not exist is the user's error."""
    classes = loaded.generator.c_dim
    if class_index is not None and class_index >= classes:
        known = f"classes 0 to {classes - 1}" if classes else "no classes"
        raise EpigrafError(f"--class {class_index}: this model has {known}")
    return styles_from_seeds(loaded.generator, seeds, Truncation(psi), class_index)
