"""A run from start to finish: the folder, the lines, ticks, snapshots, resume."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

import epigraf
from epigraf.config import Config
from epigraf.data.images import ImageDataset
from epigraf.errors import CheckpointError, TrainingError
from epigraf.models.generator import Generator
from epigraf.training.describe import describe
from epigraf.training.log import Numbers
from epigraf.training.loop import RunResult, StopReason, TrainOptions, train
from epigraf.training.snapshots import Snapshots
from epigraf.training.state import build_state, resolve_config


def _train(cfg: Config, data: Path, out: Path, **options: object) -> RunResult:
    return train(cfg, data, out, TrainOptions(live=False, device="cpu", **options))  # type: ignore[arg-type]


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def quick(small_config: Config) -> Config:
    """Three ticks of one step."""
    return small_config.with_overrides(
        ["training.batch_size=4", "training.kimg=0.012", "training.tick=0.004"]
    )


def test_a_run_leaves_the_files_of_the_field(
    quick: Config, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Numbers] = []
    result = _train(quick, small_data, tmp_path, on_tick=rows.append, desc="try 1")
    assert result.reason is StopReason.FINISHED
    assert result.folder.name == "00000-small-dots-batch4-gamma1-try_1"
    names = {path.name for path in result.folder.iterdir()}
    assert {n for n in names if not n.startswith("events.out.tfevents")} == {
        "training_options.json", "log.txt", "stats.jsonl", "reals.png",
        "fakes_init.png", "fakes000000.png", "network-snapshot-000000.safetensors",
        "network-snapshot-good.safetensors",
    }  # fmt: skip
    options = json.loads((result.folder / "training_options.json").read_text())
    assert options["dataset"]["c_dim"] == 3
    stats = _rows(result.folder / "stats.jsonl")
    assert [row["Progress/images"] for row in stats] == [4, 8, 12]
    assert len(rows) == 3
    assert {"Loss/G/loss", "Timing/sec_per_kimg", "Timing/rays_per_sec"} <= stats[0].keys()
    printed = capsys.readouterr().out
    for word in ("R1 gamma   1 (as configured)", "tick 0 ", "sec/kimg", "maintenance", "cpumem"):
        assert word in printed
    assert printed.splitlines()[-1] in (result.folder / "log.txt").read_text()
    with Image.open(result.folder / "fakes000000.png") as picture:
        assert picture.size == (6 * 16, 6 * 16)


def test_the_snapshot_loads_and_renders(quick: Config, small_data: Path, tmp_path: Path) -> None:
    result = _train(quick, small_data, tmp_path)
    model = epigraf.load(result.folder)
    assert model.kimg == 0.012
    assert not model.generator.training
    assert model.config.training.kimg == 0.012
    assert model.path == result.snapshot


def test_resume_latest_goes_on_in_the_same_folder_past_a_torn_snapshot(
    quick: Config, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _train(quick, small_data, tmp_path)
    torn = first.folder / "network-snapshot-000009.safetensors"
    torn.write_bytes(first.snapshot.read_bytes()[:-100])
    for leftover in (".network-snapshot-000009.safetensors.1.tmp", ".tmpkCIGEs"):
        (first.folder / leftover).write_bytes(b"half")
    longer = quick.with_overrides(["training.kimg=0.016"])
    second = _train(longer, small_data, tmp_path, resume="latest")
    printed = capsys.readouterr().out
    assert second.folder == first.folder
    assert second.kimg == 0.016
    assert printed.count("skipped snapshot") == 1
    assert "truncated" in printed
    assert "resumed from" in printed
    assert not list(first.folder.glob(".*"))


def test_resume_latest_without_a_run_starts_one(
    quick: Config, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(quick, small_data, tmp_path, resume="latest")
    assert "nothing to resume: starting a new run" in capsys.readouterr().out


def test_resume_from_nowhere_is_refused(quick: Config, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder; give `latest`"):
        _train(quick, small_data, tmp_path, resume=str(tmp_path / "gone"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGINT, StopReason.INTERRUPTED), (signal.SIGTERM, StopReason.TERMINATED)],
)
def test_signals_finish_the_step_save_and_leave(
    quick: Config, small_data: Path, tmp_path: Path, number: signal.Signals, reason: StopReason,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    result = _train(quick, small_data, tmp_path, on_tick=lambda _: os.kill(os.getpid(), number))
    assert result.reason is reason
    assert reason.exit_code == 128 + number
    assert result.kimg == 0.004
    assert result.snapshot.exists()
    assert f"continue with --resume {result.folder}" in capsys.readouterr().out


def test_minutes_end_a_run(quick: Config, small_data: Path, tmp_path: Path) -> None:
    result = _train(quick.with_overrides(["training.minutes=0.0001"]), small_data, tmp_path)
    assert result.reason is StopReason.MINUTES
    assert result.snapshot.exists()


def test_metrics_keep_the_best_snapshot_and_the_last_ones(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    values = iter([3.0, 1.0, 2.0])
    asked: list[tuple[bool, int, int]] = []

    def evaluate(generator: Generator, dataset: ImageDataset, samples: int) -> Numbers:
        asked.append((generator.training, len(dataset), samples))
        return {"kid": next(values), "fd": 0.0}

    cfg = quick.with_overrides(["training.metric_samples=7", "training.val_freq=1"])
    result = _train(cfg, small_data, tmp_path, evaluate=evaluate)
    assert asked == [(False, 24, 7)] * 3
    best = json.loads((result.folder / "best.json").read_text())
    assert best["value"] == 1.0
    assert best["kimg"] == 0.008
    assert epigraf.load(result.folder / best["file"]).kimg == 0.008
    records = _rows(result.folder / "metric-kid.jsonl")
    assert [r["results"]["kid"] for r in records] == [3.0, 1.0, 2.0]


def test_only_the_last_snapshots_are_kept(
    small_config: Config, small_data: Path, tmp_path: Path
) -> None:
    dataset = ImageDataset(small_data, 16, True, True)
    state = build_state(resolve_config(small_config, dataset), 24, torch.zeros(3))
    snapshots = Snapshots(tmp_path, keep_last=2)
    for kimg in (1, 2, 3, 4):
        state.counters.images_seen = kimg * 1000
        if kimg == 1:
            assert snapshots.offer_best(state, "kid", 0.5)
        snapshots.save(state)
    assert not snapshots.offer_best(state, "kid", 0.5)
    names = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    numbered = [f"network-snapshot-00000{k}.safetensors" for k in (3, 4)]
    assert names == [*numbered, "network-snapshot-best.safetensors"]
    assert epigraf.load(tmp_path).kimg == 4
    assert Snapshots(tmp_path, keep_last=2).best == snapshots.best


def test_a_loss_that_is_no_number_ends_the_run(
    quick: Config, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "epigraf.training.losses.generator_loss", lambda logits: logits * float("nan")
    )
    with pytest.raises(TrainingError, match=r"stopped at 0\.032 kimg by sentinel nonf.*no good"):
        _train(quick.with_overrides(["training.tick=1", "training.kimg=1"]), small_data, tmp_path)
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_description_names_what_is_derived(quick: Config, small_data: Path) -> None:
    cfg = quick.with_overrides(["training.gamma=auto", "model.generator.num_fine_steps=0"])
    dataset = ImageDataset(small_data, 16, True, True)
    text = "\n".join(describe(resolve_config(cfg, dataset), dataset))
    assert "0.0128 (auto: 0.0002 * resolution^2 / batch_size), every 2 steps" in text
    assert "24 images of 16x16 (with mirrored ones), 3 labels, cameras custom" in text
    assert "8x8 rays, 4+0 samples a ray" in text
    assert "D lr 0.001333" in text


def test_a_second_run_gets_the_next_number(quick: Config, small_data: Path, tmp_path: Path) -> None:
    cfg = quick.with_overrides(["training.kimg=0.004"])
    first, second = (_train(cfg, small_data, tmp_path) for _ in range(2))
    assert first.folder.name.startswith("00000-")
    assert second.folder.name.startswith("00001-")
    a, b = (epigraf.load(r.folder).generator.state_dict() for r in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)
