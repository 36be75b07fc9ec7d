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
    """Finer depths; both passes sorted by depth, without and with gradients."""
    for shape in QUICK_CASES if settings.quick else CASES:
        name = "B{} R{} S{} F{}".format(*shape)
        yield Case("importance", name, partial(_importance, name, shape, settings.device))
        for what in ("forward", "forward + backward"):
            build = partial(_merge, f"{name} {what}", shape, what, settings.device)
            yield Case("merge", f"{name} {what}", build)


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


def _merge(name: str, shape: tuple[int, int, int, int], what: str, device: str) -> Sequence[Work]:
    batch, rays, coarse, fine = shape

    def samples(count: int) -> tuple[Tensor, Tensor, Tensor]:
        colors, raw, t = torch.rand(batch, rays, count, 5, device=device).split([3, 1, 1], -1)
        return colors.contiguous(), raw[..., 0].contiguous(), t[..., 0].sort(-1).values

    counts = Counts(rays=batch * rays, samples=batch * rays * (coarse + fine))
    sets = samples(fine), samples(coarse)
    leaves = [x.requires_grad_() for part in sets for x in part]
    cotangents = [torch.rand_like(x) for x in merge_samples(*sets)]

    def forward() -> object:
        with torch.no_grad():
            return merge_samples(*sets)

    def forward_and_backward() -> object:
        return torch.autograd.grad(merge_samples(*sets), leaves, cotangents)

    run = forward if what == "forward" else forward_and_backward
    return [Work(name, which, f, counts) for which, f in both(run)]
