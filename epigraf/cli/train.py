"""`epigraf train`: a preset or YAML file and a data set make a run folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from epigraf.cli import launch
from epigraf.config import Config, load_config
from epigraf.errors import ConfigError, DataError
from epigraf.training.place import find_place

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
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", min=1, help="Processes on this machine, a GPU each (no GPU: on the CPU)."
    ),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", min=1, help="training.batch_size: images of a step, in all."),
]
BatchGpu = Annotated[
    int | None,
    typer.Option("--batch-gpu", min=1, help="training.batch_gpu: images of a pass; saves memory."),
]
AllowDataChange = Annotated[
    bool, typer.Option("--allow-data-change", help="Resume although the data set is another one.")
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
    gpus: Gpus = None,
    batch: Batch = None,
    batch_gpu: BatchGpu = None,
    allow_data_change: AllowDataChange = False,
) -> None:
    """Train a generator. Ctrl-C saves and leaves; --resume latest goes on, bit for bit.

    On several GPUs of one machine with --gpus, on several machines with torchrun
    (docs/multi-gpu.md). A batch is shared among all.

    [bold]Examples[/bold]

      epigraf train tiny --data shapes --minutes 20
      epigraf train plants64 --data plants.zip --set training.gamma=0.5
      epigraf train plants64 --data plants.zip --resume latest
      epigraf train ffhq512-author --data ffhq_512_posed.zip --gpus 4 --batch 64 --batch-gpu 8
      epigraf train ffhq512-author --data ffhq_512_posed.zip --dry-run
    """
    changes = [*(override or []), *_batch_changes(batch, batch_gpu)]
    cfg = settled_config(config, changes, minutes, seed)
    source, processes = _source(data, cfg), _processes(gpus, cfg)
    if dry_run:
        _describe(cfg, source, out, desc, resume, allow_data_change, processes)
    elif processes > find_place().size:
        _launch(processes, source)
    else:
        _train(cfg, source, out, desc, resume, allow_data_change)


def _source(data: Path | None, cfg: Config) -> Path:
    """The data set: the option's, or else the configuration's."""
    if data is None and not cfg.dataset.path:
        raise ConfigError("train: give --data PATH (or dataset.path in the configuration)")
    return data or Path(cfg.dataset.path or "")


def _launch(processes: int, source: Path) -> None:
    """Start this command again, once for each process, and end as they end."""
    if not source.exists():
        raise DataError(f"dataset {source}: no such file or folder")
    code, words = launch.launch(launch.this_command(), processes)
    if words:
        typer.echo(words, err=True)
    if code:
        raise typer.Exit(code)


def _train(
    cfg: Config,
    source: Path,
    out: Path,
    desc: str | None,
    resume: str | None,
    allow_data_change: bool,
) -> None:
    """Train in this process, perhaps one of several."""
    launch.watch_launcher()
    from epigraf.metrics.evaluate import Evaluator
    from epigraf.training.distributed import PeerLost
    from epigraf.training.loop import TrainOptions
    from epigraf.training.loop import train as run_training

    options = TrainOptions(
        resume=resume, allow_data_change=allow_data_change, desc=desc, evaluate=Evaluator()
    )
    try:
        code = run_training(cfg, source, out, options).reason.exit_code
    except PeerLost:
        if launch.LAUNCHED not in os.environ:
            raise
        code = launch.PEER_LOST  # the launcher says what happened
    if code:
        raise typer.Exit(code)


def _batch_changes(batch: int | None, batch_gpu: int | None) -> list[str]:
    given = {"training.batch_size": batch, "training.batch_gpu": batch_gpu}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def _processes(gpus: int | None, cfg: Config) -> int:
    """How many processes will train together.

    Raises:
        ConfigError: torchrun has started another number than --gpus asks for, or they cannot share
            the batch.
    """
    place = find_place()
    if gpus is not None and place.size > 1 and gpus != place.local_size:
        raise ConfigError(
            f"train: --gpus {gpus}, but {place.local_size} processes were started on this machine; "
            f"leave --gpus out"
        )
    processes = place.size if place.size > 1 else gpus or 1
    cfg.split(processes)
    return processes


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


def _describe(
    cfg: Config,
    source: Path,
    out: Path,
    desc: str | None,
    resume: str | None,
    allow_data_change: bool,
    processes: int,
) -> None:
    """What a run would be, without starting it."""
    from epigraf.data.images import ImageDataset
    from epigraf.training.describe import describe
    from epigraf.training.distributed import share_threads
    from epigraf.training.log import require_folder, run_name
    from epigraf.training.resume import changes_on_resume, data_changes
    from epigraf.training.run import with_path
    from epigraf.training.snapshots import find_origin
    from epigraf.training.state import resolve_config

    require_folder(out)
    dataset = ImageDataset(
        source, cfg.dataset.resolution, cfg.training.mirror, cfg.training.use_labels
    )
    cfg = resolve_config(with_path(cfg, source), dataset)
    share_threads(processes)
    lines = describe(cfg, dataset, processes=processes)
    origin = find_origin(resume, out, cfg.name, lines) if resume else None
    folder = out / ("NNNNN-" + run_name(cfg, desc))
    if origin is not None:
        lines += changes_on_resume(cfg, origin.snapshot)
        found = data_changes(dataset.fingerprint(), origin.snapshot, allow_data_change)
        lines += [f"resume: another data set ({', '.join(found)})"] if found else []
        lines.append(f"{'resume':<10} {origin.snapshot.path}")
        folder = origin.folder or folder
    for line in [*lines, f"{'run folder':<10} {folder} (dry run: nothing written)"]:
        typer.echo(line)
