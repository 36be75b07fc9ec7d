"""Discriminator cases that the fixtures do not contain: without hyper-modulation, with labels or
raw cameras, batches below the group size, whole images. Expected values in float64, from the
formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from epigraf.interop.official import config_from_official
from epigraf.models.discriminator import Discriminator
from tests.parity.__main__ import check_case
from tests.parity.case import load_case
from tests.parity.oracle import Weights, camera_turns, encode, linear, unit_mean_square
from tests.parity.report import Report

BASE = Path(__file__).parents[1] / "golden" / "b_gen_patch.json"
SIDE, CHANNELS = 8, 6
CASES: dict[str, dict[str, Any]] = {
    "raw_camera_no_hyper_mod": {"hyper_mod": False, "camera": "raw", "batch": 3},
    "labels_no_hyper_mod": {"hyper_mod": False, "labels": 4, "batch": 6, "group": 3},
    "labels_camera_hyper_mod": {"labels": 3, "camera": "fourier", "batch": 2},
    "whole_images": {"hyper_mod": False, "patch": False, "batch": 4, "start": 0},
    "whole_images_labels": {"hyper_mod": False, "patch": False, "labels": 2, "batch": 1},
}


def fir(x: Tensor, pad: int) -> Tensor:
    """The 4x4 binomial filter, zeros beyond the border."""
    taps = torch.tensor([1.0, 3, 3, 1], dtype=x.dtype) / 8
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, [pad] * 4), kernel, groups=x.shape[1])


def conv(w: Weights, name: str, x: Tensor, down: bool, gain: float, lrelu: bool = True) -> Tensor:
    weight = w[f"{name}.weight"]
    size = weight.shape[-1]
    weight = weight / math.sqrt(weight[0].numel())
    if down and size == 3:
        y = F.conv2d(fir(x, 2), weight, stride=2)
    elif down:
        y = F.conv2d(fir(x, 1)[:, :, ::2, ::2], weight)
    else:
        y = F.conv2d(x, weight, padding=size // 2)
    if not lrelu:
        return y * gain
    y = y + w[f"{name}.bias"][:, None, None]
    return torch.where(y < 0, 0.2 * y, y) * (math.sqrt(2) * gain)


def condition_net(w: Weights, name: str, x: Tensor) -> Tensor:
    x = unit_mean_square(linear(w, f"{name}.embed", x))
    for i in range(2):
        x = linear(w, f"{name}.fc{i}", x, lrelu=True, m=0.01)
    return x


def logits(w: Weights, img: Tensor, conditions: list[Tensor], patch: Tensor | None, group: int,
           blocks: list[tuple[int, bool]]) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Scores [B] and intermediates; `patch` [B, 828] modulates."""
    seen: dict[str, Tensor] = {}
    x, h = img, None
    if patch is not None:
        h = seen["hyper_mod_mapping"] = condition_net(w, "hyper_mod_mapping", patch)
    for index, (res, down) in enumerate(blocks):
        name = f"b{res}"
        x = conv(w, f"{name}.fromrgb", x, False, 1) if index == 0 else x
        skip = conv(w, f"{name}.skip", x, down, math.sqrt(0.5), lrelu=False)
        y = conv(w, f"{name}.conv0", x, False, 1)
        if h is not None:
            y = y * (1 + linear(w, f"{name}.conv1.affine", h).tanh())[:, :, None, None]
        x = seen[name] = skip + conv(w, f"{name}.conv1", y, down, math.sqrt(0.5))
    group, batch = min(group, len(x)), len(x)
    spread = torch.zeros(batch, 1, 4, 4, dtype=x.dtype)
    for first in range(batch // group):
        members = list(range(first, batch, batch // group))
        variance = x[members].var(dim=0, unbiased=False)
        spread[members] = (variance + 1e-8).sqrt().mean()
    seen["b4.mbstd"] = torch.cat([x, spread], dim=1)
    x = conv(w, "b4.conv", seen["b4.mbstd"], False, 1).flatten(1)
    x = seen["b4.out"] = linear(w, "b4.out", linear(w, "b4.fc", x, lrelu=True))
    if not conditions:
        return x[:, 0], seen
    cmap = seen["head_mapping"] = condition_net(w, "head_mapping", torch.cat(conditions, dim=1))
    return (x * cmap).sum(dim=1) / math.sqrt(cmap.shape[1]), seen


def make_tree(options: dict[str, Any]) -> dict[str, Any]:
    tree = json.loads(BASE.read_text(encoding="utf-8"))["config"]
    patch, enabled = tree["training"]["patch"], options.get("patch", True)
    patch.update(enabled=enabled, patch_params_cond=enabled, resolution=SIDE if enabled else 64)
    patch["min_scale_trg"] = 0.5 if enabled else 4.0
    tree["dataset"].update(resolution=16 if enabled else SIDE)
    camera = options.get("camera")
    tree["model"]["discriminator"].update(
        cmax=CHANNELS, camera_cond=camera is not None, camera_cond_raw=camera == "raw",
        hyper_mod=options.get("hyper_mod", True), mbstd_group_size=options.get("group", 4),
        num_additional_start_blocks=1 if enabled else 0,
    )  # fmt: skip
    return tree


@pytest.mark.parametrize("name", CASES)
def test_discriminator(name: str, tmp_path: Path) -> None:
    options, batch = CASES[name], CASES[name]["batch"]
    enabled, hyper = options.get("patch", True), options.get("hyper_mod", True)
    tree = make_tree(options)
    torch.manual_seed(batch)
    labels = torch.eye(4)[:batch, : options.get("labels", 0)].contiguous()
    labels = F.pad(labels, (0, 0, 0, batch - len(labels)))
    fitting = {**tree, "training": {**tree["training"], "batch_size": options.get("group", 4)}}
    model = Discriminator(config_from_official(fitting, c_dim=labels.shape[1]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if enabled and not hyper:  # the official network embeds patches all the same
        state["scalar_enc.const_embed.weight"] = torch.randn(1001, 256)
        state["scalar_enc.fourier_encoder.fourier_coefs"] = (
            2.0 ** torch.arange(10) * torch.pi / 1024
        )
    smaller = [key for key in state if key.endswith(".conv0.weight")]
    for key in smaller:  # and each of its blocks has a fromrgb
        rgb = key.replace("conv0", "fromrgb")
        state.setdefault(rgb, torch.randn(state[key].shape[0], 3, 1, 1))
        state.setdefault(rgb.replace("weight", "bias"), torch.zeros(state[key].shape[0]))
    w = {key: value.double() for key, value in state.items()}

    angles = torch.tensor([[0.1, 1.5, 0.0]]) + torch.rand(batch, 3)
    tensors = {f"D/{key}": value.contiguous() for key, value in state.items()}
    tensors |= {"in/c": labels, "in/camera_angles": angles}
    img = torch.randn(batch, 3, SIDE, SIDE)
    conditions = [labels.double()] if labels.shape[1] else []
    patch, expected = None, {}
    if enabled:
        # Small ones: float32 loses as many ulps of a sine as its argument has radians.
        scales, offsets = torch.rand(batch, 1).expand(-1, 2) * 0.02, torch.rand(batch, 2) * 0.02
        tensors |= {"in/patch_scales": scales.contiguous(), "in/patch_offsets": offsets}
        place = torch.cat([scales[:, :1], offsets], dim=1).double()
        waves = encode(place, 1000.0).unflatten(1, (3, 20))
        table = w["scalar_enc.const_embed.weight"][(place * 1000).round().long()]
        expected["scalar_enc"] = torch.cat([waves, table], dim=-1).flatten(1)
    if hyper:
        patch = expected["scalar_enc"]
        conditions.append(patch)
    if "camera" in options:
        turns = camera_turns(angles.double())
        expected["camera_emb"] = turns if options["camera"] == "raw" else encode(turns, 64.0)
        conditions.append(expected["camera_emb"])
    blocks = [(16, False), (8, True)] if enabled else [(8, True)]
    at = img.double().requires_grad_()
    out, seen = logits(w, at, conditions, patch, options.get("group", 4), blocks)
    (slope,) = torch.autograd.grad(F.softplus(out).sum(), at)
    expected |= {f"mid/{key}": value for key, value in seen.items()}
    for key, value in {**expected, "out/logits": out, "out/grad_img": slope}.items():
        full = key if "/" in key else f"mid/{key}"
        tensors[full] = value.detach().float().contiguous()
    tensors["in/img"] = img
    info = {"kind": "discriminator", "mode": "eval", "config": tree, "draws": []}
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(info), encoding="utf-8")
    save_file(tensors, path.with_suffix(".safetensors"))
    lines: list[str] = []
    report = Report(write=lines.append)
    check_case(load_case(path), report)
    assert report.failed == 0, "\n".join(lines)
    assert report.passed >= 5
