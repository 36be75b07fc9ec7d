from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from epigraf.benchmarks.bars import WIDTH, Group, draw_dots, draw_stacks
from epigraf.benchmarks.machine import describe_peaks, peak_bandwidth
from epigraf.benchmarks.report import render_dots, render_lines, step_stacks
from epigraf.benchmarks.result import Result, newest_results, result_path, write_result
from epigraf.benchmarks.runner import Counts, Row
from epigraf.benchmarks.table import print_result, short
from epigraf.curve import COLORS, SCALE

FACTS = {
    "machine": "m x2", "threads": 2, "commit": "abc", "date": "2020-01-02T03:04:05+00:00",
    "load_average": 0.5, "config": {}, "allocator": "default", "backend": "native",
}  # fmt: skip
COUNTS = Counts(samples=5 * 10**6, flops=2e9, bytes_moved=3e9)
ROWS = [
    Row("machine", "fma 2 threads", "AVX2", [0.5], Counts(flops=5e10), control=True),
    Row("machine", "sgemm 512", "torch", [0.5], Counts(flops=4e10), control=True),
    Row("machine", "copy 256 MiB", "torch", [0.5], Counts(bytes_moved=1e10), control=True),
    Row("machine", "read 16 MiB", "torch", [0.5], Counts(bytes_moved=6e10), control=True),
    Row("render", "image", "fused", [0.1, 0.2], COUNTS, peak_mib=3.0, beyond_mib=1.0),
    Row("render", "image", "official", [1.5, 1.2], COUNTS, peak_mib=60.0, control=True),
]


def test_the_tables_of_the_renderer_by_hand() -> None:
    """2 GFLOP in 0.1 s are 20 GFLOP/s, a quarter of 80; 5 M samples in it are 50 M/s."""
    lines = render_lines(Result("render", FACTS, ROWS, True))
    assert "`epigraf bench render --default-malloc`, m x2, 2 threads, commit abc" in lines[0]
    peaks = "FMA 100 GFLOP/s, sgemm 80 GFLOP/s, copy 20 GB/s, reads again and again: 16 MiB 120"
    assert peaks in lines[0]
    assert lines[2] == "| ms (times faster than official; MiB) | fused | official |"
    assert lines[4] == "| image | 100 (12.0x; 3 MiB) | 1200 (60 MiB) |"
    assert lines[6] == (
        "| M samples/s; GFLOP/s (of multiply-adds in registers, of sgemm); "
        "GB/s of taps (of the fastest reads) | fused | official |"
    )
    assert lines[8] == "| image | 50; 20 (20%, 25%); 30 (25%) | 4.17; 1.67 (2%, 2%); 2.5 (2%) |"


def test_shares_of_peaks_that_were_not_measured_are_left_out() -> None:
    lines = render_lines(Result("render", FACTS, ROWS[4:], True))
    assert lines[6] == "| M samples/s; GFLOP/s | fused | official |"
    assert lines[8] == "| image | 50; 20 | 4.17; 1.67 |"


def test_reads_of_a_cache_are_no_copy() -> None:
    assert peak_bandwidth(ROWS) == 20.0
    assert describe_peaks(ROWS[1:3]) == "sgemm 80 GFLOP/s, copy 20 GB/s"


@pytest.mark.parametrize("width", [80, 150])
def test_the_terminal_table_fits(width: int) -> None:
    """No line is wider than the terminal, and every cell is there whole."""
    console = Console(width=width, record=True, file=io.StringIO())
    print_result(Result("render", FACTS, ROWS, complete=False), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "epigraf bench render --default-malloc (stopped), allocator: default" in text
    cells = "fused 100 150 12.00x 50 20 20% 25% 30 25% 3.0 1.0"
    assert any(line.split() == cells.split() for line in text.splitlines())


def test_a_name_without_room_has_its_own_line() -> None:
    rows = [Row("render", "c", "a name of thirty characters ..", [0.1], COUNTS, peak_mib=1.0)]
    console = Console(width=60, record=True, file=io.StringIO())
    print_result(Result("render", FACTS, rows, True), console)
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert "a name of thirty characters .." in lines


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (999.4, "999"), (999.6, "1000"), (12345.6, "12346")]
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


def test_results_of_both_allocators_are_kept(tmp_path: Path) -> None:
    for hour, allocator in ((1, "default"), (2, "keeps freed memory"), (3, "keeps freed memory")):
        facts = FACTS | {"allocator": allocator, "date": f"2020-01-02T0{hour}:00:00+00:00"}
        result = Result("render", facts, ROWS, True)
        write_result(result, result_path(result, tmp_path))
    found = {(r.command, r.date[12:13]) for r in newest_results(tmp_path)}
    assert found == {("epigraf bench render --default-malloc", "1"), ("epigraf bench render", "3")}


def test_dots_stand_at_their_logarithms() -> None:
    """1, 10 and 100 are evenly apart."""
    groups, label = render_dots(Result("render", FACTS, ROWS, True))
    assert groups == [Group("image", [("fused", 100.0), ("official", 1200.0)])]
    assert label.startswith("ms")
    picture = draw_dots([Group("g", [("a", 1.0), ("b", 10.0), ("c", 100.0)])], label)
    middles = [middle_of(picture, COLORS[k]) for k in range(3)]
    assert middles[1] - middles[0] == pytest.approx(middles[2] - middles[1], abs=1.0)
    assert middles[0] < middles[1]


def test_stacks_are_as_long_as_their_parts() -> None:
    """3 and 1: the second part is a third as wide, and begins where the first one ends."""
    rows = [Row("step", case, "fused", [seconds]) for case, seconds in (("a", 3.0), ("b", 1.0))] + [
        Row("step", "step", "fused", [3.5])
    ]
    groups, label = step_stacks(Result("step", FACTS, rows, True))
    assert groups == [Group("fused", [("a", 3000.0), ("b", 1000.0)])]
    picture = draw_stacks(groups, label)
    first, second = (columns_of(picture, COLORS[k]) for k in range(2))
    assert len(first) == pytest.approx(3 * len(second), rel=0.02)
    assert abs(first[-1] - second[0]) <= 2


def columns_of(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Where the longest run of a colour is, beyond the legend and the names."""
    there = (picture == np.array(color, dtype=np.uint8)).all(-1)
    row = there[:, WIDTH * SCALE // 5 :].sum(1).argmax()
    return np.flatnonzero(there[row])


def middle_of(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    return float(columns_of(picture, color).mean())
