"""Snapshots that are damaged, foreign or newer are named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from epigraf.config import Config
from epigraf.errors import CheckpointError, ConfigError
from epigraf.models import loading
from epigraf.models.generator import Generator, View
from epigraf.models.loading import (
    FORMAT,
    find_snapshot,
    load,
    read_snapshot,
    valid_snapshots,
    write_atomically,
    write_snapshot,
)

CONFIG = Config.from_dict(
    {
        "dataset": {"resolution": 16},
        "model": {
            "generator": {
                "z_dim": 4, "w_dim": 4, "cmax": 4, "num_ray_steps": 2,
                "tri_plane": {"res": 4, "feat_dim": 2, "mlp": {"hid_dim": 4}},
            }
        },
        "training": {"patch": {"resolution": 8}},
    }
)  # fmt: skip


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot of an untrained generator at 1.5 kimg."""
    path = tmp_path / "network-snapshot-000001.safetensors"
    header = {"config": CONFIG.to_dict(), "counters": {"images_seen": 1500}}
    write_snapshot(path, header, {"G_ema": Generator(CONFIG).state_dict()})
    return path


def test_a_file_and_its_folder_load_the_same(snapshot: Path) -> None:
    by_file, by_folder = load(snapshot), load(str(snapshot.parent))
    assert by_file.kimg == 1.5
    assert by_file.path == by_folder.path == snapshot
    assert by_file.config == CONFIG
    a, b = by_file.generator.state_dict(), by_folder.generator.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(p.requires_grad for p in by_file.generator.parameters())


def test_overrides_change_how_a_model_is_looked_at(snapshot: Path) -> None:
    changes = ["model.generator.test_ray_steps=9", "render.backend=ops", "dataset.camera.fov=8"]
    changed = load(snapshot, overrides=changes)
    assert changed.generator.render_options(View()).num_coarse == 9
    assert changed.config.dataset.camera.fov == changed.generator.cfg.dataset.camera.fov == 8
    assert changed.generator.renderer() == "ops (render.backend=ops)"
    for change in ("dataset.cube_scale=1", "model.generator.w_dim=4", "training.seed=1"):
        key = change.partition("=")[0]
        with pytest.raises(ConfigError, match=rf"{key} cannot be changed .* render\.\*, decoder"):
            load(snapshot, overrides=[change])
    with pytest.raises(ConfigError, match=r"test_ray_steps: .*greater than or equal to 2"):
        load(snapshot, overrides=["model.generator.test_ray_steps=1"])


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated(snapshot: Path, keep: int) -> None:
    snapshot.write_bytes(snapshot.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"truncated, or not a safetensors file"):
        read_snapshot(snapshot)


def test_damaged_tensors(snapshot: Path) -> None:
    data = bytearray(snapshot.read_bytes())
    data[-3] ^= 0x40
    snapshot.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load(snapshot)


@pytest.fixture(scope="module")
def flippable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small snapshot with every kind of content."""
    path = tmp_path_factory.mktemp("flips") / "network-snapshot-000001.safetensors"
    header = {"config": {"name": "x"}, "counters": {"images_seen": 1500, "augment_p": 0.25}}
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(4)}
    write_snapshot(path, header, {"G": tensors, "optim_G": {"a.weight/step": torch.tensor(3.0)}})
    return path


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    snapshot = read_snapshot(path)
    groups = snapshot.header["checksums"]
    return snapshot.header, {
        f"{group}/{name}": tensor
        for group in groups
        for name, tensor in snapshot.tensors(group).items()
    }


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(flippable: Path, place: float, bit: int) -> None:
    """Any one: the file is refused, or what is read is what was written (the bit was unused)."""
    content = bytearray(flippable.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    flipped = flippable.with_name("flipped.safetensors")
    flipped.write_bytes(content)
    try:
        header, tensors = _read(flipped)
    except CheckpointError:
        return
    expected_header, expected = _read(flippable)
    assert header == expected_header
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_changed_header_is_damaged(flippable: Path) -> None:
    content = flippable.read_bytes()
    assert content.count(b"1500") == 1
    changed = flippable.with_name("changed.safetensors")
    changed.write_bytes(content.replace(b"1500", b"1501"))
    with pytest.raises(CheckpointError, match=r"its header is damaged \(wrong checksum\)"):
        read_snapshot(changed)
    changed.write_bytes(content.replace(b"G/a.weight/", b"G/b.weight/"))
    with pytest.raises(CheckpointError, match=r"its list of tensors is damaged"):
        read_snapshot(changed)


def test_a_folder_falls_back_on_the_last_undamaged_snapshot(snapshot: Path) -> None:
    newer = snapshot.with_name("network-snapshot-000009.safetensors")
    data = bytearray(snapshot.read_bytes())
    data[-3] ^= 0x40
    newer.write_bytes(data)
    warnings: list[str] = []
    found = [s.path for s in valid_snapshots(snapshot.parent, warnings)]
    assert found == [snapshot]
    assert len(warnings) == 1
    assert "wrong checksum" in warnings[0]
    assert load(snapshot.parent).path == snapshot


def test_foreign_files(tmp_path: Path) -> None:
    foreign = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="not one of epigraf"):
        read_snapshot(foreign)
    pickle = tmp_path / "network-snapshot-000001.pkl"
    pickle.write_bytes(b"\x80\x04}")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_snapshot(pickle)


def test_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = json.dumps({"format": FORMAT + 1})
    save_file({"x": torch.zeros(1)}, path, metadata={"epigraf": header})
    with pytest.raises(CheckpointError, match=r"newer epigraf.*upgrade"):
        read_snapshot(path)


def test_newer_config(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    values = {**CONFIG.to_dict(), "novelty": 1}
    write_snapshot(path, {"config": values, "counters": {"images_seen": 0}}, {})
    with pytest.raises(CheckpointError, match="novelty"):
        load(path)


def test_missing_group(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_snapshot(path, {"config": CONFIG.to_dict(), "counters": {"images_seen": 0}}, {})
    with pytest.raises(CheckpointError, match="no tensors of 'G_ema'"):
        load(path)


def test_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    other = CONFIG.with_overrides(["model.generator.w_dim=8"])
    header = {"config": CONFIG.to_dict(), "counters": {"images_seen": 0}}
    write_snapshot(path, header, {"G_ema": Generator(other).state_dict()})
    with pytest.raises(CheckpointError, match="does not fit the network: G_ema/"):
        load(path)


def test_missing_paths_say_what_is_there(tmp_path: Path, snapshot: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load(tmp_path / "nothing")
    run = tmp_path / "runs" / "00000-a"
    run.mkdir(parents=True)
    snapshot.rename(run / snapshot.name)
    with pytest.raises(CheckpointError, match=r"did you mean .*00000-a"):
        load(tmp_path / "runs")


def test_the_newest_readable_snapshot_counts(snapshot: Path) -> None:
    newer = snapshot.with_name("network-snapshot-000200.safetensors")
    newer.write_bytes(snapshot.read_bytes()[:-7])
    assert find_snapshot(snapshot.parent).path == snapshot
    snapshot.unlink()
    with pytest.raises(CheckpointError, match="no readable snapshot"):
        find_snapshot(newer.parent)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write_bytes(b"old") and None)

    def fail(file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("counters", [{}, None, {"images_seen": "many"}])
def test_a_header_without_its_counters_is_damaged(tmp_path: Path, counters: object) -> None:
    path = tmp_path / "a.safetensors"
    write_snapshot(path, {"config": CONFIG.to_dict(), "counters": counters}, {})
    with pytest.raises(CheckpointError, match="its header is damaged"):
        read_snapshot(path)


def test_a_snapshot_is_as_readable_as_any_new_file(snapshot: Path) -> None:
    plain = snapshot.with_name("plain")
    plain.touch()
    assert snapshot.stat().st_mode == plain.stat().st_mode


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(loading, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"a\.safetensors: cannot be written: .*No space left"
    ):
        write_snapshot(tmp_path / "a.safetensors", {}, {"G": {"x": torch.zeros(1)}})
    assert list(tmp_path.iterdir()) == []
