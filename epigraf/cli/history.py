"""`epigraf history`: how a run went, as two pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    import numpy as np

    from epigraf.curve import Panel

COLUMNS, OBJECTS, SIDE = 8, 4, 128


def history(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write to. Default: the run's own."),
    ] = None,
    timelapse: Annotated[
        Path | None,
        typer.Option(
            "--timelapse",
            help="Also write the meshes of the snapshots that there are to this folder, for the "
            "web viewer of NVIDIA Kaolin.",
        ),
    ] = None,
) -> None:
    """Draw curve.png (losses, scores, metrics) and growth.png (the same objects over time).

    [bold]Examples[/bold]

      epigraf history runs/00000-tiny-shapes
      epigraf history runs/00000-tiny-shapes --out pictures
      epigraf history runs/00000-tiny-shapes --timelapse timelapse
    """
    from epigraf.cli.media import save_picture
    from epigraf.cli.timelapse import require_kaolin, write_timelapse

    if timelapse is not None:
        require_kaolin()
    if not (run / "stats.jsonl").is_file():
        raise EpigrafError(f"{run}: not a run folder (no stats.jsonl in it)")
    folder = run if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    save_picture(learning_curve(run), folder / "curve.png")
    typer.echo(folder / "curve.png")
    options = json.loads((run / "training_options.json").read_text(encoding="utf-8"))
    save_picture(growth(run, int(options["dataset"]["resolution"])), folder / "growth.png")
    typer.echo(folder / "growth.png")
    if timelapse is not None:
        moments = write_timelapse(run, timelapse)
        typer.echo(f"{timelapse}: {moments} moments; kaolin-dash3d --logdir {timelapse}")


def learning_curve(folder: Path) -> np.ndarray:
    """Losses, what the discriminator thinks, and metrics if there are any; uint8 [H, W, 3]."""
    from epigraf.curve import Panel, draw_curves, read_series

    rows = _json_lines(folder / "stats.jsonl")
    losses = [
        read_series(rows, "generator", "Loss/G/loss"),
        read_series(rows, "discriminator", "Loss/D/loss"),
    ]
    scores = [
        read_series(rows, "real pictures", "Loss/scores/real"),
        read_series(rows, "generated pictures", "Loss/scores/fake"),
    ]
    panels = [Panel("Losses", "kimg", losses), Panel("Scores of the discriminator", "kimg", scores)]
    return draw_curves([*panels, *_metric_panels(folder)])


def _metric_panels(folder: Path) -> list[Panel]:
    """One panel a distance that was measured while training, at least twice."""
    from epigraf.curve import Panel, Series

    panels = []
    for path in sorted(folder.glob("metric-*d_*.jsonl")):  # fd_*, kd_*: distances
        rows = _json_lines(path)
        name = path.stem.removeprefix("metric-")
        points = [(row["kimg"], row["results"][name]) for row in rows]
        if len(points) > 1:
            x, y = zip(*points, strict=True)
            panels.append(Panel(f"{name} (smaller is better)", "kimg", [Series(name, x, y)]))
    return panels


def _json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def growth(folder: Path, side: int) -> np.ndarray:
    """One view of the first objects of the run's preview grids, a column for each time."""
    import numpy as np
    from PIL import Image

    rows = OBJECTS * side
    columns = [np.asarray(Image.open(path))[:rows, :side] for path in growth_files(folder)]
    small = np.concatenate(columns, axis=1)
    zoom = max(1, SIDE // side)
    size = (small.shape[1] * zoom, small.shape[0] * zoom)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def growth_files(folder: Path) -> list[Path]:
    """Up to COLUMNS preview grids of a run, evenly spread from the first to the last."""
    grids = [folder / "fakes_init.png", *sorted(folder.glob("fakes[0-9]*.png"))]
    steps = min(COLUMNS, len(grids)) - 1
    return [grids[round(i * (len(grids) - 1) / max(steps, 1))] for i in range(steps + 1)]
