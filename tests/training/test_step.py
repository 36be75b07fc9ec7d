"""One step: parity of its passes, accumulation, cleaning, the weight average, ADA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from epigraf.config import Config
from epigraf.data.images import ImageDataset
from epigraf.errors import ConfigError
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, View
from epigraf.rendering.draws import RandomDraws
from epigraf.training import losses
from epigraf.training.batches import DatasetSource
from epigraf.training.passes import Pass
from epigraf.training.schedules import schedule_at
from epigraf.training.state import State, build_state, resolve_config
from epigraf.training.step import Phase, clean_gradients, train_step, update_average
from tests.parity.case import load_case
from tests.parity.kinds import losses as losses_kind
from tests.parity.report import Report

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _begin(cfg: Config, data: Path) -> tuple[State, ImageDataset]:
    dataset = ImageDataset(data, cfg.dataset.resolution, True, cfg.training.use_labels)
    cfg = resolve_config(cfg, dataset)
    return build_state(cfg, len(dataset), dataset.mean_camera_pose), dataset


def test_losses_scores_and_gradients_of_the_reference() -> None:
    lines: list[str] = []
    report = Report(write=lines.append)
    report.begin("f2_losses_late")
    losses_kind.check(load_case(GOLDEN / "f2_losses_late.json"), report)
    assert report.passed > 100
    assert not report.failed, "\n".join(line for line in lines if "FAIL" in line)


def _phases(state: State, dataset: ImageDataset, steps: int) -> list[list[str]]:
    seen: list[list[str]] = []
    for _ in range(steps):
        seen.append([])
        train_step(
            state, DatasetSource(state, dataset), lambda phase, _: seen[-1].append(phase.value)
        )
    return seen


def test_lazy_phases_come_when_they_are_due(small_config: Config, small_data: Path) -> None:
    cfg = small_config.with_overrides(
        ["model.loss_kwargs.pl_weight=1", "training.patch.enabled=false"]
    )
    state, dataset = _begin(cfg, small_data)
    assert _phases(state, dataset, 5) == [
        ["Gmain", "Greg", "Dmain", "Dreg"],
        ["Gmain", "Dmain"],
        ["Gmain", "Dmain", "Dreg"],
        ["Gmain", "Dmain"],
        ["Gmain", "Greg", "Dmain", "Dreg"],
    ]


def test_gradients_lie_in_memory_as_their_parameters(
    small_config: Config, small_data: Path
) -> None:
    """The fused optimisers walk over both alike, whatever their strides say."""
    cfg = small_config.with_overrides(
        ["model.loss_kwargs.pl_weight=1", "training.patch.enabled=false"]
    )
    state, dataset = _begin(cfg, small_data)
    of_discriminator = {Phase.DISCRIMINATOR, Phase.R1}
    seen = []

    def look(phase: Phase, _: list[Pass]) -> None:
        network = state.discriminator if phase in of_discriminator else state.generator
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.stride() == parameter.stride(), (phase, name)
                seen.append(phase)

    train_step(state, DatasetSource(state, dataset), look)
    assert set(seen) == set(Phase)


def test_numbers_of_a_step_are_finite_and_named_as_in_the_field(
    small_config: Config, small_data: Path
) -> None:
    state, dataset = _begin(small_config, small_data)
    numbers = train_step(state, DatasetSource(state, dataset))
    expected = {"Loss/G/loss", "Loss/D/loss", "Loss/D/r1_penalty", "Loss/D/reg"}
    expected |= {f"Loss/{a}/{b}" for a in ("scores", "signs") for b in ("fake", "real")}
    assert expected <= numbers.keys()
    assert all(torch.tensor(v).isfinite() for v in numbers.values())
    assert numbers["Loss/D/reg"] == pytest.approx(numbers["Loss/D/r1_penalty"] / 2)  # gamma 1
    assert (state.counters.step, state.counters.images_seen) == (1, 4)


def test_reused_fakes_are_those_of_the_generator_phase(
    small_config: Config, small_data: Path
) -> None:
    cfg = small_config.with_overrides(["training.reuse_fakes=true"])
    state, dataset = _begin(cfg, small_data)
    seen: dict[Phase, list[Pass]] = {}
    before = state.generator.mapping.w_avg.clone()
    train_step(state, DatasetSource(state, dataset), lambda p, passes: seen.update({p: passes}))
    by_g = seen[Phase.GENERATOR][0].judged[0]
    by_d = seen[Phase.DISCRIMINATOR][0].judged[0]
    assert torch.equal(by_g.images, by_d.images)
    assert by_g.patch is not None
    assert by_d.patch is not None
    assert torch.equal(by_g.patch.scales, by_d.patch.scales)
    assert not torch.equal(before, state.generator.mapping.w_avg)


def test_path_length_gradient_by_finite_differences() -> None:
    """Second derivatives through decoder, renderer and backbone, in double precision.

    Without an importance pass: its samples move with the weights, but carry no gradient.
    """
    generator_values = {
        "z_dim": 4, "w_dim": 4, "cmax": 4, "num_ray_steps": 3, "num_fine_steps": 0,
        "tri_plane": {"res": 8, "feat_dim": 2, "mlp": {"hid_dim": 4}},
    }  # fmt: skip
    cfg = Config.from_dict(
        {"dataset": {"resolution": 4}, "model": {"generator": generator_values},
         "training": {"patch": {"enabled": False}}}
    )  # fmt: skip
    torch.manual_seed(0)
    generator = Generator(cfg).double()
    z = torch.randn(2, 4, dtype=torch.float64)
    angles = torch.tensor([[0.1, 1.5, 0.0], [0.3, 1.4, 0.0]], dtype=torch.float64)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def lengths() -> torch.Tensor:
        ws = generator.mapping(z)
        view = View(deterministic=True, second_order=True)
        mode = NoiseMode.CONST
        image = generator.synthesis(ws, angles, view, noise_mode=mode, draws=RandomDraws(0)).image
        return losses.path_lengths(image, ws, noise).sum() * 1e3

    lengths().backward()
    for name in ("decoder.layers.0.weight", "backbone.b8.conv0.weight", "mapping.fc1.weight"):
        parameter = generator.get_parameter(name)
        direction, step = torch.randn_like(parameter), 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
            values.append(lengths().item())
            with torch.no_grad():
                parameter.sub_(direction, alpha=sign * step)
        assert parameter.grad is not None
        expected = (values[0] - values[1]) / (2 * step)
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=1e-5)


def test_only_the_network_of_a_phase_moves(small_config: Config, small_data: Path) -> None:
    state, dataset = _begin(small_config, small_data)
    kept = [p.detach().clone() for p in state.discriminator.parameters()]
    moved: list[bool] = []

    def look(phase: Phase, _: list[Pass]) -> None:
        now = state.discriminator.parameters()
        moved.append(any(not torch.equal(a, b) for a, b in zip(kept, now, strict=True)))

    train_step(state, DatasetSource(state, dataset), look)
    assert moved == [False, True, True]


def test_accumulated_gradients_are_the_mean_over_the_batch() -> None:
    """Two parts of 4 average what each alone gives, as one part of 8 would."""
    parameter = torch.nn.Parameter(torch.ones(()))
    data = torch.arange(8.0)
    for part in (data[:4], data[4:]):
        (parameter * part).mean().mul(0.5).backward()
    assert parameter.grad is not None
    assert float(parameter.grad) == float(data.mean())


def test_cleaning_gradients() -> None:
    bad, good, none = (torch.nn.Parameter(torch.zeros(3)) for _ in range(3))
    bad.grad = torch.tensor([float("nan"), float("inf"), -float("inf")])
    good.grad = torch.tensor([3.0, 0.0, 4.0])
    assert not clean_gradients([bad, good, none], None).isfinite()
    assert bad.grad.tolist() == [0.0, 1e5, -1e5]
    assert good.grad.tolist() == [3.0, 0.0, 4.0]
    assert none.grad is None
    assert float(clean_gradients([good], 1.0)) == 5.0
    torch.testing.assert_close(good.grad, torch.tensor([0.6, 0.0, 0.8]))


def test_the_average_copies_at_first_and_lags_later(small_config: Config, small_data: Path) -> None:
    state, _ = _begin(small_config, small_data)
    with torch.no_grad():
        for p in state.generator.parameters():
            p.add_(1.0)
    state.generator.mapping.w_avg.fill_(5.0)
    averaged, current = next(state.ema.parameters()), next(state.generator.parameters())
    old = averaged.clone()
    state.counters.images_seen = 1_000_000_000
    beta = update_average(state)
    torch.testing.assert_close(averaged, beta * old + (1 - beta) * current)
    assert torch.equal(state.ema.mapping.w_avg, state.generator.mapping.w_avg)
    state.counters.images_seen = 0
    assert update_average(state) == 0.0
    assert torch.equal(averaged, current)


def test_augmentation_rises_while_reals_are_recognised(
    small_config: Config, small_data: Path
) -> None:
    state, dataset = _begin(small_config, small_data)
    with torch.no_grad():
        state.discriminator.b4.out.weight.zero_()
        state.discriminator.b4.out.bias.zero_()
    state.cfg = small_config.with_overrides(["training.augment.target=-2", "dataset.c_dim=3"])
    for _ in range(4):
        train_step(state, DatasetSource(state, dataset))
    # two changes (every second step) of 4 * 2 / 50 = 0.16
    assert state.counters.augment_p == pytest.approx(0.32)


def test_a_source_repeats_its_real_images(small_config: Config, small_data: Path) -> None:
    state, dataset = _begin(small_config, small_data)
    source = DatasetSource(state, dataset)
    assert source.reals() is source.reals()
    assert not torch.equal(source.reals().images, DatasetSource(state, dataset).reals().images)


def test_a_prior_gives_cameras_that_the_data_does_not_have(
    small_config: Config, small_data: Path
) -> None:
    cfg = small_config.with_overrides(
        ["dataset.camera.dist=uniform", "dataset.camera.horizontal_mean=2",
         "dataset.camera.horizontal_stddev=0.1"]
    )  # fmt: skip
    state, dataset = _begin(cfg, small_data)
    schedule = replace(schedule_at(state.cfg, 0), spoof_probability=0.0)
    inputs = DatasetSource(state, dataset).fakes(schedule)
    assert bool(((inputs.angles[:, 0] - 2).abs() <= 0.1).all())
    assert inputs.angles_cond is not None
    assert torch.equal(inputs.angles, inputs.angles_cond)


def test_grouped_labels_fill_each_stddev_group_with_one_class(
    small_config: Config, small_data: Path
) -> None:
    cfg = small_config.with_overrides(
        ["training.group_labels=true", "training.batch_size=12", "training.batch_gpu=6",
         "model.discriminator.mbstd_group_size=3"]
    )  # fmt: skip
    state, dataset = _begin(cfg, small_data)
    schedule = schedule_at(state.cfg, 0)
    firsts, items = set(), set()
    for _ in range(20):
        source = DatasetSource(state, dataset)
        for labels in (source.reals().labels, source.fakes(schedule).labels):
            for part in labels.argmax(dim=1).split(6):  # two strided groups: 0 2 4 and 1 3 5
                assert len(set(part[0::2].tolist())) == 1
                assert len(set(part[1::2].tolist())) == 1
                firsts.add((int(part[0]), int(part[1])))
        items |= {image.numpy().tobytes() for image in source.reals().images}
    assert len(firsts) == 9  # every pair of the three classes has come
    assert len(items) == len(dataset)  # and every image


def test_grouped_labels_need_labels(small_config: Config) -> None:
    with pytest.raises(ConfigError, match=r"group_labels needs training\.use_labels=true"):
        small_config.with_overrides(
            ["training.group_labels=true", "training.use_labels=false", "dataset.c_dim=0"]
        )


def test_without_r1_the_discriminator_learns_at_its_full_rate(
    small_config: Config, small_data: Path
) -> None:
    cfg = small_config.with_overrides(["training.gamma=0"])
    state, dataset = _begin(cfg, small_data)
    group = state.optimiser_d.param_groups[0]
    assert (group["lr"], group["betas"]) == (0.002, (0.0, 0.99))
    assert _phases(state, dataset, 1) == [["Gmain", "Dmain"]]


def test_path_length_gradients_are_not_clipped(small_config: Config, small_data: Path) -> None:
    clip = 1e-9
    cfg = small_config.with_overrides(
        ["model.loss_kwargs.pl_weight=1", "training.patch.enabled=false",
         f"model.generator.optim.grad_clip={clip}"]
    )  # fmt: skip
    state, dataset = _begin(cfg, small_data)
    norms: dict[Phase, float] = {}

    def look(phase: Phase, _: list[Pass]) -> None:
        gradients = [p.grad for p in state.generator.parameters() if p.grad is not None]
        norms[phase] = float(torch.cat([g.flatten() for g in gradients]).norm())

    train_step(state, DatasetSource(state, dataset), look)
    assert norms[Phase.GENERATOR] == pytest.approx(clip, rel=0.1)
    assert norms[Phase.PATH_LENGTH] > 100 * clip
