"""Several gloo processes train the model that one process trains, and end together."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from epigraf.config import Config
from epigraf.data.images import Batch, ImageDataset
from epigraf.errors import TrainingError
from epigraf.models.loading import read_snapshot
from epigraf.rendering.draws import Draws, RandomDraws, ReplayDraws
from epigraf.training import distributed
from epigraf.training.batches import DatasetSource
from epigraf.training.loop import TrainOptions, train
from epigraf.training.passes import FakeInputs, Pass
from epigraf.training.run import all_tensors
from epigraf.training.schedules import Schedule
from epigraf.training.state import State, build_state, resolve_config
from epigraf.training.step import Phase, train_step
from tests.training.processes import together

Recorded = list[tuple[str, Tensor]]


class RecordingDraws:
    """Draws like `RandomDraws`, numbers along rays one by one, and keeps all of them."""

    def __init__(self, seed: int) -> None:
        self._draws = RandomDraws(seed)
        self.kept: Recorded = []

    def ray_seed(self) -> None:
        return None

    def __getattr__(self, kind: str) -> Any:
        def draw(name: str, *arguments: Any) -> Tensor:
            value = getattr(self._draws, kind)(name, *arguments)
            self.kept.append((name, value))
            return value

        return draw


@dataclass
class Given:
    """A batch of reals and fakes from a seed, of which a process takes its part."""

    batch: int
    part: slice
    seed: int

    def _random(self) -> torch.Generator:
        self.seed += 1
        return torch.Generator().manual_seed(self.seed)

    def _angles(self, random: torch.Generator) -> Tensor:
        return torch.rand(self.batch, 3, generator=random) * torch.tensor([1.0, 1.0, 0.0])

    def reals(self) -> Batch:
        random = torch.Generator().manual_seed(1000 + self.seed // 10)  # the same in all phases
        images = torch.rand(self.batch, 3, 16, 16, generator=random) * 2 - 1
        labels = torch.eye(3)[torch.randint(3, (self.batch,), generator=random)]
        angles = self._angles(random)
        return Batch(images[self.part], labels[self.part], angles[self.part])

    def fakes(self, _: Schedule) -> FakeInputs:
        random = self._random()
        z = torch.randn(self.batch, 8, generator=random)
        labels = torch.eye(3)[torch.randint(3, (self.batch,), generator=random)]
        angles = self._angles(random)
        return FakeInputs(z, labels, angles, angles.flip(0))[self.part]


def _state(cfg: Config, data: Path, draws: Draws | None = None) -> tuple[State, ImageDataset]:
    dataset = ImageDataset(data, cfg.dataset.resolution, True, cfg.training.use_labels)
    state = build_state(resolve_config(cfg, dataset), len(dataset), dataset.mean_camera_pose)
    state.draws = draws or state.draws
    return state, dataset


Outcome = tuple[list[dict[str, float]], list[Tensor], dict[str, Tensor]]


def _gradients(state: State, phase: Phase) -> Tensor:
    network = state.generator if phase is Phase.GENERATOR else state.discriminator
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(found)


STEPS = 4


def _whole(cfg: Config, data: Path, parts: int) -> tuple[Outcome, list[Recorded]]:
    """One process, the batch in parts; also the numbers that each part drew, over all steps."""
    draws = RecordingDraws(5)
    state, _ = _state(cfg, data, draws)
    numbers, gradients = [], []
    shares: list[Recorded] = [[] for _ in range(parts)]

    def observe(phase: Phase, _: list[Pass]) -> None:
        gradients.append(_gradients(state, phase))
        size = len(draws.kept) // parts
        assert size * parts == len(draws.kept)
        for number, share in enumerate(shares):
            share += draws.kept[number * size : (number + 1) * size]
        draws.kept = []

    for step in range(STEPS):
        given = Given(cfg.training.batch_size, slice(None), 10 * step)
        numbers.append(train_step(state, given, observe))
    return (numbers, gradients, dict(all_tensors(state))), shares


def _share(cfg: Config, data: Path, shares: Sequence[Recorded]) -> Outcome:
    """One of several processes, with the numbers that its part drew."""
    with distributed.joined():
        rank, size = distributed.rank(), distributed.images_per_process(cfg)
        draws = ReplayDraws(shares[rank])
        state, _ = _state(cfg, data, draws)
        numbers, gradients = [], []
        for step in range(STEPS):
            part = slice(rank * size, (rank + 1) * size)
            given = Given(cfg.training.batch_size, part, 10 * step)
            numbers.append(
                train_step(state, given, lambda p, _: gradients.append(_gradients(state, p)))
            )
        draws.finish()
        distributed.check_in_step(all_tensors(state), "after the steps")
        return numbers, gradients, dict(all_tensors(state))


def test_losses_and_gradients_are_those_of_one_process(
    small_config: Config, small_data: Path
) -> None:
    """Everything on: patches, ADA, labels, cameras with noise and dropout, R1."""
    cfg = small_config.with_overrides(["training.batch_size=8"])
    parted = cfg.with_overrides(["training.batch_gpu=4"])
    (numbers, gradients, tensors), shares = _whole(parted, small_data, 2)
    results = together(2, _share, cfg, small_data, shares)
    for ours, slopes, found in results:
        for mine, theirs in zip(ours, numbers, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)
        for mine, theirs in zip(slopes, gradients, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)
        for name, value in found.items():
            if not name.endswith("w_avg"):  # one update of the whole batch here, two parts there
                assert torch.allclose(value, tensors[name], rtol=1e-5, atol=1e-6), name
    assert results[0][0] == results[1][0]


def _running_means(cfg: Config, data: Path) -> tuple[Tensor, Tensor, Tensor, float]:
    with distributed.joined():
        state, dataset = _state(cfg, data)
        mapping = copy.deepcopy(state.generator.mapping)
        source = DatasetSource(state, dataset)
        inputs: list[FakeInputs] = []
        make = source.fakes
        source.fakes = lambda schedule: inputs.append(make(schedule)) or inputs[-1]  # type: ignore[method-assign,func-returns-value]
        train_step(state, source)
        with torch.no_grad():
            mean = mapping(inputs[0].z, inputs[0].labels)[:, 0].mean(dim=0)
        w_avg = state.generator.mapping.w_avg
        assert torch.equal(w_avg, state.ema.mapping.w_avg)
        return mean, w_avg, state.path_length_mean, state.counters.sign_count


def test_running_means_are_of_the_whole_batch(small_config: Config, small_data: Path) -> None:
    """The first update of w_avg from zero is 0.002 times the mean w of all processes."""
    cfg = small_config.with_overrides(
        ["training.reuse_fakes=true", "training.batch_size=8", "model.generator.camera_cond=false",
         "model.loss_kwargs.pl_weight=2", "training.patch.enabled=false"]
    )  # fmt: skip
    first, second = together(2, _running_means, cfg, small_data)
    expected = 0.002 * (first[0] + second[0]) / 2
    assert not torch.equal(first[0], second[0])
    for _, w_avg, path_length_mean, signs in (first, second):
        assert torch.allclose(w_avg, expected, rtol=1e-4, atol=1e-8)
        assert torch.equal(path_length_mean, first[2])
        assert path_length_mean > 0
        assert signs == 16  # the D and the R1 phase show 8 reals each


def _images(cfg: Config, data: Path, steps: int) -> tuple[list[Tensor], Tensor]:
    with distributed.joined():
        state, dataset = _state(cfg, data)
        images = [DatasetSource(state, dataset).reals().images for _ in range(steps)]
        return images, state.draws.normal("z", (4,), torch.empty(0))


def test_processes_share_one_order_of_images_and_draw_for_themselves(
    small_config: Config, small_data: Path
) -> None:
    cfg = small_config.with_overrides(["training.batch_size=8", "training.seed=3"])
    state, dataset = _state(cfg, small_data)
    whole = [DatasetSource(state, dataset).reals().images for _ in range(4)]
    for rank, (images, drawn) in enumerate(together(2, _images, cfg, small_data, 4)):
        for mine, all_of_them in zip(images, whole, strict=True):
            assert torch.equal(mine, all_of_them[rank::2])
        expected = RandomDraws(3 * 2 + rank).normal("z", (4,), torch.empty(0))
        assert torch.equal(drawn, expected)


def _small_talk() -> dict[str, Any]:
    with distributed.joined():
        rank = distributed.rank()
        said: dict[str, Any] = {
            "agree": distributed.agree([rank, 5 - rank]),
            "gather": distributed.gather(f"from {rank}"),
            "main": distributed.on_main(lambda: f"made by {rank}"),
            "mean": distributed.reduce_mean({"a": rank + 1.0, "b": 3.0 * rank}),
            "writes": distributed.is_main(),
        }
        try:
            distributed.on_main(_refuse)
        except TrainingError as error:
            said["refused"] = type(error).__name__
        tensors = [torch.full((2,), float(rank)), torch.tensor(4.0 * rank)]
        distributed.average(tensors)
        said["average"] = [t.tolist() for t in tensors]
        try:
            different = [("G/same", torch.ones(3)), ("G/other", torch.tensor([0.0, rank]))]
            distributed.check_in_step(different, "at 3 kimg")
        except TrainingError as error:
            said["check"] = str(error)
        return said


def _refuse() -> None:
    raise TrainingError("no")


def test_what_processes_tell_each_other() -> None:
    first, second = together(2, _small_talk)
    assert first["refused"] == "TrainingError"
    assert second["refused"] == "PeerLost"
    assert first["writes"]
    assert not second["writes"]
    for said in (first, second):
        assert said["agree"] == [1, 5]
        assert said["gather"] == ["from 0", "from 1"]
        assert said["main"] == "made by 0"
        assert said["mean"] == {"a": 1.5, "b": 1.5}
        assert said["average"] == [[0.5, 0.5], 2.0]
        assert said["check"] == (
            "run: the processes do not hold the same model any more at 3 kimg: G/other differs; "
            "resume from the last snapshot"
        )


def test_alone_everything_is_the_identity() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.agree([3]) == [3]
    assert distributed.gather("x") == ["x"]
    assert distributed.reduce_mean({"a": 0.1}) == {"a": 0.1}
    tensor = torch.ones(2)
    distributed.average([tensor])
    assert tensor.tolist() == [1, 1]
    with distributed.joined("cpu") as device:
        assert device == torch.device("cpu")


@pytest.fixture
def quick(small_config: Config) -> Config:
    """Three ticks of one step, a snapshot each."""
    return small_config.with_overrides(
        ["training.batch_size=8", "training.kimg=0.024", "training.tick=0.008"]
    )


def _train(
    cfg: Config, data: Path, out: Path, resume: str | None = None, event: str = ""
) -> tuple[str, float, int]:
    """(reason, kimg, ticks) of one process of a run; `event` befalls process 1 after its first
    tick."""
    ticks = []

    def on_tick(numbers: dict[str, float]) -> None:
        ticks.append({k: v for k, v in numbers.items() if not k.startswith("Timing")})
        if distributed.rank() == 1 and event == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        elif distributed.rank() == 1 and event == "death":
            os._exit(9)

    options = TrainOptions(resume=resume, live=False, device="cpu", on_tick=on_tick)
    result = train(cfg, data, out, options)
    return result.reason.name, result.kimg, ticks  # type: ignore[return-value]


def _tensors(out: Path) -> dict[str, Tensor]:
    snapshot = read_snapshot(max(out.glob("*/network-snapshot-*.safetensors")))
    groups = snapshot.header["checksums"]
    return {f"{g}/{name}": t for g in groups for name, t in snapshot.tensors(g).items()}


def test_a_stopped_run_of_two_goes_on_bit_for_bit(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    """A signal to one process stops both; resumed, they end where an undisturbed pair ends."""
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    results = together(2, _train, quick, small_data, stopped, None, "SIGTERM")
    assert [result[:2] for result in results] == [("TERMINATED", 0.008)] * 2
    results = together(2, _train, quick, small_data, stopped, "latest")
    assert [result[:2] for result in results] == [("FINISHED", 0.024)] * 2
    first, second = together(2, _train, quick, small_data, whole)
    assert first[2] == second[2]  # every number of every tick
    assert len(first[2]) == 3
    a, b = _tensors(stopped), _tensors(whole)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(list(stopped.iterdir())) == 1


def test_a_process_that_dies_ends_the_run_and_another_number_resumes_it(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    first, second = together(2, _train, quick, small_data, tmp_path, None, "death")
    assert first.startswith("PeerLost: run: lost the connection to the other processes (")
    assert "GLHF" not in first
    assert second is None
    assert _train(quick, small_data, tmp_path, "latest")[:2] == ("FINISHED", 0.024)
    longer = quick.with_overrides(["training.kimg=0.032"])
    results = together(2, _train, longer, small_data, tmp_path, "latest")
    assert [result[:2] for result in results] == [("FINISHED", 0.032)] * 2
    lines = next(tmp_path.glob("*/log.txt")).read_text(encoding="utf-8").splitlines()
    shared = "batch      8 images a step = 2 processes x 4, 4 a pass, 1 to a step"
    assert lines.count(shared) == 2
    for before, now in ((2, 1), (1, 2)):
        change = f"processes {before} on cpu -> {now} on cpu: new streams of random numbers"
        assert f"resume: {change}" in lines
