"""`step`: a training step by phase, in every backend of the renderer and as the official code
computes it.

The state is that of a run halfway through: patches at their final scales, no blur. Every measured
step takes all lazy phases; the row `step` weighs them by how often they are due. Pictures are the
procedural set at the preset's resolution.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epigraf.benchmarks import runner
from epigraf.benchmarks.official_networks import make_official
from epigraf.benchmarks.runner import Announce, Counts, Row, Settings
from epigraf.config import Config, RenderBackend, load_config
from epigraf.data.images import Batch, ImageDataset
from epigraf.data.synthetic import make_synthetic
from epigraf.training.batches import DatasetSource
from epigraf.training.passes import FakeInputs, Pass
from epigraf.training.schedules import Schedule
from epigraf.training.state import State, build_state, resolve_config
from epigraf.training.step import Phase, train_step

ROUNDS = 5
OBJECTS, VIEWS = 6, 8
OFFICIAL = "official"
DATA, OPTIMISER, AVERAGE, STEP = "data", "optimiser", "EMA, numbers", "step"
QUICK = (
    "dataset.resolution=16", "model.generator.cmax=8", "model.generator.num_ray_steps=4",
    "model.generator.tri_plane.res=16", "model.generator.tri_plane.feat_dim=4",
    "model.discriminator.cmax=8", "training.batch_size=4", "training.patch.resolution=8",
)  # fmt: skip


def measure(settings: Settings, announce: Announce) -> Iterator[list[Row]]:
    """Rows of all phases and of the step, of the implementations asked for in alternation."""
    title = f"step {settings.preset}"
    names = [*(x.value for x in RenderBackend), OFFICIAL]
    chosen = runner.asked_for([f"{title} {name}" for name in names], settings.only)
    wanted = [name for name in names if f"{title} {name}" in chosen]
    announce(title)
    with tempfile.TemporaryDirectory() as folder, runner.threads(settings.threads):
        backends = _backends(settings, wanted, Path(folder))
        rounds = settings.rounds or ROUNDS
        for number in range(rounds + 1):  # the first warms up
            for name, backend in backends.items():
                announce(f"{title}, {name}, round {number} of {rounds}")
                taken = timed_step(backend.state, backend.dataset, settings.device)
                if number > 0:
                    backend.rounds.append(taken)
        yield [row for name, backend in backends.items() for row in _rows(name, backend, settings)]


@dataclass
class _Backend:
    """A run with one backend, and the seconds by phase of its steps."""

    state: State
    dataset: ImageDataset
    rounds: list[dict[str, float]] = field(default_factory=list)


def _backends(settings: Settings, wanted: Sequence[str], folder: Path) -> dict[str, _Backend]:
    cfg = load_config(settings.preset, [*(QUICK if settings.quick else ()), *settings.overrides])
    dataset = step_data(cfg, folder)
    return {which: _backend(cfg, which, dataset, settings.device) for which in wanted}


def step_data(cfg: Config, folder: Path) -> ImageDataset:
    """The procedural set at a preset's resolution, made in `folder` if it is not there."""
    path = folder / "shapes.zip"
    if not path.exists():
        make_synthetic(path, OBJECTS, VIEWS, max(cfg.dataset.resolution, 8))
    training = cfg.training
    return ImageDataset(path, cfg.dataset.resolution, training.mirror, training.use_labels)


def _backend(cfg: Config, which: str, dataset: ImageDataset, device: str) -> _Backend:
    values = cfg.to_dict()
    values["render"]["backend"] = RenderBackend.FUSED.value if which == OFFICIAL else which
    values["dataset"]["c_dim"] = 0  # the procedural set has its own classes
    cfg = resolve_config(Config.from_dict(values), dataset)
    state = build_state(cfg, len(dataset), dataset.mean_camera_pose, device)
    if which == OFFICIAL:
        make_official(state)
    batch = cfg.training.batch_size
    state.counters.images_seen = round(cfg.training.kimg * 500 / batch) * batch
    return _Backend(state, dataset)


def timed_step(state: State, dataset: ImageDataset, device: str) -> dict[str, float]:
    """Seconds by phase of one training step in which everything is due."""
    training, loss = state.cfg.training, state.cfg.model.loss_kwargs
    state.counters.step = math.lcm(training.r1_interval, loss.pl_interval)
    watch = _Watch(device)
    optimisers = (state.optimiser_g, state.optimiser_d)
    hooks = [o.register_step_pre_hook(lambda *_: watch.push(OPTIMISER)) for o in optimisers]
    hooks += [o.register_step_post_hook(lambda *_: watch.pop()) for o in optimisers]

    def observe(phase: Phase, _: list[Pass]) -> None:
        watch.end(phase.value)

    try:
        watch.push(DATA)
        source = _TimedSource(DatasetSource(state, dataset), watch)
        watch.pop()
        train_step(state, source, observe)
    finally:
        for hook in hooks:
            hook.remove()
    watch.end(AVERAGE)
    return watch.seconds


class _Watch:
    """Seconds by name: what is pushed and popped is taken out of the phase around it."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._name: str | None = None
        self._pending = 0.0
        self._since = self._now()

    def push(self, name: str) -> None:
        """From here on the time is `name`'s."""
        self._pending += self._lap()
        self._name = name

    def pop(self) -> None:
        """... up to here."""
        if self._name is not None:
            self._add(self._name, self._lap())
            self._name = None

    def end(self, phase: str) -> None:
        """All other time since the end of the phase before is `phase`'s."""
        self._add(phase, self._pending + self._lap())
        self._pending = 0.0

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def _lap(self) -> float:
        before, self._since = self._since, self._now()
        return self._since - before

    def _now(self) -> float:
        runner.synchronise(self._device)
        return time.perf_counter()


class _TimedSource:
    """A source whose work counts as data."""

    def __init__(self, source: DatasetSource, watch: _Watch) -> None:
        self._source, self._watch = source, watch

    def reals(self) -> Batch:
        """The batch."""
        return self._source.reals()

    def fakes(self, schedule: Schedule) -> FakeInputs:
        """Latents, labels and cameras."""
        self._watch.push(DATA)
        inputs = self._source.fakes(schedule)
        self._watch.pop()
        return inputs


def mean_step(taken: dict[str, float], cfg: Config) -> float:
    """Seconds of a step in the long run: lazy phases count for the share of steps that have one."""
    shares = {
        Phase.R1.value: 1 / cfg.training.r1_interval,
        Phase.PATH_LENGTH.value: 1 / cfg.model.loss_kwargs.pl_interval,
    }
    return sum(seconds * shares.get(name, 1.0) for name, seconds in taken.items())


def _rows(name: str, backend: _Backend, settings: Settings) -> list[Row]:
    """The phases in their order, and the step with its memory."""
    cfg, rounds = backend.state.cfg, backend.rounds
    counts = Counts(images=cfg.training.batch_size)
    control = name == OFFICIAL
    rows = [
        Row("step", phase, name, [r[phase] for r in rounds], counts, control) for phase in rounds[0]
    ]

    def run() -> Any:
        return timed_step(backend.state, backend.dataset, settings.device)

    peak = runner.peak_memory(run, settings.device)
    seconds = [mean_step(taken, cfg) for taken in rounds]
    peak_mib = None if peak is None else peak[0]
    rays = counts.images * cfg.train_resolution**2
    rays *= 1 if cfg.training.reuse_fakes else 2
    samples = rays * (cfg.model.generator.num_ray_steps + cfg.num_fine_steps)
    totals = Counts(rays=rays, samples=samples, images=counts.images)
    return [*rows, Row("step", STEP, name, seconds, totals, control, peak_mib=peak_mib)]
