"""What a raised sentinel does to a run: end it, or take it back to its last good snapshot.

A good snapshot is one that was taken while no sentinel was raised that ends or rolls back a run.
The last one has a second name (a hard link, no bytes), under which it outlives `keep_last`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from epigraf.config import SentinelAction
from epigraf.data.sampler import InfiniteSampler
from epigraf.errors import CheckpointError, TrainingError
from epigraf.models.loading import Snapshot, read_snapshot
from epigraf.rendering.draws import RandomDraws
from epigraf.training.distributed import on_main
from epigraf.training.resume import SharedSnapshot
from epigraf.training.sentinels import ACTING, Verdict
from epigraf.training.state import Counters, State, load_state, scale_learning_rates

GOOD_SNAPSHOT = "network-snapshot-good.safetensors"


def mark_good(snapshot: Path) -> None:
    """Give a snapshot file the name of the last good one, too."""
    partial = snapshot.with_name(f".{GOOD_SNAPSHOT}.{os.getpid()}.tmp")
    partial.unlink(missing_ok=True)
    try:
        os.link(snapshot, partial)
    except OSError:  # a file system without hard links
        shutil.copyfile(snapshot, partial)
    partial.replace(snapshot.with_name(GOOD_SNAPSHOT))
    partial.unlink(missing_ok=True)  # renaming a name of the same file leaves both


def last_good(folder: Path) -> SharedSnapshot | None:
    """The last good snapshot of a run folder; None where there is none that can be read.

    The main process looks for it, and all of them get it.
    """

    def look() -> SharedSnapshot | None:
        try:
            snapshot = read_snapshot(folder / GOOD_SNAPSHOT)
            snapshot.check()
        except CheckpointError:
            return None
        return SharedSnapshot(snapshot.path, snapshot.header)

    return on_main(look)


def act(state: State, folder: Path, verdicts: Sequence[Verdict]) -> str:
    """Do what the gravest verdict asks for; changes `state` in a rollback, writes nothing.

    Returns:
        After a rollback a line for the log, otherwise an empty one.
    Raises:
        TrainingError: a sentinel stops the run, or a rollback is not possible (any more).
    """
    acting = [v for v in verdicts if v.action in ACTING]
    if not acting:
        return ""
    kimg, allowed = state.counters.images_seen / 1000, state.cfg.sentinels.rollbacks
    good = last_good(folder)
    stopping = next((v for v in acting if v.action is SentinelAction.STOP), None)
    if stopping is None and good is not None and state.counters.rollbacks < allowed:
        return _roll_back(state, good, kimg, acting[0].name)
    verdict = stopping or acting[0]
    why = f" after {allowed} rollbacks" if stopping is None and good is not None else ""
    go_on = "there is no good snapshot yet"
    if good is not None:
        go_on = f"the last good snapshot is {good.path} ({good.images_seen / 1000:.3f} kimg)"
    raise TrainingError(f"training stopped at {kimg:.3f} kimg{why} by {verdict.line}; {go_on}")


def aftermath(counters: Counters) -> str:
    """What earlier rollbacks left behind, to end the line that says where a run goes on."""
    if counters.rollbacks == 0:
        return ""
    return f", rollbacks so far {counters.rollbacks}, learning rates times {counters.lr_scale:g}"


def _roll_back(state: State, good: Snapshot, kimg: float, name: str) -> str:
    """Load the snapshot; slower from now on, and with other random numbers."""
    rollbacks, scale = state.counters.rollbacks + 1, state.counters.lr_scale
    load_state(state, good)
    state.counters.rollbacks = rollbacks
    state.counters.lr_scale = scale * state.cfg.sentinels.lr_factor
    state.counters.strikes = {}
    scale_learning_rates(state)
    _reseed(state, rollbacks)
    return (
        f"rollback {rollbacks} of {state.cfg.sentinels.rollbacks} (sentinel {name}): from "
        f"{kimg:.3f} back to {good.images_seen / 1000:.3f} kimg, learning rates times "
        f"{state.counters.lr_scale:g}, new random numbers"
    )


def _reseed(state: State, rollbacks: int) -> None:
    """New random numbers and a new order of the images, the same after the same rollbacks."""
    if isinstance(state.draws, RandomDraws):
        state.draws = RandomDraws(_mixed(state.draws.seed, rollbacks), state.device)
    seed = _mixed(state.cfg.training.seed, rollbacks)
    state.sampler = InfiniteSampler(len(state.sampler), seed)


def _mixed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
