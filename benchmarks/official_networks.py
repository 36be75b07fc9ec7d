"""The opponent of a training step: generator and discriminator as the official code computes them.

Plain torch on NCHW tensors: channels scaled, convolved and scaled again; x2 resampling by zero
insertion or a strided convolution and a depthwise 4x4 filter; bias, slope, gain and clamp as passes
of their own; torch's own derivatives of all of them, R1's included. Written from the papers.

`make_official` turns networks of ours into these; parameters and random numbers stay the same.
Legend: B batch, C I O channels, k kernel size, H W.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epigraf.benchmarks import composable
from epigraf.config import ClampMode, LastInterval, RenderBackend
from epigraf.models.backbone import NoiseMode, SynthesisBlock, SynthesisLayer, ToPlanes
from epigraf.models.discriminator import HyperConv2d
from epigraf.models.generator import Generator, Image, View
from epigraf.models.layers import CONV_CLAMP, LRELU_SLOPE, Activation, Conv2d
from epigraf.models.resample import Resample
from epigraf.rendering.draws import Draws
from epigraf.rendering.noise import draw_noise
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays, ray_segment, stratified_t
from epigraf.rendering.trace import Trace
from epigraf.training.state import State


def make_official(state: State) -> None:
    """Turn the networks of a run, and its optimisers, into the official ones."""
    for network in (state.generator, state.discriminator):
        for module in network.modules():
            if type(module) in _OFFICIAL:
                module.__class__ = _OFFICIAL[type(module)]
    state.optimiser_g = _plain_adam(state.optimiser_g)
    state.optimiser_d = _plain_adam(state.optimiser_d)


def _plain_adam(fused: torch.optim.Adam) -> torch.optim.Adam:
    group = fused.param_groups[0]
    return torch.optim.Adam(group["params"], group["lr"], group["betas"], group["eps"])


def fir(x: Tensor, pad: tuple[int, int], gain: float = 1.0, stride: int = 1) -> Tensor:
    """Pad x [B, C, H, W] by (before, after) on both axes, filter each channel with [1, 3, 3, 1]."""
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = (torch.outer(taps, taps) * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel, stride=stride, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W]: a zero after each pixel, then the filter with gain 4."""
    batch, channels, height, width = x.shape
    x = F.pad(x.view(batch, channels, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    return fir(x.view(batch, channels, 2 * height, 2 * width), (2, 1), gain=4.0)


def convolve(x: Tensor, weight: Tensor, resample: Resample) -> Tensor:
    """x [B, I, H, W] with weight [O, I, k, k], k = 1 or 3, and the change of resolution."""
    if resample is Resample.NONE:
        return F.conv2d(x, weight, padding=weight.shape[2] // 2)
    if resample is Resample.UP:
        return fir(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), (1, 1), gain=4.0)
    if weight.shape[2] == 1:
        return F.conv2d(fir(x, (1, 1), stride=2), weight)
    return F.conv2d(fir(x, (2, 2)), weight, stride=2)


def activate(
    x: Tensor, bias: Tensor | None, activation: Activation, gain: float, clamp: float | None
) -> Tensor:
    """Bias [C], slope, gain and clamp of x [B, C, H, W], one after another."""
    if bias is not None:
        x = x + bias[:, None, None]
    if activation is Activation.LRELU:
        x = F.leaky_relu(x, LRELU_SLOPE)
    if gain != 1.0:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


class OfficialConv2d(Conv2d):
    """`Conv2d` in separate passes."""

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """See `Conv2d`."""
        y = convolve(x.contiguous(), self.weight * self.weight_gain, self.resample)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return activate(y, self.bias, self.activation, self.activation.gain * gain, clamp)


class OfficialHyperConv2d(HyperConv2d):
    """`HyperConv2d` in separate passes."""

    forward = OfficialConv2d.forward


class OfficialSynthesisLayer(SynthesisLayer):
    """`SynthesisLayer` as the training path that scales activations, not weights."""

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: NoiseMode, draws: Draws | None = None
    ) -> Tensor:
        """See `SynthesisLayer`."""
        styles = self.affine(w)
        modulated = self.weight[None] * styles[:, None, :, None, None]
        demodulation = (modulated.square().sum(dim=(2, 3, 4)) + 1e-8).rsqrt()
        y = convolve(x * styles[:, :, None, None], self.weight, self.resample)
        y = y * demodulation[:, :, None, None]
        noise = self._noise(x, noise_mode, draws)
        if noise is not None:
            y = y + noise * self.noise_strength
        lrelu = Activation.LRELU
        return activate(y, self.bias, lrelu, lrelu.gain, CONV_CLAMP)


class OfficialToPlanes(ToPlanes):
    """`ToPlanes` as a 1x1 convolution of scaled activations."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """See `ToPlanes`."""
        styles = self.affine(w) * self.weight_gain
        y = F.conv2d(x * styles[:, :, None, None], self.weight)
        return activate(y, self.bias, Activation.LINEAR, 1.0, CONV_CLAMP)


class OfficialSynthesisBlock(SynthesisBlock):
    """`SynthesisBlock` on NCHW tensors."""

    def forward(
        self,
        x: Tensor | None,
        planes: Tensor | None,
        ws: Tensor,
        noise_mode: NoiseMode,
        draws: Draws | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `SynthesisBlock`."""
        if x is None:
            y = self.const.expand(len(ws), -1, -1, -1)
        else:
            y = self.conv0(x, ws[:, 0], noise_mode, draws)
        y = self.conv1(y, ws[:, self.num_conv - 1], noise_mode, draws)
        new = self.torgb(y, ws[:, self.num_conv])
        return y, new if planes is None else upsample(planes) + new


class OfficialGenerator(Generator):
    """`Generator` that renders whole tensors; where settings are not official, by the references
    of the ops."""

    def synthesis(
        self,
        ws: Tensor,
        camera_angles: Tensor,
        view: View | None = None,
        *,
        noise_mode: NoiseMode = NoiseMode.RANDOM,
        draws: Draws,
        trace: Trace | None = None,
        planes: Tensor | None = None,
    ) -> Image:
        """See `Generator.synthesis`."""
        view = view or View()
        options = self.render_options(view, len(ws))
        if not self._renders_officially(options):
            return super().synthesis(
                ws, camera_angles, view, noise_mode=noise_mode, draws=draws, trace=trace,
                planes=planes,
            )  # fmt: skip
        planes = self.planes(ws, noise_mode, draws=draws) if planes is None else planes
        side = view.resolution or self._resolution()
        rays = self._rays(camera_angles, view, side, None)
        features = self._march(planes, rays, options, draws)
        image = features.transpose(1, 2).unflatten(2, (side, side))
        nothing = image[:, :1].detach()  # nobody asks a training step for depth and opacity
        return Image(image, nothing, nothing, image)

    def _march(self, planes: Tensor, rays: Rays, options: RenderOptions, draws: Draws) -> Tensor:
        tensors = self.field(planes).tensors()
        assert tensors is not None
        segment = ray_segment(rays, options.near, options.far)
        noise = draw_noise(rays.directions, options, draws).drawn(segment.near, options)
        assert noise.importance_u is not None
        t = stratified_t(segment, options.num_coarse, noise.jitter)
        return composable.render(tensors, *rays, t, noise.importance_u)

    def _renders_officially(self, options: RenderOptions) -> bool:
        g = self.cfg.model.generator
        own = (
            options.density_noise_std, options.density_shift, options.density_gain - 1,
            options.object_radius, options.white_back, options.last_back, g.bg_model.type,
            g.density_prior_radius, g.tri_plane.posenc_period_len, g.tri_plane.has_view_cond,
            options.last_interval is LastInterval.FINITE, options.clamp_mode is ClampMode.RELU,
        )  # fmt: skip
        return not any(own) and options.num_fine > 0

    def _backend(self, view: View) -> RenderBackend:
        return RenderBackend.REFERENCE


_OFFICIAL: dict[type[nn.Module], Any] = {
    Conv2d: OfficialConv2d,
    HyperConv2d: OfficialHyperConv2d,
    SynthesisLayer: OfficialSynthesisLayer,
    ToPlanes: OfficialToPlanes,
    SynthesisBlock: OfficialSynthesisBlock,
    Generator: OfficialGenerator,
}
