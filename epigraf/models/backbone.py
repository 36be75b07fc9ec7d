"""Tri-plane backbone: a StyleGAN2 synthesis network with skip connections (EpiGRAF, section 3.1).

Legend: B batch, C channels, H W, R resolution of the planes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor, nn

from epigraf.models.layers import (
    CONV_CLAMP,
    Activation,
    FullyConnected,
    demodulation,
    modulated_conv2d,
)
from epigraf.models.resample import Resample
from epigraf.ops.activation import Curve, activation
from epigraf.ops.resample import upsample2d
from epigraf.rendering.draws import Draws, ReplayDraws


class NoiseMode(Enum):
    """Spatial noise of the synthesis layers: fresh, the stored maps, or none."""

    RANDOM = "random"
    CONST = "const"
    NONE = "none"


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU, clamp (StyleGAN2, figure 2d).

    Args:
        in_channels, out_channels: C before and after.
        w_dim: width of w.
        resolution: H = W of the output.
        resample: NONE, or UP to double the size.
        use_noise: add spatial noise with a learned strength.
    """

    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        resample: Resample = Resample.NONE,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.resample = resample
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength: nn.Parameter | None = None
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros(()))
            self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: NoiseMode, draws: Draws | None = None
    ) -> Tensor:
        """Map ``x`` [B, C, H, W] under ``w`` [B, w_dim] to [B, C', H', W']."""
        styles = self.affine(w)
        y = modulated_conv2d(x, self.weight, styles, demodulate=False, resample=self.resample)
        noise = self._noise(x, noise_mode, draws)
        lrelu = Activation.LRELU
        return activation(
            y,
            self.bias,
            Curve(lrelu.slope, lrelu.gain, CONV_CLAMP),
            scale=demodulation(self.weight, styles),
            noise=noise,
            strength=None if noise is None else self.noise_strength,
            overwrite=True,
        )

    def _noise(self, x: Tensor, mode: NoiseMode, draws: Draws | None) -> Tensor | None:
        """[B, 1, H, W] or [H, W], or None; not yet times its strength."""
        if self.noise_strength is None or mode is NoiseMode.NONE:
            return None
        if mode is NoiseMode.CONST:
            return self.noise_const
        if draws is None:
            raise ValueError("synthesis layer: random noise needs draws, got None")
        shape = (len(x), 1, self.resolution, self.resolution)
        return draws.normal("spatial_noise", shape, x)


class ToPlanes(nn.Module):
    """Modulated 1x1 convolution to the channels of the planes, without demodulation."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int) -> None:
        super().__init__()
        self.weight_gain = 1.0 / math.sqrt(in_channels)
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map ``x`` [B, C, H, W] under ``w`` [B, w_dim] to [B, C', H, W]."""
        weight = self.weight[:, :, 0, 0] * (self.affine(w) * self.weight_gain)[:, None, :]
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, HW, C], no copy if channels-last
        y = torch.baddbmm(self.bias.expand(len(x), 1, -1), rows, weight.transpose(1, 2))
        y = y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return activation(y, None, Curve(clamp=CONV_CLAMP), overwrite=True)


class SynthesisBlock(nn.Module):
    """All layers of one resolution; the first block starts from a learned constant.

    Args:
        in_channels: C of the block before, 0 for the first.
        out_channels: C.
        w_dim: width of w.
        resolution: H = W.
        plane_channels: channels of the running planes.
        use_noise: spatial noise in the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        plane_channels: int,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.num_conv = 1 if in_channels == 0 else 2
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim, resolution, Resample.UP, use_noise
            )
        self.conv1 = SynthesisLayer(
            out_channels, out_channels, w_dim, resolution, use_noise=use_noise
        )
        self.torgb = ToPlanes(out_channels, plane_channels, w_dim)

    def forward(
        self,
        x: Tensor | None,
        planes: Tensor | None,
        ws: Tensor,
        noise_mode: NoiseMode,
        draws: Draws | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features and running planes of the resolution before -> those of this one.

        Args:
            x: [B, C, H/2, W/2], None for the first block.
            planes: [B, P, H/2, W/2], None for the first block.
            ws: [B, num_conv + 1, w_dim].
            noise_mode: see `NoiseMode`.
            draws: for random noise.
        """
        if x is None:
            y = self.const.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        else:
            y = self.conv0(x, ws[:, 0], noise_mode, draws)
        y = self.conv1(y, ws[:, self.num_conv - 1], noise_mode, draws)
        new = self.torgb(y, ws[:, self.num_conv])
        return y, new if planes is None else upsample2d(planes) + new


class TriPlaneBackbone(nn.Module):
    """Blocks b4, b8, ..., b{resolution}, each of them adding to the planes.

    Args:
        w_dim: width of w.
        resolution: R, a power of two >= 4.
        plane_channels: 3F, plus 3 for a plane background.
        channel_base: a block of resolution r has min(channel_base // r, channel_max) channels.
        channel_max: see ``channel_base``.
        use_noise: spatial noise in the convolutions.

    ``num_ws`` latents are needed: one per convolution and one for the last output.
    """

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        plane_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        if resolution < 4 or resolution & (resolution - 1):
            raise ValueError(f"backbone: resolution must be a power of two >= 4, got {resolution}")
        self.resolution = resolution
        self.block_resolutions = [2**i for i in range(2, resolution.bit_length())]
        self.num_ws, in_channels = 1, 0
        for res in self.block_resolutions:
            channels = min(channel_base // res, channel_max)
            if channels < 1:
                raise ValueError(
                    f"backbone: channel_base {channel_base} leaves no channels at {res}"
                )
            block = SynthesisBlock(in_channels, channels, w_dim, res, plane_channels, use_noise)
            self.add_module(f"b{res}", block)
            self.num_ws += block.num_conv
            in_channels = channels
        self._compiled: Callable[[Tensor, NoiseMode, list[Tensor]], Tensor] | None = None

    def compile_synthesis(self, backend: str = "inductor") -> None:
        """From now on run as one compiled graph (torch.compile), noise drawn before it.

        Its gradients cannot be differentiated again.
        """
        self._compiled = torch.compile(self._synthesise_drawn, fullgraph=True, backend=backend)

    def forward(
        self,
        ws: Tensor,
        *,
        noise_mode: NoiseMode = NoiseMode.RANDOM,
        draws: Draws | None = None,
    ) -> Tensor:
        """Make planes [B, plane_channels, R, R] from ``ws`` [B, num_ws, w_dim].

        Noise is drawn from shallow to deep, conv0 before conv1, and only in mode RANDOM.
        """
        if ws.ndim != 3 or ws.shape[1] != self.num_ws:
            raise ValueError(
                f"backbone: ws must have shape [B, {self.num_ws}, w_dim], got {list(ws.shape)}"
            )
        if self._compiled is None:
            return self._synthesise(ws, noise_mode, draws)
        return self._compiled(ws, noise_mode, self._draw_noise(ws, noise_mode, draws))

    def _synthesise(self, ws: Tensor, noise_mode: NoiseMode, draws: Draws | None) -> Tensor:
        x, planes = None, None
        first = 0
        for res in self.block_resolutions:
            block = self.get_submodule(f"b{res}")
            assert isinstance(block, SynthesisBlock)
            part = ws[:, first : first + block.num_conv + 1]
            x, planes = block(x, planes, part, noise_mode, draws)
            first += block.num_conv
        assert planes is not None
        return planes

    def _synthesise_drawn(self, ws: Tensor, mode: NoiseMode, noise: list[Tensor]) -> Tensor:
        return self._synthesise(ws, mode, ReplayDraws([("spatial_noise", x) for x in noise]))

    def _draw_noise(self, ws: Tensor, mode: NoiseMode, draws: Draws | None) -> list[Tensor]:
        """The maps of all layers, in the order in which they ask for them."""
        layers = [m for m in self.modules() if isinstance(m, SynthesisLayer)]
        if mode is not NoiseMode.RANDOM or not layers or layers[0].noise_strength is None:
            return []
        if draws is None:
            raise ValueError("backbone: random noise needs draws, got None")
        shapes = [(len(ws), 1, layer.resolution, layer.resolution) for layer in layers]
        return [draws.normal("spatial_noise", shape, ws) for shape in shapes]
