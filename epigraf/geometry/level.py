"""The iso level of a model: which raw density is a surface.

Raw densities mean different things under different gains, shifts and clamps. The level is therefore
stated physically: sigma is the density that makes a path of a reference length half opaque,
1 - exp(-sigma * length) = 1/2 (the alpha of compositing, NeRF eq. 3), and the level is the raw
density that becomes this sigma.
"""

from __future__ import annotations

import math

import numpy as np

from epigraf.config import ClampMode, Config, GeneratorConfig
from epigraf.errors import EpigrafError
from epigraf.geometry.density import Volume

LENGTHS_PER_SEGMENT = 16
"""The reference length is the ray segment over this: what is half opaque within a sixteenth of the
scene looks solid, and parts of a few voxels are kept. (The official level, raw 25 with softplus,
corresponds to a ninth of the official segment 0.88..1.12.)
"""
EMPTY_OPACITY = 0.1
"""A volume that nowhere reaches this opacity across the whole segment is called empty."""


def activate(raw: np.ndarray | float, generator: GeneratorConfig) -> np.ndarray:
    """sigma = gain * clamp(raw + shift), any shape, in 1 / world unit."""
    shifted = np.asarray(raw, dtype=np.float64) + generator.density_shift
    softplus = generator.clamp_mode is ClampMode.SOFTPLUS
    return generator.density_gain * (np.logaddexp(0, shifted) if softplus else shifted.clip(0))


def raw_density(sigma: float, generator: GeneratorConfig) -> float:
    """The raw density that `activate` turns into sigma > 0."""
    clamped = sigma / generator.density_gain
    if generator.clamp_mode is ClampMode.SOFTPLUS:
        clamped += math.log(-math.expm1(-clamped))  # log(exp(x) - 1) without overflow
    return clamped - generator.density_shift


def segment_length(cfg: Config) -> float:
    """The longest part of a ray that is sampled, in world units."""
    if cfg.dataset.object_radius is not None:
        return 2 * cfg.dataset.object_radius
    return cfg.dataset.camera.ray_end - cfg.dataset.camera.ray_start


def automatic_level(volume: Volume, cfg: Config) -> float:
    """The level at which a sixteenth of the ray segment is half opaque.

    A volume that is more translucent than that (an early checkpoint) gets the level of half its own
    largest sigma instead, so that its shape can still be seen.

    Raises:
        EpigrafError: the volume is empty: even its densest point would leave a ray across the whole
            segment at least 90 % transparent.
    """
    generator, segment = cfg.model.generator, segment_length(cfg)
    largest = _largest_inside(volume, cfg.dataset.object_radius)
    peak = float(activate(largest, generator))
    opacity = -math.expm1(-peak * segment)
    if opacity < EMPTY_OPACITY:
        raise EpigrafError(
            f"mesh: the volume is empty: its largest raw density {largest:g} gives an "
            f"opacity of {opacity:.3f} across the scene; try another seed or a later snapshot"
        )
    sigma = math.log(2) * LENGTHS_PER_SEGMENT / segment
    return raw_density(min(sigma, peak / 2), generator)


def _largest_inside(volume: Volume, radius: float | None) -> float:
    """The largest value, outside the object ball (where rays never go) left aside."""
    if radius is None:
        return float(volume.values.max())
    inside = volume.lattice.distance() <= radius
    return float(volume.values[inside].max()) if inside.any() else float(volume.values.min())
