"""What is rendered of each cell of a sheet or film, and the rendering of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from epigraf.cli.media import grid
from epigraf.cli.progress import Meter
from epigraf.cli.shades import Range, needed, over_white, shade
from epigraf.cli.values import parse_crop, parse_outputs
from epigraf.config import RenderSampler
from epigraf.errors import EpigrafError
from epigraf.models.loading import LoadedModel
from epigraf.models.occupancy import sampler_line
from epigraf.models.pictures import Output, Picture
from epigraf.models.views import render_scene, scenes_of
from epigraf.rendering.budget import RayBudget
from epigraf.rendering.frame import Frame
from epigraf.rendering.trajectories import CameraPath


@dataclass(frozen=True)
class Shot:
    """Cameras, frame and outputs; `limits` of the depth pictures, one a camera."""

    cameras: CameraPath
    frame: Frame
    outputs: tuple[Output, ...]
    limits: tuple[Range, ...]


def make_shot(
    loaded: LoadedModel,
    cameras: CameraPath,
    outputs: str = Output.COLOR.value,
    resolution: int | None = None,
    crop: str | None = None,
    supersample: int = 1,
) -> Shot:
    """A shot from the texts of the options.

    Raises:
        EpigrafError: a crop outside the picture, an unknown output, or one the model has not.
    """
    cfg = loaded.config
    side = resolution or cfg.dataset.resolution
    frame = Frame(side, None if crop is None else parse_crop(crop, side), supersample)
    wanted = parse_outputs(outputs)
    if Output.BACKGROUND in wanted and cfg.model.generator.bg_model.type is None:
        raise EpigrafError(
            "--outputs background: this model was trained without a background model "
            "(model.generator.bg_model.type)"
        )
    radii = [None] * len(cameras) if cameras.radius is None else cameras.radius.tolist()
    return Shot(cameras, frame, wanted, tuple(Range.of(cfg, radius) for radius in radii))


def meter_budget(meter: Meter) -> RayBudget:
    """A budget of rays that says through the meter when it shrinks."""
    return RayBudget(say=meter.say)


def views_of(
    loaded: LoadedModel,
    ws: Tensor,
    shot: Shot,
    meter: Meter,
    budget: RayBudget | None = None,
    sampler: RenderSampler | None = None,
) -> Iterator[Picture]:
    """The views of one cell (styles and sampler as for `render_views`), one unit of the meter each;
    what samples the first cell's rays is noted where someone chose it."""
    outputs, chosen = needed(shot.outputs), sampler or loaded.config.render.sampler
    budget = budget or meter_budget(meter)
    scenes = scenes_of(loaded.generator, ws, shot.cameras, shot.frame, chosen)
    for scene, cameras in scenes:
        if chosen is not None:
            meter.note(sampler_line(scene.field, chosen))
        yield from render_scene(
            scene, cameras, shot.frame, outputs, budget=budget, on_tile=meter.advance
        )


def shaded(view: Picture, shot: Shot, index: int) -> list[np.ndarray]:
    """View `index` of a shot for the eye: a picture [H, W, 3 or 4] for each of its outputs."""
    return [shade(view, output, shot.limits[index]) for output in shot.outputs]


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """The outputs of a view as one picture; with alpha only if all of them have it."""
    if any(picture.shape[2] == 3 for picture in pictures):
        pictures = [over_white(picture) for picture in pictures]
    return grid(pictures, len(pictures))


def pictures_of(
    loaded: LoadedModel, ws: Tensor, cameras: CameraPath, resolution: int
) -> list[np.ndarray]:
    """uint8 colour pictures [H, W, 3] of one object, a list by camera; without a meter."""
    shot = make_shot(loaded, cameras, resolution=resolution)
    with torch.no_grad(), Meter("rendering", len(cameras), live=False) as meter:
        views = views_of(loaded, ws, shot, meter)
        return [shaded(view, shot, i)[0] for i, view in enumerate(views)]
