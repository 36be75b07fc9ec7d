"""The training loop: from a configuration and a data set to a run folder."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from epigraf.config import Config
from epigraf.training.batches import DatasetSource
from epigraf.training.describe import describe
from epigraf.training.distributed import (
    agree,
    check_in_step,
    is_main,
    joined,
    on_main,
    reduce_mean,
)
from epigraf.training.log import Averages, Numbers, peak_memory, status_line
from epigraf.training.preview import real_grid, render_preview, save_grid
from epigraf.training.rollback import act, mark_good
from epigraf.training.run import Evaluate, Run, RunResult, TrainOptions, all_tensors, opened
from epigraf.training.schedules import schedule_at
from epigraf.training.sentinels import Verdict
from epigraf.training.signals import StopReason, StopSignals
from epigraf.training.step import train_step

__all__ = ["Evaluate", "RunResult", "StopReason", "TrainOptions", "describe", "train"]

CHECK_TICKS = 10  # between two looks at whether all processes still hold the same model


def train(cfg: Config, data: str | Path, out: str | Path, options: TrainOptions) -> RunResult:
    """Train and leave a run folder below `out`.

    Where the environment says so (torchrun, `epigraf train --gpus`), several processes call this
    with the same arguments and train one model; see `epigraf.training.distributed`.

    Args:
        cfg: the configuration; label width and data name are taken from the data set.
        data: zip or folder of images.
        out: where run folders are.
        options: resume, metrics, callbacks.
    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: in one line, what to change.
    """
    with StopSignals() as stop, joined(options.device) as device:
        if cfg.training.threads:
            torch.set_num_threads(cfg.training.threads)
        torch.backends.cudnn.benchmark = True
        with opened(cfg, data, Path(out), options, device) as run:
            return _train(run, stop)


def _train(run: Run, stop: StopSignals) -> RunResult:
    """Step, tick, save, until something says to stop."""
    state, dataset = run.state, run.dataset
    if state.counters.step == 0 and is_main():
        save_grid(run.folder / "reals.png", real_grid(dataset))
        save_grid(run.folder / "fakes_init.png", render_preview(state.ema, run.preview))
    run.tick_began = time.monotonic()
    while True:
        reason, overdue = _agreed(run, stop)
        if reason is not None:
            return _finish(run, reason)
        numbers = train_step(state, DatasetSource(state, dataset))
        if _obey(run, run.sentinels.step(state, numbers)):
            continue
        run.averages.add(numbers)
        run.display.update(_progress(run) | numbers, _share_done(run))
        if state.counters.images_seen >= state.counters.tick_start + _tick_images(run):
            _tick(run, overdue)
        elif overdue:
            _save(run)


def _agreed(run: Run, stop: StopSignals) -> tuple[StopReason | None, bool]:
    """Why to stop now, if at all, and whether a snapshot is overdue: where one process of a run
    wants something (a signal reached it, its clock is ahead), all of them do it."""
    reasons = [None, *StopReason]
    wish = reasons.index(_stop_reason(run, stop))
    agreed, overdue = agree([wish, run.overdue])
    return reasons[agreed], bool(overdue)


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


def _tick(run: Run, overdue: bool) -> None:
    """The end of a tick: numbers (the same in all processes), then pictures, metrics and snapshots
    where they are due."""
    counters, training = run.state.counters, run.state.cfg.training
    means = run.averages.means()
    found, verdicts = run.sentinels.tick(run.state, means)
    row = reduce_mean(_progress(run)) | means | found
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
    if counters.tick % training.snap == 0 or overdue:
        _save(run)
    elif counters.tick % CHECK_TICKS == 0:
        _check_in_step(run)
    run.tick_began = time.monotonic()
    run.maintenance = run.tick_began - began
    if run.options.on_tick is not None:
        run.options.on_tick(row)


def _save_fakes(run: Run) -> None:
    if not is_main():
        return
    kimg = run.state.counters.images_seen // 1000
    save_grid(run.folder / f"fakes{kimg:06d}.png", render_preview(run.state.ema, run.preview))


def _evaluate(run: Run) -> None:
    evaluate = run.options.evaluate
    if evaluate is None:
        return
    began = time.monotonic()
    samples = run.state.cfg.training.metric_samples
    results = on_main(lambda: evaluate(run.state.ema, run.dataset, samples))
    seconds = time.monotonic() - began
    metric, value = next(iter(results.items()))
    best = run.snapshots.offer_best(run.state, metric, value)
    snapshot = run.snapshots.best.file if best and run.snapshots.best else ""
    run.log.metric(results, seconds, snapshot, run.state.counters.images_seen)
    shown = "  ".join(f"{name} {number:.4g}" for name, number in results.items())
    run.log.line(f"metrics  {shown}  ({seconds:.0f} s)" + ("  best so far" if best else ""))


def _check_in_step(run: Run) -> None:
    kimg = run.state.counters.images_seen / 1000
    check_in_step(all_tensors(run.state), f"at {kimg:.3f} kimg")


def _save(run: Run) -> Path:
    _check_in_step(run)
    run.state.counters.seconds = run.seconds
    path = run.snapshots.save(run.state)
    if is_main() and run.sentinels.wants_good and run.sentinels.is_good(run.state):
        mark_good(path)
    run.saved = time.monotonic()
    return path


def _finish(run: Run, reason: StopReason) -> RunResult:
    """Save, and say where everything is; the numbers of a tick that was cut short count too."""
    if reason.exit_code == 0 and run.averages.counts:
        run.log.row(reduce_mean(_progress(run)) | run.averages.means())
    path = _save(run)
    if reason.exit_code == 0:
        _save_fakes(run)
    kimg = run.state.counters.images_seen / 1000
    run.log.line(f"{reason.value} at {kimg:.3f} kimg; saved {path}")
    if reason.exit_code:
        run.log.line(f"continue with --resume {run.folder}")
    return RunResult(run.folder, path, kimg, run.seconds, reason)
