"""Forward and backward passes of the objective: render, show, score, differentiate.

Legend: B batch, N objects (latents; B unless each is seen several times), C channels, H W image
size, r patch side, L styles. Angles: (yaw, pitch, roll) in radians. Every pass draws its own
latents, patches and noise from the run's `draws`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from epigraf.config import LossName
from epigraf.data.images import Batch
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import View
from epigraf.ops.weight_sums import summed_weight_gradients
from epigraf.rendering.patches import PatchParams, extract_patches, sample_patch_params
from epigraf.training import losses
from epigraf.training.schedules import Schedule
from epigraf.training.state import State


@dataclass(frozen=True)
class FakeInputs:
    """What fakes are made of: z [N, Z], labels [B, K], render angles [B, 3] and the angles that the
    generator is conditioned on [N, 3] (None without camera conditioning).

    The B / N patches of an object are neighbours and have its label.
    """

    z: Tensor
    labels: Tensor
    angles: Tensor
    angles_cond: Tensor | None

    @property
    def views(self) -> int:
        """Patches of each object, B / N."""
        return len(self.angles) // max(len(self.z), 1)

    def __getitem__(self, part: slice) -> FakeInputs:
        """Patches `part` (of step 1) of whole objects."""
        start, stop, _ = part.indices(len(self.angles))
        objects = slice(start // self.views, stop // self.views)
        cond = None if self.angles_cond is None else self.angles_cond[objects]
        return FakeInputs(self.z[objects], self.labels[part], self.angles[part], cond)

    def one_view(self) -> FakeInputs:
        """The first patch of each object."""
        step = self.views
        return FakeInputs(self.z, self.labels[::step], self.angles[::step], self.angles_cond)


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
    """Rendered patches [B, 3, r, r], the objects' styles [N, L, W] and all that D is told."""

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
    skip_empty: bool = False,
) -> Fakes:
    """Map and render fresh patches; `second_order` where their gradients are differentiated,
    `skip_empty` leaves the empty parts of the scenes out (without gradients)."""
    generator = state.generator
    ws = generator.mapping(
        inputs.z,
        inputs.labels[:: inputs.views],
        inputs.angles_cond,
        update_w_avg=update_w_avg,
        draws=state.draws,
    )
    patch = _draw_patch(state, len(inputs.angles), schedule)
    view = View(
        patch=patch,
        density_noise_std=schedule.density_noise_std,
        max_rays=len(inputs.angles)
        * state.cfg.train_resolution**2,  # in one go, with or without gradients
        second_order=second_order,
        skip_empty=skip_empty,
    )
    image = generator.synthesis(
        ws, inputs.angles, view, noise_mode=NoiseMode.RANDOM, draws=state.draws
    ).image
    return Fakes(image, ws, patch, inputs)


def fresh_fakes(state: State, inputs: FakeInputs, schedule: Schedule) -> Fakes:
    """Fakes for the discriminator: no gradients, and the styles enter the running mean.

    With `training.occupancy_fakes` empty space is left out, once raw densities are without noise,
    which would have filled it.
    """
    skip = state.cfg.training.occupancy_fakes and schedule.density_noise_std == 0
    with torch.no_grad():
        return render_fakes(state, inputs, schedule, update_w_avg=True, skip_empty=skip)


def _cut_reals(
    state: State, reals: Batch, schedule: Schedule, fakes: Fakes | None = None
) -> tuple[Tensor, PatchParams | None]:
    """Patches of real images: fresh ones, or those of the fakes that they are paired with."""
    patch = _draw_patch(state, len(reals.images), schedule) if fakes is None else fakes.patch
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


def _scores(kind: str, logits: Tensor, opponents: Tensor | float = 0.0) -> dict[str, Tensor]:
    """Scores, and their signs: of the lead over the paired image where there is one."""
    logits = logits.detach()
    return {f"Loss/scores/{kind}": logits, f"Loss/signs/{kind}": (logits - opponents).sign()}


def _is_paired(state: State) -> bool:
    return state.cfg.training.loss is LossName.R3GAN


def generator_pass(
    state: State, inputs: FakeInputs, reals: Batch, schedule: Schedule, weight: float = 1.0
) -> tuple[Pass, Fakes]:
    """Gmain: fakes, scores, loss; adds the gradients of the mean loss times `weight`.

    The reals are looked at by the R3GAN loss only, as the opponents of the fakes.
    """
    reuse = state.cfg.training.reuse_fakes
    fakes = render_fakes(state, inputs, schedule, update_w_avg=reuse)
    judged = _judge(state, fakes.images, fakes.patch, inputs, schedule)
    if _is_paired(state):
        with torch.no_grad():
            images, patch = _cut_reals(state, reals, schedule, fakes)
            opponents = _judge(state, images, patch, reals, schedule).logits
        loss = losses.relativistic_loss(judged.logits, opponents)
        numbers = _scores("fake", judged.logits, opponents)
    else:
        loss = losses.generator_loss(judged.logits)
        numbers = _scores("fake", judged.logits)
    loss.mean().mul(weight).backward()
    return Pass(numbers | {"Loss/G/loss": loss.detach()}, [judged]), fakes


def path_length_pass(
    state: State, inputs: FakeInputs, schedule: Schedule, weight: float = 1.0
) -> Pass:
    """Greg: path-length regularisation on a part of the batch; needs second derivatives."""
    loss_cfg = state.cfg.model.loss_kwargs
    part = inputs.one_view()[: max(len(inputs.z) // loss_cfg.pl_batch_shrink, 1)]
    fakes = render_fakes(state, part, schedule, second_order=True)
    noise = state.draws.normal("path_length", tuple(fakes.images.shape), fakes.images)
    lengths = losses.path_lengths(fakes.images, fakes.ws, noise)
    penalty, state.path_length_mean = losses.path_length_penalty(
        lengths, state.path_length_mean, loss_cfg.pl_decay
    )
    loss = penalty * loss_cfg.pl_weight
    with summed_weight_gradients():
        loss.mean().mul(weight).backward()
    return Pass({"Loss/pl_penalty": penalty.detach(), "Loss/G/reg": loss.detach()})


def discriminator_pass(
    state: State, fakes: Fakes, reals: Batch, schedule: Schedule, weight: float = 1.0
) -> Pass:
    """Dmain: scores of detached fakes and of patches of the reals, each with its own backward."""
    if _is_paired(state):
        return _paired_discriminator_pass(state, fakes, reals, schedule, weight)
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


def _paired_discriminator_pass(
    state: State, fakes: Fakes, reals: Batch, schedule: Schedule, weight: float
) -> Pass:
    """Dmain of R3GAN: the loss of pairs that share their patch; with both penalties where they are
    due at every step (`r1_interval` 1), as in the paper."""
    penalised = state.cfg.gamma > 0 and state.cfg.lazy_r1_interval is None
    images, patch = _cut_reals(state, reals, schedule, fakes)
    shown = [x.detach().requires_grad_(penalised) for x in (fakes.images, images)]
    fake = _judge(state, shown[0], fakes.patch, fakes.inputs, schedule)
    real = _judge(state, shown[1], patch, reals, schedule)
    loss = losses.relativistic_loss(real.logits, fake.logits)
    numbers = _scores("fake", fake.logits, real.logits.detach())
    numbers |= _scores("real", real.logits, fake.logits.detach())
    numbers["Loss/D/loss"] = loss.detach()
    if penalised:
        penalty, more = _penalties(state, real, fake)
        loss, numbers = loss + penalty, numbers | more
    loss.mean().mul(weight).backward()
    return Pass(numbers, [fake, real])


def _penalties(state: State, real: Judged, fake: Judged | None) -> tuple[Tensor, dict[str, Tensor]]:
    """gamma/2 times R1 (and R2, given fakes) [B], and the numbers to report."""
    total = losses.gradient_penalty(real.logits, real.images)
    numbers = {"Loss/D/r1_penalty": total.detach()}
    if fake is not None:
        second = losses.gradient_penalty(fake.logits, fake.images)
        total, numbers["Loss/D/r2_penalty"] = total + second, second.detach()
    loss = total * (state.cfg.gamma / 2)
    return loss, numbers | {"Loss/D/reg": loss.detach()}


def penalty_pass(
    state: State,
    reals: Batch,
    schedule: Schedule,
    weight: float = 1.0,
    fakes: Fakes | None = None,
) -> Pass:
    """Dreg: gamma/2 times the squared gradient at the real patches (R1), taken before blur and ADA;
    with the R3GAN loss at the fakes that Dmain has judged, too (R2)."""
    images, patch = _cut_reals(state, reals, schedule)
    real = _judge(state, images.detach().requires_grad_(True), patch, reals, schedule)
    fake = None
    if fakes is not None and _is_paired(state):
        shown = fakes.images.detach().requires_grad_(True)
        fake = _judge(state, shown, fakes.patch, fakes.inputs, schedule)
    loss, numbers = _penalties(state, real, fake)
    with summed_weight_gradients():
        loss.mean().mul(weight).backward()
    if fake is not None:
        return Pass(numbers, [real, fake])  # unpaired scores: their signs say nothing
    return Pass(_scores("real", real.logits) | numbers, [real])
