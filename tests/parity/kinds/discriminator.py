"""Discriminator cases: intermediates, logits and gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epigraf.interop.official import discriminator_state_from_official
from epigraf.models.discriminator import Discriminator
from epigraf.models.layers import ScalarEncoder
from epigraf.models.mapping import CameraEmbedding
from epigraf.rendering.patches import PatchParams
from tests.parity.case import Case
from tests.parity.report import Report

# Blocks agree to a few float32 roundings; logits are sums of products of such numbers.
RTOL_BLOCK, ATOL_LOGITS, RTOL_GRADIENT = 1e-5, 1e-4, 1e-3


def check(case: Case, report: Report) -> None:
    """Recompute the forward pass, d sum softplus(logits) / d img and the parameter gradients."""
    discriminator = _build(case)
    seen: dict[str, Tensor] = {}
    for name, module in discriminator.named_modules():
        module.register_forward_hook(_recorder(seen, name))
    img = case.tensors["in/img"].clone().requires_grad_()
    logits = _run(discriminator, case, img)
    report.compare("out/logits", logits, case.tensors["out/logits"], rtol=0.0, atol=ATOL_LOGITS)
    _check_intermediates(discriminator, case, seen, report)
    _check_gradients(discriminator, case, img, logits, report)


def _build(case: Case) -> Discriminator:
    discriminator = Discriminator(case.config())
    discriminator.load_state_dict(discriminator_state_from_official(case.prefix("D/")))
    return discriminator.train(case.info["mode"] == "train")


def _run(discriminator: Discriminator, case: Case, img: Tensor) -> Tensor:
    t, draws = case.tensors, case.draws()
    patch = None
    if "in/patch_scales" in t:
        patch = PatchParams(t["in/patch_scales"], t["in/patch_offsets"])
    logits = discriminator(img, t.get("in/c"), t.get("in/camera_angles"), patch, draws=draws)
    draws.finish()
    return logits


def _recorder(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[name] = output

    return record


def _check_intermediates(
    discriminator: Discriminator, case: Case, seen: dict[str, Tensor], report: Report
) -> None:
    if "mid/camera_emb" in case.tensors:
        seen["camera_emb"] = _camera_embedding(discriminator, case)
    if "mid/scalar_enc" in case.tensors and "scalar_enc" not in seen:
        seen["scalar_enc"] = _patch_embedding(case)
    for name, expected in case.prefix("mid/").items():
        if name in seen:
            report.compare(f"mid/{name}", seen[name], expected, rtol=RTOL_BLOCK)


def _camera_embedding(discriminator: Discriminator, case: Case) -> Tensor:
    """The recorded one is that before dropout."""
    assert discriminator.head_mapping is not None
    camera = discriminator.head_mapping.camera_scalar_enc
    assert isinstance(camera, CameraEmbedding)
    return camera.embed(case.tensors["in/camera_angles"], case.draws())


def _patch_embedding(case: Case) -> Tensor:
    """That of a discriminator which computes it and does not use it (ours then has none)."""
    encoder = ScalarEncoder(3, 1000.0, 256)
    encoder.load_state_dict(case.prefix("D/scalar_enc."))
    scales, offsets = case.tensors["in/patch_scales"], case.tensors["in/patch_offsets"]
    return encoder(torch.cat([scales[:, :1], offsets], dim=1))


def _check_gradients(
    discriminator: Discriminator, case: Case, img: Tensor, logits: Tensor, report: Report
) -> None:
    names, parameters = zip(*discriminator.named_parameters(), strict=True)
    loss = F.softplus(logits).sum()
    grads = torch.autograd.grad(loss, [img, *parameters], allow_unused=True)
    assert grads[0] is not None
    if "out/grad_img" in case.tensors:
        report.compare("out/grad_img", grads[0], case.tensors["out/grad_img"], rtol=RTOL_GRADIENT)
    norms = case.info.get("grad_norms_of_sum_softplus", {})
    for name, grad in zip(names, grads[1:], strict=True):
        if name in norms:
            ours = 0.0 if grad is None else float(grad.norm())
            report.scalar(f"grad_norm/{name}", ours, norms[name], rtol=RTOL_GRADIENT)
