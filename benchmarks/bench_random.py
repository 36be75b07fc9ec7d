"""Counter-based random numbers beside torch's own.

Legend: B batch, R rays, S samples per ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from epigraf.benchmarks.bench_importance import both
from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import philox_normal, philox_uniform

CASES = [(4, 4096, 96)]
QUICK_CASES = [(1, 16, 6)]


def cases(settings: Settings) -> Iterator[Case]:
    """Uniform and normal numbers for every sample."""
    for shape in QUICK_CASES if settings.quick else CASES:
        for op in ("uniform", "normal"):
            name = "B{} R{} S{}".format(*shape)
            yield Case(op, name, partial(_build, name, shape, op, settings.device))


def _build(name: str, shape: tuple[int, int, int], op: str, device: str) -> Sequence[Work]:
    like = torch.empty(0, device=device)
    run = partial(philox_uniform if op == "uniform" else philox_normal, 0, 0, shape, like)
    theirs = partial(torch.rand if op == "uniform" else torch.randn, shape, device=device)
    counts = Counts(rays=shape[0] * shape[1], samples=shape[0] * shape[1] * shape[2])
    return [Work(name, which, f, counts) for which, f in (*both(run), ("torch", theirs))]
