"""Pictures of generated objects: any outputs, any size or crop, tile by tile.

V views, R rays, C channels, H W pixels. Everything here is deterministic: spatial noise is the
constant one and rays are not jittered. Memory is bounded by the tile (`RayBudget`) and the picture
itself. A pixel's ray depends on its place in the whole picture alone; a crop equals that region of
the whole but for rounding, and bit for bit where rays are marched alike: the fused renderer changes
its order of sums with the number of rays in a tile (docs/pictures.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.config import RenderSampler
from epigraf.models.backbone import NoiseMode
from epigraf.models.decoder import TriPlaneField
from epigraf.models.generator import Generator, View
from epigraf.models.occupancy import scene_field
from epigraf.rendering.budget import RayBudget
from epigraf.rendering.camera import cam2world, clamp_pitch, roll_cameras
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.frame import Box, Frame, box_filter, frame_rays, pixel_places
from epigraf.rendering.normals import expected_normals
from epigraf.rendering.options import RenderOptions, activate_density
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import render_rays
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
"""The wanted outputs of one view, each [C, H, W] float32 on the CPU; in memory [H, W, C] often."""

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


def cameras_of(scene: Scene, path: CameraPath) -> list[Camera]:
    """The cameras of a path in the dtype and on the device of a scene."""
    settings = scene.generator.cfg.dataset.camera
    radii = path.radius
    if radii is None:
        radii = torch.full_like(path.fov, settings.radius)
    angles = clamp_pitch(path.angles)
    matrices = roll_cameras(cam2world(angles, radii, settings.target), angles[:, 2])
    each = zip(matrices.to(scene.planes).split(1), path.fov.tolist(), radii.tolist(), strict=True)
    return [Camera(*camera) for camera in each]


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
    budget = budget or RayBudget()
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
            (part,) = render_tile(scene, [camera], frame, tile, outputs, budget.rays)
        except (MemoryError, RuntimeError) as error:
            budget.halve(error)
            waiting.append(tile)
            continue
        _paste(picture, part, box, tile)
        if on_tile is not None:
            on_tile(tile.width * tile.height / (box.width * box.height))
    return picture


def _paste(picture: Picture, part: Picture, box: Box, tile: Box) -> None:
    """Write a tile's outputs into those of the box."""
    y, x = tile.top - box.top, tile.left - box.left
    for output, values in part.items():
        if output not in picture:
            picture[output] = torch.empty(len(values), box.height, box.width)
        picture[output][:, y : y + tile.height, x : x + tile.width] = values


@torch.no_grad()
def render_tile(
    scene: Scene,
    cameras: Sequence[Camera],
    frame: Frame,
    tile: Box,
    outputs: Collection[Output],
    max_rays: int,
) -> list[Picture]:
    """The outputs [C, h, w] of a tile of each camera's view, on the CPU. The cameras are equally
    far away."""
    matrices = torch.cat([camera.matrix for camera in cameras])
    fov = torch.tensor([camera.fov for camera in cameras])
    views = frame_rays(matrices, fov, frame, tile)
    rays = Rays(*(x.flatten(0, 1)[None] for x in views))
    options = _options(scene, cameras[0], tile.width * frame.supersample, max_rays)
    seen = _march(scene, rays, options, outputs)
    if scene.has_background and {Output.COLOR, Output.BACKGROUND} & set(outputs):
        behind = _background(scene, rays, frame, tile, options)
        seen["behind"] = behind
        if Output.COLOR in outputs:
            seen["color"] = seen["color"] + behind * seen.pop("through")
    if Output.NORMAL in outputs:
        seen["normal"] = expected_normals(scene.field, rays, options, draws=RandomDraws(0))
    if Output.DENSITY in outputs:
        seen["density"] = _section(scene, rays, matrices, options)
    each = {name: x.view(len(cameras), -1, x.shape[-1]) for name, x in seen.items()}
    if Output.NORMAL in outputs:
        each["normal"] = each["normal"] @ matrices[:, :3, :3]
    pooled = {name: box_filter(x, tile, frame.supersample) for name, x in each.items()}
    done = {output: _finish(output, pooled).float().cpu() for output in outputs}
    return [{output: x[i] for output, x in done.items()} for i in range(len(cameras))]


def _march(
    scene: Scene, rays: Rays, options: RenderOptions, outputs: Collection[Output]
) -> dict[str, Tensor]:
    """What rays collect in front of the background, by name, each [1, R, C]."""
    if not _MARCHED & set(outputs):
        return {}
    rendered = render_rays(scene.field, rays, options, draws=RandomDraws(0))
    opacity = rendered.opacity[..., None]
    seen = {
        "color": rendered.features,
        "depth": rendered.depth[..., None],
        "opacity": opacity,
        "through": rendered.transmittance[..., None],
    }
    if Output.FOREGROUND in outputs:
        white = 1 - opacity if options.white_back else 0
        seen["front"] = rendered.features - white
        seen["alpha"] = torch.ones_like(opacity) if options.last_back else opacity
    return seen


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
    """Colours [1, R, 3] of the background model; rays of several views lie behind each other."""
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
    each = picture.flatten(2).transpose(1, 2)
    return each.repeat(1, rays.directions.shape[1] // each.shape[1], 1)


def _section(scene: Scene, rays: Rays, matrices: Tensor, options: RenderOptions) -> Tensor:
    """Densities [1, V R, 1] where the rays of V cameras [V, 4, 4] cross the plane through the
    origin that faces their camera."""
    backward = matrices[:, :3, 2].repeat_interleave(rays.origins.shape[1] // len(matrices), dim=0)
    distance = (rays.origins * backward).sum(-1, keepdim=True)
    t = distance / -(rays.directions * backward).sum(-1, keepdim=True)
    points = rays.origins + t * rays.directions
    sigma = activate_density(scene.field.density_raw(points), options)[..., None]
    if options.object_radius is None:
        return sigma
    return torch.where(points.norm(dim=-1, keepdim=True) < options.object_radius, sigma, 0)


def _finish(output: Output, pooled: dict[str, Tensor]) -> Tensor:
    """One output [V, C, h, w] from the means over pixels."""
    if output is Output.DEPTH:
        opacity = pooled["opacity"]
        return torch.where(opacity > EMPTY, pooled["depth"] / opacity.clamp_min(EMPTY), 0)
    if output is Output.FOREGROUND:
        alpha = pooled["alpha"]
        straight = pooled["front"] / alpha.clamp_min(EMPTY)
        return torch.cat([torch.where(alpha > EMPTY, straight, 0), alpha], dim=1)
    names = {Output.RAW_DEPTH: "depth", Output.BACKGROUND: "behind"}
    return pooled[names.get(output, output.value)]
