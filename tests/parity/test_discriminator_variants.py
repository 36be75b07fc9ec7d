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


def weights(tree: dict[str, Any], c_dim: int, group: int) -> dict[str, Tensor]:
    """An official state: ours, and what acts nowhere."""
    fitting = {**tree, "training": {**tree["training"], "batch_size": group}}
    model = Discriminator(config_from_official(fitting, c_dim=c_dim))
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in model.named_parameters()}
    state |= dict(model.named_buffers())
    if tree["training"]["patch"]["patch_params_cond"]:  # embeds patches even for nobody
        freqs = 2.0 ** torch.arange(10) * torch.pi / 1024
        state.setdefault("scalar_enc.const_embed.weight", torch.randn(1001, 256))
        state.setdefault("scalar_enc.fourier_encoder.fourier_coefs", freqs)
    for key in [k for k in state if k.endswith(".conv0.weight")]:  # every block has a fromrgb
        rgb, channels = key.replace("conv0", "fromrgb"), len(state[key])
        state.setdefault(rgb, torch.randn(channels, 3, 1, 1))
        state.setdefault(rgb.replace("weight", "bias"), torch.zeros(channels))
    return {k: v.detach().clone() for k, v in state.items()}


def patch_embedding(w: Weights, scales: Tensor, offsets: Tensor) -> Tensor:
    place = torch.cat([scales[:, :1], offsets], dim=1).double()
    waves = encode(place, 1000.0).unflatten(1, (3, 20))
    table = w["scalar_enc.const_embed.weight"][(place * 1000).round().long()]
    return torch.cat([waves, table], dim=-1).flatten(1)


def inputs(options: dict[str, Any]) -> dict[str, Tensor]:
    batch, labels = options["batch"], torch.zeros(options["batch"], options.get("labels", 0))
    if labels.shape[1]:
        labels[torch.arange(batch), torch.arange(batch) % labels.shape[1]] = 1
    given = {"in/c": labels, "in/img": torch.randn(batch, 3, SIDE, SIDE)}
    given["in/camera_angles"] = torch.tensor([[0.1, 1.5, 0.0]]) + torch.rand(batch, 3)
    if options.get("patch", True):
        # Small ones: float32 loses as many ulps of a sine as its argument has radians.
        given["in/patch_scales"] = (torch.rand(batch, 1) * 0.02).repeat(1, 2)
        given["in/patch_offsets"] = torch.rand(batch, 2) * 0.02
    return given


def expected(w: Weights, given: dict[str, Tensor], options: dict[str, Any]) -> dict[str, Tensor]:
    """All mid/* and out/*."""
    seen: dict[str, Tensor] = {}
    conditions = [given["in/c"].double()] if given["in/c"].shape[1] else []
    patch, blocks = None, [(8, True)]
    if "in/patch_scales" in given:
        blocks = [(16, False), (8, True)]
        places = given["in/patch_scales"], given["in/patch_offsets"]
        seen["scalar_enc"] = patch_embedding(w, *places)
        patch = seen["scalar_enc"] if options.get("hyper_mod", True) else None
    conditions += [] if patch is None else [patch]
    if camera := options.get("camera"):
        turns = camera_turns(given["in/camera_angles"].double())
        seen["camera_emb"] = turns if camera == "raw" else encode(turns, 64.0)
        conditions.append(seen["camera_emb"])
    img = given["in/img"].double().requires_grad_()
    out, inner = logits(w, img, conditions, patch, options.get("group", 4), blocks)
    (slope,) = torch.autograd.grad(F.softplus(out).sum(), img)
    found = {f"mid/{name}": value for name, value in (seen | inner).items()}
    found |= {"out/logits": out, "out/grad_img": slope}
    return {name: value.detach().float().contiguous() for name, value in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_discriminator(name: str, tmp_path: Path) -> None:
    options = CASES[name]
    torch.manual_seed(options["batch"])
    tree, given = make_tree(options), inputs(options)
    state = weights(tree, given["in/c"].shape[1], options.get("group", 4))
    found = expected({k: v.double() for k, v in state.items()}, given, options)
    path = tmp_path / f"{name}.json"
    info = {"kind": "discriminator", "mode": "eval", "config": tree, "draws": []}
    path.write_text(json.dumps(info), encoding="utf-8")
    tensors = {f"D/{k}": v for k, v in state.items()} | given | found
    save_file(tensors, path.with_suffix(".safetensors"))
    lines: list[str] = []
    report = Report(write=lines.append)
    check_case(load_case(path), report)
    assert report.failed == 0, "\n".join(lines)
    assert report.passed >= 5
