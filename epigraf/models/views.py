"""Many views of generated objects: films and sheets.

V views. Views of one object share its planes and its occupancy grid, and small ones are rendered
together: as many as the budget has rays for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import takewhile

from torch import Tensor

from epigraf.config import RenderSampler
from epigraf.models.generator import Generator
from epigraf.models.occupancy import sampler_for
from epigraf.models.pictures import (
    Camera,
    Output,
    Picture,
    Scene,
    cameras_of,
    render_picture,
    render_tile,
    scene_of,
)
from epigraf.rendering.budget import RayBudget
from epigraf.rendering.frame import Frame
from epigraf.rendering.trajectories import CameraPath


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
    """Render one picture a camera, in order.

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
    frame = frame or Frame(generator.img_resolution)
    budget = budget or RayBudget()
    for scene, views in scenes_of(generator, ws, cameras, frame, sampler):
        yield from render_scene(scene, views, frame, outputs, budget=budget, on_tile=on_tile)


def scenes_of(
    generator: Generator,
    ws: Tensor,
    cameras: CameraPath,
    frame: Frame,
    sampler: RenderSampler | None = None,
) -> Iterator[tuple[Scene, list[Camera]]]:
    """The object of each style and the cameras that see it, in order; arguments and errors as for
    `render_views`."""
    styles = ws.shape[0]
    if styles not in (1, len(cameras)):
        raise ValueError(f"render_views: ws must hold 1 or {len(cameras)} styles, got {styles}")
    rays = _rays_of(frame) * (len(cameras) if styles == 1 else 1)
    sampler = sampler_for(generator, sampler or generator.cfg.render.sampler, rays)
    for i, style in enumerate(ws.split(1)):
        scene = scene_of(generator, style, sampler)
        yield scene, cameras_of(scene, cameras if styles == 1 else cameras[i : i + 1])


def render_scene(
    scene: Scene,
    cameras: Sequence[Camera],
    frame: Frame,
    outputs: Collection[Output] = (Output.COLOR,),
    *,
    budget: RayBudget,
    on_tile: Callable[[float], None] | None = None,
) -> Iterator[Picture]:
    """The pictures of one object from all cameras; arguments as for `render_picture`."""
    done = 0
    while done < len(cameras):
        some = _together(cameras[done:], frame, budget.rays)
        if len(some) == 1:
            yield render_picture(scene, some[0], frame, outputs, budget=budget, on_tile=on_tile)
        else:
            try:
                pictures = render_tile(scene, some, frame, frame.box, outputs, budget.rays)
            except (MemoryError, RuntimeError) as error:
                budget.halve(error)
                continue
            if on_tile is not None:
                on_tile(float(len(some)))
            yield from pictures
        done += len(some)


def _rays_of(frame: Frame) -> int:
    return frame.box.width * frame.box.height * frame.supersample**2


def _together(cameras: Sequence[Camera], frame: Frame, rays: int) -> list[Camera]:
    """The first cameras, at least one, that are equally far away and need no more rays."""
    most = max(rays // _rays_of(frame), 1)
    return list(takewhile(lambda camera: camera.radius == cameras[0].radius, cameras[:most]))
