"""`epigraf train`: a preset or YAML file and a data set make a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epigraf.config import Config, load_config
from epigraf.errors import ConfigError

ConfigName = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A preset (see `epigraf configs`) or a file.")
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Zip or folder of pictures (+ dataset.json).")
]
Out = Annotated[Path, typer.Option("--out", "--outdir", "-o", help="Where runs live.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change one key: a.b=c. Repeatable.")
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", help="`latest`, a run folder or a snapshot to continue from."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Check everything, say what would run, stop.")
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", help="Stop (and save) at this wall time, earlier sessions included."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Another seed, another run.")]
Description = Annotated[
    str | None, typer.Option("--desc", help="A word that ends the run folder's name.")
]


def train(
    config: ConfigName,
    data: Data = None,
    out: Out = Path("runs"),
    override: Overrides = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    minutes: Minutes = None,
    seed: Seed = None,
    desc: Description = None,
) -> None:
    """Train a generator. Ctrl-C saves and leaves; --resume latest goes on, bit for bit.

    [bold]Examples[/bold]

      epigraf train tiny --data shapes --minutes 20
      epigraf train plants64 --data plants.zip --set training.gamma=0.5
      epigraf train plants64 --data plants.zip --resume latest
      epigraf train ffhq512-author --data ffhq_512_posed.zip --dry-run
    """
    cfg = settled_config(config, override or [], minutes, seed)
    source = data or (Path(cfg.dataset.path) if cfg.dataset.path else None)
    if source is None:
        raise ConfigError("train: give --data PATH (or dataset.path in the configuration)")
    if dry_run:
        _describe(cfg, source, out, desc, resume)
        return
    from epigraf.metrics.evaluate import Evaluator
    from epigraf.training.loop import TrainOptions
    from epigraf.training.loop import train as run_training

    options = TrainOptions(resume=resume, desc=desc, evaluate=Evaluator())
    result = run_training(cfg, source, out, options)
    if result.reason.exit_code:
        raise typer.Exit(result.reason.exit_code)


def settled_config(
    name: str, overrides: list[str], minutes: float | None, seed: int | None
) -> Config:
    """The configuration after `--set`, then `--minutes` and `--seed`."""
    changes = list(overrides)
    if minutes is not None:
        changes.append(f"training.minutes={minutes}")
    if seed is not None:
        changes.append(f"training.seed={seed}")
    return load_config(name, changes)


def _describe(cfg: Config, source: Path, out: Path, desc: str | None, resume: str | None) -> None:
    """What a run would be, without starting it."""
    from epigraf.data.images import ImageDataset
    from epigraf.training.describe import describe
    from epigraf.training.log import require_folder, run_name
    from epigraf.training.snapshots import find_origin
    from epigraf.training.state import check_same_model, resolve_config

    require_folder(out)
    dataset = ImageDataset(
        source, cfg.dataset.resolution, cfg.training.mirror, cfg.training.use_labels
    )
    cfg = resolve_config(cfg, dataset)
    for line in describe(cfg, dataset):
        typer.echo(line)
    warnings: list[str] = []
    origin = find_origin(resume, out, cfg.name, warnings) if resume else None
    for line in warnings:
        typer.echo(line)
    folder = out / ("NNNNN-" + run_name(cfg, desc))
    if origin is not None:
        check_same_model(cfg, origin.snapshot)
        typer.echo(f"{'resume':<10} {origin.snapshot.path}")
        folder = origin.folder or folder
    typer.echo(f"{'run folder':<10} {folder} (dry run: nothing written)")
