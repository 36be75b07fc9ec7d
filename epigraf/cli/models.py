"""Models as commands use them: on the user's device, with the user's changes, styles by seed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from epigraf.errors import EpigrafError
from epigraf.models.loading import LoadedModel, load
from epigraf.models.sampling import Truncation, styles_from_seeds


def open_model(
    path: Path, overrides: Iterable[str] | None = None, device: str = "auto"
) -> LoadedModel:
    """Load MODEL.

    Args:
        path: run folder, snapshot or shipped model.
        overrides: `a.b=c` from `--set`.
        device: from `--device`.
    """
    return load(path, find_device(device), overrides or ())


def find_device(name: str) -> torch.device:
    """The device that `--device` means.

    Raises:
        EpigrafError: no such device; says which there are.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", name)
    if match is None or (name != "cpu" and int(match[1] or 0) >= count):
        gpus = [f"cuda:{i}" for i in range(count)]
        there = ", ".join(["auto", "cpu", *gpus])
        why = "" if match is None or count else f" (torch {torch.__version__} finds no CUDA device)"
        raise EpigrafError(f"--device {name}: choose from {there}{why}")
    return torch.device(name)


def check_class(loaded: LoadedModel, class_index: int | None) -> None:
    """Raise EpigrafError where the model has no such class."""
    classes = loaded.generator.c_dim
    if class_index is not None and class_index >= classes:
        known = f"classes 0 to {classes - 1}" if classes else "no classes"
        raise EpigrafError(f"--class {class_index}: this model has {known}")


def object_styles(
    loaded: LoadedModel, seeds: list[int], psi: float, class_index: int | None
) -> Tensor:
    """Styles [N, num_ws, w_dim] of the seeds; a class that does not exist is the user's error."""
    check_class(loaded, class_index)
    return styles_from_seeds(loaded.generator, seeds, Truncation(psi), class_index)
