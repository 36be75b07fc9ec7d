"""Pictures of generated objects: any outputs, any size or crop, tile by tile.

V views, R rays, C channels, H W pixels. Everything here is deterministic: spatial noise is the
constant one and rays are not jittered. Memory is bounded by the tile (`RayBudget`) and the picture
itself. A pixel's ray depends on its place in the whole picture alone; a crop equals that region of
the whole but for rounding, and bit for bit where rays are marched alike: the fused renderer changes
its order of sums with the number of rays in a tile (docs/pictures.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.config import RenderSampler
from epigraf.models.backbone import NoiseMode
from epigraf.models.decoder import TriPlaneField
from epigraf.models.generator import Generator, View
from epigraf.models.occupancy import sampler_for, scene_field
from epigraf.rendering.budget import RayBudget
from epigraf.rendering.camera import cam2world, clamp_pitch, roll_cameras
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.frame import Box, Frame, box_filter, frame_rays, pixel_places
from epigraf.rendering.normals import expected_normals
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import RenderOptions, activate_density, render_rays
from epigraf.rendering.trajectories import CameraPath

COMPOSED_RAYS_CPU, COMPOSED_RAYS_GPU = 2048, 65_536
"""Rays of one pass where ops are composed; on a CPU their samples then stay in the cache."""

EMPTY = 1e-3
"""Rays of less opacity have no depth."""


class Output(Enum):
    """What a picture can show; channels and range of its numbers.

    COLOR [3]: -1..1, nominally. DEPTH [1]: mean distance from the camera in world units, 0 where
    the ray stays empty. RAW_DEPTH [1]: the sum of weight times distance, not divided by the
    opacity. NORMAL [3]: the expected normal in the camera's frame (x right, y up, z towards the
    camera), not longer than the opacity. OPACITY [1]: 0..1. DENSITY [1]: per world unit, in the
    plane through the origin that faces the camera: a cross-section. FOREGROUND [4]: colour without
    background, -1..1, not multiplied by its opacity, and that opacity. BACKGROUND [3]: the
    background model alone.
    """

    COLOR = "color"
    DEPTH = "depth"
    RAW_DEPTH = "raw_depth"
    NORMAL = "normal"
    OPACITY = "opacity"
    DENSITY = "density"
    FOREGROUND = "foreground"
    BACKGROUND = "background"


Picture = dict[Output, Tensor]
"""The wanted outputs of one view, each [C, H, W] float32 on the CPU."""

_MARCHED = set(Output) - {Output.NORMAL, Output.DENSITY, Output.BACKGROUND}


@dataclass(frozen=True)
class Scene:
    """One object: its generator, styles ws [1, num_ws, w_dim], planes and field."""

    generator: Generator
    ws: Tensor
    planes: Tensor
    field: TriPlaneField

    @property
    def has_background(self) -> bool:
        """Whether there is a background model."""
        return self.generator.cfg.model.generator.bg_model.type is not None


@dataclass(frozen=True)
class Camera:
    """One camera of a path: its matrix [1, 4, 4], field of view in degrees, distance (world)."""

    matrix: Tensor
    fov: float
    radius: float


@torch.no_grad()
def scene_of(
    generator: Generator, ws: Tensor, sampler: RenderSampler = RenderSampler.DENSE
) -> Scene:
    """The object of styles ws [1, num_ws, w_dim]; the generator is in eval mode. With sampler
    OCCUPANCY it knows where it is empty."""
    planes = generator.planes(ws, NoiseMode.CONST, draws=RandomDraws(0))
    return Scene(generator, ws, planes, scene_field(generator, planes, sampler))


def camera_at(scene: Scene, path: CameraPath, index: int) -> Camera:
    """Camera `index` of a path in the dtype and on the device of a scene."""
    settings = scene.generator.cfg.dataset.camera
    radius = settings.radius
    if path.radius is not None:
        radius = float(path.radius[index])
    angles = clamp_pitch(path.angles[index : index + 1])
    looking = cam2world(angles, radius, settings.target)
    matrix = roll_cameras(looking, float(angles[0, 2]))
    return Camera(matrix.to(scene.planes), float(path.fov[index]), radius)


@torch.no_grad()
def render_picture(
    scene: Scene,
    camera: Camera,
    frame: Frame,
    outputs: Collection[Output] = (Output.COLOR,),
    *,
    budget: RayBudget | None = None,
    on_tile: Callable[[float], None] | None = None,
) -> Picture:
    """Render one view tile by tile.

    Args:
        budget: rays of a tile; shrinks when memory runs out, and the tile is tried again.
        on_tile: told the share of the picture that each finished tile is.
    Raises:
        ValueError: BACKGROUND of a model without one.
    """
    if Output.BACKGROUND in outputs and not scene.has_background:
        raise ValueError("render_picture: the background output needs a background model")
    budget = budget or RayBudget(device=scene.planes.device)
    box, rays_a_pixel = frame.box, frame.supersample**2
    picture: Picture = {}
    waiting = [box]
    while waiting:
        tile = waiting.pop()
        smaller = tile.tiles(budget.rays // rays_a_pixel)
        if len(smaller) > 1:  # the budget has shrunk since the tile was cut
            waiting += smaller[::-1]
            continue
        try:
            part = _render_tile(scene, camera, frame, tile, outputs, budget.rays)
        except (MemoryError, RuntimeError) as error:
            budget.halve(error)
            waiting.append(tile)
            continue
        _paste(picture, part, box, tile)
        if on_tile is not None:
            on_tile(tile.width * tile.height / (box.width * box.height))
    return picture


def render_views(
    generator: Generator,
    ws: Tensor,
    cameras: CameraPath,
    frame: Frame | None = None,
    outputs: Collection[Output] = (Output.COLOR,),
    *,
    sampler: RenderSampler | None = None,
    budget: RayBudget | None = None,
    on_tile: Callable[[float], None] | None = None,
) -> Iterator[Picture]:
    """Render one picture a camera, one after the other.

    Args:
        generator: in eval mode.
        ws: [1, num_ws, w_dim], one object seen from all cameras (its planes are computed once), or
            [V, num_ws, w_dim], a style for each camera.
        cameras: V cameras.
        frame: None is a whole picture of the data set's resolution.
        sampler: None is the configuration's, or dense. Where an occupancy grid would cost more
            than it saves there is none (`sampler_for`).
        outputs, budget, on_tile: as for `render_picture`.

    Raises:
        ValueError: neither one style nor one for each camera.
    """
    if ws.shape[0] not in (1, len(cameras)):
        raise ValueError(
            f"render_views: ws must hold 1 or {len(cameras)} styles, got {ws.shape[0]}"
        )
    frame = frame or Frame(generator.img_resolution)
    budget = budget or RayBudget(device=ws.device)
    rays = frame.box.width * frame.box.height * frame.supersample**2
    rays *= len(cameras) if ws.shape[0] == 1 else 1
    sampler = sampler_for(generator, sampler or generator.cfg.render.sampler, rays)
    scene: Scene | None = None
    for i in range(len(cameras)):
        if scene is None or ws.shape[0] > 1:
            scene = scene_of(generator, ws[min(i, ws.shape[0] - 1)][None], sampler)
        camera = camera_at(scene, cameras, i)
        yield render_picture(scene, camera, frame, outputs, budget=budget, on_tile=on_tile)


def _paste(picture: Picture, part: Picture, box: Box, tile: Box) -> None:
    """Write a tile's outputs into those of the box."""
    y, x = tile.top - box.top, tile.left - box.left
    for output, values in part.items():
        if output not in picture:
            picture[output] = torch.empty(len(values), box.height, box.width)
        picture[output][:, y : y + tile.height, x : x + tile.width] = values


def _render_tile(
    scene: Scene,
    camera: Camera,
    frame: Frame,
    tile: Box,
    outputs: Collection[Output],
    max_rays: int,
) -> Picture:
    """The outputs [C, h, w] of a tile, on the CPU."""
    rays = frame_rays(camera.matrix, camera.fov, frame, tile)
    options = _options(scene, camera, tile.width * frame.supersample, max_rays)
    seen = _march(scene, rays, options, outputs)
    if scene.has_background and {Output.COLOR, Output.BACKGROUND} & set(outputs):
        behind = _background(scene, rays, frame, tile, options)
        seen["behind"] = behind
        if Output.COLOR in outputs:
            seen["color"] = seen["color"] + behind * seen.pop("through")
    if Output.NORMAL in outputs:
        world = expected_normals(scene.field, rays, options, draws=RandomDraws(0))
        seen["normal"] = world @ camera.matrix[:, :3, :3]
    if Output.DENSITY in outputs:
        seen["density"] = _section(scene, rays, camera, options)
    pooled = {name: box_filter(x, tile, frame.supersample)[0] for name, x in seen.items()}
    return {output: _finish(output, pooled).float().cpu() for output in outputs}


def _march(
    scene: Scene, rays: Rays, options: RenderOptions, outputs: Collection[Output]
) -> dict[str, Tensor]:
    """What rays collect in front of the background, by name, each [1, R, C]."""
    if not _MARCHED & set(outputs):
        return {}
    white = options.white_back
    rendered = render_rays(scene.field, rays, options, draws=RandomDraws(0))
    opacity = rendered.opacity[..., None]
    solid = torch.ones_like(opacity) if options.last_back else opacity
    return {
        "color": rendered.features,
        "front": rendered.features - (1 - opacity) if white else rendered.features,
        "depth": rendered.depth[..., None],
        "opacity": opacity,
        "alpha": solid,
        "through": rendered.transmittance[..., None],
    }


def _options(scene: Scene, camera: Camera, row_length: int, max_rays: int) -> RenderOptions:
    """Rays are sampled around the object also where the camera stands nearer or farther away."""
    composed = COMPOSED_RAYS_CPU if scene.planes.device.type == "cpu" else COMPOSED_RAYS_GPU
    view = View(deterministic=True, max_rays=min(max_rays, composed))
    options = scene.generator.render_options(view)
    moved = camera.radius - scene.generator.cfg.dataset.camera.radius
    near, far = max(options.near + moved, 1e-3), max(options.far + moved, 2e-3)
    return replace(options, near=near, far=far, row_length=row_length)


def _background(
    scene: Scene, rays: Rays, frame: Frame, tile: Box, options: RenderOptions
) -> Tensor:
    """Colours [1, R, 3] of the background model."""
    generator = scene.generator
    if generator.background is not None:
        ws = scene.ws[:, generator.backbone.num_ws :]
        return generator.background(
            ws, rays, jitter=False, draws=RandomDraws(0), max_rays=options.max_rays
        )
    flat = scene.planes[:, generator.plane_channels :]
    size = (generator.img_resolution,) * 2
    if flat.shape[-2:] != size:
        flat = F.interpolate(flat, size=size, mode="bilinear", align_corners=True)
    k = frame.supersample
    x = pixel_places(frame.side, tile.left, tile.width, k).to(flat)
    y = pixel_places(frame.side, tile.top, tile.height, k).to(flat)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    picture = F.grid_sample(flat, places, padding_mode="border", align_corners=True)
    return picture.flatten(2).transpose(1, 2)


def _section(scene: Scene, rays: Rays, camera: Camera, options: RenderOptions) -> Tensor:
    """Densities [1, R, 1] where rays cross the plane through the origin that faces the camera."""
    t = camera.radius / -(rays.directions * camera.matrix[:, None, :3, 2]).sum(-1, keepdim=True)
    points = rays.origins + t * rays.directions
    sigma = activate_density(scene.field.density_raw(points), options)[..., None]
    if options.object_radius is None:
        return sigma
    return torch.where(points.norm(dim=-1, keepdim=True) < options.object_radius, sigma, 0)


def _finish(output: Output, pooled: dict[str, Tensor]) -> Tensor:
    """One output [C, h, w] from the means over pixels."""
    if output is Output.DEPTH:
        opacity = pooled["opacity"]
        return torch.where(opacity > EMPTY, pooled["depth"] / opacity.clamp_min(EMPTY), 0)
    if output is Output.FOREGROUND:
        alpha = pooled["alpha"]
        straight = pooled["front"] / alpha.clamp_min(EMPTY)
        return torch.cat([torch.where(alpha > EMPTY, straight, 0), alpha])
    names = {Output.RAW_DEPTH: "depth", Output.BACKGROUND: "behind"}
    return pooled[names.get(output, output.value)]
