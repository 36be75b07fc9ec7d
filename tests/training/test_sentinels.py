"""Sentinels: each provoked, what they say, and that runs stop or go back as they should."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.config import Config
from epigraf.data.images import ImageDataset
from epigraf.errors import TrainingError
from epigraf.models.loading import read_snapshot
from epigraf.training.log import Numbers
from epigraf.training.loop import RunResult, TrainOptions, train
from epigraf.training.probes import Probe, ask, mean_distance, non_flatness, plan_probe
from epigraf.training.rollback import GOOD_SNAPSHOT, mark_good
from epigraf.training.sentinels import Sentinels, Verdict
from epigraf.training.state import State, build_state, load_state, resolve_config

PROBING = ["sentinels.probe_kimg=0.004", "sentinels.grace_kimg=0"]
HEALTHY = {
    "Loss/G/loss": 0.7, "Loss/D/loss": 1.4, "Gradient/Gmain": 2.0, "Gradient/Dmain": 1.0,
    "Loss/scores/real": 0.5, "Loss/scores/fake": -0.5,
    "Loss/signs/real": 0.3, "Loss/signs/fake": -0.3,
}  # fmt: skip


def _train(cfg: Config, data: Path, out: Path, **options: object) -> RunResult:
    return train(cfg, data, out, TrainOptions(live=False, device="cpu", **options))  # type: ignore[arg-type]


@pytest.fixture
def quick(small_config: Config) -> Config:
    """A tick a step of four images."""
    return small_config.with_overrides(
        ["training.kimg=0.02", "training.tick=0.004", "training.image_snap=99"]
    )


@pytest.fixture
def state_and_probe(small_config: Config, small_data: Path) -> tuple[State, Probe]:
    dataset = ImageDataset(small_data, 16, True, True)
    cfg = resolve_config(small_config, dataset)
    state = build_state(cfg, len(dataset), dataset.mean_camera_pose)
    state.counters.images_seen = 100_000
    return state, plan_probe(cfg, dataset, torch.device("cpu"))


def _watching(state: State, probe: Probe, *changes: str) -> Sentinels:
    return Sentinels(state.cfg.with_overrides(changes).sentinels, probe)


def _tick(watch: Sentinels, state: State, **changed: float) -> list[Verdict]:
    """A tick of healthy numbers but for some, without a probe."""
    state.counters.tick_start = state.counters.images_seen
    means = HEALTHY | {name.replace("__", "/"): value for name, value in changed.items()}
    return watch.tick(state, means)[1]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("logits", {"Loss__scores__real": 200.0}),
        ("logits", {"Loss__scores__fake": -200.0}),
        ("gradients", {"Gradient__Gmain": 5000.0}),
        ("gradients", {"Gradient__Dmain": 5000.0}),
        ("overpowering", {"Loss__signs__real": 0.98, "Loss__signs__fake": -0.96}),
    ],
)
def test_numbers_of_a_tick_raise_after_their_patience_and_once(
    state_and_probe: tuple[State, Probe], name: str, bad: dict[str, float]
) -> None:
    state, probe = state_and_probe
    watch = _watching(state, probe, f"sentinels.{name}.patience=3")
    assert [len(_tick(watch, state, **bad)) for _ in range(2)] == [0, 0]
    assert not _tick(watch, state)  # a good tick between: it counts from zero again
    verdicts = [_tick(watch, state, **bad) for _ in range(5)]
    assert [len(v) for v in verdicts] == [0, 0, 1, 0, 0]
    (verdict,) = verdicts[2]
    assert verdict.name == name
    assert ", 3 times in a row; " in verdict.line
    assert "training.gamma" in verdict.line  # the remedy
    (cleared,) = _tick(watch, state)
    assert cleared.line == f"sentinel {name}: all is well again"


def test_a_run_resumed_with_a_sterner_action_is_stopped(
    state_and_probe: tuple[State, Probe],
) -> None:
    state, probe = state_and_probe
    for _ in range(4):
        _tick(_watching(state, probe), state, Gradient__Gmain=5000.0)
    assert state.counters.strikes == {"gradients": 4}
    stern = _watching(state, probe, "sentinels.gradients.action=stop")
    assert [v.name for v in _tick(stern, state, Gradient__Gmain=5000.0)] == ["gradients"]


def test_share_of_right_signs_by_hand(state_and_probe: tuple[State, Probe]) -> None:
    """D is right about 90 % of the reals (mean sign 0.8) and 70 % of the fakes (-0.4)."""
    state, probe = state_and_probe
    means = HEALTHY | {"Loss/signs/real": 0.8, "Loss/signs/fake": -0.4}
    row, _ = _watching(state, probe).tick(state, means)
    assert row["Sentinels/overpowering"] == pytest.approx(0.8)
    assert row["Sentinels/logits"] == 0.5
    assert row["Sentinels/gradients"] == 2.0
    assert row["Sentinels/lr_scale"] == 1.0


def test_grace_off_and_the_order_of_states(state_and_probe: tuple[State, Probe]) -> None:
    state, probe = state_and_probe
    bad = {"Loss__signs__real": 1.0, "Loss__signs__fake": -1.0}
    watch = _watching(state, probe, "sentinels.overpowering.patience=1")
    state.counters.images_seen = 49_999
    assert not _tick(watch, state, **bad)
    state.counters.images_seen = 50_000
    assert _tick(watch, state, **bad)
    off = _watching(state, probe, "sentinels.overpowering.action=off")
    assert not _tick(off, state, **bad)
    assert "overpowering" not in state.counters.strikes


def test_losses_and_gradients_that_are_no_numbers(state_and_probe: tuple[State, Probe]) -> None:
    state, probe = state_and_probe
    watch = _watching(state, probe, "sentinels.nonfinite.patience=2")
    for name in ("Loss/G/loss", "Loss/D/loss", "Gradient/Gmain", "Gradient/Dreg"):
        for value in (math.nan, math.inf):
            bad = HEALTHY | {name: value}
            assert not watch.step(state, bad)
            assert not watch.is_good(state)  # not a moment to come back to
            assert watch.step(state, bad)[0].name == "nonfinite"
            assert len(watch.step(state, HEALTHY)) == 1
            assert watch.is_good(state)


def test_a_weight_that_is_no_number_is_found_at_once(state_and_probe: tuple[State, Probe]) -> None:
    state, probe = state_and_probe
    watch = _watching(state, probe)
    for network in (state.generator, state.discriminator, state.ema):
        weight = next(reversed(list(network.parameters())))
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.view(-1)[-1] = math.inf
        (verdict,) = _tick(watch, state)
        assert verdict.line.startswith("sentinel weights: a weight is NaN or infinite; raise")
        assert not watch.is_good(state)
        with torch.no_grad():
            weight.copy_(kept)
        _tick(watch, state)


def test_a_warning_does_not_make_a_snapshot_bad_but_an_acting_sentinel_does(
    state_and_probe: tuple[State, Probe],
) -> None:
    state, probe = state_and_probe
    for action, good in (("warn", True), ("stop", False), ("rollback", False)):
        watch = _watching(state, probe, f"sentinels.logits.action={action}")
        _tick(watch, state, Loss__scores__real=200.0)
        assert watch.is_good(state) == good
    quiet = [f"sentinels.{n}.action=warn" for n in ("nonfinite", "logits")]
    assert not _watching(state, probe, *quiet).wants_good


def test_non_flatness_by_hand() -> None:
    opacity = torch.ones(1, 1, 8, 8)
    wall = torch.full((1, 1, 8, 8), 0.9)
    assert non_flatness(wall, opacity, 0.75, 1.25) == pytest.approx(1.0)
    # four distances of 16 rays each: the entropy is log 4
    steps = torch.tensor([0.8, 0.9, 1.0, 1.1]).repeat_interleave(16).view(1, 1, 8, 8)
    assert non_flatness(steps, opacity, 0.75, 1.25) == pytest.approx(4.0)
    # depths are sums of weights times distance: half opaque rays say the same
    assert non_flatness(steps * 0.6, opacity * 0.6, 0.75, 1.25) == pytest.approx(4.0)
    every = torch.linspace(0.75, 1.25, 64).view(1, 1, 8, 8)
    assert non_flatness(every, opacity, 0.75, 1.25) == pytest.approx(64.0)
    both = torch.cat([wall, steps])
    assert non_flatness(both, opacity.expand(2, -1, -1, -1), 0.75, 1.25) == pytest.approx(2.5)
    assert non_flatness(steps, opacity * 0.4, 0.75, 1.25) is None  # fog: nothing is solid


@given(st.lists(st.floats(0.88, 1.12), min_size=16, max_size=64), st.floats(0.6, 1.0))
@settings(max_examples=30, deadline=None)
def test_non_flatness_counts_occupied_depths(distances: list[float], opacity: float) -> None:
    """Between 1 and the number of different depths; the order of the pixels says nothing."""
    depth = torch.tensor(distances, dtype=torch.float64).view(1, 1, 1, -1)
    solid = torch.full_like(depth, opacity)
    score = non_flatness(depth * solid, solid, 0.88, 1.12)
    assert score is not None
    assert 1 - 1e-5 <= score <= len(set(distances)) + 1e-4
    again = non_flatness(depth.flip(-1) * solid, solid, 0.88, 1.12)
    assert again == pytest.approx(score)


@pytest.mark.parametrize("links", [True, False])
def test_the_good_snapshot_outlives_the_numbered_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    numbered = tmp_path / "network-snapshot-000001.safetensors"
    for content in (b"first", b"second"):
        numbered.unlink(missing_ok=True)
        numbered.write_bytes(content)
        mark_good(numbered)
        mark_good(numbered)
    numbered.unlink()
    assert (tmp_path / GOOD_SNAPSHOT).read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == [GOOD_SNAPSHOT]


def test_mean_distance_by_hand() -> None:
    images = torch.tensor([0.0, 1.0, 3.0])[:, None, None, None].expand(3, 3, 4, 4)
    assert mean_distance(images) == pytest.approx((1 + 2 + 3) / 3)
    assert mean_distance(images[:1]) == 0.0


def _provoked(state: State, probe: Probe, name: str) -> tuple[Numbers, list[Verdict]]:
    watch = _watching(state, probe, *PROBING, f"sentinels.{name}.patience=1")
    state.counters.tick_start = state.counters.images_seen - 4000
    return watch.tick(state, HEALTHY)


def test_a_generator_of_walls_is_flat(state_and_probe: tuple[State, Probe]) -> None:
    """So dense everywhere that each ray ends at its first sample."""
    state, probe = state_and_probe
    layer = state.ema.decoder.layers[-1]
    with torch.no_grad():
        layer.get_parameter("bias")[3] = 1e6
    row, verdicts = _provoked(state, probe, "flatness")
    assert row["Sentinels/flatness"] == pytest.approx(1.0, abs=0.01)
    line = next(v.line for v in verdicts if v.name == "flatness")
    assert "below 3" in line
    assert "model.discriminator.camera_cond=true" in line


def test_a_ball_is_not_flat(small_config: Config, small_data: Path) -> None:
    """The density prior alone: a solid ball, seen as one."""
    cfg = small_config.with_overrides(
        ["model.generator.density_prior_radius=0.1", "model.generator.density_prior_strength=1000",
         "model.generator.test_ray_steps=64", "model.generator.last_interval=finite"]
    )  # fmt: skip
    dataset = ImageDataset(small_data, 16, True, True)
    cfg = resolve_config(cfg, dataset)
    state = build_state(cfg, len(dataset), dataset.mean_camera_pose)
    found = ask(state.ema, plan_probe(cfg, dataset, torch.device("cpu")))
    # half a ball of radius 0.1 between 0.88 and 1.12 reaches over 0.1 / 0.24 of the 64 bins
    assert 10 < found["flatness"] < 27


def test_a_generator_whose_objects_follow_the_camera_leaks_the_pose(
    state_and_probe: tuple[State, Probe],
) -> None:
    state, probe = state_and_probe
    probe = replace(probe, labels=probe.labels[:1].expand_as(probe.labels))
    first = state.ema.mapping.get_submodule("fc0").get_parameter("weight")
    width = state.ema.z_dim
    with torch.no_grad():
        first.mul_(100)
    kept = first.detach().clone()
    with torch.no_grad():
        first[:, :width] = 0.0  # the latent is not heard any more
    row, verdicts = _provoked(state, probe, "pose_leak")
    assert row["Sentinels/pose_leak"] > 1.0
    assert any("camera_cond_spoof_p" in v.line for v in verdicts if v.name == "pose_leak")
    with torch.no_grad():
        first.copy_(kept)
        first[:, width:] = 0.0  # neither label nor camera
    row, verdicts = _provoked(state, probe, "pose_leak")
    assert row["Sentinels/pose_leak"] == 0.0
    assert not [v for v in verdicts if v.name == "pose_leak" and "above" in v.line]


def test_without_generator_conditioning_no_leak_is_asked_for(
    small_config: Config, small_data: Path
) -> None:
    cfg = small_config.with_overrides(["model.generator.camera_cond=false"])
    dataset = ImageDataset(small_data, 16, True, True)
    cfg = resolve_config(cfg, dataset)
    state = build_state(cfg, len(dataset), dataset.mean_camera_pose)
    assert "pose_leak" not in ask(state.ema, plan_probe(cfg, dataset, torch.device("cpu")))


def test_identical_fakes_are_a_collapse(state_and_probe: tuple[State, Probe]) -> None:
    state, probe = state_and_probe
    with torch.no_grad():
        for name in ("fc0", "fc1"):
            state.ema.mapping.get_submodule(name).get_parameter("weight").zero_()
    seen_from_one_side = replace(probe, angles=probe.front.expand_as(probe.angles))
    row, verdicts = _provoked(state, seen_from_one_side, "collapse")
    assert row["Sentinels/collapse"] == pytest.approx(0.0, abs=1e-4)
    assert any("distance between fakes" in v.line for v in verdicts)


def test_fakes_are_asked_once_in_probe_kimg(state_and_probe: tuple[State, Probe]) -> None:
    state, probe = state_and_probe
    watch = _watching(state, probe, "sentinels.probe_kimg=10")
    asked = []
    for images in range(1000, 31_000, 1000):
        state.counters.tick_start, state.counters.images_seen = images - 1000, images
        if "Sentinels/collapse" in watch.tick(state, HEALTHY)[0]:
            asked.append(images)
    assert asked == [10_000, 20_000, 30_000]


def test_training_is_the_same_with_and_without_sentinels(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    names = (
        "nonfinite",
        "logits",
        "gradients",
        "overpowering",
        "flatness",
        "pose_leak",
        "collapse",
    )
    short = "training.kimg=0.012"
    off = quick.with_overrides([short, *(f"sentinels.{name}.action=off" for name in names)])
    results = [
        _train(cfg, small_data, tmp_path / name)
        for name, cfg in (("with", quick.with_overrides([*PROBING, short])), ("without", off))
    ]
    first, second = (read_snapshot(r.snapshot) for r in results)
    for group in ("G", "D", "G_ema", "optim_G", "optim_D"):
        a, b = first.tensors(group), second.tensors(group)
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert first.header["draws"] == second.header["draws"]
    rows = [json.loads(x) for x in (results[0].folder / "stats.jsonl").read_text().splitlines()]
    assert {"Sentinels/collapse", "Sentinels/pose_leak", "Sentinels/logits"} <= rows[0].keys()
    assert not (results[1].folder / GOOD_SNAPSHOT).exists()


class _Saboteur:
    """Plants a NaN in a weight of the generator, at chosen ticks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ticks: int) -> None:
        self.state: State | None = None
        self.ticks, self.calls = ticks, 0

        def tick(watch: Sentinels, state: State, means: Numbers) -> object:
            self.state, self.calls = state, self.calls + 1
            if self.calls in self.ticks:
                with torch.no_grad():
                    next(state.generator.parameters()).view(-1)[0] = math.nan
            return original(watch, state, means)

        original = Sentinels.tick
        monkeypatch.setattr(Sentinels, "tick", tick)


def test_a_rollback_goes_on_from_the_last_good_snapshot(
    quick: Config, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A snapshot every second tick; the NaN comes in the third."""
    _Saboteur(monkeypatch, 3)
    cfg = quick.with_overrides(["training.snap=2"])
    result = _train(cfg, small_data, tmp_path)
    log = (result.folder / "log.txt").read_text()
    assert "sentinel weights: a weight is NaN or infinite" in log
    assert "rollback 1 of 3 (sentinel weights): from 0.012 back to 0.008 kimg" in log
    assert "learning rates times 0.5, new random numbers" in log
    assert result.kimg == 0.02
    rows = [json.loads(x) for x in (result.folder / "stats.jsonl").read_text().splitlines()]
    assert [row["Progress/images"] for row in rows] == [4, 8, 12, 16, 20]  # 12 was dropped, redone
    assert [row["Sentinels/lr_scale"] for row in rows] == [1, 1, 0.5, 0.5, 0.5]
    end = read_snapshot(result.snapshot)
    assert all(bool(t.isfinite().all()) for t in end.tensors("G").values())
    assert (end.header["counters"]["rollbacks"], end.header["counters"]["lr_scale"]) == (1, 0.5)
    # the numbers survive a resume
    longer = cfg.with_overrides(["training.kimg=0.024"])
    seen: list[Numbers] = []
    again = _train(longer, small_data, tmp_path, resume="latest", on_tick=seen.append)
    assert "rollbacks so far 1, learning rates times 0.5" in capsys.readouterr().out
    assert seen[0]["Sentinels/lr_scale"] == 0.5
    counters = read_snapshot(again.snapshot).header["counters"]
    assert (counters["rollbacks"], counters["lr_scale"]) == (1, 0.5)


def test_a_resumed_state_steps_at_the_lowered_rate(
    small_config: Config, small_data: Path, tmp_path: Path
) -> None:
    from epigraf.training.state import save_state

    dataset = ImageDataset(small_data, 16, True, True)
    cfg = resolve_config(small_config, dataset)
    states = [build_state(cfg, len(dataset), dataset.mean_camera_pose) for _ in range(2)]
    states[0].counters.lr_scale = 0.25
    save_state(states[0], tmp_path / "network-snapshot-000000.safetensors")
    load_state(states[1], read_snapshot(tmp_path / "network-snapshot-000000.safetensors"))
    rates = [o.param_groups[0]["lr"] for o in (states[1].optimiser_g, states[1].optimiser_d)]
    assert rates == pytest.approx([0.0025 * 0.25, 0.002 * 2 / 3 * 0.25])


def test_rolled_back_runs_draw_other_numbers_and_images(
    quick: Config, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = quick.with_overrides(["sentinels.lr_factor=1", "training.kimg=0.008"])
    straight = _train(cfg, small_data, tmp_path / "a")
    _Saboteur(monkeypatch, 2)
    bent = _train(cfg, small_data, tmp_path / "b")
    one, other = (read_snapshot(r.snapshot).header for r in (straight, bent))
    assert one["draws"]["seed"] != other["draws"]["seed"]
    assert one["sampler"]["order"] != other["sampler"]["order"]
    _Saboteur(monkeypatch, 2)
    again = _train(cfg, small_data, tmp_path / "c")
    a, b = (read_snapshot(r.snapshot).tensors("G") for r in (bent, again))
    assert all(torch.equal(a[name], b[name]) for name in a)  # and the same ones every time


def test_too_many_rollbacks_end_the_run(
    quick: Config, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Saboteur(monkeypatch, *range(2, 20))
    cfg = quick.with_overrides(["sentinels.rollbacks=2"])
    with pytest.raises(
        TrainingError,
        match=r"^training stopped at 0\.008 kimg after 2 rollbacks by sentinel weights: .*; the "
        r"last good snapshot is .*network-snapshot-good\.safetensors \(0\.004 kimg\)$",
    ):
        _train(cfg, small_data, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert read_snapshot(folder / GOOD_SNAPSHOT).images_seen == 4
    assert (folder / "log.txt").read_text().count("rollback ") == 2


def test_snapshots_ahead_of_a_rollback_are_not_resumed_from(
    small_config: Config, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots of ticks at which a sentinel was on its way to a rollback are not good, and go."""
    patience = 2
    cfg = small_config.with_overrides(
        ["training.kimg=4", "training.tick=1", "training.keep_last=9", "training.batch_size=1000",
         "sentinels.logits.action=rollback", f"sentinels.logits.patience={patience}"]
    )  # fmt: skip
    ticks: list[int] = []

    def step(state: State, _: object) -> Numbers:
        state.counters.images_seen += 1000
        state.counters.step += 1
        ticks.append(state.counters.images_seen)
        bad = ticks.count(2000) == 1  # from the second tick on, until the rollback
        return HEALTHY | {"Loss/scores/real": 99.0 if bad else 0.5}

    monkeypatch.setattr("epigraf.training.loop.train_step", step)
    monkeypatch.setattr("epigraf.training.loop.DatasetSource", lambda *_: None)
    result = _train(cfg, small_data, tmp_path)
    assert ticks == [1000, 2000, 3000, 2000, 3000, 4000]
    assert "from 3.000 back to 1.000 kimg" in (result.folder / "log.txt").read_text()
    assert result.kimg == 4


def test_a_stop_is_one_line_and_keeps_the_snapshots(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    cfg = quick.with_overrides(
        ["sentinels.gradients.action=stop", "sentinels.gradients.threshold=1e-9",
         "sentinels.gradients.patience=3"]
    )  # fmt: skip
    with pytest.raises(
        TrainingError, match=r"^training stopped at 0\.012 kimg by sentinel grad"
    ) as e:
        _train(cfg, small_data, tmp_path)
    assert "\n" not in str(e.value)
    (folder,) = tmp_path.iterdir()
    assert read_snapshot(folder / "network-snapshot-000000.safetensors").images_seen == 8


def test_no_r1_and_a_huge_learning_rate_raise_logits_or_gradients(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    cfg = quick.with_overrides(
        ["training.gamma=0", "model.discriminator.optim.lr=0.5", "model.generator.optim.lr=0.5",
         "training.kimg=0.06", "sentinels.rollbacks=0", "sentinels.logits.action=stop",
         "sentinels.gradients.action=stop", "training.image_snap=99"]
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"by sentinel (logits|gradients|nonfinite)"):
        _train(cfg, small_data, tmp_path)


def test_warnings_go_to_the_log_and_the_run_goes_on(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    cfg = quick.with_overrides([*PROBING, "sentinels.collapse.threshold=100"])
    result = _train(cfg, small_data, tmp_path)
    log = (result.folder / "log.txt").read_text()
    assert log.count("sentinel collapse: distance between fakes relative to reals") == 1
    assert result.kimg == 0.02
