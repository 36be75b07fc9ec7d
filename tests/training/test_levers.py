"""The levers: patches that share planes, the R3GAN loss, the weight of R1 by patch area."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from epigraf.config import Config, load_config
from epigraf.data.images import Batch, ImageDataset
from epigraf.errors import ConfigError
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, View
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.patches import PatchParams
from epigraf.training import losses
from epigraf.training.batches import DatasetSource
from epigraf.training.describe import describe
from epigraf.training.passes import FakeInputs, Fakes, Pass, discriminator_pass, penalty_pass
from epigraf.training.schedules import schedule_at
from epigraf.training.state import State, build_state, resolve_config
from epigraf.training.step import Phase, train_step

SHARED = ["training.batch_size=8", "training.patches_per_latent=2"]


def _begin(cfg: Config, data: Path) -> tuple[State, ImageDataset]:
    dataset = ImageDataset(data, cfg.dataset.resolution, True, cfg.training.use_labels)
    cfg = resolve_config(cfg, dataset)
    return build_state(cfg, len(dataset), dataset.mean_camera_pose), dataset


@pytest.mark.parametrize("background", ["null", "sphere", "plane"])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_views_of_one_object_are_what_each_camera_alone_sees(
    small_config: Config, background: str, backend: str
) -> None:
    cfg = small_config.with_overrides(
        [f"render.backend={backend}", f"model.generator.bg_model.type={background}"]
    )
    torch.manual_seed(0)
    generator = Generator(cfg).eval().requires_grad_(False)
    ws = torch.randn(2, generator.num_ws, 8)
    angles = torch.tensor([[0.1, 1.5, 0], [0.5, 1.3, 0], [-0.4, 1.6, 0], [1.0, 1.2, 0]])
    patch = PatchParams(torch.full((4, 2), 0.5), torch.tensor([[0.0, 0.1]] * 2 + [[0.4, 0.3]] * 2))
    planes = generator.planes(ws, NoiseMode.CONST)

    def see(ws: Tensor, angles: Tensor, patch: PatchParams, planes: Tensor) -> Tensor:
        view = View(patch=patch, resolution=8, deterministic=True)
        draws = RandomDraws(0)
        return generator.synthesis(
            ws, angles, view, noise_mode=NoiseMode.CONST, draws=draws, planes=planes
        ).image

    together = see(ws, angles, patch, planes)
    assert together.shape == (4, 3, 8, 8)
    for i in range(4):
        of = slice(i // 2, i // 2 + 1)
        alone = see(ws[of], angles[i : i + 1], patch[i : i + 1], planes[of])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_gradients_of_views_add_up_in_the_planes(small_config: Config) -> None:
    torch.manual_seed(0)
    generator = Generator(small_config)
    planes = torch.randn(1, 12, 16, 16, requires_grad=True)
    ws, angles = torch.randn(1, generator.num_ws, 8), torch.tensor([[0.1, 1.5, 0], [0.9, 1.2, 0]])
    weight = torch.randn(2, 3, 8, 8)

    def gradient(*rows: int) -> Tensor:
        picked = list(rows)
        view = View(resolution=8, deterministic=True)
        image = generator.synthesis(
            ws, angles[picked], view, draws=RandomDraws(0), planes=planes
        ).image
        return torch.autograd.grad((image * weight[picked]).sum(), planes)[0]

    torch.testing.assert_close(gradient(0, 1), gradient(0) + gradient(1), rtol=1e-4, atol=1e-6)


def test_cameras_that_are_no_multiple_of_the_objects_are_refused(small_config: Config) -> None:
    generator = Generator(small_config)
    with pytest.raises(ValueError, match=r"\[B V, 3\] with B = 2, got 3 cameras"):
        generator.synthesis(
            torch.randn(2, generator.num_ws, 8), torch.ones(3, 3), draws=RandomDraws(0)
        )


def test_a_step_runs_the_backbone_once_for_all_patches_of_an_object(
    small_config: Config, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small_config.with_overrides([*SHARED, "model.loss_kwargs.pl_weight=1"])
    state, dataset = _begin(cfg, small_data)
    made: list[int] = []
    state.generator.backbone.register_forward_hook(lambda _m, args, _o: made.append(len(args[0])))
    judged: list[int] = []
    state.discriminator.register_forward_hook(lambda _m, args, _o: judged.append(len(args[0])))
    numbers = train_step(state, DatasetSource(state, dataset))
    assert made == [4, 2, 4]  # Gmain, Greg on half of the objects (one view each), Dmain
    assert judged == [8, 8, 8, 8]  # Gmain, Dmain twice, R1
    assert state.counters.images_seen == 8
    assert all(math.isfinite(value) for value in numbers.values())


@pytest.mark.parametrize("loss", ["nonsaturating", "r3gan"])
def test_a_stddev_group_holds_different_objects_of_one_class(
    small_config: Config, small_data: Path, loss: str
) -> None:
    cfg = small_config.with_overrides(
        ["training.batch_size=24", "training.batch_gpu=12", "training.patches_per_latent=2",
         "model.discriminator.mbstd_group_size=3", "training.group_labels=true",
         f"training.loss={loss}"]
    )  # fmt: skip
    state, dataset = _begin(cfg, small_data)
    for _ in range(5):
        inputs = DatasetSource(state, dataset).fakes(schedule_at(state.cfg, 0))
        assert (inputs.views, len(inputs.z), len(inputs.angles)) == (2, 12, 24)
        owner = torch.arange(24) // 2
        for start in (0, 12):
            for group in range(4):  # strided: of 12 patches, 4 groups of 3
                members = start + torch.arange(group, 12, 4)
                assert len(set(owner[members].tolist())) == 3
                assert len(set(inputs.labels[members].argmax(dim=1).tolist())) == 1
        assert torch.equal(inputs.labels[::2], inputs.labels[1::2])
    part = inputs[12:24]
    assert torch.equal(part.z, inputs.z[6:])
    assert torch.equal(part.angles, inputs.angles[12:])


def test_views_look_from_cameras_of_their_own_label(small_config: Config, small_data: Path) -> None:
    state, dataset = _begin(small_config.with_overrides(SHARED), small_data)
    allowed: dict[int, set[tuple[float, ...]]] = {}
    for i in range(len(dataset)):
        label = int(dataset.label(i).argmax())
        allowed.setdefault(label, set()).add(tuple(dataset.angles(i).tolist()))
    different = 0
    for _ in range(10):
        inputs = DatasetSource(state, dataset).fakes(schedule_at(state.cfg, 0))
        for label, angles in zip(inputs.labels, inputs.angles, strict=True):
            assert tuple(angles.tolist()) in allowed[int(label.argmax())]
        different += int((inputs.angles[::2] != inputs.angles[1::2]).any(dim=1).sum())
    assert different > 20  # of 40 objects


def test_objects_too_few_for_a_group_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"patches_per_latent 4 must divide .* \(8\) into a mult"):
        load_config("plants64", ["training.patches_per_latent=4"])
    with pytest.raises(ConfigError, match="patches_per_latent 3 must divide"):
        load_config("plants64", ["training.patches_per_latent=3"])


def test_relativistic_loss_by_hand() -> None:
    mine, others = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([1.0, 3.0, 2.0])
    expected = torch.tensor([math.log(2), math.log(1 + math.e**3), math.log(1 + math.e**4)])
    torch.testing.assert_close(losses.relativistic_loss(mine, others), expected)


def _bare(cfg: Config, *changes: str) -> Config:
    """No random number in a pass: whole images, no augmentation, no blur, no dropout."""
    return cfg.with_overrides(
        ["training.loss=r3gan", "training.gamma=3", "training.patch.enabled=false",
         "training.augment.mode=noaug", "model.loss_kwargs.blur_init_sigma=0",
         "model.discriminator.camera_cond_drop_p=0", *changes]
    )  # fmt: skip


def _pairs(state: State, dataset: ImageDataset) -> tuple[Batch, Fakes]:
    source = DatasetSource(state, dataset)
    inputs = source.fakes(schedule_at(state.cfg, 0))
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return source.reals(), Fakes(images, torch.zeros(4, 1, 8), None, inputs)


def _expected(state: State, reals: Batch, fakes: Fakes, gamma: float, adversarial: bool) -> Any:
    """The objective of D written out: E softplus(D(f) - D(x)) + gamma/2 (|dD/dx|^2 + |dD/df|^2)."""
    x = reals.images.clone().requires_grad_(True)
    f = fakes.images.clone().requires_grad_(True)
    score_x = state.discriminator(x, reals.labels, reals.angles)
    score_f = state.discriminator(f, fakes.inputs.labels, fakes.inputs.angles)
    r1 = torch.autograd.grad(score_x.sum(), x, create_graph=True)[0].square().flatten(1).sum(1)
    r2 = torch.autograd.grad(score_f.sum(), f, create_graph=True)[0].square().flatten(1).sum(1)
    total = gamma / 2 * (r1 + r2)
    if adversarial:
        total = total + torch.log1p(torch.exp(score_f - score_x))
    parameters = list(state.discriminator.parameters())
    return torch.autograd.grad(total.mean(), parameters, allow_unused=True), r1, r2


@pytest.mark.parametrize("interval", [1, 4])
def test_r3gan_penalties_in_every_step_or_lazily(
    small_config: Config, small_data: Path, interval: int
) -> None:
    state, dataset = _begin(_bare(small_config, f"training.r1_interval={interval}"), small_data)
    reals, fakes = _pairs(state, dataset)
    schedule = schedule_at(state.cfg, 0)
    joint = interval == 1
    if joint:
        done = discriminator_pass(state, fakes, reals, schedule)
    else:
        done = penalty_pass(state, reals, schedule, fakes=fakes)
    expected, r1, r2 = _expected(state, reals, fakes, 3.0, joint)
    torch.testing.assert_close(done.numbers["Loss/D/r1_penalty"], r1)
    torch.testing.assert_close(done.numbers["Loss/D/r2_penalty"], r2)
    for p, gradient in zip(state.discriminator.parameters(), expected, strict=True):
        if gradient is not None and p.grad is not None:
            torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
        assert (p.grad is None) == (gradient is None)


def test_r3gan_phases_and_learning_rate(small_config: Config, small_data: Path) -> None:
    """With an interval of 1 the penalty is part of Dmain, and Adam is not slowed down for it."""
    for interval, phases, lr in ((1, 4, 0.002), (2, 5, 0.002 * 2 / 3)):
        changes = ["training.loss=r3gan", f"training.r1_interval={interval}"]
        state, dataset = _begin(small_config.with_overrides(changes), small_data)
        seen: list[Phase] = []

        def look(phase: Phase, _: list[Pass], seen: list[Phase] = seen) -> None:
            seen.append(phase)

        for _ in range(2):
            numbers = train_step(state, DatasetSource(state, dataset), look)
        assert len(seen) == phases
        assert state.optimiser_d.param_groups[0]["lr"] == pytest.approx(lr)
        assert all(math.isfinite(value) for value in numbers.values())


def test_r3gan_pairs_share_label_camera_and_patch(small_config: Config, small_data: Path) -> None:
    cfg = small_config.with_overrides(["training.loss=r3gan"])
    state, dataset = _begin(cfg, small_data)
    source = DatasetSource(state, dataset)
    inputs = source.fakes(schedule_at(state.cfg, 0))
    assert torch.equal(inputs.labels, source.reals().labels)
    assert torch.equal(inputs.angles, source.reals().angles)
    seen: dict[Phase, list[Pass]] = {}
    train_step(state, source, lambda phase, passes: seen.update({phase: passes}))
    fake, real = seen[Phase.DISCRIMINATOR][0].judged
    assert fake.patch is not None
    assert real.patch is fake.patch
    numbers = seen[Phase.DISCRIMINATOR][0].numbers
    lead = (real.logits - fake.logits).sign()
    assert torch.equal(numbers["Loss/signs/real"], lead)  # what ADA goes by
    assert torch.equal(numbers["Loss/signs/fake"], -lead)
    expected = torch.log1p(torch.exp(fake.logits - real.logits))
    torch.testing.assert_close(numbers["Loss/D/loss"], expected)


def test_fake_inputs_of_one_view() -> None:
    inputs = FakeInputs(torch.arange(2.0)[:, None], torch.ones(4, 1), torch.arange(12.0).view(4, 3),
                        torch.zeros(2, 3))  # fmt: skip
    single = inputs.one_view()
    assert single.views == 1
    assert single.angles[:, 0].tolist() == [0.0, 6.0]
    assert single[:1].z.tolist() == [[0.0]]


def test_gamma_of_a_patch(small_config: Config, small_data: Path) -> None:
    for side, expected in ((256, 0.0128), (512, 0.0128)):  # 0.0002 * 64^2 / 64, whatever the image
        changes = [f"dataset.resolution={side}", "training.gamma=auto-patch"]
        assert Config().with_overrides(changes).gamma == pytest.approx(expected)
    whole = Config().with_overrides(["training.gamma=auto-patch", "training.patch.enabled=false"])
    assert whole.gamma == pytest.approx(0.2048)  # nothing is cut: the official rule
    cfg = small_config.with_overrides(["training.gamma=auto-patch", *SHARED])
    dataset = ImageDataset(small_data, 16, True, True)
    text = "\n".join(describe(resolve_config(cfg, dataset), dataset))
    assert "0.0016 (auto-patch: 0.0002 * patch^2 / batch_size), every 2 steps" in text
    assert "2 patches of each object" in text


def test_a_gradient_penalty_needs_only_second_derivatives_of_d(
    small_config: Config, small_data: Path
) -> None:
    """Fakes come detached: a renderer without second derivatives is never asked for any."""
    cfg = small_config.with_overrides(["training.loss=r3gan", "training.reuse_fakes=true"])
    state, dataset = _begin(cfg, small_data)
    seen: list[Tensor] = []

    def look(phase: Phase, passes: list[Pass]) -> None:
        if phase is Phase.R1:
            seen.extend(judged.images for judged in passes[0].judged)

    train_step(state, DatasetSource(state, dataset), look)
    assert len(seen) == 2
    assert all(images.is_leaf and images.requires_grad for images in seen)


FRESH = ["training.occupancy_fakes=true", "model.generator.nerf_noise_std_init=0"]


@pytest.mark.parametrize("loss", ["nonsaturating", "r3gan"])
def test_empty_space_is_left_out_of_the_fakes_of_the_d_step_alone(
    small_config: Config, small_data: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    cfg = small_config.with_overrides([*FRESH, f"training.loss={loss}", "training.batch_gpu=2"])
    state, dataset = _begin(cfg, small_data)
    charted: list[int] = []
    monkeypatch.setattr(
        "epigraf.models.generator.coarse_grid",
        lambda field, *_: charted.append(len(field.planes)),
    )
    train_step(state, DatasetSource(state, dataset))
    assert charted == [2, 2]  # the two parts of Dmain


def test_empty_space_is_not_left_out_while_noise_would_fill_it(
    small_config: Config, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small_config.with_overrides(["training.occupancy_fakes=true"])
    state, dataset = _begin(cfg, small_data)
    state.counters.step = 1
    assert schedule_at(cfg, 0).density_noise_std > 0
    monkeypatch.setattr("epigraf.models.generator.coarse_grid", None)
    train_step(state, DatasetSource(state, dataset))


def test_occupancy_of_fakes_that_are_not_rendered_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"occupancy_fakes has no fakes .*reuse_fakes=true"):
        load_config("plants64", ["training.occupancy_fakes=true"])
    with pytest.raises(ConfigError, match=r"occupancy_fakes keeps .*sampler=nerfacc"):
        load_config("ffhq256", ["training.occupancy_fakes=true", "render.sampler=nerfacc"])
