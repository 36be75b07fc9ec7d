"""`epigraf data`: make a data set, or check one before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epigraf.errors import DataError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Make a data set, or check one."
)

SHOWN = 50
"""Findings printed before the rest is only counted."""


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="The folder (or .zip) to write.")],
    objects: Annotated[int, typer.Option("--objects", min=1, help="How many objects.")] = 200,
    views: Annotated[int, typer.Option("--views", min=1, help="Pictures of each object.")] = 8,
    resolution: Annotated[
        int, typer.Option("--resolution", min=8, max=1024, help="Side of a picture in pixels.")
    ] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other objects.")] = 0,
) -> None:
    """Make a posed set of procedural objects: varied, textured, with true depth, from all sides.

    [bold]Examples[/bold]

      epigraf data synth shapes
      epigraf data synth shapes128.zip --objects 500 --views 16 --resolution 128
    """
    from epigraf.data.synthetic import make_synthetic

    make_synthetic(out, num_objects=objects, views=views, resolution=resolution, seed=seed)
    typer.echo(f"{out}: {objects * views} pictures of {objects} objects")


@app.command()
def poses(
    path: Annotated[Path, typer.Argument(help="Aligned faces without poses: a zip or a folder.")],
    out: Annotated[Path, typer.Argument(help="The .zip to write: the same with camera angles.")],
    top: Annotated[
        float, typer.Option("--top", min=0, max=1, help="Where the nose's rows begin (0: top).")
    ] = 0.53,
    bottom: Annotated[
        float, typer.Option("--bottom", min=0, max=1, help="Where they end (1: bottom).")
    ] = 0.84,
    depth: Annotated[
        float,
        typer.Option(
            "--depth", min=0.02, max=1, help="How far the nose sticks out, in picture widths."
        ),
    ] = 0.22,
    pitch: Annotated[
        float, typer.Option("--pitch", min=0, max=0.5, help="Spread of the pitch, in radians.")
    ] = 0.1,
) -> None:
    """Estimate the yaw of faces that are aligned by their eyes, from where their noses point.

    No network and no download: mirror symmetry, and what many pictures agree on. The pitch is drawn
    at random; train with a discriminator that is told the yaw only, as `cats64` does.

    [bold]Examples[/bold]

      epigraf data poses cats-64.zip cats-64-posed.zip
      epigraf data poses faces faces-posed.zip --top 0.5 --bottom 0.75 --depth 0.15
    """
    from epigraf.data.posing import write_posed
    from epigraf.data.yaw import Muzzle

    if bottom - top < 0.05:
        raise DataError(f"poses: --bottom {bottom:g} must lie at least 0.05 below --top {top:g}")
    muzzle = Muzzle(top=top, bottom=bottom, depth=depth)
    angles = write_posed(path, out, muzzle=muzzle, pitch_stddev=pitch)
    spread, widest = angles[:, 0].std(), abs(angles[:, 0]).max()
    typer.echo(f"{out}: {len(angles)} pictures, yaw spread {spread:.3f}, at most {widest:.2f}")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A zip or a folder of pictures.")],
    resolution: Annotated[
        int | None, typer.Option("--resolution", min=4, help="The size that training will ask for.")
    ] = None,
) -> None:
    """Decode a whole data set and list everything that is wrong with it, by file name.

    Ends with exit code 1 when a training would refuse the set; warnings alone are fine.

    [bold]Examples[/bold]

      epigraf data check shapes
      epigraf data check cats.zip --resolution 64
    """
    from epigraf.data.doctor import check_dataset, errors_of

    problems = check_dataset(path, resolution)
    for problem in problems[:SHOWN]:
        typer.echo(f"{problem.severity.value}: {problem}")
    if len(problems) > SHOWN:
        typer.echo(f"... and {len(problems) - SHOWN} more")
    errors = errors_of(problems)
    if errors:
        plural = "error" if len(errors) == 1 else "errors"
        raise DataError(f"{path}: {len(errors)} {plural}: a training would refuse this set")
    typer.echo(_summary(path, resolution))


def _summary(path: Path, resolution: int | None) -> str:
    """One line about a healthy set."""
    from epigraf.data.archive import Archive
    from epigraf.data.decode import Pixels
    from epigraf.data.images import settle_resolution
    from epigraf.data.index import read_index

    with Archive(path) as archive:
        index, _ = read_index(archive)
        side, _ = settle_resolution(archive, archive.images, resolution, Pixels())
        count = len(archive.images)
    poses = "no poses (train with a sampled prior)" if index.angles is None else "poses"
    labels = "no labels" if index.labels is None else f"labels of width {index.labels.shape[1]}"
    return f"{path}: {count} pictures of {side}x{side}, {poses}, {labels}: good to train on"
