"""One training step: generator, discriminator, regularisers, weight average, augmentation.

The phases follow EpiGRAF (Skorokhodov et al. 2022) on the StyleGAN2-ADA objective: every phase
draws its own latents and patches; all phases of a step see the same real images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import Enum

import torch
from torch import Tensor

from epigraf.config import AugmentMode
from epigraf.data.images import Batch
from epigraf.training.batches import Source
from epigraf.training.distributed import (
    all_reduce_gradients,
    average,
    images_per_pass,
    images_per_process,
    reduce_mean,
    world_size,
)
from epigraf.training.passes import (
    FakeInputs,
    Fakes,
    Pass,
    discriminator_pass,
    fresh_fakes,
    generator_pass,
    path_length_pass,
    penalty_pass,
)
from epigraf.training.schedules import (
    Schedule,
    adapted_probability,
    ema_beta,
    schedule_at,
)
from epigraf.training.state import State


class Phase(Enum):
    """The parts of a step that end in an optimiser step, in their order."""

    GENERATOR = "Gmain"
    PATH_LENGTH = "Greg"
    DISCRIMINATOR = "Dmain"
    R1 = "Dreg"


Observer = Callable[[Phase, list[Pass]], None]


def clean_gradients(parameters: list[Tensor], clip: float | None) -> Tensor:
    """NaN -> 0, +-inf -> +-1e5, then optionally clip the total norm. Returns the norm found.

    Parameters without a gradient stay without one (Adam then skips them). On a CPU gradients that
    are finite are left alone; on a GPU, where asking costs a wait, all of them are gone through.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
    norm = torch.stack(norms).norm()
    if norm.device.type != "cpu" or not bool(norm.isfinite()):
        for gradient in gradients:
            torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    return norm


def _apply(state: State, phase: Phase) -> Tensor:
    """Average the gradients of the phase's network over all processes, clean them and step its
    optimiser; returns their norm.

    The clip of the generator is for its adversarial gradients; those of path lengths stay.
    """
    of_generator = phase in (Phase.GENERATOR, Phase.PATH_LENGTH)
    network = state.generator if of_generator else state.discriminator
    optimiser = state.optimiser_g if of_generator else state.optimiser_d
    model = state.cfg.model
    clip = (model.generator if of_generator else model.discriminator).optim.grad_clip
    clip = None if phase is Phase.PATH_LENGTH else clip
    parameters: list[Tensor] = list(network.parameters())
    all_reduce_gradients(parameters)
    norm = clean_gradients(parameters, clip)
    optimiser.step()
    return norm


def _select(state: State, phase: Phase) -> None:
    """Only the phase's network gets gradients, and starts without any."""
    of_generator = phase in (Phase.GENERATOR, Phase.PATH_LENGTH)
    state.generator.requires_grad_(of_generator)
    state.discriminator.requires_grad_(not of_generator)
    (state.optimiser_g if of_generator else state.optimiser_d).zero_grad(set_to_none=True)


def _parts(state: State) -> Iterator[slice]:
    """This process's share of the batch in pieces (gradient accumulation)."""
    size = images_per_pass(state.cfg)
    for start in range(0, images_per_process(state.cfg), size):
        yield slice(start, start + size)


def _part_of(reals: Batch, part: slice) -> Batch:
    return Batch(reals.images[part], reals.labels[part], reals.angles[part])


def _generator_phase(
    state: State, inputs: FakeInputs, reals: Batch, schedule: Schedule
) -> tuple[list[Pass], list[Fakes]]:
    """Gmain in parts; also hands out the detached fakes."""
    parts, passes, made = list(_parts(state)), [], []
    for part in parts:
        real = _part_of(reals, part)
        done, fakes = generator_pass(state, inputs[part], real, schedule, 1 / len(parts))
        passes.append(done)
        made.append(Fakes(fakes.images.detach(), fakes.ws.detach(), fakes.patch, fakes.inputs))
    return passes, made


def _path_length_phase(state: State, inputs: FakeInputs, schedule: Schedule) -> list[Pass]:
    """Greg in parts, weighted for the steps that it skips."""
    parts = list(_parts(state))
    weight = state.cfg.model.loss_kwargs.pl_interval / len(parts)
    return [path_length_pass(state, inputs[part], schedule, weight) for part in parts]


def _discriminator_phase(
    state: State,
    made: list[Fakes],
    inputs: FakeInputs | None,
    reals: Batch,
    schedule: Schedule,
) -> tuple[list[Pass], list[Fakes]]:
    """Dmain in parts, on the fakes in `made` or (given `inputs`) on fresh ones; also hands out
    those that it judged."""
    parts, passes, judged = list(_parts(state)), [], []
    for number, part in enumerate(parts):
        fakes = made[number] if inputs is None else fresh_fakes(state, inputs[part], schedule)
        real = _part_of(reals, part)
        passes.append(discriminator_pass(state, fakes, real, schedule, 1 / len(parts)))
        judged.append(fakes)
    return passes, judged


def _penalty_phase(
    state: State, judged: list[Fakes], reals: Batch, schedule: Schedule
) -> list[Pass]:
    """Dreg in parts, weighted for the steps that it skips."""
    parts = list(_parts(state))
    weight = state.cfg.training.r1_interval / len(parts)
    return [
        penalty_pass(state, _part_of(reals, part), schedule, weight, fakes)
        for part, fakes in zip(parts, judged, strict=True)
    ]


@torch.no_grad()
def update_average(state: State) -> float:
    """Move G_ema towards G (buffers are copied); returns the decay used."""
    beta = ema_beta(state.cfg.training.batch_size, state.cfg.ema_kimg, state.counters.images_seen)
    averaged: list[Tensor] = list(state.ema.parameters())
    current: list[Tensor] = list(state.generator.parameters())
    lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
    lerp(averaged, current, 1.0 - beta)
    for mine, theirs in zip(state.ema.buffers(), state.generator.buffers(), strict=True):
        mine.copy_(theirs)
    return beta


def _adapt(state: State, mean_sign: float, count: int) -> None:
    """ADA: collect signs of real scores; every `interval` steps move the probability.

    Args:
        mean_sign: of this step's real scores, over all processes (NaN counts for nothing).
        count: how many real scores each process had.
    """
    cfg, counters = state.cfg.training.augment, state.counters
    if cfg.mode is not AugmentMode.ADA:
        return
    if not math.isnan(mean_sign):
        count *= world_size()
        counters.sign_sum += round(mean_sign * count)  # signs are whole numbers
        counters.sign_count += count
    if counters.step % cfg.interval or counters.sign_count == 0:
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


def train_step(state: State, source: Source, observe: Observer | None = None) -> dict[str, float]:
    """One step of training; changes `state`.

    Args:
        state: networks, optimisers, counters, random numbers.
        source: hands out real images and the inputs of fakes, phase by phase.
        observe: is shown each phase after its optimiser step, gradients still in place.
    Returns:
        The mean of every reported number over the batch, of all processes (names as in the field:
        Loss/G/loss, ...).
    """
    schedule = schedule_at(
        state.cfg, state.counters.images_seen, first_step=state.counters.step == 0
    )
    found: dict[str, list[Tensor]] = {}

    def finish(phase: Phase, passes: list[Pass]) -> None:
        norm = _apply(state, phase)
        found.setdefault(f"Gradient/{phase.value}", []).append(norm.reshape(1))
        for done in passes:
            for name, values in done.numbers.items():
                found.setdefault(name, []).append(values)
        if observe is not None:
            observe(phase, passes)

    _run_phases(state, source, schedule, finish)
    average(_running_means(state))
    update_average(state)
    state.counters.images_seen += state.cfg.training.batch_size
    state.counters.step += 1
    joined = {name: torch.cat(values) for name, values in found.items()}
    means = torch.stack([values.float().mean() for values in joined.values()]).tolist()
    numbers = reduce_mean(dict(zip(joined, means, strict=True)))
    if (signs := joined.get("Loss/signs/real")) is not None:
        _adapt(state, numbers["Loss/signs/real"], signs.numel())
    return numbers


def _running_means(state: State) -> list[Tensor]:
    """What follows the images of this process alone during a step. All of it moves linearly from
    the same start, so the mean over processes is what the whole batch would have given."""
    w_avg = [state.generator.mapping.w_avg]
    return [*w_avg, state.path_length_mean] if state.cfg.model.loss_kwargs.pl_weight > 0 else w_avg


def _run_phases(
    state: State,
    source: Source,
    schedule: Schedule,
    finish: Observer,
) -> None:
    """The phases that are due at this step, in the official order; `finish` steps the optimiser."""
    training, loss, step = (
        state.cfg.training,
        state.cfg.model.loss_kwargs,
        state.counters.step,
    )
    _select(state, Phase.GENERATOR)
    passes, made = _generator_phase(state, source.fakes(schedule), source.reals(), schedule)
    finish(Phase.GENERATOR, passes)
    if loss.pl_weight > 0 and step % loss.pl_interval == 0:
        _select(state, Phase.PATH_LENGTH)
        finish(Phase.PATH_LENGTH, _path_length_phase(state, source.fakes(schedule), schedule))
    _select(state, Phase.DISCRIMINATOR)
    inputs = None if training.reuse_fakes else source.fakes(schedule)
    passes, judged = _discriminator_phase(state, made, inputs, source.reals(), schedule)
    finish(Phase.DISCRIMINATOR, passes)
    interval = state.cfg.lazy_r1_interval
    if interval is not None and step % interval == 0:
        _select(state, Phase.R1)
        finish(Phase.R1, _penalty_phase(state, judged, source.reals(), schedule))
