"""`epigraf video`: films of generated objects: camera paths, lens moves, interpolation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.cli.arguments import (
    ClassIndex,
    Crop,
    Device,
    Dolly,
    Fov,
    Interpolation,
    Mix,
    MixLayers,
    Model,
    ModelOverrides,
    Outputs,
    PathOption,
    Pitch,
    Quality,
    Radius,
    Resolution,
    Roll,
    Seeds,
    Supersample,
    Truncations,
    Yaw,
    Zoom,
)
from epigraf.cli.values import parse_seeds

if TYPE_CHECKING:
    import numpy as np

    from epigraf.cli.cameras import CameraMove
    from epigraf.cli.cast import Cast, Casting
    from epigraf.cli.progress import Meter
    from epigraf.cli.shot import Shot
    from epigraf.models.loading import LoadedModel

DEFAULT_FRAMES = 60

Grid = Annotated[
    str | None,
    typer.Option(
        "--grid",
        help="COLUMNSxROWS. [dim]Default: fits the seeds[/dim]",
        rich_help_panel="Objects",
    ),
]
Interp = Annotated[
    Interpolation | None,
    typer.Option(
        "--interp",
        help="Blend from seed to seed, in a loop, on the way: straight in w, or along the sphere "
        "in z.",
        rich_help_panel="Objects",
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        max=10_000,
        help="Frames; with --interp those from a seed to the next. [dim]Default: 60, or the "
        "duration of the keyframes[/dim]",
    ),
]
FramesPerSecond = Annotated[int, typer.Option("--fps", min=1, max=120, help="Frames a second.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The .mp4, .webp or .gif to write.")]


def video(
    model: Model,
    seeds: Seeds = "0-15",
    trunc: Truncations = "0.7",
    class_index: ClassIndex = None,
    mix: Mix = None,
    mix_layers: MixLayers = None,
    interp: Interp = None,
    grid: Grid = None,
    path: PathOption = None,
    yaw: Yaw = None,
    pitch: Pitch = None,
    roll: Roll = None,
    fov: Fov = None,
    radius: Radius = None,
    zoom: Zoom = 1.0,
    dolly: Dolly = 1.0,
    outputs: Outputs = "color",
    resolution: Resolution = None,
    crop: Crop = None,
    supersample: Supersample = 1,
    quality: Quality = None,
    frames: Frames = None,
    fps: FramesPerSecond = 30,
    out: Out = Path("video.mp4"),
    override: ModelOverrides = None,
    device: Device = "auto",
) -> None:
    """Film generated objects. Options compose: any objects, any path, any outputs.

    [bold]Examples[/bold]

      epigraf video plants64 --seeds 0-15 --grid 4x4 --out turn.mp4
      epigraf video plants64 --seeds 3 --path wiggle --frames 90
      epigraf video plants64 --seeds 3 --outputs color,depth,normal
      epigraf video plants64 --seeds 0-7 --interp z --path still
      epigraf video plants64 --seeds 3 --path still --dolly 2 --zoom 0.5
      epigraf video plants64 --seeds 3 --path camera.yaml --out flight.mp4
      epigraf video plants64 --seeds 0-2 --mix 8-10 --out mixed.mp4
      epigraf video plants64 --seeds 0-3 --fps 12 --out readme.webp

    [bold]camera.yaml[/bold], angles in radians, all but yaw and pitch optional:

      loop: false
      keyframes:
        - {time: 0, yaw: 0.0, pitch: 1.4}
        - {time: 2, yaw: 1.5, pitch: 1.0, fov: 15, radius: 1.2, roll: 0.1}
    """
    from epigraf.cli.cameras import AUTO, CameraMove
    from epigraf.cli.cast import Casting
    from epigraf.cli.film import check_film_name, save_film
    from epigraf.cli.media import check_target
    from epigraf.cli.models import open_model
    from epigraf.cli.progress import Meter
    from epigraf.cli.shot import make_shot

    casting = Casting(parse_seeds(seeds), trunc, class_index, mix, mix_layers, interp, grid)
    move = CameraMove(path or AUTO, yaw, pitch, roll, fov, radius, zoom, dolly)
    check_film_name(out, quality)
    check_target(out)
    loaded = open_model(model, override, device)
    each = frames or _duration(move, fps)
    cast = _cast(loaded, casting, each)
    cameras = move.cameras(loaded.config, _length(cast, each))
    shot = make_shot(loaded, cameras, outputs, resolution, crop, supersample)
    people = sum(cell.styles is not None for cell in cast.cells)
    with Meter("filming", people * len(cameras)) as meter:
        save_film(_film(loaded, cast, shot, meter), out, fps, quality)
    typer.echo(out)


def _duration(move: CameraMove, fps: int) -> int:
    """Frames of a film whose length is not given."""
    keyframes = move.keyframes()
    if keyframes is None:
        return DEFAULT_FRAMES
    return max(round(keyframes.seconds * fps) + (0 if keyframes.loop else 1), 1)


def _cast(loaded: LoadedModel, casting: Casting, frames: int) -> Cast:
    from epigraf.cli.cast import cast_of, loops

    return cast_of(loaded, casting) if casting.interp is None else loops(loaded, casting, frames)


def _length(cast: Cast, each: int) -> int:
    """Frames of the film: as many as a cell that changes has styles."""
    styles = [len(cell.styles) for cell in cast.cells if cell.styles is not None]
    return max(styles) if max(styles) > 1 else each


def _film(loaded: LoadedModel, cast: Cast, shot: Shot, meter: Meter) -> Iterator[np.ndarray]:
    """Frames [H, W, 3] uint8: all cells of a frame side by side.

    An occupancy grid of each object pays over its frames, where nothing else is asked for.
    """
    from epigraf.cli.media import grid
    from epigraf.cli.shades import over_white
    from epigraf.cli.shot import meter_budget, shaded, side_by_side, views_of
    from epigraf.config import RenderSampler

    budget = meter_budget(meter)
    sampler = loaded.config.render.sampler or RenderSampler.OCCUPANCY
    reels = [
        None if cell.styles is None else views_of(loaded, cell.styles, shot, meter, budget, sampler)
        for cell in cast.cells
    ]
    for i in range(len(shot.cameras)):
        pictures = [None if reel is None else shaded(next(reel), shot, i) for reel in reels]
        cells = [None if outputs is None else side_by_side(outputs) for outputs in pictures]
        yield over_white(grid(cells, cast.columns))
