"""Pictures and tables of the newest results: bench.md, bench-*.png, and the block of a README."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from epigraf.benchmarks.bars import Group, draw_dots, draw_stacks
from epigraf.benchmarks.bench_mesh import mesh_lines
from epigraf.benchmarks.bench_occupancy import occupancy_lines
from epigraf.benchmarks.bench_step import STEP
from epigraf.benchmarks.machine import describe_peaks, peak_fma, peak_gflops, peak_read
from epigraf.benchmarks.result import Result, of_suite
from epigraf.benchmarks.runner import Row
from epigraf.benchmarks.table import scaling_lines, share, short
from epigraf.curve import Panel, Series, draw_curves
from epigraf.errors import EpigrafError

X_LABELS = {
    "rays": "rays of a picture", "samples": "samples of a ray", "batch": "pictures",
    "planes": "side of the planes, pixels", "threads": "threads",
    "share": "share of the cells that are occupied",
}  # fmt: skip
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def fill_block(readme: Path, results: Sequence[Result]) -> None:
    """Replace what stands between the marks of `readme`.

    Raises:
        EpigrafError: the marks are not there once each and in order.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise EpigrafError(f"{readme}: needs one line {BEGIN} and, below it, one line {END}")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    lines = [line for result in of_suite(results, "render") for line in render_lines(result)]
    lines += [line for result in of_suite(results, "step") for line in _step_sentence(result)]
    body = "\n".join(lines)
    readme.write_text(f"{head}{BEGIN}\n{body}\n{END}{tail}", encoding="utf-8")


def render_lines(result: Result) -> list[str]:
    """The renderer's tables: time, times faster than the last and memory; speed and its share."""
    cases: dict[str, list[Row]] = {}
    for row in result.rows:
        if row.op == "render":
            cases.setdefault(row.case, []).append(row)
    last = [rows[-1].implementation for rows in cases.values()][-1:] or [""]
    times = _by_case(f"ms (times faster than {last[0]}; MiB)", cases, _cell)
    peaks = {
        "of multiply-adds in registers": peak_fma(result.rows),
        "of sgemm": peak_gflops(result.rows),
    }
    shares = {name: peak for name, peak in peaks.items() if peak}
    title = "; ".join(["M samples/s", f"GFLOP/s ({', '.join(shares)})" if shares else "GFLOP/s"])
    reads = peak_read(result.rows)
    title += "; GB/s of taps (of the fastest reads)" if reads else ""
    speeds = _by_case(title, cases, lambda row, _: _speed(row, list(shares.values()), reads))
    return [_facts(result), "", *times, "", *speeds, ""]


def _by_case(
    title: str, cases: Mapping[str, Sequence[Row]], text: Callable[[Row, Row], str]
) -> list[str]:
    """A table with a row a case and a column an implementation; text: of a row and of the last."""
    names = list(dict.fromkeys(row.implementation for rows in cases.values() for row in rows))
    lines = [f"| {title} | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for case, rows in cases.items():
        found = {row.implementation: text(row, rows[-1]) for row in rows}
        lines.append(f"| {case} | {' | '.join(found.get(name, '') for name in names)} |")
    return lines


def _speed(row: Row, peaks: Sequence[float], reads: float) -> str:
    shares = ", ".join(share(row.gflops, peak) for peak in peaks)
    texts = [short(row.counts.samples / row.best / 1e6)]
    texts += [f"{short(row.gflops)} ({shares})" if shares else short(row.gflops)]
    if reads and row.counts.bytes_moved:
        moved = row.counts.bytes_moved / row.best / 1e9
        texts += [f"{short(moved)} ({share(moved, reads)})"]
    return "; ".join(texts)


def _cell(row: Row, last: Row) -> str:
    times = "" if row is last else f"{last.best / row.best:.1f}x; "
    memory = "" if row.peak_mib is None else f"{row.peak_mib:.0f} MiB"
    return f"{short(row.best * 1e3)} ({times}{memory})"


def _facts(result: Result) -> str:
    facts = result.facts
    return (
        f"`{result.command}`, {result.machine}, {facts['threads']} threads, "
        f"commit {facts['commit']}, {result.date[:10]}, load {facts['load_average']:.1f}; "
        f"{describe_peaks(result.rows)}. Quickest rounds; memory beyond inputs."
    )


def _step_sentence(result: Result) -> list[str]:
    steps = [row for row in result.rows if row.op == "step" and row.case == "step"]
    texts = [f"{r.implementation} {r.best / r.counts.images * 1000:.1f}" for r in steps]
    return [f"`{result.command}`, seconds per thousand images: {', '.join(texts)}."]


def write_pictures(results: Sequence[Result], folder: Path) -> list[Path]:
    """bench-*.png and bench.md, which shows them; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written, lines = [], ["# What `epigraf bench` measured", ""]
    for result in results:
        title = result.command.removeprefix("epigraf bench ")
        stem = "-".join(["bench", *re.findall(r"[\w.]+", title)])
        lines += [f"## {title}", "", *_tables(result), ""]
        for number, (text, picture) in enumerate(_pictures(result), 1):
            path = folder / f"{stem}-{number}.png"
            Image.fromarray(picture).save(path)
            written.append(path)
            lines += [f"![{text}]({path.name})", ""]
    path = folder / "bench.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [*written, path]


def _pictures(result: Result) -> Iterator[tuple[str, np.ndarray]]:
    """What each shows, and its pixels: bars of cases and of phases, curves of a scaling."""
    if result.suite == "render":
        yield "Milliseconds of every implementation", draw_dots(*render_dots(result))
    if result.suite == "step":
        yield "Milliseconds by phase", draw_stacks(*step_stacks(result))
    panels = [p for p in _panels(result) if p.series]
    for number in range(0, len(panels), 2):
        pair = panels[number : number + 2]
        yield ", ".join(p.title for p in pair), draw_curves(pair)


def render_dots(result: Result) -> tuple[list[Group], str]:
    """The cases of `render` with a bar an implementation, and what the axis says."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for row in result.rows:
        if row.op == "render":
            groups.setdefault(row.case, []).append((row.implementation, row.best * 1e3))
    return [Group(*item) for item in groups.items()], "ms, quickest round (logarithmic)"


def step_stacks(result: Result) -> tuple[list[Group], str]:
    """The phases of `step` by implementation, and what the axis says."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for row in result.rows:
        if row.op == "step" and row.case != STEP:
            groups.setdefault(row.implementation, []).append((row.case, row.best * 1e3))
    axis = "ms of a step in which all lazy phases are due, quickest rounds"
    return [Group(*item) for item in groups.items()], axis


def _tables(result: Result) -> Iterator[str]:
    if result.suite == "render":
        yield from render_lines(result)
    else:
        yield from (_facts(result), "")
    if result.suite == "scaling":
        yield from (f"* {line}" for line in scaling_lines(result.rows))
        return
    if result.suite == "mesh":
        yield from (*(f"* {line}" for line in mesh_lines(result.rows)), "")
    if result.suite == "occupancy":
        yield from (*(f"* {line}" for line in occupancy_lines(result.rows)), "")
    yield "| case | implementation | best ms | median ms | GFLOP/s | peak MiB |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for row in result.rows:
        flops = f"{row.gflops:.1f}" if row.counts.flops else ""
        peak = "" if row.peak_mib is None else f"{row.peak_mib:.1f}"
        yield (
            f"| {row.op} {row.case} | {row.implementation} | {row.best * 1e3:.4g} | "
            f"{row.median * 1e3:.4g} | {flops} | {peak} |"
        )


def _panels(result: Result) -> Iterator[Panel]:
    """Of a scaling: milliseconds on every axis, rays per second and memory where they grow."""
    axes = dict.fromkeys(row.axis for row in result.rows if row.axis)
    for axis in axes:
        rows = [row for row in result.rows if row.axis == axis]
        log = not axis.startswith("samples")
        x_label, series = X_LABELS[axis.split(",")[0]], _series(rows, _milliseconds)
        yield Panel(f"{axis}: time", x_label, series, log, "ms, quickest round")
        if axis in ("rays", "share"):
            yield Panel(f"{axis}: speed", x_label, _series(rows, _rate), True, "rays/s")
        if axis == "samples":
            kept = [row for row in rows if row.peak_mib is not None]
            label = "MiB beyond inputs, peak"
            yield Panel("samples: memory", x_label, _series(kept, _peak), y_label=label)


def _series(rows: Sequence[Row], value: Callable[[Row], float]) -> list[Series]:
    names = dict.fromkeys(row.implementation for row in rows)
    groups = [(name, [row for row in rows if row.implementation == name]) for name in names]
    return [Series(n, [r.at or 0.0 for r in g], [value(r) for r in g]) for n, g in groups]


def _milliseconds(row: Row) -> float:
    return row.best * 1e3


def _rate(row: Row) -> float:
    return row.counts.rays / row.best


def _peak(row: Row) -> float:
    return row.peak_mib or 0.0
