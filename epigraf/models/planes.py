"""What makes planes: a network, or nothing, where they are the weights themselves of a model of one
object (`epigraf fit`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from epigraf.config import GeneratorConfig
from epigraf.models.backbone import NoiseMode, TriPlaneBackbone
from epigraf.rendering.draws import Draws

_INITIAL_STD = 0.1


class FixedPlanes(nn.Module):
    """In the place of a `TriPlaneBackbone`: the same planes for every style.

    Args:
        resolution: R, side of the planes.
        channels: C = 3F, plus 3 with a plane background.

    Attributes:
        values: [1, C, R, R], channels last.
    """

    num_ws = 1  # nothing is read from it; objects have at least one style
    block_resolutions: tuple[int, ...] = ()  # no block computes anything

    def __init__(self, resolution: int, channels: int) -> None:
        super().__init__()
        self.resolution = resolution
        start = torch.randn(1, channels, resolution, resolution) * _INITIAL_STD
        self.values = nn.Parameter(start.contiguous(memory_format=torch.channels_last))

    def forward(
        self,
        ws: Tensor,
        *,
        noise_mode: NoiseMode = NoiseMode.NONE,
        draws: Draws | None = None,
    ) -> Tensor:
        """The planes [B, C, R, R] of ws [B, 1, w_dim], whatever these are; nothing is random."""
        return self.values.expand(len(ws), -1, -1, -1)


def make_planes(g: GeneratorConfig, channels: int) -> TriPlaneBackbone | FixedPlanes:
    """What makes planes of `channels` channels."""
    if g.tri_plane.fixed:
        return FixedPlanes(g.tri_plane.res, channels)
    return TriPlaneBackbone(
        g.w_dim,
        g.tri_plane.res,
        channels,
        channel_base=int(g.cbase * g.fmaps),
        channel_max=g.cmax,
        use_noise=g.use_noise,
    )
