"""`epigraf video`: turntables, other camera paths and latent interpolation as mp4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.cli.arguments import (
    ClassIndex,
    Model,
    PathName,
    RaySteps,
    Resolution,
    Seeds,
    Truncation,
    parse_grid,
    parse_seeds,
)
from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from epigraf.models.loading import LoadedModel
    from epigraf.rendering.trajectories import CameraPath

PathOption = Annotated[PathName, typer.Option("--path", help="How the camera moves.")]


@dataclass(frozen=True)
class Clip:
    """What a video shows: cells of `columns` x `rows`, each with its camera path."""

    cameras: CameraPath
    columns: int
    rows: int
    resolution: int | None
    depth: bool


Grid = Annotated[
    str | None, typer.Option("--grid", help="COLUMNSxROWS. [dim]Default: fits the seeds[/dim]")
]
Interpolate = Annotated[
    bool,
    typer.Option("--interp", help="Blend from seed to seed, in a loop, on the way."),
]
Depth = Annotated[
    bool, typer.Option("--depth", help="Show depth beside each picture (near is bright).")
]
Frames = Annotated[
    int,
    typer.Option("--frames", min=1, max=10_000, help="Frames; with --interp those between seeds."),
]
FramesPerSecond = Annotated[int, typer.Option("--fps", min=1, max=120, help="Frames a second.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The .mp4 (or .webp) to write.")]


def video(
    model: Model,
    path: PathOption = PathName.AUTO,
    seeds: Seeds = "0-15",
    trunc: Truncation = 0.7,
    class_index: ClassIndex = None,
    grid: Grid = None,
    interp: Interpolate = False,
    depth: Depth = False,
    frames: Frames = 60,
    fps: FramesPerSecond = 30,
    resolution: Resolution = None,
    ray_steps: RaySteps = None,
    out: Out = Path("video.mp4"),
) -> None:
    """Film generated objects along a camera path.

    [bold]Examples[/bold]

      epigraf video runs/00000-tiny-shapes --seeds 0-15 --grid 4x4 --out turn.mp4
      epigraf video MODEL --path wiggle --seeds 3 --frames 90 --resolution 256 --depth
      epigraf video MODEL --interp --seeds 0-7 --grid 1x1 --frames 30 --out morph.mp4
    """
    from epigraf.cli.media import check_target
    from epigraf.cli.models import object_styles, open_model
    from epigraf.cli.views import view_path

    numbers = parse_seeds(seeds)
    if out.suffix.lower() not in (".mp4", ".webp"):
        raise EpigrafError(f"--out {out}: videos end in .mp4 or .webp")
    check_target(out)
    columns, rows = _cells(grid, len(numbers), interp)
    loaded = open_model(model, ray_steps)
    total = frames * (len(numbers) // (columns * rows) if interp else 1)
    clip = Clip(view_path(loaded.config, path, total), columns, rows, resolution, depth)
    styles = object_styles(loaded, numbers, trunc, class_index)
    write_clip(_film(loaded, styles, clip, frames if interp else None), out, fps)
    typer.echo(out)


def _cells(grid: str | None, seeds: int, interp: bool) -> tuple[int, int]:
    """Columns and rows, checked against the number of seeds."""
    from epigraf.cli.media import squarest

    if grid is None:
        columns = 1 if interp else squarest(seeds)
        return columns, 1 if interp else -(-seeds // columns)
    columns, rows = parse_grid(grid)
    cells = columns * rows
    if seeds < cells or (interp and seeds % cells):
        need = f"a multiple of {cells}" if interp else f"{cells}"
        raise EpigrafError(f"--grid {grid} needs {need} seeds, got {seeds}; change --seeds")
    return columns, rows


def _film(
    loaded: LoadedModel, styles: Tensor, clip: Clip, steps: int | None
) -> Iterator[np.ndarray]:
    """Frames [H, W, 3] uint8: all cells of a frame side by side.

    Args:
        styles: [N, num_ws, w_dim]; with `steps` cell k shows every `columns * rows`-th one in turn.
        steps: frames from one style to the next, None without interpolation.
    """
    from epigraf.cli.media import grid
    from epigraf.models.sampling import interpolate_styles

    cells = clip.columns * clip.rows
    reels = []
    for cell in range(cells):
        ws = styles[cell : cell + 1]
        if steps is not None:
            ws = interpolate_styles(styles[cell::cells], steps)
        reels.append(frames_of(loaded, ws, clip))
    for pictures in zip(*reels, strict=True):
        yield grid(pictures, clip.columns)


def frames_of(loaded: LoadedModel, ws: Tensor, clip: Clip) -> Iterator[np.ndarray]:
    """One cell's pictures [H, W, 3] uint8, with the depth beside it where the clip asks for it."""
    import numpy as np

    from epigraf.cli.media import depth_picture
    from epigraf.models.sampling import render_views, to_bytes

    camera = loaded.config.dataset.camera
    for image in render_views(loaded.generator, ws, clip.cameras, clip.resolution):
        picture = to_bytes(image.image)[0].numpy()
        if clip.depth:
            depth, opacity = image.depth[0, 0].cpu().numpy(), image.opacity[0, 0].cpu().numpy()
            grey = depth_picture(depth, opacity, camera.ray_start, camera.ray_end)
            picture = np.concatenate([picture, grey], axis=1)
        yield picture


def write_clip(frames: Iterator[np.ndarray], out: Path, fps: int) -> None:
    """Write frames as the format that the ending of `out` names."""
    from epigraf.cli.media import save_animation, save_video

    if out.suffix.lower() == ".webp":
        save_animation(list(frames), out, fps)
    else:
        save_video(frames, out, fps)
