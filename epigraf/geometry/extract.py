"""From a generator's planes to a coloured mesh: the path behind `epigraf mesh`.

One object at a time; planes [1, 3F, R, R].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from epigraf.config import Config, LastInterval
from epigraf.errors import EpigrafError
from epigraf.geometry.agreement import VIEWS, Choice, choose_level, spread_angles
from epigraf.geometry.clean import MIN_SHARE, decimate, keep_components, smooth
from epigraf.geometry.density import Bounds, Lattice, Stages, density_grid, silent
from epigraf.geometry.level import automatic_level
from epigraf.geometry.mesh import Mesh, averaged_colors, surface_colors
from epigraf.geometry.mesher import Mesher, dense_surface
from epigraf.geometry.spool import Spool
from epigraf.geometry.surface import SurfaceOptions, extract_surface, outward_normals
from epigraf.geometry.texture import Painter, textured
from epigraf.rendering.camera import camera_origins
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.renderer import FieldSample

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

    resolution: lattice points per axis; level: raw density of the surface (None: chosen); bounds:
    world units (None: what the model fills); keep: so many of the largest connected parts (None:
    all), without those of less than min_share of the area; smooth: rounds of Taubin's smoothing;
    decimate: wanted number of faces; colors: colour the vertices; average: mean colour over views
    instead of straight from outside; texture: side of a baked texture in pixels; max_points: points
    evaluated at a time (bounds the memory); mesher: another one than our own blocks.
    """

    resolution: int = 256
    level: float | None = None
    bounds: Bounds | None = None
    keep: int | None = None
    min_share: float = MIN_SHARE
    smooth: int = 0
    decimate: int | None = None
    colors: bool = True
    average: bool = False
    texture: int | None = None
    max_points: int = 65536
    mesher: Mesher | None = None


class OnCPU:
    """A field on any device, for points on the CPU."""

    def __init__(self, field: ObjectField, device: torch.device | str) -> None:
        self._field, self._device = field, device

    def __call__(self, points_world: Tensor, directions: Tensor) -> FieldSample:
        """Colours and raw densities."""
        sample = self._field(points_world.to(self._device), directions.to(self._device))
        return FieldSample(sample.colors.cpu(), sample.densities.cpu())

    def density_raw(self, points_world: Tensor) -> Tensor:
        """Raw densities."""
        return self._field.density_raw(points_world.to(self._device)).cpu()


def object_lattice(cfg: Config, options: MeshOptions) -> Lattice:
    """The lattice of `options` in the region that the model fills."""
    bounds = options.bounds or Bounds.model(cfg.dataset.cube_scale, cfg.dataset.object_radius)
    return Lattice(options.resolution, bounds)


@torch.no_grad()
def object_level(field: ObjectField, cfg: Config, options: MeshOptions) -> Choice:
    """The level of `options`, or the one that agrees best with the median depth.

    Raises:
        EpigrafError: the volume is empty or not finite.
    """
    if options.level is not None:
        return Choice(options.level)
    lattice = object_lattice(cfg, options)
    coarse = Lattice(min(options.resolution, LEVEL_RESOLUTION), lattice.bounds)
    with for_the_user():
        volume = density_grid(field.density_raw, coarse, max_points=options.max_points)
        start = automatic_level(volume, cfg)
        return choose_level(field.density_raw, cfg, start, options.max_points)


@torch.no_grad()
def extract_mesh(
    field: ObjectField,
    cfg: Config,
    options: MeshOptions,
    stages: Stages = silent,
    spool: Spool | None = None,
    choice: Choice | None = None,
) -> Mesh:
    """The coloured surface of one object, in world units.

    Args:
        field: `generator.field(planes)` of one object, on the CPU (`OnCPU` brings it there).
        cfg: the model's configuration (bounds, density activation).
        options: see MeshOptions.
        stages: told what is done, and how far it is.
        spool: where finished layers are kept for an interrupted run to go on.
        choice: the level; None: `object_level`.

    Raises:
        EpigrafError: the volume is empty or not finite, or the level is out of its range.
    """
    lattice, choice = object_lattice(cfg, options), choice or object_level(field, cfg, options)
    with for_the_user():
        how = _surface_options(cfg, options)
        if options.mesher is not None:
            mesh = dense_surface(field.density_raw, lattice, choice.level, options.mesher, how)
        else:
            mesh = extract_surface(field.density_raw, lattice, choice.level, how, stages, spool)
    mesh, dropped = keep_components(mesh, options.keep, options.min_share)
    before = mesh
    if options.smooth:
        mesh = smooth(mesh, options.smooth)
    if options.decimate is not None:
        mesh = decimate(mesh, options.decimate)
    if mesh is not before:
        normals = outward_normals(field.density_raw, mesh.vertices, lattice, options.max_points)
        mesh = replace(mesh, normals=normals)
    mesh = replace(mesh, facts=_facts(cfg, options, choice, dropped))
    return _colored(mesh, field, cfg, options, stages)


def _surface_options(cfg: Config, options: MeshOptions) -> SurfaceOptions:
    """A level that was asked for must be one of the densities'; the one that agrees best with what
    is rendered may leave the object's whole ball (a fog that fills it)."""
    return SurfaceOptions(
        clip_radius=cfg.dataset.object_radius,
        strict=options.level is not None,
        max_points=options.max_points,
    )


def _facts(cfg: Config, options: MeshOptions, choice: Choice, dropped: int) -> dict[str, str]:
    facts = {"level": f"{choice.level:.8g}"}
    if choice.score is not None:
        facts["level score"] = f"{choice.score:.4f}"
        facts["depth error"] = f"{choice.depth_error:.4g}"
        facts["silhouette IoU"] = f"{choice.silhouette_iou:.4f}"
    return {
        **facts,
        "resolution": str(options.resolution),
        "units": f"world units (camera distance {cfg.dataset.camera.radius:g}), y up",
        "components dropped": str(dropped),
    }


def _colored(
    mesh: Mesh, field: ObjectField, cfg: Config, options: MeshOptions, stages: Stages
) -> Mesh:
    """With vertex colours, or with a texture instead of them."""
    if options.texture is None and not options.colors:
        return mesh
    rays = color_rays(cfg, COLOR_REACH * float(object_lattice(cfg, options).spacing.max()))
    camera = cfg.dataset.camera
    cameras = camera_origins(spread_angles(cfg, 2 * VIEWS), camera.radius)
    cameras = cameras + torch.tensor(camera.target)

    def paint(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        told = stages("colours")
        if options.average:
            return averaged_colors(
                points, normals, cameras, field, rays, max_points=options.max_points, progress=told
            )
        return surface_colors(
            points, normals, field, rays, max_points=options.max_points, progress=told
        )

    painter: Painter = paint
    if options.texture is not None:
        return textured(mesh, painter, options.texture)
    return replace(mesh, colors=painter(mesh.vertices, mesh.normals))


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
def for_the_user() -> Iterator[None]:
    """What a model makes impossible (an empty volume, NaN) is the user's to know, in one line."""
    try:
        yield
    except ValueError as error:
        raise EpigrafError(f"mesh: {error}") from None
