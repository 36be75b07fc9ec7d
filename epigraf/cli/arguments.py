"""Arguments that several commands share, and how their text is read.

This is the edge where text becomes numbers and Enums; nothing below sees a string mode.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from epigraf.errors import EpigrafError

MAX_SEEDS = 100_000

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A run folder (its newest snapshot), a snapshot file or a shipped model.",
    ),
]
Seeds = Annotated[
    str, typer.Option("--seeds", help="Which objects: a list of seeds and ranges, like 0-3,7.")
]
Truncation = Annotated[
    float,
    typer.Option(
        "--trunc",
        min=-2.0,
        max=2.0,
        help="Truncation psi: 1 = full variety, 0 = the mean object (of the class, with labels).",
    ),
]
ClassIndex = Annotated[
    int | None,
    typer.Option(
        "--class", min=0, help="Class index for all objects; without it each seed draws its own."
    ),
]
Resolution = Annotated[
    int | None,
    typer.Option(
        "--resolution",
        min=4,
        max=4096,
        help="Side of a picture in pixels; any size works. [dim]Default: as trained[/dim]",
    ),
]
RaySteps = Annotated[
    int | None,
    typer.Option(
        "--ray-steps", min=2, max=4096, help="Samples a ray. [dim]Default: the model's own[/dim]"
    ),
]


class MeshFormat(Enum):
    """File formats of `mesh` and of the demo."""

    PLY = "ply"
    OBJ = "obj"
    GLB = "glb"
    MRC = "mrc"


class PathName(Enum):
    """Camera paths as the command line spells them."""

    AUTO = "auto"
    CIRCLE = "circle"
    FRONT_CIRCLE = "front_circle"
    WIGGLE = "wiggle"
    LINE = "line"
    POINTS = "points"


def require_finite(option: str, value: float | None) -> None:
    """Raise EpigrafError where an option without a range was given NaN or infinity."""
    if value is not None and not math.isfinite(value):
        raise EpigrafError(f"{option}: must be a finite number, got {value}")


def parse_seeds(text: str) -> list[int]:
    """Read `0-3,7` as [0, 1, 2, 3, 7].

    Raises:
        EpigrafError: empty, negative or reversed ranges, not numbers, more than MAX_SEEDS.
    """
    seeds: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part)
        if match is None:
            raise EpigrafError(f"--seeds: cannot read {part!r}; write seeds like 0-3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise EpigrafError(f"--seeds: the range {part!r} runs backwards")
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise EpigrafError(f"--seeds: more than {MAX_SEEDS} seeds")
        if last >= 2**32:
            raise EpigrafError(f"--seeds: {last} is too large; seeds go up to {2**32 - 1}")
        seeds.extend(range(first, last + 1))
    if not seeds:
        raise EpigrafError("--seeds: give at least one seed, like 0-3,7")
    return seeds


def parse_grid(text: str) -> tuple[int, int]:
    """Read `4x3` as (4 columns, 3 rows).

    Raises:
        EpigrafError: anything else.
    """
    match = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", text.strip().lower())
    if match is None:
        raise EpigrafError(f"--grid: cannot read {text!r}; write COLUMNSxROWS like 4x4")
    return int(match[1]), int(match[2])
