"""A run in progress: what it is made of, how it is opened, what it says at the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from epigraf.config import Config
from epigraf.data.fingerprint import Fingerprint
from epigraf.data.images import ImageDataset
from epigraf.errors import TrainingError
from epigraf.models.generator import Generator
from epigraf.ops._native import backend_line
from epigraf.training.describe import describe
from epigraf.training.display import Display
from epigraf.training.distributed import check_in_step, gather, is_main, on_main, world_size
from epigraf.training.log import Averages, Numbers, RunLog, SilentLog, new_run_folder, write_json
from epigraf.training.preview import Preview, plan_preview
from epigraf.training.probes import plan_probe
from epigraf.training.rollback import aftermath
from epigraf.training.sentinels import Sentinels
from epigraf.training.signals import StopReason
from epigraf.training.snapshots import OPTIONS_FILE, Origin, Snapshots, find_origin
from epigraf.training.state import State, build_state, load_state, resolve_config, state_tensors

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
        allow_data_change: resume although the data set is another one.
        desc: appended to the name of the run folder.
        device: None picks CUDA where there is one, in several processes a GPU for each.
        live: None shows the live panel when stdout is a terminal.
        evaluate: measures the averaged generator every `training.val_freq` ticks.
        on_tick: receives the numbers of each tick.
    """

    resume: str | None = None
    allow_data_change: bool = False
    desc: str | None = None
    device: torch.device | str | None = None
    live: bool | None = None
    evaluate: Evaluate | None = None
    on_tick: Callable[[Numbers], None] | None = None


@dataclass
class Run:
    """A run in progress, in one of its processes."""

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

    @property
    def overdue(self) -> bool:
        """Whether `training.snap_minutes` have passed since the last snapshot."""
        return time.monotonic() - self.saved > self.state.cfg.training.snap_minutes * 60


@contextmanager
def opened(
    cfg: Config, data: str | Path, out: Path, options: TrainOptions, device: torch.device
) -> Iterator[Run]:
    """Build or bring back a run, with its folder and its log; all processes call it.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: in one line, what to change.
    """
    began = time.monotonic()
    cfg.split(world_size())
    dataset = ImageDataset(
        data, cfg.dataset.resolution, cfg.training.mirror, cfg.training.use_labels
    )
    cfg = resolve_config(with_path(cfg, data), dataset)
    lines: list[str] = []
    origin = _find_origin(cfg, out, options, lines)
    state = build_state(cfg, len(dataset), dataset.mean_camera_pose, device)
    state.data = _same_data(dataset.fingerprint())
    if origin is not None:
        lines += load_state(state, origin.snapshot, options.allow_data_change)
    check_in_step(all_tensors(state), "at the start")
    folder = (origin and origin.folder) or on_main(lambda: new_run_folder(out, cfg, options.desc))
    with ExitStack() as stack:
        live = options.live if is_main() else False
        display = stack.enter_context(Display(folder.name, backend_line(device), live))
        seen = state.counters.images_seen
        log = stack.enter_context(RunLog(folder, display.line, seen) if is_main() else SilentLog())
        run = _run(state, dataset, folder, log, display, options, began)
        for line in [*lines, *_opening_lines(run, origin)]:
            log.line(line)
        yield run


def all_tensors(state: State) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything that all processes of a run must agree on, as (GROUP/NAME, tensor)."""
    for group, tensors in state_tensors(state).items():
        for name, tensor in tensors.items():
            yield f"{group}/{name}", tensor
    counters = asdict(state.counters) | {"sampler": state.sampler.position}
    for name, value in counters.items():
        if name != "seconds" and isinstance(value, (int, float)):  # each has a clock of its own
            yield f"counters/{name}", torch.tensor(value, dtype=torch.float64)


def with_path(cfg: Config, data: str | Path) -> Config:
    """The configuration with `dataset.path` as it was given (any text: no YAML is read here)."""
    values = cfg.to_dict()
    values["dataset"]["path"] = str(data)
    return Config.from_dict(values)


def _find_origin(
    cfg: Config, out: Path, options: TrainOptions, warnings: list[str]
) -> Origin | None:
    resume = options.resume
    if resume is None:
        return None
    return on_main(lambda: find_origin(resume, out, cfg.name, warnings))


def _same_data(mine: Fingerprint) -> Fingerprint:
    """The fingerprint, if all processes read the same data set."""
    first, *others = gather(mine)
    for number, other in enumerate(others, start=1):
        if found := first.differences(other):
            raise TrainingError(
                f"run: processes 0 and {number} read different data sets: {', '.join(found)}; "
                f"give each machine the same one"
            )
    return mine


def _run(
    state: State,
    dataset: ImageDataset,
    folder: Path,
    log: RunLog,
    display: Display,
    options: TrainOptions,
    began: float,
) -> Run:
    now = time.monotonic()
    if is_main():
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
    lines = describe(run.state.cfg, run.dataset, run.state.device, world_size())
    if origin is not None:
        kimg, after = run.state.counters.images_seen / 1000, aftermath(run.state.counters)
        lines.append(f"resumed from {origin.snapshot.path} at {kimg:.3f} kimg{after}")
    elif run.options.resume:
        lines.append("nothing to resume: starting a new run")
    return [*lines, f"run folder {run.folder}"]
