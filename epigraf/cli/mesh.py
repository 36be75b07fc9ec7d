"""`epigraf mesh`: a generated object as a coloured mesh, or its density as a volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.cli.arguments import (
    ClassIndex,
    Device,
    MeshFormat,
    Model,
    ModelOverrides,
    Seeds,
    Truncation,
)
from epigraf.cli.values import parse_seeds, require_finite
from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    from torch import Tensor

    from epigraf.geometry.extract import MeshOptions
    from epigraf.models.loading import LoadedModel


LatticeResolution = Annotated[
    int, typer.Option("--resolution", min=8, max=1024, help="Lattice points along each axis.")
]
Format = Annotated[
    MeshFormat | None,
    typer.Option("--format", help="[dim]Default: the ending of --out, or ply[/dim]"),
]
Level = Annotated[
    float | None,
    typer.Option("--level", help="Raw density of the surface. [dim]Default: chosen[/dim]"),
]
Largest = Annotated[bool, typer.Option("--largest", help="Keep only the largest connected part.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="A folder, or one file when there is one seed.")
]


def mesh(
    model: Model,
    seeds: Seeds = "0",
    trunc: Truncation = 0.7,
    class_index: ClassIndex = None,
    resolution: LatticeResolution = 256,
    file_format: Format = None,
    level: Level = None,
    largest: Largest = False,
    out: Out = Path("meshes"),
    override: ModelOverrides = None,
    device: Device = "auto",
) -> None:
    """Take objects home: marching cubes on an exact lattice, world units, coloured vertices.

    `mrc` writes the raw density itself, for ChimeraX and the like.

    [bold]Examples[/bold]

      epigraf mesh runs/00000-tiny-shapes --seeds 0-3 --format glb
      epigraf mesh MODEL --seeds 7 --resolution 128 --out plant.ply
      epigraf mesh MODEL --seeds 7 --format mrc --out volumes
    """
    from epigraf.cli.media import check_target
    from epigraf.cli.models import object_styles, open_model
    from epigraf.geometry.extract import MeshOptions

    numbers = parse_seeds(seeds)
    require_finite("--level", level)
    paths = _targets(out, numbers, file_format)
    for path in paths:
        check_target(path)
    loaded = open_model(model, override, device)
    options = MeshOptions(resolution=resolution, level=level, largest=largest)
    styles = object_styles(loaded, numbers, trunc, class_index)
    for path, ws in zip(paths, styles, strict=True):
        typer.echo(f"{path}: {save_object(loaded, ws[None], options, path)}")


def _targets(out: Path, seeds: list[int], chosen: MeshFormat | None) -> list[Path]:
    """The file of each seed."""
    known = [f.value for f in MeshFormat]
    if not out.suffix:
        ending = (chosen or MeshFormat.PLY).value
        return [out / f"seed{seed:04d}.{ending}" for seed in seeds]
    ending = out.suffix.lower().removeprefix(".")
    if ending not in known:
        raise EpigrafError(f"--out {out}: meshes end in .{', .'.join(known)}")
    if chosen is not None and chosen.value != ending:
        raise EpigrafError(f"--out {out} and --format {chosen.value} disagree; give one of them")
    if len(seeds) > 1:
        raise EpigrafError(f"--out {out} is one file, but there are {len(seeds)} seeds")
    return [out]


def save_object(loaded: LoadedModel, ws: Tensor, options: MeshOptions, path: Path) -> str:
    """Write the object of styles ws [1, num_ws, w_dim] and say in a few words what it is."""
    from epigraf.geometry.export import save_mesh, save_volume
    from epigraf.geometry.extract import extract_mesh, extract_volume
    from epigraf.models.sampling import object_field

    field = object_field(loaded.generator, ws)
    if path.suffix.lower() == ".mrc":
        volume = extract_volume(field, loaded.config, options)
        save_volume(volume, path)
        low, high = float(volume.values.min()), float(volume.values.max())
        return f"{options.resolution}^3 densities from {low:.3g} to {high:.3g}"
    surface = extract_mesh(field, loaded.config, options)
    save_mesh(surface, path)
    return f"{len(surface.vertices)} vertices, {len(surface.faces)} faces"
