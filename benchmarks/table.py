"""Results and comparisons as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from epigraf.benchmarks.compare import Change, Verdict
from epigraf.benchmarks.fit import line_fits, speed_ups
from epigraf.benchmarks.machine import peak_bandwidth, peak_gflops
from epigraf.benchmarks.result import Result
from epigraf.benchmarks.runner import Row

_COLORS = {Verdict.FASTER: "green", Verdict.SLOWER: "red", Verdict.UNCLEAR: "yellow"}
COLUMNS = ("best ms", "median ms", "vs last", "samples/s", "GFLOP/s", "of sgemm", "GB/s", "s/kimg",
           "peak MiB", "beyond outputs")  # fmt: skip


def print_result(result: Result, console: Console) -> None:
    """Facts, one row a measurement, lines and speed-ups."""
    facts = result.facts
    console.print(
        f"{result.machine}, {facts['threads']} threads, load {facts['load_average']:.1f}, "
        f"{facts['backend']}, commit {facts['commit']}",
        highlight=False,
    )
    peak = peak_gflops(result.rows)
    console.print(
        f"measured peaks: sgemm {peak:.0f} GFLOP/s, copy {peak_bandwidth(result.rows):.1f} GB/s",
        highlight=False,
    )
    console.print(_rows_table(result, peak))
    for line in scaling_lines(result.rows):
        console.print(line, highlight=False)


def _rows_table(result: Result, peak: float) -> Table:
    cells = [_cells(row, _last_of(result.rows, row), peak) for row in result.rows]
    shown = [k for k in range(len(COLUMNS)) if any(line[k] for line in cells)]
    table = Table(title=f"epigraf bench {result.suite}")
    table.add_column("case", overflow="fold")
    table.add_column("implementation")
    for k in shown:
        table.add_column(COLUMNS[k], justify="right")
    before = ""
    for row, line in zip(result.rows, cells, strict=True):
        case = f"{row.op} {row.case}"
        style = "dim" if row.control else ""
        text = "" if case == before else case
        table.add_row(text, row.implementation, *(line[k] for k in shown), style=style)
        before = case
    return table


def _last_of(rows: Sequence[Row], row: Row) -> Row:
    """The last implementation of the same case: the one that others are compared with."""
    return [other for other in rows if (other.op, other.case) == (row.op, row.case)][-1]


def _cells(row: Row, last: Row, peak: float) -> list[str]:
    """Texts of COLUMNS; empty where something was not counted."""
    counts = row.counts

    def rate(count: float, unit: float, digits: int) -> str:
        return f"{count / row.best / unit:.{digits}f}" if count else ""

    share = f"{row.gflops / peak:.0%}" if counts.flops and peak else ""
    return [
        f"{row.best * 1e3:.3g}" if row.best < 1 else f"{row.best * 1e3:.0f}",
        f"{row.median * 1e3:.3g}" if row.median < 1 else f"{row.median * 1e3:.0f}",
        "" if last is row else f"{last.best / row.best:.2f}x",
        f"{rate(counts.samples, 1e6, 2)} M" if counts.samples else "",
        rate(counts.flops, 1e9, 1),
        share,
        rate(counts.bytes_moved, 1e9, 1),
        f"{row.best / counts.images * 1000:.1f}" if counts.images else "",
        "" if row.peak_mib is None else f"{row.peak_mib:.1f}",
        "" if row.beyond_mib is None else f"{row.beyond_mib:.1f}",
    ]


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
