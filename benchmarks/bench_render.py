"""`render`: the fused renderer beside the ops, plain torch and the official formulation.

48 + 48 samples, planes 3x32x256x256, decoder 32-64-4, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

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

Pass = Callable[[Scene, str], object]
CASES: list[tuple[str, Workload, Pass, bool]] = [
    ("B1 64x64 rays forward", Workload(1, 64), forward, False),
    ("B4 64x64 rays forward", Workload(4, 64), forward, False),
    ("B4 64x64 rays forward + backward", Workload(4, 64), both, True),
    ("B1 256x256 image", Workload(1, 256), forward, True),
]
QUICK = Workload(1, 8, coarse=6, fine=6, resolution=16)
QUICK_CASES: list[tuple[str, Workload, Pass, bool]] = [
    ("B1 8x8 rays forward", QUICK, forward, False),
    ("B1 8x8 rays forward + backward", QUICK, both, False),
]


def cases(settings: Settings) -> Iterator[Case]:
    """A patch, a batch of patches, the same with gradients, and a whole picture."""
    for name, workload, run, heavy in QUICK_CASES if settings.quick else CASES:
        yield Case(
            "render", name, partial(_build, name, workload, run, settings.device), True, heavy
        )


def _build(name: str, workload: Workload, run: Pass, device: str) -> Sequence[Work]:
    scene, counts = make_scene(workload, device), workload.counts(backward=run is both)
    return [
        Work(name, which, partial(run, scene, which), counts, control=which == OFFICIAL)
        for which in implementations(scene)
    ]
