"""The training loop: from a configuration and a data set to a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from epigraf.config import Config
from epigraf.data.images import ImageDataset
from epigraf.models.generator import Generator
from epigraf.ops._native import backend_line
from epigraf.training.batches import DatasetSource
from epigraf.training.describe import describe
from epigraf.training.display import Display
from epigraf.training.log import (
    Averages,
    Numbers,
    RunLog,
    new_run_folder,
    peak_memory,
    status_line,
    write_json,
)
from epigraf.training.preview import (
    Preview,
    plan_preview,
    real_grid,
    render_preview,
    save_grid,
)
from epigraf.training.probes import plan_probe
from epigraf.training.rollback import act, aftermath, mark_good
from epigraf.training.schedules import schedule_at
from epigraf.training.sentinels import Sentinels, Verdict
from epigraf.training.signals import StopReason, StopSignals
from epigraf.training.snapshots import OPTIONS_FILE, Origin, Snapshots, find_origin
from epigraf.training.state import State, build_state, load_state, resolve_config
from epigraf.training.step import train_step

__all__ = ["Evaluate", "RunResult", "StopReason", "TrainOptions", "describe", "train"]

Evaluate = Callable[[Generator, ImageDataset, int], Numbers]
"""(generator in eval mode, data set, samples) -> metrics; the first of them picks the best."""


@dataclass(frozen=True)
class RunResult:
    """A run that ended: its folder, its newest snapshot, thousand images seen, seconds, and why."""

    folder: Path
    snapshot: Path
    kimg: float
    seconds: float
    reason: StopReason


@dataclass(frozen=True)
class TrainOptions:
    """What surrounds a run without changing what it learns.

    Attributes:
        resume: None (a new run), `latest`, a run folder, or a snapshot file.
        desc: appended to the name of the run folder.
        device: None picks CUDA where there is one.
        live: None shows the live panel when stdout is a terminal.
        evaluate: measures the averaged generator every `training.val_freq` ticks.
        on_tick: receives the numbers of each tick.
    """

    resume: str | None = None
    desc: str | None = None
    device: torch.device | str | None = None
    live: bool | None = None
    evaluate: Evaluate | None = None
    on_tick: Callable[[Numbers], None] | None = None


@dataclass
class Run:
    """A run in progress."""

    state: State
    dataset: ImageDataset
    folder: Path
    snapshots: Snapshots
    log: RunLog
    display: Display
    options: TrainOptions
    preview: Preview
    sentinels: Sentinels
    started: float  # monotonic clock, minus the seconds of earlier sessions
    averages: Averages = field(default_factory=Averages.empty)
    maintenance: float = 0.0
    tick_began: float = 0.0
    saved: float = 0.0

    @property
    def seconds(self) -> float:
        """Wall time of the run, earlier sessions included."""
        return time.monotonic() - self.started


def train(cfg: Config, data: str | Path, out: str | Path, options: TrainOptions) -> RunResult:
    """Train and leave a run folder below `out`.

    Args:
        cfg: the configuration; label width and data name are taken from the data set.
        data: zip or folder of images.
        out: where run folders are.
        options: resume, metrics, callbacks.
    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: in one line, what to change.
    """
    began = time.monotonic()
    if cfg.training.threads:
        torch.set_num_threads(cfg.training.threads)
    torch.backends.cudnn.benchmark = True
    dataset = ImageDataset(
        data, cfg.dataset.resolution, cfg.training.mirror, cfg.training.use_labels
    )
    cfg = resolve_config(_with_path(cfg, data), dataset)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    warnings: list[str] = []
    origin = find_origin(options.resume, Path(out), cfg.name, warnings) if options.resume else None
    state = build_state(cfg, len(dataset), dataset.mean_camera_pose, device)
    if origin is not None:
        load_state(state, origin.snapshot)
    folder = (origin and origin.folder) or new_run_folder(Path(out), cfg, options.desc)
    with (
        StopSignals() as stop,
        Display(folder.name, backend_line(device), options.live) as display,
        RunLog(folder, display.line, state.counters.images_seen) as log,
    ):
        run = _open_run(state, dataset, folder, log, display, options, began)
        for line in [*warnings, *_opening_lines(run, origin)]:
            log.line(line)
        return _train(run, stop)


def _with_path(cfg: Config, data: str | Path) -> Config:
    """The configuration with `dataset.path` as it was given (any text: no YAML is read here)."""
    values = cfg.to_dict()
    values["dataset"]["path"] = str(data)
    return Config.from_dict(values)


def _open_run(
    state: State,
    dataset: ImageDataset,
    folder: Path,
    log: RunLog,
    display: Display,
    options: TrainOptions,
    began: float,
) -> Run:
    now = time.monotonic()
    write_json(folder / OPTIONS_FILE, state.cfg.to_dict())
    return Run(
        state=state,
        dataset=dataset,
        folder=folder,
        snapshots=Snapshots(folder, state.cfg.training.keep_last),
        log=log,
        display=display,
        options=options,
        preview=plan_preview(state.cfg, dataset, state.device),
        sentinels=Sentinels(state.cfg.sentinels, plan_probe(state.cfg, dataset, state.device)),
        started=began - state.counters.seconds,
        tick_began=now,
        saved=now,
    )


def _opening_lines(run: Run, origin: Origin | None) -> list[str]:
    lines = describe(run.state.cfg, run.dataset, run.state.device)
    if origin is not None:
        kimg, after = run.state.counters.images_seen / 1000, aftermath(run.state.counters)
        lines.append(f"resumed from {origin.snapshot.path} at {kimg:.3f} kimg{after}")
    elif run.options.resume:
        lines.append("nothing to resume: starting a new run")
    return [*lines, f"run folder {run.folder}"]


def _train(run: Run, stop: StopSignals) -> RunResult:
    """Step, tick, save, until something says to stop."""
    state, dataset = run.state, run.dataset
    if state.counters.step == 0:
        save_grid(run.folder / "reals.png", real_grid(dataset))
        save_grid(run.folder / "fakes_init.png", render_preview(state.ema, run.preview))
    run.tick_began = time.monotonic()
    while (reason := _stop_reason(run, stop)) is None:
        numbers = train_step(state, DatasetSource(state, dataset))
        if _obey(run, run.sentinels.step(state, numbers)):
            continue
        run.averages.add(numbers)
        run.display.update(_progress(run) | numbers, _share_done(run))
        if state.counters.images_seen >= state.counters.tick_start + _tick_images(run):
            _tick(run)
        elif time.monotonic() - run.saved > state.cfg.training.snap_minutes * 60:
            _save(run)
    return _finish(run, reason)


def _tick_images(run: Run) -> float:
    return run.state.cfg.training.tick * 1000


def _obey(run: Run, verdicts: list[Verdict]) -> bool:
    """Say what sentinels found and do what they ask for; True after a rollback."""
    for verdict in verdicts:
        run.log.line(verdict.line)
    line = act(run.state, run.folder, verdicts)
    if not line:
        return False
    run.snapshots.drop_after(run.state.counters.images_seen)
    run.log.rewind(run.state.counters.images_seen)
    run.log.line(line)
    run.averages = Averages.empty()
    _save(run)
    run.tick_began = time.monotonic()
    return True


def _stop_reason(run: Run, stop: StopSignals) -> StopReason | None:
    training = run.state.cfg.training
    if stop.received is not None:
        return stop.received
    if run.state.counters.images_seen >= training.kimg * 1000:
        return StopReason.FINISHED
    if training.minutes is not None and run.seconds >= training.minutes * 60:
        return StopReason.MINUTES
    return None


def _share_done(run: Run) -> float:
    """Share of the run that is over, by images or by time, whichever is further."""
    training = run.state.cfg.training
    share = run.state.counters.images_seen / (training.kimg * 1000)
    if training.minutes is not None:
        share = max(share, run.seconds / (training.minutes * 60))
    return min(share, 1.0)


def _progress(run: Run) -> Numbers:
    """Counters, speed, memory and schedules at this moment."""
    counters, cfg = run.state.counters, run.state.cfg
    elapsed = max(time.monotonic() - run.tick_began, 1e-9)
    images = max(counters.images_seen - counters.tick_start, 1)
    per_second = images / elapsed
    renders = 1 if cfg.training.reuse_fakes else 2
    left = (cfg.training.kimg * 1000 - counters.images_seen) / per_second
    if cfg.training.minutes is not None:
        left = min(left, cfg.training.minutes * 60 - run.seconds)
    schedule = schedule_at(cfg, counters.images_seen)
    return {
        "Progress/tick": counters.tick,
        "Progress/images": counters.images_seen,
        "Progress/kimg": counters.images_seen / 1000,
        "Progress/kimg_total": cfg.training.kimg,
        "Progress/augment": counters.augment_p,
        "Progress/patch_beta": schedule.patch_beta,
        "Progress/patch_min_scale": schedule.patch_min_scale,
        "Progress/density_noise_std": schedule.density_noise_std,
        "Progress/blur_sigma": schedule.blur_sigma,
        "Timing/total_sec": run.seconds,
        "Timing/sec_per_tick": elapsed,
        "Timing/sec_per_kimg": 1000 / per_second,
        "Timing/images_per_sec": per_second,
        "Timing/rays_per_sec": per_second * renders * cfg.train_resolution**2,
        "Timing/maintenance_sec": run.maintenance,
        "Timing/left_sec": max(left, 0.0),
        **peak_memory(run.state.device),
    }


def _tick(run: Run) -> None:
    """The end of a tick: numbers, then pictures, metrics and snapshots where they are due."""
    counters, training = run.state.counters, run.state.cfg.training
    means = run.averages.means()
    found, verdicts = run.sentinels.tick(run.state, means)
    row = _progress(run) | means | found
    run.log.line(status_line(row))
    run.log.row(row)
    if _obey(run, verdicts):
        return
    run.averages = Averages.empty()
    began = time.monotonic()
    counters.tick += 1
    counters.tick_start = counters.images_seen
    if counters.tick % training.image_snap == 0:
        _save_fakes(run)
    if counters.tick % training.val_freq == 0 and training.metric_samples:
        _evaluate(run)
    overdue = began - run.saved > training.snap_minutes * 60
    if counters.tick % training.snap == 0 or overdue:
        _save(run)
    run.tick_began = time.monotonic()
    run.maintenance = run.tick_began - began
    if run.options.on_tick is not None:
        run.options.on_tick(row)


def _save_fakes(run: Run) -> None:
    kimg = run.state.counters.images_seen // 1000
    save_grid(run.folder / f"fakes{kimg:06d}.png", render_preview(run.state.ema, run.preview))


def _evaluate(run: Run) -> None:
    if run.options.evaluate is None:
        return
    began = time.monotonic()
    samples = run.state.cfg.training.metric_samples
    results = run.options.evaluate(run.state.ema, run.dataset, samples)
    seconds = time.monotonic() - began
    metric, value = next(iter(results.items()))
    best = run.snapshots.offer_best(run.state, metric, value)
    snapshot = run.snapshots.best.file if best and run.snapshots.best else ""
    run.log.metric(results, seconds, snapshot, run.state.counters.images_seen)
    shown = "  ".join(f"{name} {number:.4g}" for name, number in results.items())
    run.log.line(f"metrics  {shown}  ({seconds:.0f} s)" + ("  best so far" if best else ""))


def _save(run: Run) -> Path:
    run.state.counters.seconds = run.seconds
    path = run.snapshots.save(run.state)
    if run.sentinels.wants_good and run.sentinels.is_good(run.state):
        mark_good(path)
    run.saved = time.monotonic()
    return path


def _finish(run: Run, reason: StopReason) -> RunResult:
    """Save, and say where everything is; the numbers of a tick that was cut short count too."""
    if reason.exit_code == 0 and run.averages.counts:
        run.log.row(_progress(run) | run.averages.means())
    path = _save(run)
    if reason.exit_code == 0:
        _save_fakes(run)
    kimg = run.state.counters.images_seen / 1000
    run.log.line(f"{reason.value} at {kimg:.3f} kimg; saved {path}")
    if reason.exit_code:
        run.log.line(f"continue with --resume {run.folder}")
    return RunResult(run.folder, path, kimg, run.seconds, reason)
