"""Rays of patches: origins and directions.

Legend: B batch, r side of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from epigraf.benchmarks.bench_importance import both
from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import patch_rays

CASES = [(8, 32), (4, 64), (1, 256)]
QUICK_CASES = [(1, 4)]
FOV_DEGREES = 30.0


def cases(settings: Settings) -> Iterator[Case]:
    """From patches and cameras to rays."""
    for shape in QUICK_CASES if settings.quick else CASES:
        name = "B{0} {1}x{1}".format(*shape)
        yield Case("rays", name, partial(_build, name, shape, settings.device))


def _build(name: str, shape: tuple[int, int], device: str) -> Sequence[Work]:
    batch, side = shape
    scales = torch.full((batch, 2), 0.5, device=device)
    cameras = torch.eye(4, device=device).repeat(batch, 1, 1)
    run = partial(patch_rays, cameras, FOV_DEGREES, side, side, scales, scales / 2)
    counts = Counts(rays=batch * side**2)
    return [Work(name, which, f, counts) for which, f in both(run)]
