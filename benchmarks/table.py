"""Results and comparisons as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from epigraf.benchmarks.compare import Change, Verdict
from epigraf.benchmarks.fit import line_fits, speed_ups
from epigraf.benchmarks.machine import describe_peaks, peak_fma, peak_gflops, peak_read
from epigraf.benchmarks.result import Result
from epigraf.benchmarks.runner import Row

_COLORS = {Verdict.FASTER: "green", Verdict.SLOWER: "red", Verdict.UNCLEAR: "yellow"}
COLUMNS = (
    "ms", "median", "times", "M/s", "GFLOP/s", "fma", "sgemm", "GB/s", "cache", "s/kimg", "MiB",
    "extra",
)  # fmt: skip
LEGEND = {
    "ms": "quickest round", "median": "middle round", "times": "faster than the last of its case",
    "M/s": "million samples a second", "GFLOP/s": "useful ones",
    "fma": "their share of multiply-adds in registers",
    "sgemm": "and of the best matrix product", "GB/s": "of taps (or copied, or read)",
    "cache": "their share of the fastest reads", "MiB": "peak memory beyond inputs",
    "extra": "and beyond outputs",
}  # fmt: skip
WIDE = 100  # columns of a terminal that has room between those of a table


def print_result(result: Result, console: Console) -> None:
    """Facts, one row a measurement, lines and speed-ups; also of a suite that was stopped."""
    facts = result.facts
    console.print(
        f"{result.machine}, {facts['threads']} threads, load {facts['load_average']:.1f}, "
        f"{facts['backend']}, commit {facts['commit']}",
        highlight=False,
    )
    console.print(f"measured peaks: {describe_peaks(result.rows)}", highlight=False)
    cells = [_cells(row, _last_of(result.rows, row), result.rows) for row in result.rows]
    shown = [k for k in range(len(COLUMNS)) if any(line[k] for line in cells)]
    _print_rows(result, [[line[k] for k in shown] for line in cells], shown, console)
    names = [f"{COLUMNS[k]} {LEGEND[COLUMNS[k]]}" for k in shown if COLUMNS[k] in LEGEND]
    console.print("; ".join(names), style="dim", highlight=False)
    for line in scaling_lines(result.rows):
        console.print(line, highlight=False)


def _print_rows(
    result: Result, cells: Sequence[Sequence[str]], shown: Sequence[int], console: Console
) -> None:
    """A case is a line of its own; its implementations are set in below it."""
    stopped = "" if result.complete else " (stopped)"
    allocator = f"allocator: {result.facts['allocator']}"
    console.print(f"\n[bold]{result.command}[/]{stopped}, {allocator}", highlight=False)
    heading = [COLUMNS[k] for k in shown]
    gap = " " * (2 if console.width >= WIDE else 1)
    widths = [max(map(len, column)) for column in zip(heading, *cells, strict=True)]

    def texts(line: Sequence[str]) -> str:
        return "".join(gap + text.rjust(n) for text, n in zip(line, widths, strict=True))

    room = max(len(row.implementation) for row in result.rows) + 2
    room = min(room, max(console.width - len(texts(heading)), 0))
    console.print(" " * room + texts(heading), style="underline", highlight=False)
    by_case: dict[str, list[tuple[Row, Sequence[str]]]] = {}
    for row, line in zip(result.rows, cells, strict=True):
        by_case.setdefault(f"{row.op} {row.case}", []).append((row, line))
    for case, lines in by_case.items():
        console.print(Text(case, style="bold"))
        for row, line in lines:
            name = f"  {row.implementation}".ljust(room)
            name += "" if len(name) == room else "\n" + " " * room
            console.print(Text(name + texts(line), style="dim" if row.control else ""))


def _last_of(rows: Sequence[Row], row: Row) -> Row:
    """The last implementation of the same case: the one that others are compared with."""
    return [other for other in rows if (other.op, other.case) == (row.op, row.case)][-1]


def _cells(row: Row, last: Row, rows: Sequence[Row]) -> list[str]:
    """Texts of COLUMNS; empty where something was not counted."""
    counts = row.counts
    speed = counts.bytes_moved / row.best / 1e9
    return [
        short(row.best * 1e3),
        short(row.median * 1e3),
        "" if last is row else f"{last.best / row.best:.2f}x",
        short(counts.samples / row.best / 1e6) if counts.samples else "",
        short(row.gflops) if counts.flops else "",
        share(row.gflops, peak_fma(rows)),
        share(row.gflops, peak_gflops(rows)),
        short(speed) if speed else "",
        share(speed, peak_read(rows)),
        short(row.best / counts.images * 1000) if counts.images else "",
        _mib(row.peak_mib),
        _mib(row.beyond_mib),
    ]


def share(speed: float, peak: float) -> str:
    """Per cent of a peak; empty where either was not measured."""
    return f"{speed / peak:.0%}" if speed and peak else ""


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value > 99.9 else f"{value:.1f}"


def short(value: float) -> str:
    """Three figures, and all those before the point: 0.0123, 1.23, 12.3, 12345."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def scaling_lines(rows: Sequence[Row]) -> list[str]:
    """Sentences about lines and threads."""
    units = {"rays": "ray", "samples": "sample of a ray", "batch": "picture", "planes": "pixel"}
    found = [
        f"{fit.implementation}, {fit.axis}: {fit.intercept * 1e3:.3g} ms + "
        f"{fit.slope * 1e6:.3g} us a {units[fit.axis.split(',')[0]]}, R2 = {fit.r2:.4f}"
        for fit in line_fits(rows)
        if not fit.axis.startswith("planes")
    ]
    found += [
        f"{which}, {axis}: {times:.2f}x on {count}" for axis, which, count, times in speed_ups(rows)
    ]
    return found


def print_changes(changes: Sequence[Change], console: Console) -> None:
    """One row a comparison; opponents and the machine are dim."""
    table = Table(title="B against A")
    for name in ("case", "implementation"):
        table.add_column(name, overflow="fold")
    for name in ("A best ms", "B best ms", "B / A", "noise"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for change in changes:
        op, case, implementation = change.key
        color = _COLORS.get(change.verdict, "")
        text = f"[{color}]{change.verdict.value}[/]" if color else change.verdict.value
        table.add_row(
            f"{op} {case}",
            implementation,
            *("" if row is None else f"{row.best * 1e3:.3f}" for row in (change.a, change.b)),
            "" if change.ratio is None else f"{change.ratio:.3f}",
            "" if change.noise is None else f"{change.noise:.1%}",
            text,
            style="dim" if change.control else "",
        )
    console.print(table)
