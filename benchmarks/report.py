"""Pictures and tables of the newest results: bench.md, bench-*.png, and the block of a README."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from epigraf.benchmarks.machine import peak_bandwidth, peak_gflops
from epigraf.benchmarks.result import Result, of_suite
from epigraf.benchmarks.runner import Row
from epigraf.benchmarks.table import scaling_lines
from epigraf.curve import Panel, Series, draw_curves
from epigraf.errors import EpigrafError

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
    """The renderer's table: seconds, how many times faster than the last, memory."""
    cases: dict[str, list[Row]] = {}
    for row in result.rows:
        if row.op == "render":
            cases.setdefault(row.case, []).append(row)
    names = list(dict.fromkeys(row.implementation for rows in cases.values() for row in rows))
    lines = [
        _facts(result),
        "",
        f"| ms (times faster than {names[-1]}; MiB) | {' | '.join(names)} |",
    ]
    lines.append("| --- |" + " ---: |" * len(names))
    for case, rows in cases.items():
        found = {row.implementation: _cell(row, rows[-1]) for row in rows}
        lines.append(f"| {case} | {' | '.join(found.get(name, '') for name in names)} |")
    return [*lines, ""]


def _cell(row: Row, last: Row) -> str:
    times = "" if row is last else f"{last.best / row.best:.1f}x; "
    memory = "" if row.peak_mib is None else f"{row.peak_mib:.0f} MiB"
    return f"{row.best * 1e3:.4g} ({times}{memory})"


def _facts(result: Result) -> str:
    facts = result.facts
    return (
        f"`epigraf bench {result.suite}`, {result.machine}, {facts['threads']} threads, "
        f"commit {facts['commit']}, {result.date[:10]}, load {facts['load_average']:.1f}; sgemm "
        f"{peak_gflops(result.rows):.0f} GFLOP/s, copy {peak_bandwidth(result.rows):.0f} GB/s. "
        f"Quickest rounds."
    )


def _step_sentence(result: Result) -> list[str]:
    preset = result.facts["config"]["preset"]
    steps = [row for row in result.rows if row.op == "step" and row.case == "step"]
    texts = [f"{r.implementation} {r.best / r.counts.images * 1000:.1f}" for r in steps]
    return [f"Training `{preset}`, seconds per thousand images: {', '.join(texts)}."]


def write_pictures(results: Sequence[Result], folder: Path) -> list[Path]:
    """bench-*.png and bench.md, which shows them; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written, lines = [], ["# What `epigraf bench` measured", ""]
    for result in results:
        title = " ".join([result.suite, result.facts["config"].get("preset", "")]).strip()
        lines += [f"## {title}", "", *_tables(result), ""]
        panels = [p for p in _panels(result) if p.series]
        for number in range(0, len(panels), 2):
            path = folder / f"bench-{title.replace(' ', '-')}-{number // 2 + 1}.png"
            Image.fromarray(draw_curves(panels[number : number + 2])).save(path)
            written.append(path)
            lines += [
                f"![{', '.join(p.title for p in panels[number : number + 2])}]({path.name})",
                "",
            ]
    path = folder / "bench.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [*written, path]


def _tables(result: Result) -> Iterator[str]:
    if result.suite == "render":
        yield from render_lines(result)
    else:
        yield from (_facts(result), "")
    if result.suite == "scaling":
        yield from (f"* {line}" for line in scaling_lines(result.rows))
        return
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
        log = not axis.startswith(("samples", "threads"))
        yield Panel(f"{axis}: milliseconds", axis.split(",")[0], _series(rows, _milliseconds), log)
        if axis == "rays":
            yield Panel("rays: rays per second", "rays", _series(rows, _rate), log=True)
        if axis == "samples":
            kept = [row for row in rows if row.peak_mib is not None]
            yield Panel("samples: peak memory, MiB", "samples a ray", _series(kept, _peak))


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
