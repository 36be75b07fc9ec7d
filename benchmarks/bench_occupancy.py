"""`occupancy`: rays through scenes that are full to different shares, dense and through a grid; and
a turntable of a trained model.

Random balls in a cube: a tri-plane cannot hold a given share of a volume, so the fields are random
planes whose grids are given, which is what the speed depends on. The turntable is of the shipped
model, its grid's build included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Row, Settings, Work
from epigraf.benchmarks.scene import Scene, Workload, make_scene
from epigraf.config import RenderSampler
from epigraf.models.loading import LoadedModel, load
from epigraf.models.pictures import Output
from epigraf.models.sampling import Truncation, styles_from_seeds
from epigraf.models.views import render_views
from epigraf.ops.occupancy import OccupancyGrid, grid_from_binaries, traverse_grid
from epigraf.ops.render import FieldTensors, project_planes
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.frame import Frame
from epigraf.rendering.renderer import TensorField, render_rays
from epigraf.rendering.trajectories import circle

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
QUICK_SHARES = (0.1, 0.5, 1.0)
AXIS, MODEL = "share", "plants64"
DENSE, OCCUPANCY, TRAVERSAL = "dense", "occupancy", "traversal alone"
HALF_EDGE = 0.3
_DENSE, _OCCUPANCY = RenderSampler.DENSE, RenderSampler.OCCUPANCY


@dataclass(frozen=True)
class Turntable:
    """Frames of one object, all round."""

    frames: int
    side: int


TURNTABLES = (Turntable(120, 256), Turntable(120, 128))
QUICK_TURNTABLES = (Turntable(2, 16),)


class _GridField(TensorField):
    """A field with the grid that it is rendered through."""

    def __init__(self, tensors: FieldTensors, grid: OccupancyGrid | None) -> None:
        super().__init__(tensors)
        self.grid = grid


def cases(settings: Settings) -> Iterator[Case]:
    """Every share of the volume in alternation; then the turntables."""
    yield Case("occupancy", AXIS, partial(_build_shares, settings.quick, settings.device), False)
    for table in QUICK_TURNTABLES if settings.quick else TURNTABLES:
        name = f"{table.frames} frames {table.side}x{table.side}"
        build = partial(_build_turntable, name, table, settings.device)
        yield Case("occupancy", name, build, memory=False, heavy=True)


def balls(share: float, resolution: int, device: str) -> OccupancyGrid:
    """Balls at random places, as many as fill the share of the cells; 1 is everything."""
    if share >= 1:
        return grid_from_binaries(
            torch.ones(1, *[resolution] * 3, dtype=torch.bool, device=device), HALF_EDGE
        )
    generator = torch.Generator().manual_seed(0)
    ticks = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    points = torch.cartesian_prod(ticks, ticks, ticks)
    filled = torch.zeros(len(points), dtype=torch.bool)
    radius = min(0.15, (share * 6 / math.pi) ** (1 / 3) / 2)
    while filled.float().mean() < share:
        middle = torch.rand(3, generator=generator) * 2 - 1
        filled |= (points - middle).norm(dim=-1) < radius
    return grid_from_binaries(filled.view(1, *[resolution] * 3).to(device), HALF_EDGE)


def _build_shares(quick: bool, device: str) -> Sequence[Work]:
    workload = Workload(1, 8, 6, 0, 16) if quick else Workload(1, 128, 96, 0)
    scene, counts = make_scene(workload, device), workload.counts(backward=False)
    ready = project_planes(scene.tensors)
    works = []
    for share in QUICK_SHARES if quick else SHARES:
        grid = balls(share, 32 if quick else 128, device)
        at = round(float(grid.share), 4)
        for name, known in ((DENSE, None), (OCCUPANCY, grid)):
            run = partial(_render, scene, _GridField(ready, known))
            works.append(_work(at, name, run, counts))
        works.append(_work(at, TRAVERSAL, partial(traverse_grid, grid, *scene.rays), counts))
    return works


def _work(at: float, name: str, run: Callable[[], object], counts: Counts) -> Work:
    flops = 0 if name != DENSE else counts.flops  # the others leave out most of it
    own = replace(counts, flops=flops, bytes_moved=0)
    return Work(f"{AXIS} {at:g}", name, run, own, axis=AXIS, at=at)


@torch.no_grad()
def _render(scene: Scene, field: _GridField) -> Tensor:
    """Rays do not end early here: what is timed is what is skipped."""
    options = replace(scene.options, deterministic=True, early_stop_eps=0.0)
    draws = RandomDraws(0, scene.rays.directions.device)
    return render_rays(field, scene.rays, options, draws=draws).features


def _build_turntable(name: str, table: Turntable, device: str) -> Sequence[Work]:
    model = load(MODEL, device)
    dense, sparse = (torch.stack(film(model, table, s)) for s in (_DENSE, _OCCUPANCY))
    counts = Counts(rays=table.frames * table.side**2, images=table.frames)
    close = replace(counts, decibels=psnr(dense, sparse))
    return [
        Work(name, DENSE, partial(film, model, table, _DENSE), counts),
        Work(name, OCCUPANCY, partial(film, model, table, _OCCUPANCY), close),
    ]


def film(model: LoadedModel, table: Turntable, sampler: RenderSampler) -> list[Tensor]:
    """The frames [3, H, W] of a model's first object; planes and grid are computed too."""
    ws = styles_from_seeds(model.generator, [0], Truncation(0.7))
    path = circle(model.config.dataset.camera.fov, table.frames)
    frames = render_views(model.generator, ws, path, Frame(table.side), sampler=sampler)
    return [frame[Output.COLOR] for frame in frames]


def psnr(a: Tensor, b: Tensor) -> float:
    """Decibels between pictures in [-1, 1]; at most 200."""
    return float(-10 * torch.log10(((a - b) / 2).square().mean().clamp_min(1e-20)))


def occupancy_lines(rows: Sequence[Row]) -> Iterator[str]:
    """What a grid is worth: of every share of the volume, and of the turntables."""
    named = {(row.case, row.implementation): row for row in rows if row.op == "occupancy"}
    for (case, implementation), row in named.items():
        dense = named.get((case, DENSE))
        if implementation != OCCUPANCY or dense is None:
            continue
        ratio, rate = dense.best / row.best, row.counts.rays / row.best / 1e6
        text = f"{case}: {ratio:.3g} times as fast as dense, {rate:.3g} M rays/s"
        if row.counts.images:
            text += f", {row.counts.images / row.best:.4g} frames/s (dense "
            text += f"{row.counts.images / dense.best:.4g}), {row.counts.decibels:.1f} dB to dense"
        yield text
