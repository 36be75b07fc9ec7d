"""What the fused renderer is given and gives: fields, rays, their random numbers, and pixels.

Legend: as in `epigraf.ops.render`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from epigraf.ops.random import philox_normal, philox_uniform

JITTER, IMPORTANCE, COARSE_NOISE, FINAL_NOISE = range(4)  # streams of a seed


@dataclass(frozen=True)
class FieldTensors:
    """A tri-plane field, taken apart.

    planes: [B, 3, C, H, W], as for `sample_triplane`. weights: one [O, I] per layer of the decoder,
    the first with I = C, the last with O = 4 (colours, raw density); biases: [O] each; slope: of
    the leaky ReLU between layers. Points are divided by cube_scale to find their place on the
    planes. prior_strength - prior_slope |x| joins the raw density at x (0, 0: nothing). projected:
    what `project_planes` made of the others, or None: saves work where a field is rendered often.
    """

    planes: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    slope: float
    cube_scale: float
    prior_strength: float = 0.0
    prior_slope: float = 0.0
    projected: Tensor | None = None


@dataclass(frozen=True)
class RaySeeds:
    """Random numbers of rays that are computed where they are used (`epigraf.ops.random`).

    seed: int64 tensor of one element where the rays are, its 64 bits the seed. Ray r of batch
    element b is ray b * total + first + r of its streams, so that rays cut into calls keep their
    numbers.
    jitter, noise: whether these numbers are wanted; num_fine: F, the importance draws of a ray.
    """

    seed: Tensor
    total: int
    first: int = 0
    jitter: bool = True
    num_fine: int = 0
    noise: bool = False

    def numbers(self, stream: int, count: int, like: Tensor) -> Tensor:
        """[B, R, count]: `count` numbers of a stream for each ray of like [B, R]."""
        draw = philox_normal if stream in (COARSE_NOISE, FINAL_NOISE) else philox_uniform
        seed, (batch, rays) = int(self.seed) & 0xFFFFFFFFFFFFFFFF, like.shape
        rows = [
            draw(seed, stream, (rays, count), like, (b * self.total + self.first) * count)
            for b in range(batch)
        ]
        return torch.stack(rows) if rows else like.new_empty(0, rays, count)


@dataclass(frozen=True)
class RayTensors:
    """Rays and their random numbers.

    origins, directions (unit length): [B, R, 3]; near, far: [B, R], what is sampled; last_delta:
    [B, R], length of the interval behind the last sample (not read where the march is finite).
    even: [S], from 0 to 1; jitter: [B, R, S] in [0, 1) or None (samples at `even`). u: [B, R, F] in
    [0, 1], draws of the fine samples. coarse_noise [B, R, S] and final_noise [B, R, N] or None:
    added to raw densities, times noise_std; the second in the order of depth. seeds: instead of
    those four. row_length: of the picture whose rows the rays are, or 0: speed only.
    """

    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    last_delta: Tensor
    even: Tensor
    jitter: Tensor | None = None
    u: Tensor | None = None
    coarse_noise: Tensor | None = None
    final_noise: Tensor | None = None
    seeds: RaySeeds | None = None
    row_length: int = 0

    @property
    def num_fine(self) -> int:
        """F."""
        if self.u is not None:
            return self.u.shape[-1]
        return 0 if self.seeds is None else self.seeds.num_fine

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All but the seeds, in the core's order."""
        return (
            self.origins, self.directions, self.near, self.far, self.last_delta, self.even,
            self.jitter, self.coarse_noise, self.u, self.final_noise,
        )  # fmt: skip

    def drawn(self) -> RayTensors:
        """The same with the numbers of the seeds as tensors."""
        if self.seeds is None:
            return self
        seeds, like, coarse = self.seeds, self.near, self.even.numel()
        fine, noise = seeds.num_fine, seeds.noise
        return replace(
            self,
            seeds=None,
            jitter=seeds.numbers(JITTER, coarse, like) if seeds.jitter else self.jitter,
            u=seeds.numbers(IMPORTANCE, fine, like) if fine > 0 else self.u,
            coarse_noise=seeds.numbers(COARSE_NOISE, coarse, like) if noise and fine > 0 else None,
            final_noise=seeds.numbers(FINAL_NOISE, coarse + self.num_fine, like) if noise else None,
        )


@dataclass(frozen=True)
class March:
    """How densities become weights: sigma = gain * clamp(raw + noise_std * noise + shift), clamp a
    softplus or a ReLU; the last interval ends at `far` if finite; last_back adds 1 - sum w to the
    last weight of the final pass. early_stop_eps in [0, 1): where no gradient is wanted a ray of
    the final pass ends at the first sample that less of its light reaches (`composite`). background
    is what every channel shows where nothing absorbs (render 10): features gain background (1 -
    opacity)."""

    shift: float = 0.0
    gain: float = 1.0
    noise_std: float = 0.0
    relu: bool = False
    finite_interval: bool = False
    last_back: bool = False
    early_stop_eps: float = 0.0
    background: float = 0.0


class RenderedRays(NamedTuple):
    """features [B, R, 3], and [B, R] each: depth (weighted sum of t), opacity (before last_back),
    transmittance (in front of the last sample)."""

    features: Tensor
    depth: Tensor
    opacity: Tensor
    transmittance: Tensor
