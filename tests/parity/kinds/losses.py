"""Loss cases: each phase from the stored weights, its scores, reported numbers and gradients.

A phase may combine passes: Gmain, Greg (also Greg_pl), Gall (both), Dmain, Dreg, Dall (both).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from epigraf.config import Config
from epigraf.data.images import Batch
from epigraf.interop.official import (
    discriminator_state_from_official,
    generator_name_to_official,
    generator_state_from_official,
)
from epigraf.rendering.draws import ReplayDraws
from epigraf.training.augment import AugmentPipe
from epigraf.training.passes import (
    FakeInputs,
    Judged,
    Pass,
    discriminator_pass,
    fresh_fakes,
    generator_pass,
    path_length_pass,
    penalty_pass,
)
from epigraf.training.schedules import Schedule, schedule_at
from epigraf.training.state import State, build_state

if TYPE_CHECKING:
    from tests.parity.case import Case
    from tests.parity.report import Report

LOGIT_ATOL = 1e-4
GRADIENT_RTOL = 1e-3
IMAGE_RTOL = 2e-4
_PASSES = {
    "Gmain": ("Gmain",),
    "Greg": ("Greg",),
    "Greg_pl": ("Greg",),
    "Gall": ("Gmain", "Greg"),
    "Gboth": ("Gmain", "Greg"),
    "Dmain": ("Dmain",),
    "Dreg": ("Dreg",),
    "Dall": ("Dmain", "Dreg"),
    "Dboth": ("Dmain", "Dreg"),
}


@dataclass(frozen=True)
class Inputs:
    """What a phase is given."""

    fakes: FakeInputs
    reals: Batch


def check(case: Case, report: Report) -> None:
    """Every phase of the case."""
    for phase, info in case.info["phases"].items():
        draws = case.draws(*info["draw_range"])
        state = build(case, draws)
        schedule = schedule_at(state.cfg, case.info["cur_nimg"])
        compare_schedule(report, phase, schedule, info)
        inputs = read_inputs(case.prefix("in/"), state.cfg)
        passes = run_phase(state, phase, inputs, schedule, info.get("gain", 1))
        draws.finish()
        compare_passes(case, report, phase, passes)
        selected = case.prefix(f"{phase}/grad.")
        compare_gradients(report, phase, state, info["grad_norms"], selected)
        _compare_averages(case, report, phase, state)


def build(case: Case, draws: ReplayDraws) -> State:
    """A state with the case's weights and configuration that replays recorded draws."""
    cfg = config_of(case)
    state = build_state(cfg, 1, torch.zeros(3))
    state.generator.load_state_dict(generator_state_from_official(case.prefix("G/")))
    state.discriminator.load_state_dict(discriminator_state_from_official(case.prefix("D/")))
    state.draws = draws
    augment_p = case.info.get("augment_p")
    state.augment = None if augment_p is None else AugmentPipe(cfg.training.augment.probs)
    state.counters.augment_p = augment_p or 0.0
    state.counters.images_seen = case.info.get("cur_nimg", case.info.get("start_nimg", 0))
    return state


def config_of(case: Case) -> Config:
    """The case's configuration with its batch, its gamma, its labels."""
    inputs = {k: v for k, v in case.tensors.items() if k.endswith(("in/z", "in.z", "gen_c"))}
    z = next(v for k, v in inputs.items() if k.endswith("z"))
    labels = next(v for k, v in inputs.items() if k.endswith("gen_c"))
    return case.config().with_overrides(
        [
            f"model.generator.z_dim={z.shape[1]}",
            f"dataset.c_dim={labels.shape[1]}",
            f"training.use_labels={'true' if labels.shape[1] else 'false'}",
            f"training.batch_size={len(z)}",
            "training.batch_gpu=null",
            f"training.gamma={case.info['r1_gamma']}",
        ]
    )


def read_inputs(tensors: dict[str, Tensor], cfg: Config) -> Inputs:
    """The recorded inputs of a phase; the conditioning angles count where there is conditioning."""
    cond = tensors.get("gen_angles_cond") if cfg.model.generator.camera_cond else None
    fakes = FakeInputs(tensors["z"], tensors["gen_c"], tensors["gen_angles"], cond)
    return Inputs(fakes, Batch(tensors["real_img"], tensors["real_c"], tensors["real_angles"]))


def compare_schedule(report: Report, title: str, schedule: Schedule, info: dict[str, Any]) -> None:
    """Scheduled values, as far as they were recorded."""
    ours = {
        "patch_beta": schedule.patch_beta,
        "patch_min_scale": schedule.patch_min_scale,
        "nerf_noise_std": schedule.density_noise_std,
        "blur_sigma": schedule.blur_sigma,
    }
    for name, value in ours.items():
        if info.get(name) is not None:
            report.scalar(f"{title}/{name}", value, info[name])


def run_phase(
    state: State, phase: str, inputs: Inputs, schedule: Schedule, gain: float
) -> list[Pass]:
    """The passes of a phase, gradients left in the networks."""
    of_generator = phase.startswith("G")
    state.generator.requires_grad_(of_generator)
    state.discriminator.requires_grad_(not of_generator)
    passes: list[Pass] = []
    for name in _PASSES[phase]:
        if name == "Gmain":
            done, _ = generator_pass(state, inputs.fakes, inputs.reals, schedule, gain)
            passes.append(done)
        elif name == "Greg" and state.cfg.model.loss_kwargs.pl_weight > 0:
            passes.append(path_length_pass(state, inputs.fakes, schedule, gain))
        elif name == "Dmain":
            fakes = fresh_fakes(state, inputs.fakes, schedule)
            passes.append(discriminator_pass(state, fakes, inputs.reals, schedule, gain))
        elif name == "Dreg" and state.cfg.gamma > 0:
            passes.append(penalty_pass(state, inputs.reals, schedule, gain))
    return passes


def compare_passes(case: Case, report: Report, phase: str, passes: list[Pass]) -> None:
    """What D saw and said, and the numbers reported."""
    judged: list[Judged] = [seen for done in passes for seen in done.judged]
    numbers = {name: value for done in passes for name, value in done.numbers.items()}
    for name, expected in case.prefix(f"{phase}/").items():
        full = f"{phase}/{name}"
        if name.startswith("run_D"):
            number, part = name.removeprefix("run_D").split(".")
            _compare_judged(report, full, judged[int(number)], part, expected)
        elif name.startswith("stat."):
            reported = numbers.get(name.removeprefix("stat."))
            if reported is None:
                report.failure(full, "not reported")
                continue
            value = reported.reshape(expected.shape)
            tolerance = {
                "rtol": GRADIENT_RTOL,
                "atol": LOGIT_ATOL if "/scores/" in name else 1e-6,
            }
            report.compare(full, value, expected, **tolerance)


def _compare_judged(report: Report, full: str, judged: Judged, part: str, expected: Tensor) -> None:
    if part == "img":
        report.compare(full, judged.images, expected, rtol=IMAGE_RTOL)
    elif part == "logits":
        report.compare(full, judged.logits, expected, rtol=0.0, atol=LOGIT_ATOL)
    elif judged.patch is None:
        report.failure(full, "no patch was drawn")
    else:
        ours = judged.patch.scales if part == "patch_scales" else judged.patch.offsets
        report.compare(full, ours, expected, rtol=1e-6)


def compare_gradients(
    report: Report,
    title: str,
    state: State,
    norms: dict[str, float],
    selected: dict[str, Tensor],
    rtol: float = GRADIENT_RTOL,
) -> None:
    """Norms of all gradients, and some gradients in full. No gradient counts as zero.

    `title` ends in the name of the phase, which begins with the network's letter.
    """
    ours = official_gradients(state, title.split(".")[-1])
    largest = max(norms.values(), default=0.0)
    for name, expected in norms.items():
        gradient = ours.get(name)
        value = torch.zeros(()) if gradient is None else gradient.norm()
        report.compare(
            f"{title}/grad_norm {name}",
            value,
            torch.tensor(expected),
            rtol=rtol,
            atol=1e-6 * largest,
        )
    for name, expected in selected.items():
        gradient = ours.get(name)
        value = torch.zeros_like(expected) if gradient is None else gradient
        scale = 1e-6 * largest
        report.compare(f"{title}/grad.{name}", value, expected, rtol=rtol, atol=scale)
    missing = {n for n, g in ours.items() if g is not None and bool(g.any())} - norms.keys()
    report.equal(f"{title}/gradients that should not be", sorted(missing), [])


def official_gradients(state: State, phase: str) -> dict[str, Tensor | None]:
    """Gradients of the phase's network by official names."""
    if phase.startswith("G"):
        named = state.generator.named_parameters()
        return {generator_name_to_official(name): p.grad for name, p in named}
    return {name: p.grad for name, p in state.discriminator.named_parameters()}


def _compare_averages(case: Case, report: Report, phase: str, state: State) -> None:
    """`w_avg_after` and, with path-length regularisation, `pl_mean_after`."""
    if (expected := case.tensors.get(f"{phase}/w_avg_after")) is not None:
        report.compare(f"{phase}/w_avg_after", state.generator.mapping.w_avg, expected)
    if (expected := case.tensors.get(f"{phase}/pl_mean_after")) is not None:
        ours = state.path_length_mean.reshape(expected.shape)
        report.compare(f"{phase}/pl_mean_after", ours, expected, rtol=GRADIENT_RTOL)
