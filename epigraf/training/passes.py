"""Forward and backward passes of the objective: render, show, score, differentiate.

Legend: B batch, C channels, H W image size, r patch side, L styles. Angles: (yaw, pitch, roll) in
radians. Every pass draws its own latents, patches and noise from the run's `draws`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from epigraf.data.images import Batch
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import View
from epigraf.rendering.patches import PatchParams, extract_patches, sample_patch_params
from epigraf.training import losses
from epigraf.training.schedules import Schedule
from epigraf.training.state import State


@dataclass(frozen=True)
class FakeInputs:
    """What fakes are made of: z [B, Z], labels [B, K], render angles [B, 3] and the angles that the
    generator is conditioned on [B, 3] (None without camera conditioning)."""

    z: Tensor
    labels: Tensor
    angles: Tensor
    angles_cond: Tensor | None

    def __getitem__(self, part: slice) -> FakeInputs:
        cond = None if self.angles_cond is None else self.angles_cond[part]
        return FakeInputs(self.z[part], self.labels[part], self.angles[part], cond)


@dataclass(frozen=True)
class Judged:
    """What the discriminator saw, before blur and augmentation, and its scores [B]."""

    images: Tensor
    patch: PatchParams | None
    logits: Tensor


@dataclass
class Pass:
    """The outcome of one pass: per-sample numbers by name, and what was judged."""

    numbers: dict[str, Tensor] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)


@dataclass(frozen=True)
class Fakes:
    """Rendered patches [B, 3, r, r], their styles [B, L, W] and all that D is told of them."""

    images: Tensor
    ws: Tensor
    patch: PatchParams | None
    inputs: FakeInputs


def _draw_patch(state: State, n: int, schedule: Schedule) -> PatchParams | None:
    patch = state.cfg.training.patch
    if not patch.enabled:
        return None
    group = min(state.cfg.model.discriminator.mbstd_group_size, n)
    drawn = sample_patch_params(
        patch,
        n,
        group,
        schedule.patch_min_scale,
        schedule.patch_beta,
        draws=state.draws,
    )
    return drawn.to(state.device)


def render_fakes(
    state: State,
    inputs: FakeInputs,
    schedule: Schedule,
    *,
    update_w_avg: bool = False,
    second_order: bool = False,
) -> Fakes:
    """Map and render fresh patches; `second_order` where their gradients are differentiated."""
    generator = state.generator
    ws = generator.mapping(
        inputs.z,
        inputs.labels,
        inputs.angles_cond,
        update_w_avg=update_w_avg,
        draws=state.draws,
    )
    patch = _draw_patch(state, len(inputs.z), schedule)
    view = View(
        patch=patch,
        density_noise_std=schedule.density_noise_std,
        max_rays=len(ws) * state.cfg.train_resolution**2,  # in one go, with or without gradients
        second_order=second_order,
    )
    image = generator.synthesis(
        ws, inputs.angles, view, noise_mode=NoiseMode.RANDOM, draws=state.draws
    ).image
    return Fakes(image, ws, patch, inputs)


def fresh_fakes(state: State, inputs: FakeInputs, schedule: Schedule) -> Fakes:
    """Fakes for the discriminator: no gradients, and the styles enter the running mean."""
    with torch.no_grad():
        return render_fakes(state, inputs, schedule, update_w_avg=True)


def _cut_reals(state: State, reals: Batch, schedule: Schedule) -> tuple[Tensor, PatchParams | None]:
    patch = _draw_patch(state, len(reals.images), schedule)
    if patch is None:
        return reals.images, None
    return extract_patches(reals.images, patch, state.cfg.training.patch.resolution), patch


def _judge(
    state: State,
    images: Tensor,
    patch: PatchParams | None,
    told: FakeInputs | Batch,
    schedule: Schedule,
) -> Judged:
    """Blur, augment and score images; the discriminator is told label, camera and patch."""
    seen = losses.blur(images, schedule.blur_sigma)
    if state.augment is not None:
        seen = state.augment(seen, state.counters.augment_p, draws=state.draws)
    logits = state.discriminator(seen, told.labels, told.angles, patch, draws=state.draws)
    return Judged(images, patch, logits)


def _scores(kind: str, logits: Tensor) -> dict[str, Tensor]:
    logits = logits.detach()
    return {f"Loss/scores/{kind}": logits, f"Loss/signs/{kind}": logits.sign()}


def generator_pass(
    state: State, inputs: FakeInputs, schedule: Schedule, weight: float = 1.0
) -> tuple[Pass, Fakes]:
    """Gmain: fakes, scores, loss; adds the gradients of the mean loss times `weight`."""
    reuse = state.cfg.training.reuse_fakes
    fakes = render_fakes(state, inputs, schedule, update_w_avg=reuse)
    judged = _judge(state, fakes.images, fakes.patch, inputs, schedule)
    loss = losses.generator_loss(judged.logits)
    loss.mean().mul(weight).backward()
    numbers = _scores("fake", judged.logits) | {"Loss/G/loss": loss.detach()}
    return Pass(numbers, [judged]), fakes


def path_length_pass(
    state: State, inputs: FakeInputs, schedule: Schedule, weight: float = 1.0
) -> Pass:
    """Greg: path-length regularisation on a part of the batch; needs second derivatives."""
    loss_cfg = state.cfg.model.loss_kwargs
    part = inputs[: max(len(inputs.z) // loss_cfg.pl_batch_shrink, 1)]
    fakes = render_fakes(state, part, schedule, second_order=True)
    noise = state.draws.normal("path_length", tuple(fakes.images.shape), fakes.images)
    lengths = losses.path_lengths(fakes.images, fakes.ws, noise)
    penalty, state.path_length_mean = losses.path_length_penalty(
        lengths, state.path_length_mean, loss_cfg.pl_decay
    )
    loss = penalty * loss_cfg.pl_weight
    loss.mean().mul(weight).backward()
    return Pass({"Loss/pl_penalty": penalty.detach(), "Loss/G/reg": loss.detach()})


def discriminator_pass(
    state: State, fakes: Fakes, reals: Batch, schedule: Schedule, weight: float = 1.0
) -> Pass:
    """Dmain: scores of detached fakes and of patches of the reals, each with its own backward."""
    told_fake = fakes.inputs
    fake = _judge(state, fakes.images.detach(), fakes.patch, told_fake, schedule)
    fake_loss = losses.discriminator_fake_loss(fake.logits)
    fake_loss.mean().mul(weight).backward()
    images, patch = _cut_reals(state, reals, schedule)
    real = _judge(state, images, patch, reals, schedule)
    real_loss = losses.discriminator_real_loss(real.logits)
    real_loss.mean().mul(weight).backward()
    numbers = _scores("fake", fake.logits) | _scores("real", real.logits)
    return Pass(numbers | {"Loss/D/loss": (fake_loss + real_loss).detach()}, [fake, real])


def r1_pass(state: State, reals: Batch, schedule: Schedule, weight: float = 1.0) -> Pass:
    """Dreg: gamma/2 times the squared gradient at the real patches, taken before blur and ADA."""
    images, patch = _cut_reals(state, reals, schedule)
    images = images.detach().requires_grad_(True)
    real = _judge(state, images, patch, reals, schedule)
    penalty = losses.r1_penalty(real.logits, images)
    loss = penalty * (state.cfg.gamma / 2)
    loss.mean().mul(weight).backward()
    numbers = {"Loss/D/r1_penalty": penalty.detach(), "Loss/D/reg": loss.detach()}
    return Pass(_scores("real", real.logits) | numbers, [real])
