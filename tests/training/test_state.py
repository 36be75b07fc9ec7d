"""Snapshots hold everything: a run that was interrupted equals one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from epigraf.config import Config
from epigraf.data.images import ImageDataset
from epigraf.errors import CheckpointError, ConfigError
from epigraf.models.loading import read_snapshot
from epigraf.training.batches import DatasetSource
from epigraf.training.state import State, build_state, load_state, resolve_config, save_state
from epigraf.training.step import train_step


def _dataset(cfg: Config, path: Path) -> ImageDataset:
    return ImageDataset(path, cfg.dataset.resolution, True, cfg.training.use_labels)


def _begin(cfg: Config, dataset: ImageDataset) -> State:
    cfg = resolve_config(cfg, dataset)
    return build_state(cfg, len(dataset), dataset.mean_camera_pose)


def _steps(state: State, dataset: ImageDataset, count: int) -> list[dict[str, float]]:
    return [train_step(state, DatasetSource(state, dataset)) for _ in range(count)]


VARIANTS = {
    "official": [],
    "reuse": ["training.reuse_fakes=true", "training.patch.distribution=uniform"],
    "accumulate": ["training.batch_size=8", "training.batch_gpu=4", "training.augment.mode=fixed"],
    "path length": ["model.loss_kwargs.pl_weight=2", "training.patch.enabled=false"],
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_resume_is_bit_identical(
    small_config: Config, small_data: Path, tmp_path: Path, changes: list[str]
) -> None:
    cfg = small_config.with_overrides(changes)
    dataset = _dataset(cfg, small_data)
    through = _begin(cfg, dataset)
    _steps(through, dataset, 3)
    save_state(through, tmp_path / "network-snapshot-000000.safetensors")
    expected = _steps(through, dataset, 3)

    resumed = _begin(cfg.with_overrides(["training.seed=7"]), dataset)
    load_state(resumed, read_snapshot(tmp_path / "network-snapshot-000000.safetensors"))
    assert _steps(resumed, dataset, 3) == expected
    assert resumed.counters == through.counters
    save_state(through, tmp_path / "a.safetensors")
    save_state(resumed, tmp_path / "b.safetensors")
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


RUN = """
import sys
from epigraf.config import Config
from epigraf.training.loop import TrainOptions, train
import json
cfg = Config.from_dict(json.loads(sys.argv[1]))
result = train(cfg, sys.argv[2], sys.argv[3], TrainOptions(resume=sys.argv[4], live=False))
print(result.reason.name, flush=True)
"""


def _run(cfg: Config, data: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, json.dumps(cfg.to_dict()), str(data), str(out), "latest"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root,
        env=environment,
    )  # fmt: skip


def _wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max(folder.glob("*/network-snapshot-*.safetensors")))


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(
    small_config: Config, small_data: Path, tmp_path: Path
) -> None:
    cfg = small_config.with_overrides(["training.kimg=3", "training.tick=1", "training.threads=1"])
    cfg = cfg.with_overrides(["training.batch_size=64", "training.batch_gpu=64"])
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = _run(cfg, small_data, killed)
    _wait_for(killed, "*/network-snapshot-000001.safetensors", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = _run(cfg, small_data, killed)
    output, _ = process.communicate(timeout=120)
    assert "FINISHED" in output
    assert "resumed from" in output
    output, _ = _run(cfg, small_data, whole).communicate(timeout=120)
    assert "FINISHED" in output
    a, b = _final(killed), _final(whole)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    text = next(killed.glob("*/stats.jsonl")).read_text(encoding="utf-8")
    images = [json.loads(line)["Progress/images"] for line in text.splitlines()]
    assert images == sorted(set(images))


def test_another_model_is_refused(small_config: Config, small_data: Path, tmp_path: Path) -> None:
    dataset = _dataset(small_config, small_data)
    path = tmp_path / "network-snapshot-000000.safetensors"
    save_state(_begin(small_config, dataset), path)
    other = _begin(small_config.with_overrides(["model.generator.w_dim=16"]), dataset)
    with pytest.raises(CheckpointError, match=r"model\.generator\.w_dim=8 \(now 16\)"):
        load_state(other, read_snapshot(path))


def test_another_dataset_size_is_refused(
    small_config: Config, small_data: Path, tmp_path: Path
) -> None:
    dataset = _dataset(small_config, small_data)
    path = tmp_path / "network-snapshot-000000.safetensors"
    save_state(_begin(small_config, dataset), path)
    other = build_state(resolve_config(small_config, dataset), 5, torch.zeros(3))
    with pytest.raises(CheckpointError, match="24 items"):
        load_state(other, read_snapshot(path))


def test_resolve_config_asks_for_what_is_missing(
    small_config: Config, small_data: Path, tmp_path: Path
) -> None:
    dataset = _dataset(small_config, small_data)
    assert resolve_config(small_config, dataset).dataset.c_dim == 3
    wrong = small_config.with_overrides(["dataset.c_dim=5"])
    with pytest.raises(ConfigError, match=r"c_dim=3 or 0"):
        resolve_config(wrong, dataset)
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in small_data.glob("*.png"):
        (bare / path.name).write_bytes(path.read_bytes())
    cfg = small_config.with_overrides(["training.use_labels=false"])
    with pytest.raises(ConfigError, match="no camera_angles"):
        resolve_config(cfg, _dataset(cfg, bare))
    cfg = cfg.with_overrides(["dataset.camera.dist=normal"])
    with pytest.raises(ConfigError, match=r"discriminator\.camera_cond"):
        resolve_config(cfg, _dataset(cfg, bare))


def test_pictures_too_small_for_the_discriminator_are_refused(
    small_config: Config, small_data: Path
) -> None:
    sizes = ["dataset.resolution=4", "training.patch.enabled=false"]
    cfg = small_config.with_overrides(sizes)
    with pytest.raises(ConfigError, match=r"dataset\.resolution=4 is too small"):
        resolve_config(cfg, _dataset(cfg, small_data))
