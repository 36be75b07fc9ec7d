"""Who is shown where: seeds as a grid, a truncation sweep, a mixing matrix, an interpolation.

A cell holds the styles of one place of the sheet: [1, num_ws, w_dim], one object, or
[T, num_ws, w_dim], one style a frame of a film.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from epigraf.cli.arguments import Interpolation
from epigraf.cli.media import squarest
from epigraf.cli.models import check_class, object_styles
from epigraf.cli.values import parse_grid, parse_layers, parse_seeds, parse_truncations
from epigraf.errors import EpigrafError
from epigraf.models.loading import LoadedModel
from epigraf.models.sampling import (
    Truncation,
    ease,
    interpolate_latents,
    interpolate_styles,
    labels_for,
    mix_styles,
    styles_from_seeds,
)
from epigraf.rendering.seeds import latents_from_seeds


@dataclass(frozen=True)
class Cell:
    """One place of a sheet: a name for its file, and its styles (None: the place stays white)."""

    name: str
    styles: Tensor | None


@dataclass(frozen=True)
class Cast:
    """The cells of a sheet, row by row; `tabular`: what stands in a column belongs together."""

    cells: list[Cell]
    columns: int
    tabular: bool = True


@dataclass(frozen=True)
class Casting:
    """What the options say about the cells; checked as far as that needs no model.

    `trunc`: psi, or a list of them, a column each; `mix`: seeds, a column each; `interp`: from each
    seed to the next; `grid`: COLUMNSxROWS of the seeds.
    """

    seeds: list[int]
    trunc: str = "0.7"
    class_index: int | None = None
    mix: str | None = None
    mix_layers: str | None = None
    interp: Interpolation | None = None
    grid: str | None = None
    psis: list[float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "psis", parse_truncations(self.trunc))
        columns = {
            "a list of --trunc": len(self.psis) > 1,
            "--mix": self.mix is not None,
            "--interp": self.interp is not None,
        }
        used = [name for name, is_used in columns.items() if is_used]
        if len(used) > 1:
            raise EpigrafError(f"{used[0]} and {used[1]} both make columns; give one of them")
        if self.mix is None and self.mix_layers is not None:
            raise EpigrafError("--mix-layers needs --mix SEEDS, whose layers are taken")
        if self.grid is not None and used and self.interp is None:
            raise EpigrafError(f"--grid arranges seeds, but {used[0]} makes columns")
        if self.mix is not None:
            parse_seeds(self.mix, "--mix")
        if self.grid is not None:
            self.cells()

    @property
    def makes_columns(self) -> bool:
        """Whether the columns of a sheet are taken."""
        return len(self.psis) > 1 or self.mix is not None or self.interp is not None

    def cells(self) -> tuple[int, int]:
        """(columns, rows) of `grid`, checked against the number of seeds."""
        columns, rows = parse_grid(self.grid or "1x1")
        cells, seeds = columns * rows, len(self.seeds)
        if seeds < cells or (self.interp and seeds % cells):
            need = f"a multiple of {cells}" if self.interp else f"{cells}"
            raise EpigrafError(
                f"--grid {self.grid} needs {need} seeds, got {seeds}; change --seeds"
            )
        return columns, rows


def cast_of(loaded: LoadedModel, casting: Casting) -> Cast:
    """The cells of seeds, of a truncation sweep or of a mixing matrix; one style each."""
    check_class(loaded, casting.class_index)
    if casting.mix is not None:
        return _mixing_matrix(loaded, casting, parse_seeds(casting.mix, "--mix"))
    if len(casting.psis) > 1:
        return _sweep(loaded, casting)
    seeds, columns = casting.seeds, squarest(len(casting.seeds))
    if casting.grid is not None:
        columns, rows = casting.cells()
        seeds = seeds[: columns * rows]
    styles = object_styles(loaded, seeds, casting.psis[0], casting.class_index)
    cells = [_cell(seed, ws) for seed, ws in zip(seeds, styles, strict=True)]
    return Cast(cells, columns, tabular=False)


def _cell(seed: int, ws: Tensor, more: str = "") -> Cell:
    return Cell(f"seed{seed:04d}{more}", ws[None])


def _sweep(loaded: LoadedModel, casting: Casting) -> Cast:
    """A row a seed, a column a psi."""
    columns = [
        object_styles(loaded, casting.seeds, psi, casting.class_index) for psi in casting.psis
    ]
    cells = [
        _cell(seed, styles[i], f"-psi{psi:g}")
        for i, seed in enumerate(casting.seeds)
        for psi, styles in zip(casting.psis, columns, strict=True)
    ]
    return Cast(cells, len(casting.psis))


def _mixing_matrix(loaded: LoadedModel, casting: Casting, others: list[int]) -> Cast:
    """The seeds down the left, the others along the top, their mixtures where they meet."""
    layers = parse_layers(casting.mix_layers, loaded.generator.num_ws)
    psi, index = casting.psis[0], casting.class_index
    fine = object_styles(loaded, others, psi, index)
    cells = [Cell("corner", None), *(_cell(s, ws) for s, ws in zip(others, fine, strict=True))]
    coarse = object_styles(loaded, casting.seeds, psi, index)
    for seed, ws in zip(casting.seeds, coarse, strict=True):
        cells.append(_cell(seed, ws))
        for other, theirs in zip(others, fine, strict=True):
            cells.append(_cell(seed, mix_styles(ws, theirs, layers), f"-mix{other:04d}"))
    return Cast(cells, len(others) + 1)


def strips(loaded: LoadedModel, casting: Casting, steps: int) -> Cast:
    """A row for each pair of neighbouring seeds: `steps` cells from one to the next, both shown."""
    check_class(loaded, casting.class_index)
    seeds = casting.seeds
    if len(seeds) < 2:
        raise EpigrafError(f"--interp needs two seeds at least, got {len(seeds)}")
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    x = (torch.arange(len(seeds) - 1)[:, None] + share).flatten()
    styles = _blend(loaded, casting, seeds, x)
    names = [f"seed{a:04d}-{b:04d}-{i:03d}" for a, b in pairwise(seeds) for i in range(steps)]
    return Cast([Cell(n, ws[None]) for n, ws in zip(names, styles, strict=True)], steps)


def loops(loaded: LoadedModel, casting: Casting, steps: int) -> Cast:
    """Cells of a film that morphs: each goes in a loop through its share of the seeds, `steps`
    frames from one to the next, resting a little at every object."""
    check_class(loaded, casting.class_index)
    columns, rows = casting.cells()
    cells, share = columns * rows, torch.arange(steps, dtype=torch.float64) / steps
    out = []
    for i in range(cells):
        seeds = casting.seeds[i::cells]
        x = (torch.arange(len(seeds))[:, None] + ease(share)).flatten()
        out.append(Cell(f"loop{i:02d}", _blend(loaded, casting, [*seeds, seeds[0]], x)))
    return Cast(out, columns)


def _blend(loaded: LoadedModel, casting: Casting, seeds: list[int], x: Tensor) -> Tensor:
    """Styles [T, num_ws, w_dim] at the places x [T] between seeds."""
    generator, truncation = loaded.generator, Truncation(casting.psis[0])
    if casting.interp is Interpolation.Z:
        z = latents_from_seeds(seeds, generator.z_dim)
        c = labels_for(generator, seeds, casting.class_index)
        return interpolate_latents(generator, z, c, x, truncation)
    ws = styles_from_seeds(generator, seeds, truncation, casting.class_index)
    return interpolate_styles(ws, x.to(ws.device))
