"""Discriminator: conditioning, groups, blocks, parameter counts, R1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.config import Config
from epigraf.models.discriminator import (
    Discriminator,
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    MinibatchStddev,
)
from epigraf.models.resample import Resample
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.patches import PatchParams


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def config(
    resolution: int = 32,
    patch: int | None = 16,
    c_dim: int = 0,
    patch_params_cond: bool = True,
    **discriminator: Any,
) -> Config:
    size = {"cbase": 128, "fmaps": 1.0, "cmax": 8}
    patch_values = {"enabled": patch is not None, "resolution": patch or 16}
    return Config.from_dict(
        {
            "dataset": {"resolution": resolution, "c_dim": c_dim},
            "model": {"discriminator": size | discriminator},
            "training": {
                "use_labels": c_dim > 0,
                "patch": patch_values | {"patch_params_cond": patch_params_cond},
            },
        }
    )


def patches(batch: int) -> PatchParams:
    generator = torch.Generator().manual_seed(5)
    scales = 0.5 + 0.5 * torch.rand(batch, 1, generator=generator).expand(-1, 2)
    return PatchParams(scales, torch.rand(batch, 2, generator=generator) * (1 - scales))


def test_a_discriminator_that_is_told_the_yaw_only_cannot_see_the_pitch() -> None:
    told = {"camera_cond": True, "camera_cond_yaw_only": True, "hyper_mod_cond": True}
    network = Discriminator(config(**told, map_lr_multiplier=1.0)).eval()
    image, where = normal(2, 3, 16, 16), patches(2)
    angles = torch.tensor([[0.2, 1.4, 0.0], [-0.3, 1.6, 0.0]])
    logits = network(image, None, angles, where)
    higher, turned = (angles + torch.tensor([x]) for x in ([0, 0.2, 0], [0.2, 0, 0]))
    torch.testing.assert_close(network(image, None, higher, where), logits)
    difference = (network(image, None, turned, where) - logits).detach()
    assert float(difference.abs().min()) > 1e-4


@pytest.mark.parametrize(("resolution", "millions"), [(512, 27.49), (256, 27.44)])
def test_parameter_count_of_the_official_discriminator(resolution: int, millions: float) -> None:
    """The official one has a dead 1x1 convolution (4 parameters a channel) in each later block."""
    with torch.device("meta"):
        network = Discriminator(Config.from_dict({"dataset": {"resolution": resolution}}))
    ours = sum(p.numel() for p in network.parameters())
    dead = sum(4 * min(16384 // res, 512) for res in network.block_resolutions[1:])
    assert round((ours + dead) / 1e6, 2) == millions


@pytest.mark.parametrize("start_blocks", [0, 1, 2, 3])
def test_start_blocks_do_not_downsample(start_blocks: int) -> None:
    network = Discriminator(config(num_additional_start_blocks=start_blocks))
    assert network.block_resolutions == [2**i for i in range(4 + start_blocks, 2, -1)]
    sizes = []
    for res in network.block_resolutions:
        block = network.get_submodule(f"b{res}")
        block.register_forward_hook(lambda _m, _i, o: sizes.append(o.shape[2]))
    assert network(normal(4, 3, 16, 16), None, None, patches(4)).shape == (4,)
    assert sizes == [16] * start_blocks + [8, 4]


def test_start_blocks_follow_from_the_resolutions() -> None:
    assert Discriminator(config(128, 16)).block_resolutions == [128, 64, 32, 16, 8]


@pytest.mark.parametrize("c_dim", [0, 5])
@pytest.mark.parametrize("camera", [None, "raw", "fourier"])
@pytest.mark.parametrize("hyper_mod", [True, False])
@pytest.mark.parametrize("patch", [16, None])
def test_conditions(c_dim: int, camera: str | None, hyper_mod: bool, patch: int | None) -> None:
    """Every condition that exists, and no other, moves the logits."""
    torch.manual_seed(0)
    cfg = config(
        16 if patch is None else 32,
        patch,
        c_dim,
        hyper_mod=hyper_mod,
        camera_cond=camera is not None,
        camera_cond_raw=camera == "raw",
        num_additional_start_blocks=0,
    )
    network = Discriminator(cfg)
    width = c_dim + (828 if hyper_mod and patch else 0) + {None: 0, "raw": 2, "fourier": 24}[camera]
    assert (network.head_mapping is None) == (width == 0)
    if network.head_mapping is not None and network.head_mapping.embed is not None:
        assert network.head_mapping.embed.weight.shape[1] == width
    assert network.b4.out.weight.shape[0] == (8 if width else 1)
    img, labels = normal(4, 3, 16, 16), torch.eye(5)[[0, 1, 2, 3]] if c_dim else torch.zeros(4, 0)
    cameras, place = torch.rand(4, 3) + 0.5, patches(4)
    logits = network(img, labels, cameras, place)
    other_labels = labels.roll(1, 1)
    moved = PatchParams(place.scales, place.offsets * 0.5)
    assert (not torch.equal(logits, network(img, other_labels, cameras, place))) == (c_dim > 0)
    assert (not torch.equal(logits, network(img, labels, cameras * 1.1, place))) == bool(camera)
    conditioned = bool(hyper_mod and patch)
    assert (not torch.equal(logits, network(img, labels, cameras, moved))) == conditioned


def test_patch_conditioning_can_be_switched_off() -> None:
    network = Discriminator(config(patch_params_cond=False))
    assert network.scalar_enc is None
    assert network.head_mapping is None
    assert network(normal(4, 3, 16, 16)).shape == (4,)


def test_state_names() -> None:
    """Those of the official state dict, without buffers of the filter and dead layers."""
    names = {
        name.split(".weight")[0].split(".bias")[0] for name in Discriminator(config()).state_dict()
    }
    mappings = {
        f"{m}.{k}" for m in ("hyper_mod_mapping", "head_mapping") for k in ("embed", "fc0", "fc1")
    }
    blocks = {f"b{r}.{k}" for r in (32, 16, 8) for k in ("conv0", "conv1", "conv1.affine", "skip")}
    others = {"b32.fromrgb", "b4.conv", "b4.fc", "b4.out"}
    encoder = {"scalar_enc.const_embed", "scalar_enc.fourier_encoder.fourier_coefs"}
    assert names == mappings | blocks | others | encoder


@pytest.mark.parametrize(("batch", "group"), [(8, 4), (4, 4), (2, 4), (1, 4), (6, 3), (3, 1)])
def test_minibatch_stddev_against_a_loop(batch: int, group: int) -> None:
    x = normal(batch, 3, 2, 2)
    y = MinibatchStddev(group)(x)
    members = min(group, batch)
    groups = batch // members
    torch.testing.assert_close(y[:, :3], x)
    for b in range(batch):
        same = [x[i] for i in range(batch) if i % groups == b % groups]
        assert len(same) == members
        total = 0.0
        for c in range(3):
            for h in range(2):
                for w in range(2):
                    values = [float(image[c, h, w]) for image in same]
                    mean = sum(values) / members
                    variance = sum((v - mean) ** 2 for v in values) / members
                    total += math.sqrt(variance + 1e-8)
        torch.testing.assert_close(y[b, 3], torch.full((2, 2), total / 12))


def test_minibatch_stddev_needs_whole_groups() -> None:
    message = "the batch must be a multiple of the group size 4, got 6"
    with pytest.raises(ValueError, match=message):
        MinibatchStddev(4)(normal(6, 3, 2, 2))


def leaky(x: Tensor, gain: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2) * gain


@pytest.mark.parametrize("hyper_dim", [0, 5])
def test_block_formula(hyper_dim: int) -> None:
    """conv1(modulated conv0) + skip, both times sqrt(1/2)."""
    block = DiscriminatorBlock(4, 6, 0, hyper_dim, Resample.NONE)
    for name in ("conv0.bias", "conv1.bias"):
        parameter = block.get_parameter(name)
        parameter.data.copy_(normal(len(parameter)))
    x, h = normal(2, 4, 6, 6), normal(2, hyper_dim, seed=1) if hyper_dim else None
    y = leaky(F.conv2d(x, block.conv0.weight / 6, block.conv0.bias, padding=1))
    if h is not None:
        affine = block.conv1.get_submodule("affine")
        factor = h @ affine.get_parameter("weight").T / math.sqrt(5) + affine.get_parameter("bias")
        y = y * (1 + torch.tanh(factor))[:, :, None, None]
    y = leaky(F.conv2d(y, block.conv1.weight / 6, block.conv1.bias, padding=1), math.sqrt(0.5))
    expected = y + F.conv2d(x, block.skip.weight / 2) * math.sqrt(0.5)
    torch.testing.assert_close(block(x, h), expected, rtol=1e-4, atol=1e-5)


def test_epilogue_formula() -> None:
    epilogue = DiscriminatorEpilogue(3, 5, 2)
    x, cmap = normal(4, 3, 4, 4), normal(4, 5)
    y = leaky(F.conv2d(MinibatchStddev(2)(x), epilogue.conv.weight / 6, padding=1))
    y = leaky(y.flatten(1) @ epilogue.fc.weight.T / math.sqrt(48))
    y = y @ epilogue.out.weight.T / math.sqrt(3)
    expected = (y * cmap).sum(dim=1) / math.sqrt(5)
    torch.testing.assert_close(epilogue(x, cmap), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    network = Discriminator(config(c_dim=3, camera_cond=True))
    args = (torch.eye(3)[[0, 1, 2, 0]], torch.rand(4, 3), patches(4))
    network(normal(4, 3, 16, 16), *args).square().sum().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_r1_against_finite_differences() -> None:
    """d/dw of |d sum(logits)/d img|^2, in double."""
    torch.manual_seed(0)
    network = Discriminator(config(resolution=16, patch=8)).double()
    img = normal(2, 3, 8, 8).double().requires_grad_()
    place = PatchParams(*(t.double() for t in (patches(2).scales, patches(2).offsets)))

    def penalty() -> Tensor:
        logits = network(img, None, None, place)
        (grad,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
        return grad.square().sum()

    names = ["b16.fromrgb.weight", "b16.conv1.weight", "b8.conv1.weight", "b8.skip.weight"]
    names += ["b8.conv1.affine.bias", "b4.conv.weight", "b4.fc.bias"]
    weights = [network.get_parameter(name) for name in names]
    for weight, grad in zip(weights, torch.autograd.grad(penalty(), weights), strict=True):
        flat = weight.data.view(-1)
        for index in (0, len(flat) // 2):
            flat[index] += 1e-6
            above = float(penalty().detach())
            flat[index] -= 2e-6
            below = float(penalty().detach())
            flat[index] += 1e-6
            expected = (above - below) / 2e-6
            assert float(grad.flatten()[index]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_camera_noise_and_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    cfg = config(camera_cond=True, camera_cond_noise_std=0.5, camera_cond_drop_p=0.5)
    network, img, place = Discriminator(cfg), normal(4, 3, 16, 16), patches(4)
    cameras = torch.rand(4, 3)
    first, second = (network(img, None, cameras, place, draws=RandomDraws(s)) for s in (0, 1))
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(network(img, None, cameras, place), network(img, None, cameras, place))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"img": normal(4, 3, 8, 8)},
            r"img must have shape \[B, 3, 16, 16\], got \[4, 3, 8, 8\]",
        ),
        ({"patch": None}, "patch conditioning needs patch parameters, got None"),
        ({"camera_angles": None}, "camera conditioning needs camera_angles"),
        ({"c": None}, r"c must have shape \[B, 3\], got None"),
        ({"c": torch.eye(4)}, r"c must have shape \[B, 3\], got \[4, 4\]"),
    ],
)
def test_wrong_inputs(kwargs: dict[str, Any], message: str) -> None:
    network = Discriminator(config(c_dim=3, camera_cond=True))
    good = {
        "img": normal(4, 3, 16, 16),
        "c": torch.eye(3)[[0, 1, 2, 0]],
        "camera_angles": torch.rand(4, 3),
        "patch": patches(4),
    }
    with pytest.raises(ValueError, match=message):
        network(**(good | kwargs))


def test_too_few_channels() -> None:
    with pytest.raises(ValueError, match="leaves no channels at 32; raise"):
        Discriminator(config(cbase=16))


SHORT_RUN = [
    "dataset.resolution=32",
    "training.patch.resolution=16",
    "training.use_labels=true",
    "dataset.c_dim=3",
    "model.discriminator.cmax=16",
    "model.discriminator.camera_cond=true",
    "model.discriminator.patch_multiplier=8",
    "model.discriminator.patch_const_dim=0",
    "model.discriminator.normalize_cond=true",
    "model.discriminator.hyper_mod_cond=true",
]


def _judge_short(d: Discriminator, label: int, yaw: float, scale: float) -> float:
    d.double().eval()
    image = torch.linspace(-1, 1, 3 * 16 * 16, dtype=torch.float64).sin().view(1, 3, 16, 16)
    patch = PatchParams(torch.full((1, 2), scale), torch.full((1, 2), 0.1))
    angles = torch.tensor([[yaw, 1.5, 0.0]])
    patch = PatchParams(patch.scales.double(), patch.offsets.double())
    with torch.no_grad():
        return float(d(image, torch.eye(3).double()[[label]], angles.double(), patch))


def test_conditions_of_short_runs_weigh_the_same():
    torch.manual_seed(0)
    d = Discriminator(Config().with_overrides(SHORT_RUN))
    assert d.scalar_enc is not None
    assert d.scalar_enc.dim == 3 * 2 * 3
    seen: list[torch.Tensor] = []
    assert d.head_mapping is not None
    assert d.head_mapping.embed is not None
    hook = d.head_mapping.embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    _judge_short(d, 1, 0.7, 0.6)
    hook.remove()
    for part in seen[0][0].split([3, 18, 24]):  # label, patch, camera
        torch.testing.assert_close(part.square().mean().item(), 1.0, rtol=1e-6, atol=0)


def test_label_and_camera_modulate_features_in_short_runs():
    torch.manual_seed(0)
    d = Discriminator(Config().with_overrides(SHORT_RUN))
    torch.nn.init.zeros_(d.b4.out.weight)  # leaves the projection nothing but the bias ...
    torch.nn.init.zeros_(d.b4.out.bias)
    assert _judge_short(d, 0, 0.1, 0.6) == 0.0
    outputs: list[torch.Tensor] = []
    d.b8.register_forward_hook(lambda *args: outputs.append(args[2].detach()))
    for label, yaw, scale in ((0, 0.1, 0.6), (1, 0.1, 0.6), (0, 0.9, 0.6), (0, 0.1, 0.9)):
        _judge_short(d, label, yaw, scale)
    for changed in outputs[1:]:  # ... and yet each condition changes the features
        assert not torch.allclose(outputs[0], changed, rtol=1e-3)


def test_without_patches_label_and_camera_can_still_modulate():
    d = Discriminator(Config().with_overrides([*SHORT_RUN, "training.patch.enabled=false"]))
    assert d.scalar_enc is None
    assert d.hyper_mod_mapping is not None
    logits = d(torch.randn(2, 3, 32, 32), torch.eye(3)[:2], torch.zeros(2, 3) + 1)
    assert logits.shape == (2,)


def test_identity_modulation_starts_as_no_modulation():
    d = Discriminator(
        Config().with_overrides([*SHORT_RUN, "model.discriminator.hyper_mod_identity=true"])
    )
    outputs: list[torch.Tensor] = []
    d.b8.register_forward_hook(lambda *args: outputs.append(args[2].detach()))
    for label, yaw, scale in ((0, 0.1, 0.6), (2, -2.0, 0.9)):
        _judge_short(d, label, yaw, scale)
    assert torch.equal(*outputs)


def test_camera_multiplier_sets_the_octaves():
    overrides = [*SHORT_RUN, "model.discriminator.camera_multiplier=8"]
    head = Discriminator(Config().with_overrides(overrides)).head_mapping
    assert head is not None
    assert head.camera_scalar_enc is not None
    assert head.camera_scalar_enc.dim == 2 * 2 * 3  # yaw and pitch, sin and cos, log2(8) octaves


def scores_and_gradients(precision: str) -> tuple[Tensor, Tensor, Tensor, Discriminator]:
    """Logits, the gradient of the image with its R1 penalty's for one weight, and the network."""
    values = config(cbase=1024, cmax=32).to_dict()
    values["training"]["precision"] = precision
    torch.manual_seed(0)
    network = Discriminator(Config.from_dict(values))
    image = normal(4, 3, 16, 16, seed=1).requires_grad_()
    logits = network(image, patch=patches(4))
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    gradient.square().sum().backward()
    weight_gradient = network.get_parameter("b32.conv0.weight").grad
    assert weight_gradient is not None
    return logits.detach(), gradient.detach(), weight_gradient, network


# Without loss scaling (as official) gradients below 6e-5 lose bits of float16's.
@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.05), ("bf16", 0.2)])
def test_low_precision_blocks_stay_within_their_rounding(precision: str, tolerance: float) -> None:
    exact = scores_and_gradients("fp32")
    rounded = scores_and_gradients(precision)
    dtypes: list[torch.dtype] = []
    network = rounded[3]
    for res in network.block_resolutions:
        block = network.get_submodule(f"b{res}")
        block.register_forward_hook(lambda _m, _i, y: dtypes.append(y.dtype))
    network(normal(4, 3, 16, 16, seed=1), patch=patches(4))
    low = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    assert dtypes == [low] * len(network.block_resolutions)
    for name, a, b in zip(("logits", "image", "weight"), exact, rounded, strict=False):
        assert b.dtype is torch.float32
        assert float((a - b).norm() / a.norm()) < tolerance, name


def test_the_four_largest_blocks_alone_are_in_low_precision() -> None:
    values = config(resolution=256, patch=64, cbase=2048).to_dict()
    values["training"]["precision"] = "bf16"
    network = Discriminator(Config.from_dict(values))
    blocks = [network.get_submodule(f"b{res}") for res in network.block_resolutions]
    assert [b.dtype for b in blocks] == [torch.bfloat16] * 4 + [None] * (len(blocks) - 4)
    assert len(blocks) > 4
