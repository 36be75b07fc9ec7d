"""Scenes of a generator prepared for many rays, and whether an occupancy grid pays."""

from __future__ import annotations

import torch
from torch import Tensor

from epigraf.config import Config, RenderSampler
from epigraf.models.decoder import TriPlaneField
from epigraf.models.generator import Generator, View
from epigraf.ops.nerfacc import why_no_traversal
from epigraf.ops.occupancy import CELLS_OF_WORD, OccupancyGrid
from epigraf.rendering.occupancy import Cube, chart, chart_points
from epigraf.rendering.options import activate_density

MOST_CELLS = 128
WORTH = 2  # so many samples a point of a grid of the planes' resolution, and it pays


def grid_resolution(cfg: Config) -> int:
    """Cells along an edge of a model's grids: as configured, or two for each pixel of a plane, at
    most 128."""
    if cfg.render.grid_resolution is not None:
        return cfg.render.grid_resolution
    return min(2 * _cells_of_planes(cfg), MOST_CELLS)


def _cells_of_planes(cfg: Config) -> int:
    """One for each pixel of a plane, to the next multiple of 32 and at most 128."""
    side = cfg.model.generator.tri_plane.res
    return min(-(-side // CELLS_OF_WORD) * CELLS_OF_WORD, MOST_CELLS)


def sampler_for(generator: Generator, sampler: RenderSampler | None, rays: int) -> RenderSampler:
    """What samples `rays` rays of one scene: as asked for (None: dense), but dense where a grid
    would cost more than it saves."""
    options = generator.render_options(View())
    samples = rays * (options.num_coarse + options.num_fine)
    points = WORTH * chart_points(_cells_of_planes(generator.cfg))
    if sampler is RenderSampler.OCCUPANCY and samples < points:
        return RenderSampler.DENSE
    return sampler or RenderSampler.DENSE


def sampler_text(generator: Generator) -> str:
    """What samples the rays of this model's pictures, and why."""
    chosen, cells = generator.cfg.render.sampler, grid_resolution(generator.cfg)
    grid = f"{cells}^3 cells, alpha_thre {generator.cfg.render.alpha_thre:g}"
    if chosen is None:
        return f"dense; occupancy ({grid}) where it is asked for (render.sampler is not set)"
    if chosen is RenderSampler.DENSE:
        return "dense (render.sampler=dense)"
    if chosen is RenderSampler.NERFACC:
        return f"nerfacc ({grid})" + (f": cannot run, {why}" if (why := why_no_traversal()) else "")
    few = WORTH * chart_points(_cells_of_planes(generator.cfg))
    return f"occupancy ({grid}); dense where a scene is asked for fewer than {few:,} samples"


def sampler_line(field: TriPlaneField, asked: RenderSampler) -> str:
    """What samples the rays of a scene where `asked` was asked for, and why, in one line."""
    grid = field.grid
    if grid is not None:
        name = "nerfacc" if asked is RenderSampler.NERFACC else "occupancy"
        return f"sampler   {name} ({grid.resolution}^3 cells, {float(grid.share[0]):.0%} full)"
    if asked is RenderSampler.DENSE:
        return "sampler   dense (render.sampler=dense)"
    return "sampler   dense (so few rays an object that a grid would cost more than it saves)"


@torch.no_grad()
def occupancy_of(generator: Generator, field: TriPlaneField) -> OccupancyGrid:
    """The occupancy grid of a generator's field: of the ball of the object where the model has one,
    else of the cube that the planes fill. Never a coarser look than one cell a pixel of the planes
    (or 128), but a finer grid is made by looking twice."""
    cfg, options = generator.cfg, generator.render_options(View())
    radius = cfg.dataset.object_radius
    half_edge = cfg.dataset.cube_scale if radius is None else min(radius, cfg.dataset.cube_scale)

    def densities(points: Tensor) -> Tensor:
        return activate_density(field.density_raw(points), options)

    cube = Cube(grid_resolution(cfg), half_edge, radius)
    first, left = divmod(cube.resolution, 2)
    halved = not left and first % CELLS_OF_WORD == 0 and first >= _cells_of_planes(cfg)
    return chart(densities, cube, cfg.render.alpha_thre, field.planes, halved)


@torch.no_grad()
def scene_field(
    generator: Generator, planes: Tensor, sampler: RenderSampler = RenderSampler.DENSE
) -> TriPlaneField:
    """The scenes that planes (as returned by `Generator.planes`) hold, for many rays without
    gradients: what all rays share is computed here and once."""
    field = generator.field(planes)
    grid = None if sampler is RenderSampler.DENSE else occupancy_of(generator, field)
    return field.prepared(grid)
