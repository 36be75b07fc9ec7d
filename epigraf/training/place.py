"""Which process of how many this one is, as torchrun and `epigraf train --gpus` say in the
environment. Reading it costs no import of torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from epigraf.errors import TrainingError


@dataclass(frozen=True)
class Place:
    """Process `rank` of `size` in all; `local_rank` of `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def find_place() -> Place:
    """The place that RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE speak of; without RANK and
    WORLD_SIZE one process alone. MASTER_ADDR and MASTER_PORT say where all meet.

    Raises:
        TrainingError: a number that is none, or that cannot be; names the variable.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place()
    size = _number("WORLD_SIZE", "1", 1)
    rank = _number("RANK", "0", 0, size)
    local_size = _number("LOCAL_WORLD_SIZE", str(size), 1)
    local_rank = _number("LOCAL_RANK", str(rank % local_size), 0, local_size)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if size > 1 and name not in os.environ:
            raise TrainingError(
                f"run: WORLD_SIZE is {size} but {name} is not set; start with torchrun or --gpus"
            )
    return Place(rank, size, local_rank, local_size)


def _number(name: str, default: str, least: int, beyond: int | None = None) -> int:
    text = os.environ.get(name, default)
    value = int(text) if text.isdecimal() else -1
    if value < least or (beyond is not None and value >= beyond):
        top = "" if beyond is None else f" below {beyond}"
        raise TrainingError(
            f"run: environment variable {name} must be a number from {least}{top}, got {text!r}"
        )
    return value
