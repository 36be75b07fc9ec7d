"""From a generator's planes to a coloured mesh: the path behind `epigraf mesh`.

One object at a time; planes [1, 3F, R, R].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from epigraf.config import Config, LastInterval
from epigraf.errors import EpigrafError
from epigraf.geometry.density import Bounds, Lattice, Volume, density_grid
from epigraf.geometry.level import automatic_level
from epigraf.geometry.mesh import Mesh, color_mesh, largest_component
from epigraf.geometry.surface import Progress, SurfaceOptions, extract_surface
from epigraf.rendering.renderer import FieldSample, RenderOptions

COLOR_REACH = 1.5  # voxels in front of and behind the surface that its colour is composited from
COLOR_SAMPLES = 8
LEVEL_RESOLUTION = 64  # of the lattice that the automatic level looks at


class ObjectField(Protocol):
    """What a generator's field offers: colours and densities, or raw densities alone."""

    def __call__(self, points_world: Tensor, directions: Tensor) -> FieldSample: ...

    def density_raw(self, points_world: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class MeshOptions:
    """How an object is turned into a mesh.

    resolution: lattice points per axis; level: raw density of the surface (None: automatic);
    bounds: world units (None: what the model fills); largest: keep only the largest connected part;
    colors: colour the vertices; max_points: points evaluated at a time (bounds the memory).
    """

    resolution: int = 256
    level: float | None = None
    bounds: Bounds | None = None
    largest: bool = False
    colors: bool = True
    max_points: int = 65536


def extract_volume(field: ObjectField, cfg: Config, options: MeshOptions) -> Volume:
    """Raw densities of one object on the lattice of `options`."""
    bounds = options.bounds or Bounds.model(cfg.dataset.cube_scale, cfg.dataset.object_radius)
    with _for_the_user():
        lattice = Lattice(options.resolution, bounds)
        return density_grid(field.density_raw, lattice, max_points=options.max_points)


@torch.no_grad()
def extract_mesh(
    field: ObjectField, cfg: Config, options: MeshOptions, progress: Progress | None = None
) -> Mesh:
    """The coloured surface of one object, in world units.

    Args:
        field: `generator.field(planes)` of one object.
        cfg: the model's configuration (bounds, density activation).
        options: see MeshOptions.
        progress: told after every block.

    Raises:
        EpigrafError: the volume is empty or not finite, or the level is out of its range.
    """
    bounds = options.bounds or Bounds.model(cfg.dataset.cube_scale, cfg.dataset.object_radius)
    with _for_the_user():
        lattice = Lattice(options.resolution, bounds)
        level = options.level
        if level is None:
            coarse = Lattice(min(options.resolution, LEVEL_RESOLUTION), bounds)
            volume = density_grid(field.density_raw, coarse, max_points=options.max_points)
            level = automatic_level(volume, cfg)
        how = SurfaceOptions(clip_radius=cfg.dataset.object_radius, max_points=options.max_points)
        mesh = extract_surface(field.density_raw, lattice, level, how, progress)
    if options.largest:
        mesh = largest_component(mesh)
    if not options.colors:
        return mesh
    reach = COLOR_REACH * float(lattice.spacing.max())
    return color_mesh(mesh, field, color_rays(cfg, reach), max_points=options.max_points)


def color_rays(cfg: Config, reach: float) -> RenderOptions:
    """Render options of the short rays through a surface: 2 reach long, nothing behind them."""
    generator = cfg.model.generator
    return RenderOptions(
        num_coarse=COLOR_SAMPLES,
        num_fine=0,
        near=0.0,
        far=2 * reach,
        clamp_mode=generator.clamp_mode,
        density_shift=generator.density_shift,
        density_gain=generator.density_gain,
        last_interval=LastInterval.FINITE,
        deterministic=True,
    )


@contextmanager
def _for_the_user() -> Iterator[None]:
    """What a model makes impossible (an empty volume, NaN) is the user's to know, in one line."""
    try:
        yield
    except ValueError as error:
        raise EpigrafError(f"mesh: {error}") from None
