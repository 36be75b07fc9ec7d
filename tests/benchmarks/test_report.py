from __future__ import annotations

from epigraf.benchmarks.report import render_lines
from epigraf.benchmarks.result import Result
from epigraf.benchmarks.runner import Row

FACTS = {
    "machine": "m x2", "threads": 2, "commit": "abc", "date": "2020-01-02T03:04:05+00:00",
    "load_average": 0.5, "config": {},
}  # fmt: skip


def test_the_table_of_the_renderer_by_hand() -> None:
    rows = [
        Row("render", "image", "fused", [0.1, 0.2], peak_mib=3.0),
        Row("render", "image", "official", [1.5, 1.2], peak_mib=60.0, control=True),
    ]
    lines = render_lines(Result("render", FACTS, rows, True))
    assert "m x2, 2 threads, commit abc, 2020-01-02, load 0.5" in lines[0]
    assert lines[2] == "| ms (times faster than official; MiB) | fused | official |"
    assert lines[4] == "| image | 100 (12.0x; 3 MiB) | 1200 (60 MiB) |"
