"""The opponent computes what ours does: pictures, scores, losses and every gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from epigraf.benchmarks.bench_step import step_data
from epigraf.benchmarks.official_networks import make_official
from epigraf.config import load_config
from epigraf.training.batches import DatasetSource
from epigraf.training.passes import Pass
from epigraf.training.state import build_state, resolve_config
from epigraf.training.step import Phase, train_step

SMALL = (
    "dataset.resolution=16", "model.generator.cmax=8", "model.generator.num_ray_steps=6",
    "model.generator.tri_plane.res=16", "model.generator.tri_plane.feat_dim=4",
    "model.discriminator.cmax=8", "training.batch_size=4", "training.patch.resolution=8",
    "training.augment.mode=noaug", "model.loss_kwargs.blur_init_sigma=0",
    "model.generator.nerf_noise_std_init=0",
)  # fmt: skip


def one_step(preset: str, folder: Path, official: bool) -> tuple[dict, dict[str, Tensor]]:
    """Numbers of one step with all phases, and the pictures and gradients of each."""
    cfg = load_config(preset, SMALL)
    dataset = step_data(cfg, folder)
    cfg = resolve_config(cfg, dataset)
    state = build_state(cfg, len(dataset), dataset.mean_camera_pose)
    with torch.no_grad():  # noise and modulation start at zero and would hide a mistake
        for name, parameter in state.generator.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                parameter.add_(torch.linspace(0.1, 0.4, parameter.numel()).view_as(parameter))
    if official:
        make_official(state)
    gradients: dict[str, Tensor] = {}

    def observe(phase: Phase, passes: list[Pass]) -> None:
        network = state.generator if phase is Phase.GENERATOR else state.discriminator
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                gradients[f"{phase.value} {name}"] = parameter.grad.clone()
        for number, judged in enumerate(passes[0].judged):
            gradients[f"{phase.value} images {number}"] = judged.images.detach()

    numbers = train_step(state, DatasetSource(state, dataset), observe)
    return numbers, gradients


@pytest.mark.parametrize("preset", ["ffhq256", "plants64"])
def test_a_step_of_the_opponent_is_a_step_of_ours(preset: str, tmp_path: Path) -> None:
    ours, mine = one_step(preset, tmp_path, official=False)
    theirs, other = one_step(preset, tmp_path, official=True)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], rel=2e-3, abs=1e-5), name
    assert mine.keys() == other.keys()
    assert any("Dreg" in name for name in mine)
    for name, value in mine.items():
        scale = float(other[name].abs().max()) + 1e-6
        assert float((value - other[name]).abs().max()) < 5e-3 * scale + 1e-6, name
