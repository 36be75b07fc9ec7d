"""Rays of patches: directions, origins, segments and stratified depths.

Legend: B batch, r side of a patch, S samples per ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.rendering.patches import PatchParams
from epigraf.rendering.rays import make_rays, pixel_directions, ray_segment, stratified_t

CASES = [(8, 32, 20), (4, 64, 48)]
QUICK_CASES = [(1, 4, 4)]
FOV_DEGREES, NEAR, FAR = 30.0, 0.75, 1.25


def cases(settings: Settings) -> Iterator[Case]:
    """From patches and cameras to depths."""
    for shape in QUICK_CASES if settings.quick else CASES:
        name = "B{0} {1}x{1} S{2}".format(*shape)
        yield Case("rays", name, partial(_build, name, shape, settings.device))


def _build(name: str, shape: tuple[int, int, int], device: str) -> Sequence[Work]:
    batch, side, samples = shape
    scales = torch.full((batch, 2), 0.5, device=device)
    patch = PatchParams(scales, scales / 2)
    cameras = torch.eye(4, device=device).repeat(batch, 1, 1)
    jitter = torch.rand(batch, side**2, samples, device=device)

    def run() -> tuple[Tensor, ...]:
        rays = make_rays(cameras, pixel_directions(side, side, FOV_DEGREES, patch))
        return *rays, stratified_t(ray_segment(rays, NEAR, FAR), samples, jitter)

    counts = Counts(rays=batch * side**2, samples=batch * side**2 * samples)
    return [Work(name, "torch", run, counts)]
