"""Whatever happens to a run, its disk, its files or its data: one clear line, and nothing lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from epigraf.config import Config
from epigraf.errors import CheckpointError, TrainingError
from epigraf.models import loading
from epigraf.models.loading import Snapshot, read_snapshot, snapshot_files
from epigraf.training.loop import RunResult, TrainOptions, train
from tests.training.processes import start


def _train(
    cfg: Config, data: Path, out: Path, resume: str | None = None, allow: bool = False
) -> RunResult:
    options = TrainOptions(resume=resume, allow_data_change=allow, live=False, device="cpu")
    return train(cfg, data, out, options)


@pytest.fixture
def wide(small_config: Config) -> Config:
    """Three ticks of one step, a snapshot of 19 MB each."""
    return small_config.with_overrides(["training.kimg=0.012", "training.tick=0.004"])


@pytest.fixture
def quick(wide: Config) -> Config:
    """The same with a discriminator of a few thousand parameters."""
    return wide.with_overrides(["model.discriminator.hyper_mod=false"])


def _longer(cfg: Config, kimg: float) -> Config:
    return cfg.with_overrides([f"training.kimg={kimg}"])


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, enough for one snapshot of `wide` but not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_snapshot(
    wide: Config, small_data: Path, small_disk: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"000\.safetensors: cannot be written: .*No space"):
        _train(wide, small_data, small_disk)
    folder = next(small_disk.iterdir())
    assert not list(folder.glob(".*"))
    (snapshot,) = snapshot_files(folder)
    assert read_snapshot(snapshot).images_seen == 4
    roomy = tmp_path / "roomy"
    shutil.copytree(folder, roomy / folder.name)
    assert _train(wide, small_data, roomy, "latest").kimg == 0.012


def test_a_write_that_fails_half_way_leaves_the_last_snapshot(
    quick: Config, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _train(_longer(quick, 0.004), small_data, tmp_path)
    before = first.snapshot.read_bytes()

    def half(_: object, path: Path, **__: object) -> None:
        path.write_bytes(before[:1000])
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(loading, "save_file", half)
        with pytest.raises(OSError, match="No space left"):
            _train(quick, small_data, tmp_path, "latest")
    assert first.snapshot.read_bytes() == before
    assert not list(first.folder.glob(".*"))
    assert _train(quick, small_data, tmp_path, "latest").kimg == 0.012


def test_a_folder_that_cannot_be_written_is_named(
    quick: Config, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(TrainingError, match=r"run: cannot make .*00000-.*: Permission denied"):
        _train(quick, small_data, tmp_path)


# Snapshots


def test_a_damaged_snapshot_that_was_asked_for_is_refused_and_another_offered(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    result = _train(quick, small_data, tmp_path)
    damaged = result.folder / "network-snapshot-000009.safetensors"
    content = bytearray(result.snapshot.read_bytes())
    content[-1000] ^= 1
    damaged.write_bytes(content)
    expected = (
        rf"000009\.safetensors: .*wrong checksum\); the newest whole one is {result.snapshot}"
    )
    with pytest.raises(CheckpointError, match=expected):
        _train(quick, small_data, tmp_path, str(damaged))
    result.snapshot.unlink()
    with pytest.raises(CheckpointError, match=r"no readable network-snapshot.*wrong checksum"):
        _train(quick, small_data, tmp_path, str(result.folder))


# Configurations


def test_what_changed_is_said_and_goes_on(quick: Config, small_data: Path, tmp_path: Path) -> None:
    _train(_longer(quick, 0.004), small_data, tmp_path)
    changes = ["training.gamma=0.5", "model.generator.optim.lr=0.001", "training.seed=3",
               "training.augment.mode=fixed", "training.augment.p=0.7"]  # fmt: skip
    result = _train(quick.with_overrides(changes), small_data, tmp_path, "latest")
    said = [x for x in (result.folder / "log.txt").read_text().splitlines() if "resume:" in x]
    assert said == [
        "resume: changed model.generator.optim.lr 0.0025 -> 0.001",
        "resume: changed training.augment.mode ada -> fixed",
        "resume: changed training.augment.p 0.2 -> 0.7",
        "resume: changed training.gamma 1.0 -> 0.5",
        "resume: changed training.kimg 0.004 -> 0.012",
        "resume: changed training.seed 0 -> 3 (without effect: the random numbers go on)",
    ]
    snapshot = read_snapshot(result.snapshot)
    assert snapshot.header["counters"]["augment_p"] == 0.7
    assert snapshot.config.training.gamma == 0.5


def test_every_key_that_may_not_change_is_named(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    _train(_longer(quick, 0.004), small_data, tmp_path)
    changes = ["model.generator.w_dim=16", "model.discriminator.camera_cond=false",
               "dataset.cube_scale=0.3", "training.gamma=0.5"]  # fmt: skip
    message = (
        r"was trained with dataset\.cube_scale=0\.2 \(now 0\.3\), "
        r"model\.discriminator\.camera_cond=true \(now false\), "
        r"model\.generator\.w_dim=8 \(now 16\); resume with the same model, or start a new run"
    )
    with pytest.raises(CheckpointError, match=message):
        _train(quick.with_overrides(changes), small_data, tmp_path, "latest")


# Data


def _change(folder: Path, what: str) -> None:
    index = json.loads((folder / "dataset.json").read_text())
    if what == "picture":
        Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(folder / "003.png")
    elif what == "names":
        (folder / "011.png").rename(folder / "012.png")
        index["labels"][11][0] = "012.png"
        index["camera_angles"]["012.png"] = index["camera_angles"].pop("011.png")
    elif what == "number":
        (folder / "011.png").unlink()
        del index["labels"][11], index["camera_angles"]["011.png"]
    elif what == "labels":
        index["labels"][0][1] = 1
    elif what == "angles":
        index["camera_angles"]["004.png"][0] += 0.01
    (folder / "dataset.json").write_text(json.dumps(index))


def _zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


CHANGES = {
    "picture": "the contents of images",
    "names": "the names of images",
    "number": "images 12 -> 11, the labels, the camera angles",
    "labels": "the labels",
    "angles": "the camera angles",
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_another_data_set_is_refused_until_it_is_accepted(
    quick: Config, small_data: Path, tmp_path: Path, kind: str
) -> None:
    def given(name: str) -> Path:
        folder = shutil.copytree(small_data, tmp_path / name)
        _change(folder, name)
        return folder if kind == "folder" else _zipped(folder, tmp_path / f"{name}.zip")

    runs = tmp_path / "runs"
    result = _train(_longer(quick, 0.004), given("as it was"), runs)
    for what, said in CHANGES.items():
        message = f"the data set is not the one of snapshot .*: {said}; .*--allow-data-change"
        with pytest.raises(CheckpointError, match=message):
            _train(quick, given(what), runs, str(result.folder))
    data = tmp_path / ("number" if kind == "folder" else "number.zip")
    accepted = _train(_longer(quick, 0.008), data, runs, str(result.folder), allow=True)
    assert accepted.kimg == 0.008
    line = f"resume: another data set ({CHANGES['number']}); its order begins anew"
    assert line in (accepted.folder / "log.txt").read_text().splitlines()


def test_the_same_data_elsewhere_or_zipped_is_the_same(
    quick: Config, small_data: Path, tmp_path: Path
) -> None:
    result = _train(_longer(quick, 0.004), small_data, tmp_path)
    data = _zipped(small_data, tmp_path / "dots.zip")
    assert _train(quick, data, tmp_path, "latest").folder == result.folder
    unmirrored = quick.with_overrides(["training.mirror=false"])
    with pytest.raises(CheckpointError, match=r"training\.mirror true -> false"):
        _train(unmirrored, data, tmp_path, "latest")


# kill -9


def _final(out: Path) -> Snapshot:
    return read_snapshot(max(out.glob("*/network-snapshot-*.safetensors")))


def _assert_equal(a: Snapshot, b: Snapshot) -> None:
    for snapshot in (a, b):
        snapshot.check()
        del snapshot.header["counters"]["seconds"]  # wall time
    assert a.header == b.header  # counters, random numbers, order, and the checksums of all tensors


def _survive(cfg: Config, data: Path, folder: Path, kills: int, seed: int) -> None:
    """Kill a run `kills` times at random moments, let it end, and compare with an undisturbed one.

    Sessions live up to twice as long as the first needs for its first snapshot: kills fall into
    imports, loading, steps and writes.
    """
    killed, whole = folder / "killed", folder / "whole"
    start(time.sleep, 0).join()  # the server of processes is up
    dice, began, patience = random.Random(seed), time.monotonic(), 0.0
    for number in range(kills):
        process = start(_train, _longer(cfg, 1000), data, killed, "latest")
        while number == 0 and not list(killed.glob("*/network-snapshot-*.safetensors")):
            time.sleep(0.01)
            patience = time.monotonic() - began
        process.join(dice.uniform(0, 2 * patience))
        assert process.exitcode is None
        process.kill()
        process.join()
    seen = _final(killed).images_seen
    for out in (killed, whole):
        process = start(_train, _longer(cfg, (seen + 8) / 1000), data, out, "latest")
        process.join()
        assert process.exitcode == 0
    final = _final(killed)
    _assert_equal(final, _final(whole))
    assert not list(final.path.parent.glob(".*"))
    text = (final.path.parent / "stats.jsonl").read_text(encoding="utf-8")
    images = [json.loads(line)["Progress/images"] for line in text.splitlines()]
    assert images == list(range(4, seen + 9, 4))  # each tick once


def test_killed_at_any_moment_it_goes_on_bit_for_bit(
    wide: Config, small_data: Path, tmp_path: Path
) -> None:
    _survive(wide, small_data, tmp_path, kills=3, seed=0)


@pytest.mark.slow
def test_killed_fifty_times_it_goes_on_bit_for_bit(
    wide: Config, small_data: Path, tmp_path: Path
) -> None:
    _survive(wide, small_data, tmp_path, kills=50, seed=1)
