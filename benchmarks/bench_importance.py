"""Importance samples and the merge of both passes by depth.

Legend: B batch, R rays, S coarse and F fine samples per ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import importance_t, merge_samples, use_reference

CASES = [(4, 4096, 48, 48)]
QUICK_CASES = [(1, 16, 6, 6)]


def cases(settings: Settings) -> Iterator[Case]:
    """Finer depths, and both passes sorted by depth."""
    for shape in QUICK_CASES if settings.quick else CASES:
        for op, build in (("importance", _importance), ("merge", _merge)):
            name = "B{} R{} S{} F{}".format(*shape)
            yield Case(op, name, partial(build, name, shape, settings.device))


def both(run: Callable[[], object]) -> list[tuple[str, Callable[[], object]]]:
    """An op natively, and by its reference."""
    return [("native", run), ("reference", use_reference()(run))]


def _importance(name: str, shape: tuple[int, int, int, int], device: str) -> Sequence[Work]:
    batch, rays, coarse, fine = shape
    t = torch.rand(batch, rays, coarse, device=device).sort(-1).values
    weights, u = torch.rand_like(t), torch.rand(batch, rays, fine, device=device)
    counts = Counts(rays=batch * rays, samples=batch * rays * fine)
    run = partial(importance_t, t, weights, u)
    return [Work(name, which, f, counts) for which, f in both(run)]


def _merge(name: str, shape: tuple[int, int, int, int], device: str) -> Sequence[Work]:
    batch, rays, coarse, fine = shape

    def samples(count: int) -> tuple[Tensor, Tensor, Tensor]:
        colors, raw, t = torch.rand(batch, rays, count, 5, device=device).split([3, 1, 1], -1)
        return colors.contiguous(), raw[..., 0].contiguous(), t[..., 0].sort(-1).values

    counts = Counts(rays=batch * rays, samples=batch * rays * (coarse + fine))
    run = partial(merge_samples, samples(fine), samples(coarse))
    return [Work(name, which, f, counts) for which, f in both(run)]
