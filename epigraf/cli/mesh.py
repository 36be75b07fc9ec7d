"""`epigraf mesh`: a generated object as a coloured mesh, or its density as a volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.cli.arguments import (
    ClassIndex,
    Device,
    MesherName,
    MeshFormat,
    Model,
    ModelOverrides,
    Seeds,
    Truncation,
)
from epigraf.cli.values import parse_bounds, parse_seeds, require_finite
from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    from torch import Tensor

    from epigraf.geometry.agreement import Choice
    from epigraf.geometry.extract import MeshOptions, OnCPU
    from epigraf.geometry.mesh import Mesh
    from epigraf.geometry.mesher import Mesher
    from epigraf.models.loading import LoadedModel

SPOOL_FROM = 768
"""Resolution from which finished layers are kept on disk for an interrupted run to go on."""
_SURFACE, _LOOK, _TEST = "Surface", "Look", "Test"

LatticeResolution = Annotated[
    int,
    typer.Option(
        "--resolution", min=8, max=4096, help="Lattice points along each axis.",
        rich_help_panel=_SURFACE,
    ),
]  # fmt: skip
Box = Annotated[
    str | None,
    typer.Option(
        "--bounds", metavar="XMIN,YMIN,ZMIN,XMAX,YMAX,ZMAX",
        help="The box of the lattice, world units. [dim]Default: the model's cube[/dim]",
        rich_help_panel=_SURFACE,
    ),
]  # fmt: skip
Format = Annotated[
    MeshFormat | None,
    typer.Option("--format", help="[dim]Default: the ending of --out, or glb[/dim]"),
]
Level = Annotated[
    float | None,
    typer.Option(
        "--level",
        help="Raw density of the surface. [dim]Default: what agrees best with the median depth of "
        "rendered views[/dim]",
        rich_help_panel=_SURFACE,
    ),
]
MesherOption = Annotated[
    MesherName,
    typer.Option(
        "--mesher",
        help="What makes triangles: PyMCubes block by block, or NVIDIA Kaolin on the whole "
        "lattice (docs/kaolin.md).",
        rich_help_panel=_SURFACE,
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(
        "--keep", min=1, help="Only so many of the largest connected parts.",
        rich_help_panel=_SURFACE,
    ),
]  # fmt: skip
MinShare = Annotated[
    float,
    typer.Option(
        "--min-share", min=0.0, max=1.0,
        help="Drop parts with less than this share of the whole area.", rich_help_panel=_SURFACE,
    ),
]  # fmt: skip
Smooth = Annotated[
    int,
    typer.Option(
        "--smooth", min=0, max=1000, help="Rounds of Taubin's smoothing.", rich_help_panel=_SURFACE
    ),
]
Decimate = Annotated[
    int | None,
    typer.Option("--decimate", min=4, help="At most so many faces.", rich_help_panel=_SURFACE),
]
Texture = Annotated[
    int | None,
    typer.Option(
        "--texture", min=16, max=8192,
        help="An atlas with a texture of so many pixels a side, instead of vertex colours.",
        rich_help_panel=_LOOK,
    ),
]  # fmt: skip
Average = Annotated[
    bool,
    typer.Option(
        "--average", help="Colours averaged over views, not seen straight from outside.",
        rich_help_panel=_LOOK,
    ),
]  # fmt: skip
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Compare the mesh with the volume from held-out cameras; NAME-check.png shows them.",
        rich_help_panel=_TEST,
    ),
]
Against = Annotated[
    Path | None,
    typer.Option(
        "--against", help="A true mesh: report chamfer and F-score.", rich_help_panel=_TEST
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="A folder, or one file when there is one seed.")
]


def mesh(
    model: Model,
    seeds: Seeds = "0",
    trunc: Truncation = 0.7,
    class_index: ClassIndex = None,
    resolution: LatticeResolution = 256,
    bounds: Box = None,
    file_format: Format = None,
    level: Level = None,
    mesher: MesherOption = MesherName.PYMCUBES,
    keep: Keep = None,
    min_share: MinShare = 0.001,
    smooth: Smooth = 0,
    decimate: Decimate = None,
    texture: Texture = None,
    average: Average = False,
    check: Check = False,
    against: Against = None,
    out: Out = Path("meshes"),
    override: ModelOverrides = None,
    device: Device = "auto",
) -> None:
    """Take objects home: marching cubes on an exact lattice, world units, coloured.

    `mrc` writes the raw density itself, for ChimeraX and the like. From a resolution of 768 on,
    Ctrl-C loses nothing: the same command goes on.

    [bold]Examples[/bold]

      epigraf mesh runs/00000-tiny-shapes --seeds 0-3
      epigraf mesh MODEL --seeds 7 --decimate 50000 --texture 1024 --check --out plant.glb
      epigraf mesh MODEL --seeds 7 --resolution 1024 --keep 1 --out plant.ply
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
    _check_needs(paths[0].suffix.lower(), texture, check, against, decimate)
    chosen = make_mesher(mesher, device)
    options = MeshOptions(
        resolution=resolution, level=level, bounds=parse_bounds(bounds), keep=keep,
        min_share=min_share, smooth=smooth, decimate=decimate, average=average, texture=texture,
        mesher=chosen,
    )  # fmt: skip
    loaded = open_model(model, override, device)
    styles = object_styles(loaded, numbers, trunc, class_index)
    for path, ws, seed in zip(paths, styles, numbers, strict=True):
        source = f"{loaded.path.name} at {loaded.kimg:g} kimg, seed {seed}, truncation {trunc:g}"
        thing = Object(loaded, ws[None], path, source)
        typer.echo(f"{path}: {_take_home(thing, options, check, against)}")


def _targets(out: Path, seeds: list[int], chosen: MeshFormat | None) -> list[Path]:
    """The file of each seed."""
    known = [f.value for f in MeshFormat]
    if not out.suffix:
        ending = (chosen or MeshFormat.GLB).value
        return [out / f"seed{seed:04d}.{ending}" for seed in seeds]
    ending = out.suffix.lower().removeprefix(".")
    if ending not in known:
        raise EpigrafError(f"--out {out}: meshes end in .{', .'.join(known)}")
    if chosen is not None and chosen.value != ending:
        raise EpigrafError(f"--out {out} and --format {chosen.value} disagree; give one of them")
    if len(seeds) > 1:
        raise EpigrafError(f"--out {out} is one file, but there are {len(seeds)} seeds")
    return [out]


def make_mesher(name: MesherName, device: str) -> Mesher | None:
    """What `--mesher` means; None is our own.

    Raises:
        EpigrafError: Kaolin is missing.
    """
    from epigraf.cli.models import find_device
    from epigraf.geometry.mesher import surface_cubes
    from epigraf.interop import kaolin

    if name is MesherName.TETRAHEDRA:
        return kaolin.Tetrahedra(surface_cubes, find_device(device))
    return kaolin.FlexiCubes(find_device(device)) if name is MesherName.FLEXICUBES else None


def _check_needs(
    ending: str, texture: int | None, check: bool, against: Path | None, decimate: int | None
) -> None:
    """Raise EpigrafError, before the work, where options do not go together or a package lacks."""
    from epigraf.geometry.clean import decimator
    from epigraf.geometry.export import TEXTURED
    from epigraf.geometry.usd import USD_ENDINGS, usd_library

    if texture is not None and ending not in TEXTURED:
        raise EpigrafError(f"--texture: {ending} holds none; use glb, obj, usdz or npz")
    if ending == ".mrc" and (check or against is not None):
        raise EpigrafError("--check and --against are for meshes; .mrc is a volume")
    if against is not None and not against.is_file():
        raise EpigrafError(f"--against {against}: no such file")
    if ending in USD_ENDINGS:
        usd_library(ending)
    if decimate is not None:
        decimator()


@dataclass(frozen=True)
class Object:
    """An object of a model, where it goes and what it is: styles ws [1, num_ws, w_dim]."""

    loaded: LoadedModel
    ws: Tensor
    path: Path
    source: str

    def field(self) -> OnCPU:
        """Its densities and colours."""
        from epigraf.geometry.extract import OnCPU
        from epigraf.models.sampling import object_field

        return OnCPU(object_field(self.loaded.generator, self.ws), self.ws.device)

    def plan(self, options: MeshOptions, choice: Choice | None) -> str:
        """A fingerprint of everything that the surface depends on."""
        import hashlib

        weights = hashlib.sha256(self.ws.cpu().numpy().tobytes())
        for name, tensor in sorted(self.loaded.generator.state_dict().items()):
            weights.update(name.encode() + tensor.cpu().numpy().tobytes())
        lattice = (options.resolution, options.bounds, None if choice is None else choice.level)
        return f"{weights.hexdigest()} {lattice} {self.loaded.config.to_dict()}"


def _take_home(thing: Object, options: MeshOptions, check: bool, against: Path | None) -> str:
    """Write the object and say in a few words what it is."""
    from epigraf.geometry.clean import quality
    from epigraf.geometry.export import save_mesh

    if thing.path.suffix.lower() == ".mrc":
        return _save_volume(thing, options)
    surface = _surface(thing, options)
    save_mesh(surface, thing.path)
    _spool_folder(thing.path, remove=True)
    said = [str(quality(surface))]
    if int(surface.facts["components dropped"]):
        said.append(f"dropped {surface.facts['components dropped']} smaller parts")
    if check:
        from epigraf.cli.likeness import check_mesh

        said.append(check_mesh(surface, thing.loaded, thing.ws, thing.field(), thing.path))
    if against is not None:
        from epigraf.cli.likeness import measure_against

        said.append(measure_against(surface, against, thing.ws.device))
    return "\n  ".join(said)


def _surface(thing: Object, options: MeshOptions) -> Mesh:
    """The mesh, with a progress bar; large ones go on where an interrupted run ended."""
    from dataclasses import replace

    from epigraf.cli.progress import stages
    from epigraf.geometry.extract import extract_mesh, object_level
    from epigraf.geometry.spool import Spool

    field, cfg = thing.field(), thing.loaded.config
    choice = object_level(field, cfg, options)
    typer.echo(f"{thing.path}: {choice}")
    spool = None
    if options.resolution >= SPOOL_FROM and options.mesher is None:
        spool = Spool(_spool_folder(thing.path), thing.plan(options, choice))
        if spool.layers():
            typer.echo(f"{thing.path}: going on after {spool.layers()} finished layers", err=True)
    try:
        with stages(str(thing.path)) as begin:
            mesh = extract_mesh(field, cfg, options, begin, spool, choice)
    except (KeyboardInterrupt, OSError):
        if spool is not None:
            typer.echo(f"{spool.folder} is kept: the same command goes on from there", err=True)
        raise
    except EpigrafError:
        _spool_folder(thing.path, remove=True)
        raise
    return replace(mesh, facts={"source": thing.source, **mesh.facts})


def _spool_folder(path: Path, remove: bool = False) -> Path:
    """Where the layers of a large mesh lie until it is written."""
    import shutil

    folder = path.with_name(f".{path.name}.partial")
    if remove and folder.exists():
        shutil.rmtree(folder)
    return folder


def _save_volume(thing: Object, options: MeshOptions) -> str:
    from epigraf.cli.progress import stages
    from epigraf.geometry.extract import for_the_user, object_lattice
    from epigraf.geometry.mrc import save_volume

    lattice = object_lattice(thing.loaded.config, options)
    facts = {"epigraf": thing.source,
             "values": "raw density, before shift, clamp and gain",
             "units": "world units, y up"}  # fmt: skip
    try:
        with stages(str(thing.path)) as begin, for_the_user():
            low, high = save_volume(
                thing.field().density_raw, lattice, thing.path, plan=thing.plan(options, None),
                facts=facts, progress=begin("densities"), max_points=options.max_points,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"{_spool_folder(thing.path)} is kept: the same command goes on", err=True)
        raise
    return f"{options.resolution}^3 densities from {low:.3g} to {high:.3g}"
