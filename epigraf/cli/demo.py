"""`epigraf demo`: data, training, pictures, a video, a mesh and a page, in one command."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.config import load_config

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from epigraf.cli.page import Page, Pictures, Words
    from epigraf.geometry.mesh import Mesh
    from epigraf.models.loading import LoadedModel
    from epigraf.training.loop import RunResult

OBJECTS, VIEWS, DATA_SEED = 600, 4, 0
SIDE, CELLS, FRAMES, TURN_VIEWS, FPS = 128, 12, 32, 8, 16
ROWS, COLUMNS = 6, 6  # of samples; at most one row a kind
MESH_RESOLUTION, PSI = 96, 1.0
SIDEWAYS = 1.05  # radians: samples of objects seen from all sides are shown half from the side


@dataclass
class Stopwatch:
    """Seconds by the name of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Announce the work and measure it."""
        typer.echo(f"[{name}]")
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


Minutes = Annotated[
    float, typer.Option("--minutes", min=0.01, help="How long to train. The rest takes one.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to fill.")]
ConfigName = Annotated[str, typer.Option("--config", help="Another preset to train.")]
Data = Annotated[Path | None, typer.Option("--data", help="Your own posed pictures instead.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the training.")]


def demo(
    minutes: Minutes = 5.0,
    out: Out = Path("epigraf-demo"),
    config: ConfigName = "tiny",
    data: Data = None,
    seed: Seed = 0,
) -> None:
    """Make a data set, train on it, and show what was learned on one web page.

    Leaves index.html, samples.png, turntable.mp4, turntable.webp, turns.png, object.glb,
    growth.png, curve.png, the data and the run in a folder. About seven minutes on two cores.

    [bold]Examples[/bold]

      epigraf demo
      epigraf demo --minutes 30 --out long-demo
    """
    from epigraf.cli.media import check_target
    from epigraf.cli.models import open_model
    from epigraf.cli.page import write_page
    from epigraf.training.loop import TrainOptions, train

    check_target(out / "index.html")
    watch = Stopwatch()
    cfg = load_config(config, [f"training.minutes={minutes}", f"training.seed={seed}"])
    shapes = data or out / f"shapes{cfg.dataset.resolution}.zip"
    if data is None:
        with watch.measure("data"):
            _make_data(shapes, cfg.dataset.resolution)
    with watch.measure("training"):
        result = train(cfg, shapes, out / "runs", TrainOptions())
    if result.reason.exit_code:
        typer.echo(
            f"stopped before there was a page; the training goes on with: epigraf train {config} "
            f"--data {shapes} --out {out / 'runs'} --resume {result.folder}"
        )
        raise typer.Exit(result.reason.exit_code)
    loaded = open_model(result.snapshot)
    pictures, mesh = _render(loaded, result, out, watch)
    page = _page(loaded, result, pictures, mesh, watch)
    write_page(page, out / "index.html")
    typer.echo(f"done: open {out / 'index.html'}")


def _make_data(path: Path, resolution: int) -> None:
    """The procedural set as a zip, unless it is there already from an earlier demo."""
    from epigraf.data.synthetic import make_synthetic

    if not path.exists():
        make_synthetic(path, OBJECTS, VIEWS, resolution, DATA_SEED)


def _render(
    loaded: LoadedModel, result: RunResult, out: Path, watch: Stopwatch
) -> tuple[Pictures, Mesh]:
    """All pictures, the video and the mesh."""
    from epigraf.cli.history import growth, learning_curve
    from epigraf.cli.media import save_picture
    from epigraf.cli.page import Pictures

    with watch.measure("samples"):
        cast = _cast(loaded)
        save_picture(_samples(loaded, cast), out / "samples.png")
    with watch.measure("turntable"):
        _turntable(loaded, cast, out)
    with watch.measure("mesh"):
        mesh = _mesh(loaded, cast, out / "object.glb")
    save_picture(learning_curve(result.folder), out / "curve.png")
    save_picture(growth(result.folder, loaded.config.dataset.resolution), out / "growth.png")
    return Pictures(
        video=out / "turntable.mp4",
        strip=out / "turns.png",
        reals=result.folder / "reals.png",
        samples=out / "samples.png",
        growth=out / "growth.png",
        curve=out / "curve.png",
        mesh=out / "object.glb",
    ), mesh


def _cast(loaded: LoadedModel) -> Tensor:
    """Styles [rows, COLUMNS, num_ws, w_dim] of the seeds 0, 1, 2, ... in reading order, not chosen:
    row i is of kind i where there are kinds."""
    import torch

    from epigraf.cli.models import object_styles

    rows = []
    for i in range(_rows(loaded)):
        seeds = list(range(i * COLUMNS, (i + 1) * COLUMNS))
        rows.append(object_styles(loaded, seeds, PSI, i if loaded.generator.c_dim else None))
    return torch.stack(rows)


def _rows(loaded: LoadedModel) -> int:
    """One row of samples a kind, ROWS at most."""
    return min(loaded.generator.c_dim or ROWS, ROWS)


def _samples(loaded: LoadedModel, cast: Tensor) -> np.ndarray:
    """The whole cast, a row of the picture for each of its own."""
    from epigraf.cli.cameras import single_view, turns_around
    from epigraf.cli.media import grid
    from epigraf.cli.shot import pictures_of

    cfg = loaded.config
    camera = single_view(cfg, yaw=SIDEWAYS if turns_around(cfg) else None)
    styles = cast.flatten(0, 1)
    return grid([pictures_of(loaded, ws[None], camera, SIDE)[0] for ws in styles], COLUMNS)


def _turntable(loaded: LoadedModel, cast: Tensor, out: Path) -> None:
    """turntable.mp4 and .webp of twelve objects, the cast column by column; turns.png: its first
    column from eight sides."""
    from epigraf.cli.cameras import AUTO, view_path
    from epigraf.cli.film import save_animation, save_video
    from epigraf.cli.media import grid, save_picture
    from epigraf.cli.shot import pictures_of

    cameras = view_path(loaded.config, AUTO, FRAMES)
    styles = cast.transpose(0, 1).flatten(0, 1)[:CELLS]
    reels = [pictures_of(loaded, ws[None], cameras, SIDE) for ws in styles]
    frames = [grid(cells, 4) for cells in zip(*reels, strict=True)]
    save_video(frames * 3, out / "turntable.mp4", FPS)
    save_animation(frames, out / "turntable.webp", FPS)
    step = FRAMES // TURN_VIEWS
    turns = [picture for reel in reels[: len(cast)] for picture in reel[::step]]
    save_picture(grid(turns, TURN_VIEWS), out / "turns.png")


def _mesh(loaded: LoadedModel, cast: Tensor, path: Path) -> Mesh:
    """The first of the cast."""
    from epigraf.geometry.export import save_mesh
    from epigraf.geometry.extract import MeshOptions, OnCPU, extract_mesh
    from epigraf.models.sampling import object_field

    ws = cast[0, :1]
    options = MeshOptions(resolution=MESH_RESOLUTION, keep=1)
    field = OnCPU(object_field(loaded.generator, ws), ws.device)
    mesh = extract_mesh(field, loaded.config, options)
    save_mesh(mesh, path)
    return mesh


def _page(
    loaded: LoadedModel, result: RunResult, pictures: Pictures, mesh: Mesh, watch: Stopwatch
) -> Page:
    from epigraf.cli.page import Page, duration

    cfg = loaded.config
    count = sum(p.numel() for p in loaded.generator.parameters())
    run = f"{result.folder.parent.name}/{result.folder.name}"
    return Page(
        words=_words(loaded, result, mesh),
        pictures=pictures,
        mesh=mesh,
        cells=min(CELLS, _rows(loaded) * COLUMNS),
        views=TURN_VIEWS,
        facts={
            "trained for": duration(result.seconds),
            "pictures seen": f"{result.kimg:.1f} thousand",
            "pictures a second": f"{result.kimg * 1000 / max(result.seconds, 1e-9):.0f}",
            "generator": f"{count / 1e6:.2f} M weights",
        },
        commands=_commands(cfg.name, _from_page(Path(cfg.dataset.path or ""), result.folder), run),
        seconds=watch.seconds,
    )


def _words(loaded: LoadedModel, result: RunResult, mesh: Mesh) -> Words:
    from epigraf.cli.info import machine_facts
    from epigraf.cli.page import Words, duration

    cfg, facts = loaded.config, machine_facts()
    side, data, rows = cfg.dataset.resolution, Path(cfg.dataset.path or ""), _rows(loaded)
    names = ", ".join(_kinds(data)[:rows])
    kinds = "; one kind a row" + (f": {names}" if names else "") if loaded.generator.c_dim else ""
    return Words(
        title="epigraf demo",
        heading="Objects nobody modelled",
        lead=f"A 3D generative adversarial network was shown flat {side}x{side} pictures for "
        f"{duration(result.seconds)}. This is what it makes up now, seen from all sides.",
        mesh=f"{len(mesh.faces):,} triangles, coloured vertices:",
        data=f"Pictures of {data.name}, each with its camera; no picture comes with a shape. The "
        f"network sees them at {side}x{side}.",
        samples=f"Seeds 0 to {rows * COLUMNS - 1} in order, none left out, at truncation {PSI}"
        f"{kinds}. Rendered at {SIDE}x{SIDE}: a field has no "
        f"resolution of its own.",
        growth=f"Left to right: before training, then up to {result.kimg:.1f} thousand pictures.",
        curve="In a healthy game neither player wins: the losses settle, they do not go to zero.",
        footer=f"epigraf {facts['epigraf']} · {facts['backend']} · {facts['python']} · "
        f"torch and others: {facts['packages']}",
    )


def _kinds(data: Path) -> list[str]:
    """The names of the classes, where the index of a data set names them (`data synth` does)."""
    from epigraf.data.archive import Archive

    with Archive(data) as archive:
        index = json.loads(archive.read(archive.indices[0])) if archive.indices else None
    names = index.get("classes") if isinstance(index, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _from_page(data: Path, run: Path) -> str:
    """How a command in the folder of the page names the data set: the demo's own lies there."""
    made_here = data.parent.resolve() == run.parent.parent.resolve()
    return data.name if made_here else str(data.resolve())


def _commands(preset: str, data: str, run: str) -> list[str]:
    """The demo in single steps, run from its folder."""
    return [
        f"epigraf train {preset} --data {data} --minutes 60",
        f"epigraf sample {run} --seeds 0-15",
        f"epigraf video {run} --seeds 0-15 --interp w",
        f"epigraf mesh {run} --seeds 0-3 --format glb",
    ]
