"""Tri-plane backbone: sizes, noise, wiring, and layers against per-sample weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.models.backbone import (
    NoiseMode,
    SynthesisLayer,
    ToPlanes,
    TriPlaneBackbone,
)
from epigraf.models.mapping import MappingNetwork
from epigraf.rendering.draws import RandomDraws, ReplayDraws


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_the_official_generator() -> None:
    """28.98 M at 512 planes, 29.35 M with 198 labels, of which 2372 are the decoder's."""
    with torch.device("meta"):
        backbone = count(TriPlaneBackbone(512, 512, 96))
        mapping = [count(MappingNetwork(512, c, 512, 16)) for c in (0, 198)]
    millions = [round((backbone + m + 2372) / 1e6, 2) for m in mapping]
    assert millions == [28.98, 29.35]


@pytest.mark.parametrize(("resolution", "num_ws"), [(4, 2), (8, 4), (64, 10), (512, 16)])
def test_num_ws(resolution: int, num_ws: int) -> None:
    with torch.device("meta"):
        assert TriPlaneBackbone(8, resolution, 6, 64 * 512, 4).num_ws == num_ws


def test_channels_and_outputs() -> None:
    backbone = TriPlaneBackbone(8, 16, 6, channel_base=64, channel_max=12)
    channels = [backbone.get_parameter(f"b{r}.conv1.weight").shape[0] for r in (4, 8, 16)]
    assert channels == [12, 8, 4]
    shapes = {}
    for res in (4, 8, 16):
        module = backbone.get_submodule(f"b{res}")
        module.register_forward_hook(
            lambda _m, _i, o, r=res: shapes.update({r: [tuple(t.shape) for t in o]})
        )
    planes = backbone(normal(2, 6, 8), noise_mode=NoiseMode.CONST)
    assert planes.shape == (2, 6, 16, 16)
    assert shapes == {r: [(2, c, r, r), (2, 6, r, r)] for r, c in ((4, 12), (8, 8), (16, 4))}


@pytest.mark.parametrize("use_noise", [True, False])
def test_noise_is_drawn_from_shallow_to_deep_only_in_random_mode(use_noise: bool) -> None:
    backbone = TriPlaneBackbone(8, 16, 6, 64, 8, use_noise)
    sizes = [4, 8, 8, 16, 16] if use_noise else []
    for mode in NoiseMode:
        expected = sizes if mode is NoiseMode.RANDOM else []
        draws = ReplayDraws([(f"noise {r}", normal(3, 1, r, r)) for r in expected])
        backbone(normal(3, 6, 8), noise_mode=mode, draws=draws)
        draws.finish()


def test_each_latent_reaches_its_layers() -> None:
    """conv0, conv1 and the first convolution of the next block's neighbour share as documented."""
    backbone = TriPlaneBackbone(8, 8, 6, 64, 8, use_noise=False)
    ws = normal(1, 4, 8).requires_grad_()
    outputs = {}
    for name, module in backbone.named_modules():
        if name.endswith(".affine"):
            module.register_forward_hook(lambda _m, _i, o, n=name: outputs.update({n: o}))
    backbone(ws)
    used = {}
    for name, output in outputs.items():
        (grad,) = torch.autograd.grad(output.sum(), ws, retain_graph=True)
        used[name.removesuffix(".affine")] = grad.abs().sum(dim=2).flatten().nonzero().item()
    assert used == {"b4.conv1": 0, "b4.torgb": 1, "b8.conv0": 1, "b8.conv1": 2, "b8.torgb": 3}


def test_synthesis_layer_formula() -> None:
    """Per-sample demodulated weights, noise, bias, leaky ReLU, sqrt(2), one sample at a time."""
    layer = SynthesisLayer(3, 4, 5, 6)
    layer.bias.data.copy_(normal(4, seed=3))
    layer.noise_strength.data.fill_(0.7)
    x, w, noise = normal(2, 3, 6, 6), normal(2, 5, seed=1), normal(2, 1, 6, 6, seed=2)
    ours = layer(x, w, NoiseMode.RANDOM, ReplayDraws([("noise", noise)]))
    styles = w @ layer.affine.weight.T / math.sqrt(5) + 1
    for b in range(2):
        weight = layer.weight * styles[b][None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        y = F.conv2d(x[b : b + 1], weight, layer.bias, padding=1) + 0.7 * noise[b]
        y = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
        torch.testing.assert_close(ours[b : b + 1], y, rtol=1e-4, atol=1e-5)


def test_synthesis_layer_clamps() -> None:
    layer = SynthesisLayer(3, 4, 5, 6)
    layer.bias.data.copy_(torch.tensor([1e4, -1e4, 200.0, 0.0]))
    y = layer(normal(1, 3, 6, 6), normal(1, 5), NoiseMode.NONE).detach()
    assert float(y[:, 0].min()) == 256.0
    assert float(y[:, 1].max()) == -256.0
    assert float(y[:, 2].min()) > 256.0 / math.sqrt(2)


def test_to_planes_formula() -> None:
    layer = ToPlanes(3, 4, 5)
    layer.bias.data.copy_(normal(4))
    x, w = normal(2, 3, 6, 7), normal(2, 5, seed=1)
    styles = (w @ layer.affine.weight.T / math.sqrt(5) + 1) / math.sqrt(3)
    expected = torch.einsum("bihw,oi,bi->bohw", x, layer.weight[:, :, 0, 0], styles)
    expected = expected + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-4, atol=1e-5)
    layer.bias.data.fill_(1e4)
    assert float(layer(x, w).detach().min()) == 256.0


def test_planes_are_the_sum_of_upsampled_contributions() -> None:
    """With zero output weights every block adds its bias; upsampling keeps constants inside."""
    backbone = TriPlaneBackbone(8, 16, 3, 64, 8)
    for i, res in enumerate((4, 8, 16)):
        backbone.get_parameter(f"b{res}.torgb.weight").data.zero_()
        backbone.get_parameter(f"b{res}.torgb.bias").data.fill_(10.0**i)
    planes = backbone(normal(1, 6, 8), noise_mode=NoiseMode.NONE)
    torch.testing.assert_close(planes[:, :, 6:10, 6:10], torch.full((1, 3, 4, 4), 111.0))


def test_gradients_reach_every_parameter() -> None:
    backbone = TriPlaneBackbone(8, 16, 6, 64, 8)
    backbone(normal(2, 6, 8), draws=RandomDraws(0)).square().sum().backward()
    dead = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_second_derivatives_in_w() -> None:
    """Path length regularisation differentiates |d<planes, y>/dw|^2: against finite differences."""
    backbone = TriPlaneBackbone(4, 8, 3, 32, 4).double()
    ws, y = normal(1, 4, 4).double().requires_grad_(), normal(1, 3, 8, 8).double()
    weight = backbone.get_parameter("b8.conv0.weight")

    def penalty() -> Tensor:
        planes = backbone(ws, noise_mode=NoiseMode.CONST)
        (grad,) = torch.autograd.grad((planes * y).sum(), ws, create_graph=True)
        return grad.square().sum()

    (ours,) = torch.autograd.grad(penalty(), weight)
    for index in [(0, 0, 0, 0), (1, 2, 1, 2), (3, 3, 2, 2)]:
        values = []
        for step in (1e-5, -2e-5):
            weight.data[index] += step
            values.append(float(penalty().detach()))
        weight.data[index] += 1e-5
        assert float(ours[index]) == pytest.approx(
            (values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-6
        )


def test_errors() -> None:
    with pytest.raises(ValueError, match="resolution must be a power of two >= 4, got 12"):
        TriPlaneBackbone(8, 12, 6)
    with pytest.raises(ValueError, match="channel_base 8 leaves no channels at 16"):
        TriPlaneBackbone(8, 16, 6, channel_base=8)
    backbone = TriPlaneBackbone(8, 8, 6, 64, 8)
    with pytest.raises(ValueError, match=r"ws must have shape \[B, 4, w_dim\], got \[2, 3, 8\]"):
        backbone(normal(2, 3, 8))
    with pytest.raises(ValueError, match="random noise needs draws, got None"):
        backbone(normal(2, 4, 8))


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(NoiseMode))
def test_compiled_without_a_graph_break_it_draws_and_computes_the_same(mode: NoiseMode) -> None:
    backbone = TriPlaneBackbone(8, 16, 6, channel_base=64, channel_max=12)
    for name, parameter in backbone.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.3)
    ws, parameters = normal(2, 6, 8), list(backbone.parameters())

    def planes_and_gradients() -> list[Tensor]:
        planes = backbone(ws, noise_mode=mode, draws=RandomDraws(3))
        grads = torch.autograd.grad(planes.square().sum(), parameters, allow_unused=True)
        return [planes, *(g for g in grads if g is not None)]

    expected = planes_and_gradients()
    backbone.compile_synthesis(backend="aot_eager")
    for a, b in zip(planes_and_gradients(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        compiled = backbone(ws, noise_mode=mode, draws=RandomDraws(3))
    torch.testing.assert_close(compiled, expected[0], rtol=1e-4, atol=1e-4)
