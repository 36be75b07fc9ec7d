"""The little languages of option values: seeds, grids, layers, outputs, crops, boxes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    from epigraf.geometry.density import Bounds
    from epigraf.models.pictures import Output
    from epigraf.rendering.frame import Box

MAX_SEEDS = 100_000


def require_finite(option: str, value: float | None) -> None:
    """Raise EpigrafError where an option without a range was given NaN or infinity."""
    if value is not None and not math.isfinite(value):
        raise EpigrafError(f"{option}: must be a finite number, got {value}")


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """Read `0-3,7` as [0, 1, 2, 3, 7].

    Raises:
        EpigrafError: empty, negative or reversed ranges, not numbers, more than MAX_SEEDS.
    """
    seeds: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part)
        if match is None:
            raise EpigrafError(f"{option}: cannot read {part!r}; write seeds like 0-3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise EpigrafError(f"{option}: the range {part!r} runs backwards")
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise EpigrafError(f"{option}: more than {MAX_SEEDS} seeds")
        if last >= 2**32:
            raise EpigrafError(f"{option}: {last} is too large; seeds go up to {2**32 - 1}")
        seeds.extend(range(first, last + 1))
    if not seeds:
        raise EpigrafError(f"{option}: give at least one seed, like 0-3,7")
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


def parse_truncations(text: str) -> list[float]:
    """Read `0,0.5,1`.

    Raises:
        EpigrafError: not numbers, or beyond -2..2.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise EpigrafError(f"--trunc: cannot read {text!r}; write 0.7 or 0,0.5,1") from None
    for value in values:
        if not -2 <= value <= 2:
            raise EpigrafError(f"--trunc: must lie in -2..2, got {value}")
    return values


def parse_layers(text: str | None, count: int) -> range:
    """Read `4-7` as layers 4, 5, 6, 7 of `count`; None is the finer half.

    Raises:
        EpigrafError: anything else.
    """
    if text is None:
        return range(count // 2, count)
    match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", text.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if not first <= last < count:
        raise EpigrafError(
            f"--mix-layers: cannot use {text!r}; this model has style layers 0-{count - 1}"
        )
    return range(first, last + 1)


def parse_outputs(text: str) -> tuple[Output, ...]:
    """Read `color,depth`.

    Raises:
        EpigrafError: an unknown name.
    """
    from epigraf.models.pictures import Output

    known = [output.value for output in Output]
    names = [part.strip().lower().replace("-", "_") for part in text.split(",")]
    for name in names:
        if name not in known:
            raise EpigrafError(f"--outputs: unknown {name!r}; choose from {', '.join(known)}")
    return tuple(Output(name) for name in dict.fromkeys(names))


def parse_crop(text: str, side: int) -> Box:
    """Read `X,Y,W,H` of a picture of `side` pixels: fractions if one of them has a point.

    Raises:
        EpigrafError: not four numbers, or outside the picture.
    """
    from epigraf.rendering.frame import Box

    parts = [part.strip() for part in text.split(",")]
    number = re.compile(r"\d{1,5}|\d*\.\d+|\d+\.")
    if len(parts) != 4 or not all(number.fullmatch(part) for part in parts):
        raise EpigrafError(f"--crop: cannot read {text!r}; write X,Y,W,H like 0.25,0,0.5,1")
    unit = side if any("." in part for part in parts) else 1
    x, y, w, h = (float(part) * unit for part in parts)
    left, top, right, bottom = round(x), round(y), round(x + w), round(y + h)
    if not (left < right <= side and top < bottom <= side):
        raise EpigrafError(
            f"--crop {text}: must hold a pixel and lie inside the picture, {side} pixels a side "
            f"(or 1.0, in fractions)"
        )
    return Box(left, top, right - left, bottom - top)


def parse_bounds(text: str | None) -> Bounds | None:
    """Read `-0.1,-0.2,-0.1,0.1,0.2,0.1` as the box from the first three to the last three.

    Raises:
        EpigrafError: anything else, or a box that is empty along an axis.
    """
    from epigraf.geometry.density import Bounds

    if text is None:
        return None
    try:
        x0, y0, z0, x1, y1, z1 = map(float, text.split(","))
        return Bounds((x0, y0, z0), (x1, y1, z1))
    except ValueError as error:
        detail = f" ({error})" if str(error).startswith("Bounds") else ""
        raise EpigrafError(
            f"--bounds: cannot read {text!r}{detail}; write XMIN,YMIN,ZMIN,XMAX,YMAX,ZMAX in "
            "world units"
        ) from None
