"""The random numbers along rays: recorded tensors, or a seed from which they are computed.

Legend: B batch, R rays, S coarse and F fine samples per ray.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from epigraf.ops.render import COARSE_NOISE, FINAL_NOISE, IMPORTANCE, JITTER, RaySeeds
from epigraf.rendering.draws import Draws
from epigraf.rendering.options import RenderOptions


class RayNoise(NamedTuple):
    """All random numbers of one rendering (None: not wanted), in the order of their drawing; with
    seeds, those that the seeds want are None."""

    jitter: Tensor | None  # [B, R, S]
    coarse_density: Tensor | None  # [B, R, S]
    importance_u: Tensor | None  # [B, R, F]
    final_density: Tensor | None  # [B, R, S + F]
    seeds: RaySeeds | None

    def rays(self, part: slice) -> RayNoise:
        """Those of rays [part.start, part.stop)."""
        jitter, inner, u, final = (None if x is None else x[:, part] for x in self[:4])
        seeds = self.seeds and replace(self.seeds, first=self.seeds.first + part.start)
        return RayNoise(jitter, inner, u, final, seeds)

    def drawn(self, like: Tensor, options: RenderOptions) -> RayNoise:
        """The same as tensors, for rays [B, R] of the dtype and device of `like`."""
        if self.seeds is None:
            return self
        seeds, coarse, fine = self.seeds, options.num_coarse, self.seeds.num_fine
        inner = seeds.noise and options.num_fine > 0
        every = coarse + options.num_fine
        return RayNoise(
            seeds.numbers(JITTER, coarse, like) if seeds.jitter else None,
            seeds.numbers(COARSE_NOISE, coarse, like) if inner else None,
            seeds.numbers(IMPORTANCE, fine, like) if fine > 0 else self.importance_u,
            seeds.numbers(FINAL_NOISE, every, like) if seeds.noise else None,
            None,
        )


def draw_noise(directions: Tensor, options: RenderOptions, draws: Draws) -> RayNoise:
    """Draw for all rays [B, R, 3] at once, so that chunking changes no value."""
    batch, count = directions.shape[:2]
    coarse, fine = options.num_coarse, options.num_fine
    noisy, random = options.density_noise_std > 0, not options.deterministic
    jitter = density = u = final = None
    if fine > 0 and not random:
        even = torch.linspace(0, 1, fine, dtype=directions.dtype, device=directions.device)
        u = even.expand(batch, count, fine)
    if not (noisy or random):
        return RayNoise(None, None, u, None, None)
    if (seed := draws.ray_seed()) is not None:
        seeds = RaySeeds(seed.to(directions.device), count, 0, random, fine if random else 0, noisy)
        return RayNoise(None, None, u, None, seeds)
    if random:
        jitter = draws.uniform("jitter", (batch, count, coarse, 1), directions)[..., 0]
    if noisy and fine > 0:
        density = draws.normal("coarse_density", (batch, count, coarse, 1), directions)[..., 0]
    if fine > 0 and random:
        u = draws.uniform("importance_u", (batch * count, fine), directions)
        u = u.view(batch, count, fine)
    if noisy:
        final = draws.normal("final_density", (batch, count, coarse + fine, 1), directions)[..., 0]
    return RayNoise(jitter, density, u, final, None)
