"""`epigraf history`: the numbers and the pictures of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from epigraf.cli.history import growth, growth_files, learning_curve


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [
        {"Progress/kimg": k, "Loss/G/loss": 1.0, "Loss/D/loss": 1.2}
        | {"Loss/scores/real": 0.3, "Loss/scores/fake": -0.3}
        for k in range(5)
    ]
    (folder / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "training_options.json").write_text(json.dumps({"dataset": {"resolution": 16}}))
    for n, name in enumerate(["fakes_init", *(f"fakes{k:06d}" for k in range(1, 12))]):
        Image.new("RGB", (96, 96), (20 * n, 0, 0)).save(folder / f"{name}.png")
    return folder


def test_the_growth_picture_runs_from_the_first_grid_to_the_last(run: Path):
    files = growth_files(run)
    assert [files[0].name, files[-1].name] == ["fakes_init.png", "fakes000011.png"]
    assert len(files) == 8
    assert growth(run, 16).shape == (4 * 128, 8 * 128, 3)


def test_a_metric_measured_twice_gets_a_panel(run: Path):
    before = learning_curve(run).shape[1]
    lines = [json.dumps({"results": {"fd_rc64": v}, "kimg": k}) for k, v in ((1, 9.0), (2, 4.0))]
    (run / "metric-fd_rc64.jsonl").write_text(lines[0] + "\n")
    assert learning_curve(run).shape[1] == before
    (run / "metric-fd_rc64.jsonl").write_text("\n".join(lines) + "\n")
    assert learning_curve(run).shape[1] == before // 2 * 3


def test_the_command_writes_both_pictures(epigraf, run: Path, tmp_path: Path):
    out = tmp_path / "pictures"
    assert epigraf("history", run, "--out", out).exit_code == 0
    for name in ("curve.png", "growth.png"):
        assert np.asarray(Image.open(out / name)).std() > 0


def test_a_dot_is_the_folder_one_is_in_and_not_the_run(
    epigraf, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    before = set(run.iterdir())
    assert epigraf("history", run.resolve(), "--out", ".").exit_code == 0
    assert {x.name for x in tmp_path.glob("*.png")} == {"curve.png", "growth.png"}
    assert set(run.iterdir()) == before
    assert epigraf("history", run.resolve()).exit_code == 0
    assert set(run.iterdir()) > before


def test_another_folder_is_refused(epigraf, tmp_path: Path):
    result = epigraf("history", tmp_path)
    assert result.exit_code == 1
    assert "not a run folder (no stats.jsonl in it)" in result.output
