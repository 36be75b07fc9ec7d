"""How rays are marched, and how raw densities become densities."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from epigraf.config import ClampMode, Compositor, LastInterval, RenderBackend, RenderSampler


@dataclass(frozen=True)
class RenderOptions:
    """How rays are marched.

    num_coarse >= 2 stratified samples and num_fine importance samples (0: none; else num_coarse >=
    3) between near and far, or inside the ball of object_radius. sigma = density_gain * clamp(raw +
    noise + density_shift). ``last_interval`` AUTO is infinite without a background and 1e-3 with
    one; with ``midpoints`` (`quadrature.py`) there is none. ``deterministic`` switches the jitter
    and the random importance samples off. ``max_rays`` bounds the rays of one pass (memory); the
    values do not depend on it. ``backend`` FUSED takes
    the fused renderer where it can (`fused_reason` says why not); OPS composes native ops,
    REFERENCE plain torch. ``early_stop_eps`` in [0, 1): where no gradient is wanted, the final pass
    may leave out what lies behind a transmittance below it (features within eps max|colour|); None
    is SATURATED where the field has an occupancy grid, else 0.
    ``compositor`` NERFACC integrates samples by nerfacc instead of the native op; ``sampler``
    NERFACC takes its traversal of the field's occupancy grid, too (`packed.py`); the others differ
    in whether the field has a grid.
    ``row_length`` is that of the picture whose rows the rays are, or 0: speed depends on it only.
    """

    num_coarse: int
    num_fine: int
    near: float
    far: float
    object_radius: float | None = None
    clamp_mode: ClampMode = ClampMode.SOFTPLUS
    density_shift: float = 0.0
    density_gain: float = 1.0
    density_noise_std: float = 0.0
    last_interval: LastInterval = LastInterval.AUTO
    last_back: bool = False
    white_back: bool = False
    black_back: bool = False
    midpoints: bool = False
    has_background: bool = False
    deterministic: bool = False
    max_rays: int | None = None
    backend: RenderBackend = RenderBackend.FUSED
    early_stop_eps: float | None = None
    row_length: int = 0
    compositor: Compositor = Compositor.NATIVE
    sampler: RenderSampler = RenderSampler.DENSE

    def __post_init__(self) -> None:
        if self.num_coarse < 2 or (self.num_fine > 0 and self.num_coarse < 3):
            raise ValueError(
                "RenderOptions: num_coarse must be at least 2 (3 with importance samples), "
                f"got {self.num_coarse}"
            )


def activate_density(raw: Tensor, options: RenderOptions, noise: Tensor | None = None) -> Tensor:
    """Densities sigma >= 0 from raw ones: gain * clamp(raw + std * noise + shift), any shape."""
    if noise is not None:
        raw = raw + options.density_noise_std * noise
    if options.density_shift != 0:
        raw = raw + options.density_shift
    sigma = F.softplus(raw) if options.clamp_mode is ClampMode.SOFTPLUS else F.relu(raw)
    return sigma if options.density_gain == 1 else sigma * options.density_gain
