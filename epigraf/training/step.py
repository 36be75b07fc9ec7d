"""One training step: generator, discriminator, regularisers, weight average, augmentation.

Legend: B batch, C channels, H W image size, r patch side. Angles are (yaw, pitch, roll) in radians.
The phases follow EpiGRAF (Skorokhodov et al. 2022) on the StyleGAN2-ADA objective: every phase draws
its own latents and patches; all phases of a step see the same real images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from epigraf.config import AugmentMode, CameraDist
from epigraf.data.images import Batch, ImageDataset
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import View
from epigraf.rendering.camera import sample_camera_angles
from epigraf.rendering.patches import PatchParams, extract_patches, sample_patch_params
from epigraf.training import losses
from epigraf.training.schedules import Schedule, adapted_probability, ema_beta, schedule_at
from epigraf.training.state import State


class Phase(Enum):
    """The parts of a step that end in an optimiser step, in their order."""

    GENERATOR = "Gmain"
    PATH_LENGTH = "Greg"
    DISCRIMINATOR = "Dmain"
    R1 = "Dreg"


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
    """The outcome of one forward and backward pass: per-sample numbers by name, and what was judged."""

    numbers: dict[str, Tensor] = field(default_factory=dict)
    judged: list[Judged] = field(default_factory=list)


@dataclass(frozen=True)
class Fakes:
    """Rendered patches [B, 3, r, r] with their styles [B, L, D] and everything D is told of them."""

    images: Tensor
    ws: Tensor
    patch: PatchParams | None
    inputs: FakeInputs


InputSource = Callable[[Schedule], FakeInputs]
Observer = Callable[[Phase, list[Pass]], None]


def draw_inputs(state: State, dataset: ImageDataset, schedule: Schedule) -> FakeInputs:
    """Latents, labels and cameras for one batch of fakes.

    Labels come from random items of the data set; so do the cameras where the configuration says
    `custom`, otherwise they are drawn from its prior.
    """
    cfg, draws, n = state.cfg, state.draws, state.cfg.training.batch_size
    items = draws.integers("fake_item", len(dataset), (n,)).tolist()
    labels = torch.stack([dataset.label(i) for i in items])
    if cfg.dataset.camera.dist is CameraDist.CUSTOM:
        angles = torch.stack([dataset.angles(i) for i in items])
    else:
        angles = sample_camera_angles(cfg.dataset.camera, n, draws=draws)
    z = draws.normal("z", (n, cfg.model.generator.z_dim), torch.empty(0))
    cond = None
    if cfg.model.generator.camera_cond:
        cond = losses.spoof_angles(angles, schedule.spoof_probability, draws=draws).to(state.device)
    return FakeInputs(*(t.to(state.device) for t in (z, labels, angles)), cond)


def _draw_patch(state: State, n: int, schedule: Schedule) -> PatchParams | None:
    patch = state.cfg.training.patch
    if not patch.enabled:
        return None
    group = min(state.cfg.model.discriminator.mbstd_group_size, n)
    drawn = sample_patch_params(
        patch, n, group, schedule.patch_min_scale, schedule.patch_beta, draws=state.draws
    )
    return drawn.to(state.device)


def render_fakes(
    state: State, inputs: FakeInputs, schedule: Schedule, *, update_w_avg: bool = False
) -> Fakes:
    """Map and render fresh patches."""
    generator = state.generator
    ws = generator.mapping(
        inputs.z, inputs.labels, inputs.angles_cond, update_w_avg=update_w_avg, draws=state.draws
    )
    patch = _draw_patch(state, len(inputs.z), schedule)
    view = View(patch=patch, density_noise_std=schedule.density_noise_std)
    image = generator.synthesis(
        ws, inputs.angles, view, noise_mode=NoiseMode.RANDOM, draws=state.draws
    ).image
    return Fakes(image, ws, patch, inputs)


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
    """Gmain: fakes, scores, loss; adds gradients of the mean loss times `weight` to the generator."""
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
    fakes = render_fakes(state, part, schedule)
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


def clean_gradients(parameters: list[Tensor], clip: float | None) -> Tensor:
    """NaN -> 0, +-inf -> +-1e5, then optionally clip the total norm. Returns the norm found.

    Parameters without a gradient stay without one (Adam then skips them).
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    if not bool(norm.isfinite()):
        for gradient in gradients:
            torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    return norm


def _apply(state: State, phase: Phase) -> Tensor:
    """Clean the gradients of the phase's network and step its optimiser; returns their norm."""
    of_generator = phase in (Phase.GENERATOR, Phase.PATH_LENGTH)
    network = state.generator if of_generator else state.discriminator
    optimiser = state.optimiser_g if of_generator else state.optimiser_d
    model = state.cfg.model
    clip = (model.generator if of_generator else model.discriminator).optim.grad_clip
    norm = clean_gradients(list(network.parameters()), clip)
    optimiser.step()
    return norm


def _select(state: State, phase: Phase) -> None:
    """Only the phase's network gets gradients, and starts without any."""
    of_generator = phase in (Phase.GENERATOR, Phase.PATH_LENGTH)
    state.generator.requires_grad_(of_generator)
    state.discriminator.requires_grad_(not of_generator)
    (state.optimiser_g if of_generator else state.optimiser_d).zero_grad(set_to_none=True)


def _parts(state: State) -> Iterator[slice]:
    """The batch in pieces of `training.batch_gpu` (gradient accumulation)."""
    size = state.cfg.batch_gpu
    for start in range(0, state.cfg.training.batch_size, size):
        yield slice(start, start + size)


def _phases(state: State) -> Iterator[Phase]:
    """The phases due at this step."""
    training, loss = state.cfg.training, state.cfg.model.loss_kwargs
    yield Phase.GENERATOR
    if loss.pl_weight > 0 and state.counters.step % loss.pl_interval == 0:
        yield Phase.PATH_LENGTH
    yield Phase.DISCRIMINATOR
    if state.cfg.gamma > 0 and state.counters.step % training.r1_interval == 0:
        yield Phase.R1


def _fresh_fakes(state: State, inputs: FakeInputs, schedule: Schedule) -> Fakes:
    with torch.no_grad():
        return render_fakes(state, inputs, schedule, update_w_avg=True)


def _run(
    state: State,
    phase: Phase,
    reals: Batch,
    source: InputSource,
    schedule: Schedule,
    made: list[Fakes],
) -> list[Pass]:
    """All passes of a phase. The generator's fakes are left in `made` where they are reused."""
    cfg, parts = state.cfg, list(_parts(state))
    weight, passes = 1.0 / len(parts), []
    reuse = cfg.training.reuse_fakes and phase is Phase.DISCRIMINATOR
    inputs = None if reuse or phase is Phase.R1 else source(schedule)
    for number, part in enumerate(parts):
        if phase is Phase.R1:
            real = Batch(reals.images[part], reals.labels[part], reals.angles[part])
            passes.append(r1_pass(state, real, schedule, weight * cfg.training.r1_interval))
        elif phase is Phase.DISCRIMINATOR:
            real = Batch(reals.images[part], reals.labels[part], reals.angles[part])
            fakes = made[number] if inputs is None else _fresh_fakes(state, inputs[part], schedule)
            passes.append(discriminator_pass(state, fakes, real, schedule, weight))
        elif phase is Phase.PATH_LENGTH and inputs is not None:
            weight_pl = weight * cfg.model.loss_kwargs.pl_interval
            passes.append(path_length_pass(state, inputs[part], schedule, weight_pl))
        elif inputs is not None:
            done, fakes = generator_pass(state, inputs[part], schedule, weight)
            passes.append(done)
            made.append(Fakes(fakes.images.detach(), fakes.ws.detach(), fakes.patch, fakes.inputs))
    return passes


@torch.no_grad()
def update_average(state: State) -> float:
    """Move G_ema towards G (buffers are copied); returns the decay used."""
    beta = ema_beta(
        state.cfg.training.batch_size, state.cfg.ema_kimg, state.counters.images_seen
    )
    averaged, current = list(state.ema.parameters()), list(state.generator.parameters())
    torch._foreach_lerp_(averaged, current, 1.0 - beta)
    for mine, theirs in zip(state.ema.buffers(), state.generator.buffers(), strict=True):
        mine.copy_(theirs)
    return beta


def _adapt(state: State, signs: Tensor | None) -> None:
    """ADA: collect signs of real scores; every `interval` steps move the probability."""
    cfg, counters = state.cfg.training.augment, state.counters
    if cfg.mode is not AugmentMode.ADA or signs is None:
        return
    counters.sign_sum += float(signs.sum())
    counters.sign_count += signs.numel()
    if counters.step % cfg.interval:
        return
    images = state.cfg.training.batch_size * cfg.interval
    counters.augment_p = adapted_probability(
        counters.augment_p,
        counters.sign_sum / counters.sign_count,
        cfg.target,
        images,
        cfg.speed_kimg,
    )
    counters.sign_sum, counters.sign_count = 0.0, 0


def train_step(
    state: State, reals: Batch, source: InputSource, observe: Observer | None = None
) -> dict[str, float]:
    """One step of training; changes `state`.

    Args:
        state: networks, optimisers, counters, random numbers.
        reals: one batch of real images, the same for every phase.
        source: makes the inputs of a batch of fakes; called once for each phase that renders.
        observe: is shown each phase after its optimiser step, gradients still in place.
    Returns:
        The mean of every reported number (names as in the field: Loss/G/loss, ...).
    """
    counters = state.counters
    schedule = schedule_at(state.cfg, counters.images_seen, first_step=counters.step == 0)
    found: dict[str, list[Tensor]] = {}
    made: list[Fakes] = []
    for phase in _phases(state):
        _select(state, phase)
        passes = _run(state, phase, reals, source, schedule, made)
        norm = _apply(state, phase)
        found.setdefault(f"Gradient/{phase.value}", []).append(norm.reshape(1))
        for done in passes:
            for name, values in done.numbers.items():
                found.setdefault(name, []).append(values)
        if observe is not None:
            observe(phase, passes)
    update_average(state)
    counters.images_seen += state.cfg.training.batch_size
    counters.step += 1
    joined = {name: torch.cat(values) for name, values in found.items()}
    _adapt(state, joined.get("Loss/signs/real"))
    means = torch.stack([values.float().mean() for values in joined.values()]).tolist()
    return dict(zip(joined, means, strict=True))
