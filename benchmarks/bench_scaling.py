"""`scaling`: what a rendering costs as rays, samples, planes, batch and threads grow.

All points of an axis are timed in alternation, so that a line through them means something.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from epigraf.benchmarks import runner
from epigraf.benchmarks.runner import Case, Settings, Work
from epigraf.benchmarks.scene import (
    OFFICIAL,
    Scene,
    Workload,
    both,
    forward,
    implementations,
    make_scene,
)

BASE = Workload(batch=1, side=64)
QUICK_BASE = Workload(batch=1, side=4, coarse=4, fine=4, resolution=8)


@dataclass(frozen=True)
class Axis:
    """What grows: the points as (value, workload), and which pass is timed."""

    name: str
    points: Sequence[tuple[int, Workload]]
    run: Callable[[Scene, str], object] = forward
    left_out: tuple[str, ...] = ("reference",)


def axes(quick: bool) -> list[Axis]:
    """Rays of a picture, samples of a ray, side of the planes, pictures."""
    base = QUICK_BASE if quick else BASE
    sides = (2, 3, 4) if quick else (16, 32, 64, 96, 128)
    halves = (3, 4, 6) if quick else (12, 24, 48, 72, 96)
    resolutions = (8, 16, 32) if quick else (64, 128, 256, 512)
    batches = (1, 2, 3) if quick else (1, 2, 4, 8)
    rays = [(side**2, replace(base, side=side)) for side in sides]
    samples = [(2 * half, replace(base, coarse=half, fine=half)) for half in halves]
    training = ("reference", OFFICIAL)
    return [
        Axis("rays", rays),
        Axis("rays, forward + backward", rays, both, training),
        Axis("samples", samples),
        Axis("samples, forward + backward", samples, both, training),
        Axis("planes", [(side, replace(base, resolution=side)) for side in resolutions]),
        Axis("batch", [(count, replace(base, batch=count)) for count in batches]),
    ]


def cases(settings: Settings) -> Iterator[Case]:
    """Every axis, and the threads, forward and with gradients."""
    for axis in axes(settings.quick):
        yield Case("scaling", axis.name, partial(_build, axis, settings.device))
    if settings.device.startswith("cuda"):
        return
    for name, run in (("threads", forward), ("threads, forward + backward", both)):
        build = partial(_build_threads, name, run, settings.quick)
        yield Case("scaling", name, build, memory=False)


def _build(axis: Axis, device: str) -> Sequence[Work]:
    works = []
    for at, workload in axis.points:
        scene, counts = make_scene(workload, device), workload.counts(axis.run is both)
        for which in implementations(scene):
            if which not in axis.left_out:
                run, control = partial(axis.run, scene, which), which == OFFICIAL
                works.append(Work(f"{axis.name} {at}", which, run, counts, control, axis.name, at))
    return works


def thread_counts() -> list[int]:
    """1, 2, 4 ... and all processors."""
    cores = os.cpu_count() or 1
    return sorted({2**k for k in range(cores.bit_length()) if 2**k <= cores} | {cores})


def _build_threads(axis: str, run: Callable[[Scene, str], object], quick: bool) -> Sequence[Work]:
    workload = QUICK_BASE if quick else BASE
    scene, counts = make_scene(workload, "cpu"), workload.counts(run is both)

    def on(count: int, which: str) -> object:
        with runner.threads(count):
            return run(scene, which)

    return [
        Work(f"{axis} {n}", which, partial(on, n, which), counts, which == OFFICIAL, axis, n)
        for n in thread_counts()
        for which in implementations(scene)
        if which != "reference"
    ]
