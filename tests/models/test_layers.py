"""Layers against formulas worked out by loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from epigraf.models.layers import (
    Activation,
    Conv2d,
    FourierEncoder,
    FullyConnected,
    ScalarEncoder,
    demodulation,
    modulated_conv2d,
    normalize_2nd_moment,
)
from epigraf.models.resample import Resample


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_normalize_2nd_moment_by_hand() -> None:
    """Mean square of (3, 4) is 12.5."""
    y = normalize_2nd_moment(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert y[0].tolist() == pytest.approx([3 / math.sqrt(12.5), 4 / math.sqrt(12.5)])
    assert y[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("batch", [1, 50])  # the input or the weight is scaled
@pytest.mark.parametrize("activation", list(Activation))
def test_fully_connected(activation: Activation, batch: int) -> None:
    layer = FullyConnected(4, 3, activation, lr_multiplier=0.1, bias_init=2.0)
    assert layer.bias.tolist() == pytest.approx([20.0] * 3)
    x = normal(batch, 4)
    expected = x @ (layer.weight * 0.1 / 2).T + layer.bias * 0.1
    if activation is Activation.LRELU:
        expected = torch.where(expected > 0, expected, 0.2 * expected) * math.sqrt(2)
    torch.testing.assert_close(layer(x), expected)


def test_fully_connected_initial_variance() -> None:
    """A stored deviation of 1 / lr_multiplier gives outputs of unit deviation."""
    torch.manual_seed(0)
    layer = FullyConnected(256, 512, lr_multiplier=0.01)
    assert float(layer.weight.detach().std()) == pytest.approx(100, rel=0.02)
    assert float(layer(normal(64, 256, seed=1)).detach().std()) == pytest.approx(1, rel=0.05)


def test_fourier_encoder_frequencies() -> None:
    """Highest value 5: T = 8, three octaves from pi/8; 8: the same; 1000: ten from pi/1024."""
    expected = [math.pi / 8, math.pi / 4, math.pi / 2]
    assert FourierEncoder(5.0).fourier_coefs.tolist() == pytest.approx(expected)
    assert FourierEncoder(8.0).fourier_coefs.tolist() == pytest.approx(expected)
    coefs = FourierEncoder(1000.0).fourier_coefs
    assert len(coefs) == 10
    assert float(coefs[0]) == pytest.approx(math.pi / 1024)


def test_scalar_encoder_layout() -> None:
    encoder = ScalarEncoder(2, 4.0, const_emb_dim=3, use_raw=True)
    assert encoder.const_embed is not None
    assert encoder.dim == 2 * (1 + 4 + 3)
    assert encoder.const_embed.weight.shape == (5, 3)
    y = encoder(torch.tensor([[0.25, 0.9]]))[0]
    for i, x in enumerate((0.25, 0.9)):
        phases = [4 * x * math.pi / 4, 4 * x * math.pi / 2]
        expected = [x, *map(math.sin, phases), *map(math.cos, phases)]
        part = y[8 * i : 8 * i + 8]
        assert part[:5].tolist() == pytest.approx(expected, abs=1e-6)
        row = round(4 * x)
        assert torch.equal(part[5:], encoder.const_embed.weight[row])


def test_scalar_encoder_widths() -> None:
    """The encoders of EpiGRAF: patch, camera, raw camera, ray direction."""
    assert ScalarEncoder(3, 1000.0, 256).dim == 828
    assert ScalarEncoder(2, 64.0).dim == 24
    assert ScalarEncoder(2, 0.0, use_raw=True).dim == 2
    assert ScalarEncoder(3, 8.0, use_raw=True, use_cos=False).dim == 12
    assert list(ScalarEncoder(3, 1000.0, 256).state_dict()) == [
        "fourier_encoder.fourier_coefs",
        "const_embed.weight",
    ]


def test_scalar_encoder_rejects_other_widths() -> None:
    with pytest.raises(
        ValueError, match=r"ScalarEncoder: x must have shape \[..., 3\], got \[2, 4\]"
    ):
        ScalarEncoder(3, 8.0)(torch.zeros(2, 4))


@pytest.mark.parametrize("resample", [Resample.NONE, Resample.DOWN])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_conv2d_gain_and_clamp(resample: Resample, gain: float) -> None:
    """Activation, then sqrt(2) * gain, then clamping to +-clamp * gain."""
    layer = Conv2d(2, 3, 3, Activation.LRELU, resample, conv_clamp=0.7)
    layer.bias.data.copy_(normal(3))
    x = normal(2, 2, 8, 8)
    plain = Conv2d(2, 3, 3, resample=resample)
    plain.load_state_dict(layer.state_dict())
    expected = F.leaky_relu(plain(x), 0.2) * math.sqrt(2) * gain
    expected = expected.clamp(-0.7 * gain, 0.7 * gain)
    torch.testing.assert_close(layer(x, gain), expected)


def per_sample_conv(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool) -> Tensor:
    """Form the weight of each sample (StyleGAN2, eq. 1 and 3) and convolve with it."""
    rows = []
    for image, style in zip(x, styles, strict=True):
        modulated = weight * style[None, :, None, None]
        if demodulate:
            norm = (modulated.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
            modulated = modulated / norm
        rows.append(F.conv2d(image[None], modulated, padding=weight.shape[2] // 2))
    return torch.cat(rows)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_modulated_conv2d_equals_per_sample_weights(kernel: int, demodulate: bool) -> None:
    x, weight, styles = normal(3, 4, 6, 6), normal(5, 4, kernel, kernel), normal(3, 4, seed=1)
    ours = modulated_conv2d(x, weight, styles, demodulate=demodulate)
    expected = per_sample_conv(x, weight, styles, demodulate)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_demodulation_of_matrices() -> None:
    """Row norms of diag-scaled matrices."""
    weight, styles = normal(5, 4), normal(2, 4, seed=1)
    for b in range(2):
        norms = (weight * styles[b]).norm(dim=1)
        torch.testing.assert_close(demodulation(weight, styles)[b], 1 / norms)


def test_modulated_conv2d_derivatives() -> None:
    inputs = [
        normal(2, 2, 4, 4, dtype=torch.float64).requires_grad_(),
        normal(2, 2, 3, 3, dtype=torch.float64).requires_grad_(),
        normal(2, 2, seed=1, dtype=torch.float64).requires_grad_(),
    ]
    assert gradcheck(lambda x, w, s: modulated_conv2d(x, w, s, resample=Resample.UP), inputs)
