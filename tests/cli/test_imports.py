"""`epigraf import` and `epigraf export --format official`, as a user meets them."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from epigraf.models.loading import FORMAT
from tests.interop.hostile import CANARY, PAYLOADS

GOLDEN = Path(__file__).parents[1] / "golden" / "snapshot-small.pkl.xz"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """The real snapshot, unpacked."""
    path = tmp_path / "network-snapshot-000123.pkl"
    path.write_bytes(lzma.decompress(GOLDEN.read_bytes()))
    return path


def test_import_sample_export_import(epigraf, snapshot, tmp_path) -> None:
    model = tmp_path / "sub" / "a.safetensors"
    result = epigraf("import", snapshot, model)
    assert result.exit_code == 0, result.output
    first, second = result.output.splitlines()
    assert first.endswith("epigraf at 123.456 kimg, 69 tensors taken over")
    assert second.startswith("11 constants, which are code here: synthesis.tri_plane_decoder.b16")
    assert second.endswith(", and 5 more")
    facts = epigraf("info", model).output
    assert "G_ema of epigraf's network-snapshot-000123.pkl (sha256 " in facts
    pictures = tmp_path / "pictures"
    assert epigraf("sample", model, "--seeds", "0-1", "--out", pictures).exit_code == 0
    names = tmp_path / "names.safetensors"
    result = epigraf("export", model, "--format", "official", "--out", names)
    assert result.exit_code == 0, result.output
    result = epigraf("import", names, tmp_path / "b.safetensors")
    assert "69 tensors taken over" in result.output


def test_the_release_lacks_settings_of_ours(epigraf, model, tmp_path) -> None:
    result = epigraf("export", model, "--format", "official", "--out", tmp_path / "a.safetensors")
    assert result.exit_code == 0
    assert "does not have: model.generator.density_gain=20.0" in result.output


def test_which_and_set(epigraf, snapshot, tmp_path) -> None:
    out = tmp_path / "a.safetensors"
    key = "model.generator.test_ray_steps=7"
    assert epigraf("import", snapshot, out, "--which", "G", "--set", key).exit_code == 0
    result = epigraf("import", snapshot, out, "--set", "model.generator.tset_ray_steps=7")
    assert result.exit_code == 1
    assert "did you mean" in result.output


def test_refusals_are_one_line(epigraf, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(PAYLOADS["global os.system"][0])
    result = epigraf("import", path, tmp_path / "a.safetensors")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "refused: the global 'os.system' does not belong in a snapshot" in result.output
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pkl", "a.safetensors"], "missing.pkl: no such file"),
        (["missing.pkl", "a.pkl"], "must end in .safetensors"),
        ([".", "a.safetensors"], "not a regular file"),
    ],
)
def test_wrong_paths(epigraf, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    result = epigraf("import", *arguments)
    assert result.exit_code == 1
    assert message in result.output


def test_a_pickle_is_no_model_and_says_what_to_do(epigraf, snapshot, tmp_path) -> None:
    result = epigraf("sample", snapshot, "--out", tmp_path / "x")
    assert result.exit_code == 1
    assert "try: epigraf import network-snapshot-000123.pkl" in result.output


def test_a_model_of_a_newer_version_says_so(epigraf, tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    header = json.dumps({"format": FORMAT + 1, "config": {}, "counters": {"images_seen": 0}})
    save_file({"G_ema/x": torch.zeros(1)}, path, metadata={"epigraf": header})
    result = epigraf("info", path)
    assert result.exit_code == 1
    assert (
        f"written by a newer epigraf (format {FORMAT + 1}, this version reads up" in result.output
    )
    assert result.output.count("\n") == 1
