"""Names, lines and rows that a run writes, and its panel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from epigraf.config import Config
from epigraf.errors import TrainingError
from epigraf.training import preview
from epigraf.training.display import Display
from epigraf.training.events import EventFile
from epigraf.training.log import (
    Averages,
    Numbers,
    RunLog,
    format_time,
    new_run_folder,
    run_folders,
    status_line,
)

ROW: Numbers = {
    "Progress/tick": 3, "Progress/images": 12000, "Progress/kimg": 12.0,
    "Progress/kimg_total": 300.0, "Progress/augment": 0.125, "Timing/total_sec": 3725.0,
    "Timing/sec_per_tick": 100.5, "Timing/sec_per_kimg": 25.125, "Timing/images_per_sec": 39.8,
    "Timing/rays_per_sec": 40755.0, "Timing/maintenance_sec": 2.5, "Timing/left_sec": 59.0,
    "Resources/cpu_mem_gb": 1.5, "Loss/G/loss": 0.75,
}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (3599, "59m 59s"), (3661, "1h 01m 01s"),
     (90061, "1d 01h 01m"), (-3, "0s")],
)  # fmt: skip
def test_format_time(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_status_line_has_the_fields_of_the_field() -> None:
    expected = (
        "tick 3 kimg 12.0 time 1h 02m 05s sec/tick 100.5 sec/kimg 25.12 "
        "maintenance 2.5 cpumem 1.50 augment 0.125"
    )
    assert " ".join(status_line(ROW).split()) == expected
    gpu = {"Resources/peak_gpu_mem_gb": 4.0, "Resources/peak_gpu_mem_reserved_gb": 5.0}
    assert "gpumem 4.00   reserved 5.00" in status_line(ROW | gpu)


def test_run_folders_count_up_and_hold_safe_names(tmp_path: Path) -> None:
    cfg = Config.from_dict({"name": "my cfg", "dataset": {"name": "a/b"}})
    (tmp_path / "00041-old").mkdir()
    (tmp_path / "notes").mkdir()
    folder = new_run_folder(tmp_path, cfg, "first try")
    assert folder.name == "00042-my_cfg-a_b-batch64-gamma0.2048-first_try"
    assert [p.name[:5] for p in run_folders(tmp_path)] == ["00042", "00041"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(TrainingError, match="out"):
        new_run_folder(tmp_path / "out", Config())


def test_resuming_drops_rows_after_the_snapshot_and_torn_ones(tmp_path: Path) -> None:
    lines: list[str] = []
    with RunLog(tmp_path, lines.append) as log:
        for images in (4, 8, 12):
            log.row({**ROW, "Progress/images": images})
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write('{"Progress/images": 3, "torn')
    with RunLog(tmp_path, lines.append, images_seen=8) as log:
        log.line("on it goes")
    rows = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert [json.loads(row)["Progress/images"] for row in rows] == [4, 8]
    assert lines == ["on it goes"]
    assert (tmp_path / "log.txt").read_text() == "on it goes\n"


def _events(folder: Path) -> list[tuple[str, int, float]]:
    """(tag, step, value) as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return [(tag, e.step, e.value) for tag in tags for e in accumulator.Scalars(tag)]


def test_tensorboard_reads_the_events_and_forgets_what_was_after_the_snapshot(
    tmp_path: Path,
) -> None:
    for seen, first in ((0, 4), (8, 12)):
        with RunLog(tmp_path, lambda _: None, images_seen=seen) as log:
            for images in range(first, 17, 4):
                log.row({"Progress/images": images, "Loss/x": seen + images / 8})
    losses = [(step, value) for tag, step, value in _events(tmp_path) if tag == "Loss/x"]
    assert losses == [(4, 0.5), (8, 1.0), (12, 9.5), (16, 10.0)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_of_the_event_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    monkeypatch.setattr(Path, "open", lambda *_, **__: full)
    with full, pytest.raises(OSError, match="No space left"):
        EventFile(tmp_path).scalars({"x": 1.0}, 1)


def test_averages_are_per_name() -> None:
    averages = Averages.empty()
    averages.add({"a": 1.0, "b": 5.0})
    averages.add({"a": 3.0})
    assert averages.means() == {"a": 2.0, "b": 5.0}


def test_the_panel_shows_progress_and_backend(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display("00000-tiny", "native cpu", live=True)
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(display._panel(ROW, 0.25))
    text = capture.get()
    for word in ("00000-tiny", "12.00 of 300", "25.12", "40,755", "0.750", "59s", "native cpu"):
        assert word in text
    with display:
        display.update(ROW, 0.5)
        display.line("a line above")
    assert "a line above" in capsys.readouterr().out


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Display("t", "b", live=False) as display:
        display.update(ROW, 0.5)
        display.line("tick 1")
    assert capsys.readouterr().out == "tick 1\n"


@pytest.mark.parametrize(
    ("resolution", "rays", "shape"),
    [(64, 160_000, (6, 6)), (256, 160_000, (2, 3)), (128, 160_000, (3, 3)), (32, 10**9, (6, 6))],
)
def test_grid_shapes(resolution: int, rays: int, shape: tuple[int, int]) -> None:
    assert preview.grid_shape(resolution, rays) == shape


def test_tiles_are_rows_of_objects() -> None:
    images = torch.full((2, 3, 3, 4, 4), -1.0)
    images[1, 2] = 1.0
    grid = preview._tile(images)
    assert tuple(grid.shape) == (8, 12, 3)
    assert bool((grid[4:, 8:] == 255).all())
    assert int((grid == 255).sum()) == 4 * 4 * 3
