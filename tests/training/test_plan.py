"""Plans: FLOPs against torch's own counter, parameters against the networks and the paper's sizes,
memory against what autograd really keeps, times against what was measured."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from epigraf.config import Config, list_presets, load_config
from epigraf.data.images import ImageDataset
from epigraf.models.discriminator import DiscriminatorBlock
from epigraf.models.generator import View
from epigraf.ops import use_reference
from epigraf.rendering.patches import PatchParams
from epigraf.training.batches import DatasetSource
from epigraf.training.cost import Cost, cost_of
from epigraf.training.passes import discriminator_pass, fresh_fakes, generator_pass, penalty_pass
from epigraf.training.plan import GIB, GPUS, Measured, make_plan, memory_of
from epigraf.training.schedules import schedule_at
from epigraf.training.state import State, build_state, resolve_config

FLOP_TOLERANCE = 0.03
MEMORY_TOLERANCE = 0.15
WIDE = [  # convolutions dominate as they do in a real network
    "training.patch.resolution=16", "dataset.resolution=16", "training.patch.enabled=true",
    "model.generator.cmax=24", "model.discriminator.cmax=24", "model.generator.tri_plane.res=32",
    "model.discriminator.mbstd_group_size=2", "model.loss_kwargs.blur_init_sigma=0",
    "training.augment.mode=noaug", "model.generator.w_dim=32",
]  # fmt: skip


class _NoModules:
    """The counter's module tracker asks autograd what our convolutions ask it, too; not needed."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _dense(x: Any, w: Any, *rest: Any, out_shape: Any = None, **_: Any) -> int:
    """FLOPs of a convolution by torch's formula; of depthwise ones (FIR filters) none."""
    transposed, groups = rest[4], rest[6]
    return 0 if groups > 1 else conv_flop_count(x, w, out_shape, transposed=transposed)


def _flops(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution: _dense})
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with use_reference(), counter:
        run()
    return counter.get_total_flops()


@pytest.fixture
def begin(small_config: Config, small_data: Path) -> Callable[..., tuple[State, ImageDataset]]:
    def begin(*changes: str) -> tuple[State, ImageDataset]:
        cfg = small_config.with_overrides([*WIDE, *changes])
        dataset = ImageDataset(small_data, 16, True, True)
        cfg = resolve_config(cfg, dataset)
        return build_state(cfg, len(dataset), dataset.mean_camera_pose), dataset

    return begin


def _select(state: State, generator: bool) -> None:
    state.generator.requires_grad_(generator)
    state.discriminator.requires_grad_(not generator)


def _counted(state: State, dataset: ImageDataset) -> dict[str, float]:
    """FLOPs per image of every phase, by torch."""
    source, schedule = DatasetSource(state, dataset), schedule_at(state.cfg, 10**6)
    inputs, reals, batch = source.fakes(schedule), source.reals(), state.cfg.training.batch_size
    with use_reference():
        fakes = fresh_fakes(state, inputs, schedule)
    _select(state, True)
    found = {"Gmain": _flops(lambda: generator_pass(state, inputs, reals, schedule))}
    _select(state, False)

    def judge() -> None:
        made = fakes if state.cfg.training.reuse_fakes else fresh_fakes(state, inputs, schedule)
        discriminator_pass(state, made, reals, schedule)

    found["Dmain"] = _flops(judge)
    if state.cfg.lazy_r1_interval is not None:
        found["Dreg"] = _flops(lambda: penalty_pass(state, reals, schedule, fakes=fakes))
    return {name: flops / batch for name, flops in found.items()}


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("training.reuse_fakes=true", "training.patches_per_latent=2"),
        ("model.generator.bg_model.type=sphere", "model.generator.tri_plane.has_view_cond=true"),
        ("training.loss=r3gan",),
        ("training.loss=r3gan", "training.r1_interval=1"),
    ],
    ids=["official", "shared planes", "background", "r3gan", "r3gan every step"],
)
def test_flops_of_every_phase_as_torch_counts_them(
    begin: Callable[..., tuple[State, ImageDataset]], changes: tuple[str, ...]
) -> None:
    state, dataset = begin(*changes)
    cost, counted = cost_of(state.cfg), _counted(state, dataset)
    assert cost.phases().keys() == counted.keys()
    look_ups = next(part.flops for part in cost.parts if part.name == "look-ups")
    renders = {"Gmain": 3, "Dmain": 0 if state.cfg.training.reuse_fakes else 1, "Dreg": 0}
    for name, flops in cost.phases().items():
        ours = flops - renders[name] * look_ups  # gathers: torch counts none
        assert ours == pytest.approx(counted[name], rel=FLOP_TOLERANCE), name
    total = sum(part.flops for part in cost.by_part())
    amortised = sum(flops * cost.shares()[name] for name, flops in cost.phases().items())
    assert total == pytest.approx(amortised)


def test_a_layer_by_hand() -> None:
    """b512 of the official backbone: 64 channels from 128, 96 plane channels, w of 512."""
    parts = {part.name: part for part in cost_of(load_config("ffhq512")).parts}
    up, same, out = 9 * 64 * 128 * 256**2, 9 * 64 * 64 * 512**2, 64 * 96 * 512**2
    styles, demodulation = 512 * (128 + 64 + 64), 64 * 128 + 64 * 64
    macs = up + same + out + styles + demodulation
    assert parts["backbone b512"].flops == 2 * macs
    assert parts["decoder"].flops == 2 * 64**2 * 96 * (32 * 64 + 64 * 4)  # 0.9 GMAC, and twice that
    assert parts["look-ups"].flops == 64**2 * 96 * 3 * 4 * 32 * 2


def test_parameters_are_the_paper_s() -> None:
    """28.98 M and 27.49 M; the official D has an unused fromrgb in every block but the first."""
    cost = cost_of(load_config("ffhq512"))
    assert round(cost.generator_parameters / 1e6, 2) == 28.98
    channels = [min(16384 // res, 512) for res in (256, 128, 64, 32, 16, 8)]
    unused = sum(4 * c for c in channels)
    assert round((cost.discriminator_parameters + unused) / 1e6, 2) == 27.49
    assert round((cost_of(load_config("ffhq256")).discriminator_parameters + unused) / 1e6, 2) in (
        27.43,
        27.44,
    )


def _kept(run: Callable[[], object], networks: list[nn.Module]) -> int:
    """Bytes of all storages that autograd keeps, parameters and buffers aside."""
    own = {t.untyped_storage().data_ptr() for n in networks for t in n.state_dict().values()}
    found: dict[int, tuple[int, Tensor]] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = (storage.nbytes(), x)  # alive, so that no address returns
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        run()
    return sum(size for size, _ in found.values())


@pytest.fixture
def networks(begin: Callable[..., tuple[State, ImageDataset]]) -> tuple[State, Cost]:
    state, _ = begin("model.generator.num_ray_steps=12", "training.batch_size=8")
    return state, cost_of(state.cfg)


def test_memory_that_the_generator_keeps(networks: tuple[State, Cost]) -> None:
    state, cost = networks
    generator, batch = state.generator, 8
    ws, angles = torch.randn(batch, generator.num_ws, 32), torch.full((batch, 3), 1.5)
    planes: list[Tensor] = []
    backbone = _kept(lambda: planes.append(generator.planes(ws, draws=state.draws)), [generator])
    expected = sum(part.saved for part in cost.parts if part.name.startswith("backbone"))
    assert backbone / batch == pytest.approx(expected, rel=MEMORY_TOLERANCE)

    def render() -> object:
        return generator.synthesis(ws, angles, View(), draws=state.draws, planes=planes[0])

    decoder = next(part.saved for part in cost.parts if part.name == "decoder")
    rendered = _kept(render, [generator]) / batch
    assert rendered == pytest.approx(decoder + cost.planes, rel=MEMORY_TOLERANCE)


def test_memory_that_the_discriminator_keeps(networks: tuple[State, Cost]) -> None:
    state, cost = networks
    batch = 8
    images = torch.randn(batch, 3, 16, 16, requires_grad=True)
    patch = PatchParams(torch.full((batch, 2), 0.5), torch.zeros(batch, 2))
    labels, angles = torch.eye(3)[torch.arange(batch) % 3], torch.ones(batch, 3)

    def scores() -> Tensor:
        return state.discriminator(images, labels, angles, patch, draws=state.draws)

    def penalty() -> Tensor:
        return torch.autograd.grad(scores().sum(), images, create_graph=True)[0].square().sum()

    once = _kept(scores, [state.discriminator])
    assert cost.cast_weights == 0
    assert once == pytest.approx(batch * cost.discriminator.saved, rel=MEMORY_TOLERANCE)
    twice = _kept(penalty, [state.discriminator])
    assert twice / once == pytest.approx(1.9, rel=MEMORY_TOLERANCE)
    assert any(isinstance(m, DiscriminatorBlock) for m in state.discriminator.modules())


def test_weights_in_16_bits_are_copies() -> None:
    """ffhq512 at 256x256: the four largest blocks, 3x3, 3x3 and 1x1 each, and the image's layer."""
    overrides = ["training.precision=bf16", "training.patch.enabled=false"]
    cfg = load_config("ffhq256", overrides)
    channels = [64, 128, 256, 512, 512]  # 16384 / side, at 256, 128, 64, 32, 16 pixels a side
    by_hand = 3 * 64 + sum(9 * a * a + 9 * a * b + a * b for a, b in itertools.pairwise(channels))
    assert cost_of(cfg).cast_weights == 2 * by_hand
    assert memory_of(cost_of(cfg), 4)["D's weights in 16 bits"] == 2 * by_hand


def test_static_memory_by_hand() -> None:
    """Two networks: weights, gradients, two moments each; the average of the first."""
    cost = cost_of(load_config("ffhq512"))
    g, d = cost.generator_parameters, cost.discriminator_parameters
    memory = memory_of(cost, 4)
    assert memory["weights"] == memory["gradients"] == 4 * (g + d)
    assert memory["Adam"] == 8 * (g + d)
    assert memory["EMA"] == 4 * g
    assert memory["planes and their gradient"] == 2 * 4 * 96 * 512**2 * 4
    double = memory_of(cost, 8)
    assert double["backbone activations"] == 2 * memory["backbone activations"]


def test_one_image_of_512_fits_24_gib() -> None:
    cfg = load_config("ffhq512", ["training.batch_size=1"])
    assert make_plan(cfg, GPUS["RTX4090"], 1).peak < 24 * GIB


def test_the_suggestion_fits_and_twice_as_much_does_not() -> None:
    cfg = load_config("ffhq512")
    for name in ("RTX4090", "V100", "A100"):
        made = make_plan(cfg, GPUS[name], 2)
        assert made.suggested is not None
        room = 0.9 * GPUS[name].memory * GIB
        assert sum(memory_of(made.cost, made.suggested).values()) <= room
        if made.suggested < 32:
            assert sum(memory_of(made.cost, 2 * made.suggested).values()) > room
        views = make_plan(cfg.with_overrides(["training.patches_per_latent=4"]), GPUS[name], 2)
        assert views.suggested is not None
        assert views.suggested >= made.suggested  # planes are shared


def test_a_measured_step_is_what_is_planned() -> None:
    cfg = load_config("plants64")
    seconds = {"Gmain": 0.4, "Dmain": 0.2, "Dreg": 0.8, "data": 0.08, "optimiser": 0.04}
    measured = Measured(cfg, seconds, "some machine", "step.json")
    made = make_plan(cfg, None, 1, measured)
    step = 0.4 + 0.2 + 0.8 / 8 + 0.08 + 0.04  # R1 every eighth step, eight images a step
    assert made.seconds_per_kimg == pytest.approx(1000 * step / 8)
    assert made.days == pytest.approx(300 * 1000 * step / 8 / 86400)
    assert not made.predicted
    assert made.source == "measured on some machine (step.json)"
    assert made.dominant[0] == "Gmain"
    # half the R1: every sixteenth step
    lazier = make_plan(cfg.with_overrides(["training.r1_interval=16"]), None, 1, measured)
    assert lazier.seconds_per_kimg == pytest.approx(1000 * (step - 0.05) / 8)
    assert "scaled by FLOPs from plants64" in lazier.source
    # twice the batch: the same seconds an image, but for the optimiser's
    larger = make_plan(cfg.with_overrides(["training.batch_size=16"]), None, 1, measured)
    assert larger.seconds_per_kimg == pytest.approx(1000 * (step - 0.02) / 8)


def test_a_roofline_by_hand() -> None:
    gpu = GPUS["V100"]
    cost = cost_of(load_config("ffhq512"))
    decoder = next(part for part in cost.by_part() if part.name == "decoder")
    arithmetic = decoder.flops / (0.6 * 15.7e12)
    memory = decoder.moved / (0.7 * 900e9)
    assert gpu.seconds(decoder) == max(arithmetic, memory)
    assert decoder.flops == 4 * 2 * 64**2 * 96 * (32 * 64 + 64 * 4)  # two renderings, one gradient
    assert decoder.moved == 4 * (2 + 2) * 64**2 * 96 * prod((5, 4))


@pytest.mark.parametrize("name", sorted(set(list_presets()) - {"fit"}))
def test_every_preset_is_planned_in_no_time(name: str) -> None:
    began = time.process_time()
    made = make_plan(load_config(name), GPUS["A100"], 1)
    assert time.process_time() - began < 1
    assert made.predicted
    assert made.source.startswith("PREDICTION")
    assert 0 < made.dominant[1] <= 1
