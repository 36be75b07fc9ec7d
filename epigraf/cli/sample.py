"""`epigraf sample`: pictures of generated objects, one file each and all on a sheet."""

from __future__ import annotations

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
    Layout,
    Mix,
    MixLayers,
    Model,
    ModelOverrides,
    NumbersFormat,
    Outputs,
    PathOption,
    PictureFormat,
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
from epigraf.cli.values import parse_outputs, parse_seeds
from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    from epigraf.cli.cameras import CameraMove
    from epigraf.cli.cast import Cast, Casting
    from epigraf.cli.sheet import Files
    from epigraf.config import Config
    from epigraf.models.loading import LoadedModel
    from epigraf.rendering.trajectories import CameraPath


STEPS = 8

Interp = Annotated[
    Interpolation | None,
    typer.Option(
        "--interp",
        help="A row from each seed to the next: straight in w, or along the sphere in z.",
        rich_help_panel="Objects",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=2,
        max=64,
        help="Pictures in a row of --interp. [dim]Default: 8[/dim]",
        rich_help_panel="Objects",
    ),
]
Views = Annotated[
    int,
    typer.Option("--views", min=1, max=64, help="Views of each object.", rich_help_panel="Camera"),
]
LayoutOption = Annotated[
    Layout,
    typer.Option(
        "--layout",
        help="Views in a row, or the front large and the others small beneath it.",
        rich_help_panel="Picture",
    ),
]
Format = Annotated[
    PictureFormat | None,
    typer.Option(
        "--format",
        help="Of the files in a folder; a foreground has its opacity as alpha, but in jpg. "
        "[dim]Default: png[/dim]",
        rich_help_panel="Picture",
    ),
]
NumbersOption = Annotated[
    NumbersFormat | None,
    typer.Option(
        "--numbers",
        help="Also write the outputs as numbers: float arrays, layered OpenEXR, or 16-bit PNG of "
        "depth and opacity.",
        rich_help_panel="Picture",
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="A folder (grid.png and one file a seed) or one picture."),
]


def sample(
    model: Model,
    seeds: Seeds = "0-15",
    trunc: Truncations = "0.7",
    class_index: ClassIndex = None,
    mix: Mix = None,
    mix_layers: MixLayers = None,
    interp: Interp = None,
    steps: Steps = None,
    views: Views = 1,
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
    layout: LayoutOption = Layout.ROW,
    file_format: Format = None,
    numbers: NumbersOption = None,
    quality: Quality = None,
    out: Out = Path("samples"),
    override: ModelOverrides = None,
    device: Device = "auto",
) -> None:
    """Render generated objects: a sheet of all, and one picture for each.

    Options compose: any objects, from any cameras, in any outputs.

    [bold]Examples[/bold]

      epigraf sample plants64 --seeds 0-15 --out samples
      epigraf sample plants64 --seeds 0-3,7 --views 8 --out turns.png
      epigraf sample plants64 --outputs color,depth,normal --out maps.png
      epigraf sample plants64 --outputs depth,opacity --numbers npz
      epigraf sample plants64 --seeds 5 --outputs foreground --resolution 512
      epigraf sample plants64 --crop 0.25,0,0.5,1 --supersample 2
      epigraf sample plants64 --seeds 0-3 --trunc 0,0.5,1 --out sweep.png
      epigraf sample plants64 --seeds 0-3 --mix 8-12 --out mixed.png
      epigraf sample plants64 --seeds 0-2 --interp z --steps 9 --out morph.png
      epigraf sample plants64 --seeds 3 --views 6 --layout front --out f.jpg
    """
    from epigraf.cli.cameras import AUTO, CameraMove
    from epigraf.cli.cast import Casting
    from epigraf.cli.models import open_model
    from epigraf.cli.numbers import check_numbers
    from epigraf.cli.sheet import render_sheet
    from epigraf.cli.shot import make_shot

    casting = Casting(parse_seeds(seeds), trunc, class_index, mix, mix_layers, interp)
    move = CameraMove(
        path or ("still" if views == 1 else AUTO), yaw, pitch, roll, fov, radius, zoom, dolly
    )
    files = _files(out, file_format, quality, numbers, layout)
    _check_views(casting, views, move, layout)
    if steps is not None and interp is None:
        raise EpigrafError("--steps are those of --interp w or --interp z; add one")
    check_numbers(numbers, parse_outputs(outputs))
    loaded = open_model(model, override, device)
    shot = make_shot(
        loaded, _cameras(loaded.config, move, views, layout),
        outputs, resolution, crop, supersample,
    )  # fmt: skip
    typer.echo(render_sheet(loaded, _cast(loaded, casting, steps or STEPS), shot, files))


def _files(
    out: Path,
    file_format: PictureFormat | None,
    quality: int | None,
    numbers: NumbersFormat | None,
    layout: Layout,
) -> Files:
    """The files that the options ask for, checked before the work."""
    from epigraf.cli.media import check_picture_name, check_target
    from epigraf.cli.sheet import Files

    ending = "." + (file_format or PictureFormat.PNG).value
    if out.suffix:
        if file_format is not None and out.suffix.lower() != ending:
            raise EpigrafError(
                f"--out {out} and --format {file_format.value} disagree; give one of them"
            )
        if numbers is not None:
            raise EpigrafError(f"--numbers needs a folder as --out, got the file {out}")
        ending = out.suffix.lower()
    sheet = out if out.suffix else out / f"grid{ending}"
    check_picture_name(sheet, quality)
    check_target(sheet)
    return Files(out, ending, quality, numbers, layout)


def _check_views(casting: Casting, views: int, move: CameraMove, layout: Layout) -> None:
    """Columns of a sheet have one meaning, and paths need room to move."""
    if views > 1 and casting.makes_columns:
        raise EpigrafError("--views makes columns, and so does another option; leave one out")
    if layout is Layout.FRONT and views < 2:
        raise EpigrafError("--layout front shows other views beneath the front; add --views 6")
    if views == 1 and (move.zoom, move.dolly) != (1.0, 1.0):
        raise EpigrafError(
            "--zoom and --dolly move along a path; one view takes --fov and --radius"
        )
    if views > 1 and move.is_still and (move.zoom, move.dolly) == (1.0, 1.0):
        raise EpigrafError("--path still has one view: leave --views or the still camera out")


def _cameras(cfg: Config, move: CameraMove, views: int, layout: Layout) -> CameraPath:
    """One for each view; the front layout looks from the front first."""
    import torch

    from epigraf.cli.cameras import CameraMove
    from epigraf.rendering.trajectories import CameraPath

    if layout is Layout.ROW:
        return move.cameras(cfg, views)
    first = CameraMove("still", fov=move.fov, radius=move.radius or cfg.dataset.camera.radius)
    paths = [first.cameras(cfg, 1), move.cameras(cfg, views - 1)]
    radii = [
        torch.full_like(p.fov, cfg.dataset.camera.radius) if p.radius is None else p.radius
        for p in paths
    ]
    angles, fovs = torch.cat([p.angles for p in paths]), torch.cat([p.fov for p in paths])
    return CameraPath(angles, fovs, torch.cat(radii))


def _cast(loaded: LoadedModel, casting: Casting, steps: int) -> Cast:
    from epigraf.cli.cast import cast_of, strips

    return cast_of(loaded, casting) if casting.interp is None else strips(loaded, casting, steps)
