"""`epigraf sample`: pictures of generated objects, one file each and all in a grid."""

from __future__ import annotations

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
    parse_seeds,
    require_finite,
)
from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from epigraf.models.loading import LoadedModel
    from epigraf.rendering.trajectories import CameraPath


Views = Annotated[
    int, typer.Option("--views", min=1, max=64, help="Views of each object: a row of the grid.")
]
Yaw = Annotated[float | None, typer.Option("--yaw", help="Camera yaw in radians (single view).")]
Pitch = Annotated[
    float | None,
    typer.Option("--pitch", help="Camera pitch in radians from the top; 1.57 is the horizon."),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="A folder (grid.png and one file a seed) or one picture."),
]


def sample(
    model: Model,
    seeds: Seeds = "0-15",
    trunc: Truncation = 0.7,
    class_index: ClassIndex = None,
    views: Views = 1,
    yaw: Yaw = None,
    pitch: Pitch = None,
    resolution: Resolution = None,
    ray_steps: RaySteps = None,
    out: Out = Path("samples"),
) -> None:
    """Render generated objects: a grid, and one picture for each seed.

    [bold]Examples[/bold]

      epigraf sample runs/00000-tiny-shapes --seeds 0-15 --out samples
      epigraf sample runs/00000-tiny-shapes --seeds 0-3,7 --views 8 --out turns.png
      epigraf sample network-snapshot-000300.safetensors --class 2 --trunc 1 --resolution 128
    """
    from epigraf.cli.media import check_picture_name, check_target
    from epigraf.cli.models import object_styles, open_model
    from epigraf.cli.views import single_view, view_path

    numbers = parse_seeds(seeds)
    if out.suffix:
        check_picture_name(out)
    check_target(out if out.suffix else out / "grid.png")
    require_finite("--yaw", yaw)
    require_finite("--pitch", pitch)
    if views > 1 and (yaw is not None or pitch is not None):
        raise EpigrafError("--yaw and --pitch choose a single view; leave them or --views out")
    loaded = open_model(model, ray_steps)
    cfg = loaded.config
    one = single_view(cfg, yaw, pitch)
    cameras = one if views == 1 else view_path(cfg, PathName.AUTO, views)
    styles = object_styles(loaded, numbers, trunc, class_index)
    pictures = [pictures_of(loaded, ws[None], cameras, resolution) for ws in styles]
    typer.echo(_write(pictures, numbers, out))


def _write(pictures: list[list[np.ndarray]], seeds: list[int], out: Path) -> str:
    """Write one grid, or into a folder a grid and a picture for each seed; say what."""
    from epigraf.cli.media import grid, save_picture, squarest

    views = len(pictures[0])
    columns = squarest(len(seeds)) if views == 1 else views
    sheet = grid([picture for row in pictures for picture in row], columns)
    if out.suffix:
        save_picture(sheet, out)
        return str(out)
    for seed, row in zip(seeds, pictures, strict=True):
        save_picture(grid(row, views), out / f"seed{seed:04d}.png")
    save_picture(sheet, out / "grid.png")
    return f"{out / 'grid.png'} and {len(seeds)} single pictures"


def pictures_of(
    loaded: LoadedModel, ws: Tensor, cameras: CameraPath, resolution: int | None
) -> list[np.ndarray]:
    """uint8 pictures [H, W, 3] of one object (or of one style a camera), a list by camera."""
    from epigraf.models.sampling import render_views, to_bytes

    images = render_views(loaded.generator, ws, cameras, resolution)
    return [to_bytes(image.image)[0].numpy() for image in images]
