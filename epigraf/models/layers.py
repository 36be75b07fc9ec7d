"""Layers shared by the generator and the discriminator.

Legend: B batch, I input features or channels, O output features or channels, H W.

Weights are stored unscaled (standard normal) and multiplied by their gain when used, the equalised
learning rate of Karras et al. 2018 (PGGAN, section 4.1). Activations follow StyleGAN2: a leaky
ReLU of slope 0.2 times sqrt(2), so that variances are kept. What follows a convolution is one pass
over the image (`epigraf.ops.activation`). A leaky ReLU is positively homogeneous, so in a linear
layer that sqrt(2) is folded into the weight and the bias.
"""

from __future__ import annotations

import math
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epigraf.models.resample import Resample, conv2d_resample
from epigraf.ops.activation import Curve, activation
from epigraf.ops.linear import linear

LRELU_SLOPE = 0.2
CONV_CLAMP = 256.0


class Activation(Enum):
    """Pointwise nonlinearity and the gain that keeps the variance of its input."""

    LINEAR = "linear"
    LRELU = "lrelu"

    @property
    def gain(self) -> float:
        """Factor applied after the nonlinearity: 1 or sqrt(2)."""
        return math.sqrt(2.0) if self is Activation.LRELU else 1.0

    @property
    def slope(self) -> float:
        """Of negative numbers: 1 or 0.2."""
        return LRELU_SLOPE if self is Activation.LRELU else 1.0


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of ``x`` [B, I] to unit mean square: x / sqrt(mean(x^2) + 1e-8)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate; ``lr_multiplier`` slows it down further.

    Args:
        in_features: I.
        out_features: O.
        activation: applied after the bias.
        lr_multiplier: m; the weight is stored as N(0, 1)/m and used times m/sqrt(I).
        bias_init: initial value of the effective bias (stored divided by m).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: Activation = Activation.LINEAR,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))

    def effective(self) -> tuple[Tensor, Tensor]:
        """The weight [O, I] and bias [O] in use, with the gain of the activation in both."""
        gain = self.activation.gain
        weight = self.weight * (self.weight_gain * gain)
        bias = self.bias if self.bias_gain * gain == 1.0 else self.bias * (self.bias_gain * gain)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [..., I] to [..., O]."""
        gain = self.activation.gain
        weight, bias = self.weight, self.bias
        if x.numel() < weight.numel():  # scale whatever is smaller
            x = x * (self.weight_gain * gain)
        else:
            weight = weight * (self.weight_gain * gain)
        if self.bias_gain * gain != 1.0:
            bias = bias * (self.bias_gain * gain)
        y = linear(x, weight, bias)
        return F.leaky_relu(y, LRELU_SLOPE) if self.activation is Activation.LRELU else y


class FourierEncoder(nn.Module):
    """sin (and cos) of every coordinate at K octaves, the lowest with half a period over [0, T].

    T = 2^ceil(log2 max_value), K = log2 T, frequencies 2^k pi / T for k = 0..K-1.
    """

    fourier_coefs: Tensor

    def __init__(self, max_value: float, use_cos: bool = True) -> None:
        super().__init__()
        num_freqs = math.ceil(math.log2(max_value))
        coefs = (2.0 ** torch.arange(num_freqs)) * (math.pi / 2.0**num_freqs)
        self.use_cos = use_cos
        self.dim_per_coord = num_freqs * (2 if use_cos else 1)
        self.register_buffer("fourier_coefs", coefs)

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``x`` [..., D] as [..., D, dim_per_coord], all sines before all cosines."""
        phase = x.unsqueeze(-1) * self.fourier_coefs
        return torch.cat([phase.sin(), phase.cos()], dim=-1) if self.use_cos else phase.sin()


class ScalarEncoder(nn.Module):
    """Embed scalars: each of them as [raw, sines, cosines, learned embedding] (EpiGRAF, sec. 3.2).

    Args:
        coord_dim: D, number of scalars per sample.
        x_multiplier: scalars are multiplied by it before the Fourier and the learned embedding;
            0 leaves only the raw values.
        const_emb_dim: width of the learned embedding of round(x * x_multiplier); 0 for none. It
            needs scalars within [0, 1].
        use_raw: also pass on the scalar itself (not multiplied).
        use_cos: cosines beside the sines.

    Attribute ``dim`` is the width of the output.
    """

    def __init__(
        self,
        coord_dim: int,
        x_multiplier: float,
        const_emb_dim: int = 0,
        use_raw: bool = False,
        use_cos: bool = True,
    ) -> None:
        super().__init__()
        self.x_multiplier = float(x_multiplier)
        self.use_raw = use_raw
        self.fourier_encoder: FourierEncoder | None = None
        self.const_embed: nn.Embedding | None = None
        dim_per_coord = int(use_raw)
        if x_multiplier > 0:
            self.fourier_encoder = FourierEncoder(x_multiplier, use_cos)
            dim_per_coord += self.fourier_encoder.dim_per_coord
        if x_multiplier > 0 and const_emb_dim > 0:
            self.const_embed = nn.Embedding(math.ceil(x_multiplier) + 1, const_emb_dim)
            dim_per_coord += const_emb_dim
        self.coord_dim = coord_dim
        self.dim = coord_dim * dim_per_coord

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``x`` [..., D] as [..., dim], one coordinate after another."""
        if x.shape[-1] != self.coord_dim:
            raise ValueError(
                f"ScalarEncoder: x must have shape [..., {self.coord_dim}], got {list(x.shape)}"
            )
        parts = [x.unsqueeze(-1)] if self.use_raw else []
        scaled = x * self.x_multiplier
        if self.fourier_encoder is not None:
            parts.append(self.fourier_encoder(scaled))
        if self.const_embed is not None:
            parts.append(self.const_embed(scaled.round().long()))
        return torch.cat(parts, dim=-1).flatten(-2)


class Conv2d(nn.Module):
    """Convolution with equalised learning rate, optional x2 resampling, bias and activation.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: k, odd; the padding is k // 2.
        activation: applied after the bias.
        resample: keep the size, halve it (FIR, then stride 2) or double it.
        use_bias: add a learned bias.
        conv_clamp: clamp the result to +-conv_clamp * gain.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        activation: Activation = Activation.LINEAR,
        resample: Resample = Resample.NONE,
        use_bias: bool = True,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.resample = resample
        self.conv_clamp = conv_clamp
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if use_bias else None

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """Map ``x`` [B, I, H, W] to [B, O, H', W'] in its dtype and multiply by ``gain``."""
        total = self.activation.gain * gain
        of_weight = total if self.bias is None else 1.0  # else it comes with the nonlinearity
        weight, weight_gain = self.weight, self.weight_gain * of_weight
        if weight.dtype != x.dtype:
            weight, weight_gain = (weight * weight_gain).to(x.dtype), 1.0
        y = conv2d_resample(x, weight, self.resample, gain=weight_gain)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        curve = Curve(self.activation.slope, total / of_weight, clamp)
        return activation(y, self.bias, curve, overwrite=True)


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Demodulation factors of a modulated convolution (StyleGAN2, eq. 3).

    Args:
        weight: [O, I, ...].
        styles: [B, I].

    Returns:
        [B, O]: (sum_{i,k} (weight_oik styles_i)^2 + 1e-8)^(-1/2). The per-sample weights are never
        formed: the sum over the taps does not depend on the sample.
    """
    power = weight.square() if weight.ndim == 2 else weight.square().flatten(2).sum(dim=2)
    return (styles.square() @ power.T + 1e-8).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    resample: Resample = Resample.NONE,
) -> Tensor:
    """Convolution whose input channels are scaled per sample (StyleGAN2, eq. 1 and 3).

    Args:
        x: [B, I, H, W].
        weight: [O, I, k, k].
        styles: [B, I].
        demodulate: normalise the per-sample weights (see `demodulation`).
        resample: NONE or UP.

    Returns:
        [B, O, H', W'].
    """
    y = conv2d_resample(x * styles[:, :, None, None], weight, resample)
    return y * demodulation(weight, styles)[:, :, None, None] if demodulate else y
