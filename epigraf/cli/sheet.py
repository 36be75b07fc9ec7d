"""Sheets of pictures: every cell rendered and written, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epigraf.cli.arguments import Layout, NumbersFormat
from epigraf.cli.cast import Cast, Cell
from epigraf.cli.media import front_sheet, grid, save_picture
from epigraf.cli.numbers import save_numbers
from epigraf.cli.progress import Meter
from epigraf.cli.shades import over_white
from epigraf.cli.shot import Shot, meter_budget, shaded, side_by_side, views_of
from epigraf.models.loading import LoadedModel
from epigraf.models.pictures import Picture
from epigraf.rendering.budget import RayBudget


@dataclass(frozen=True)
class Files:
    """Where pictures go and as what: one file, or a folder of files with this ending."""

    out: Path
    ending: str
    quality: int | None
    numbers: NumbersFormat | None
    layout: Layout

    @property
    def sheet(self) -> Path:
        """The file that shows everything."""
        return self.out if self.out.suffix else self.out / f"grid{self.ending}"

    def save(self, picture: np.ndarray, path: Path) -> None:
        """Write a picture; a JPEG has no alpha."""
        flat = path.suffix.lower() in (".jpg", ".jpeg")
        save_picture(over_white(picture) if flat else picture, path, self.quality)


def render_sheet(loaded: LoadedModel, cast: Cast, shot: Shot, files: Files) -> str:
    """Render all cells, write them and the sheet; say what was written."""
    people = sum(cell.styles is not None for cell in cast.cells)
    cells: list[np.ndarray | None] = []
    with Meter("rendering", people * len(shot.cameras)) as meter:
        budget = meter_budget(meter)
        for cell in cast.cells:
            cells.append(_render_cell(loaded, cell, shot, files, meter, budget))
    wide = len(shot.cameras) > 1 and files.layout is Layout.ROW
    a_row_each = wide or (len(shot.outputs) > 1 and not cast.tabular)
    files.save(grid(cells, 1 if a_row_each else cast.columns), files.sheet)
    if files.out.suffix:
        return str(files.sheet)
    return f"{files.sheet} and {people} single pictures"


def _render_cell(
    loaded: LoadedModel, cell: Cell, shot: Shot, files: Files, meter: Meter, budget: RayBudget
) -> np.ndarray | None:
    """The picture of a cell on the sheet; its own files are written where there is a folder."""
    if cell.styles is None:
        return None
    views = list(views_of(loaded, cell.styles, shot, meter, budget))
    pictures = [shaded(view, shot, i) for i, view in enumerate(views)]
    if not files.out.suffix:
        _write_cell(cell, views, pictures, shot, files)
    return _arrange([side_by_side(outputs) for outputs in pictures], files.layout)


def _write_cell(
    cell: Cell, views: list[Picture], pictures: list[list[np.ndarray]], shot: Shot, files: Files
) -> None:
    """One picture for each output, and the numbers."""
    for k, output in enumerate(shot.outputs):
        suffix = "" if len(shot.outputs) == 1 else f"-{output.value}"
        picture = _arrange([view[k] for view in pictures], files.layout)
        files.save(picture, files.out / f"{cell.name}{suffix}{files.ending}")
    if files.numbers is not None:
        save_numbers(views, shot.outputs, files.numbers, files.out / cell.name, shot.limits)


def _arrange(pictures: list[np.ndarray], layout: Layout) -> np.ndarray:
    """The views of an object, one after the other or front and others."""
    return front_sheet(pictures) if layout is Layout.FRONT else grid(pictures, len(pictures))
