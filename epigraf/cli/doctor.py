"""`epigraf doctor`: everything about this installation, and what to do about what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from epigraf.doctor.checkup import Section
    from epigraf.doctor.parity import Cell

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu or cuda. [dim]Default: cuda where there is one[/dim]"),
]
_STYLES = {"ok": "green", "wrong": "bold red", "off": "dim"}


def doctor(as_json: AsJson = False, device: Device = None) -> None:
    """Check versions, devices, the native core, optional parts, and every op on every engine.

    Each op is compared with its plain-torch reference; an engine that cannot run says why. It ends
    with one line of advice for each problem, and exit code 1 if an op is wrong.

    [bold]Examples[/bold]

      epigraf doctor
      epigraf doctor --device cuda
      epigraf doctor --json > doctor.json
    """
    sections, cells = examine(device)
    advice = [line for section in sections for line in section.advice]
    wrong = [cell for cell in cells if cell.verdict == "wrong"]
    advice += [
        f"{c.op} on {c.engine} is wrong: {c.why_not or f'error {c.error:.1e}'}" for c in wrong
    ]
    if as_json:
        typer.echo(json.dumps(_plain(sections, cells, advice), indent=2))
    else:
        _print(sections, cells, advice)
    if wrong:
        raise typer.Exit(1)


def examine(device: str | None) -> tuple[list[Section], list[Cell]]:
    """Everything that is looked at; never raises."""
    from epigraf.doctor import installation, machine
    from epigraf.doctor.checkup import Section, checkup, run_check

    sections = checkup(
        [
            ("versions", installation.versions),
            ("torch", installation.torch_build),
            ("native core", installation.native_core),
            ("CUDA", installation.cuda),
            ("optional parts", installation.optional_packages),
            ("processors", machine.processors),
            ("memory", machine.memory),
            ("disk", machine.disk),
        ]
    )
    cells: list[Cell] = []

    def engines() -> Section:
        import torch

        from epigraf.doctor.parity import parity_matrix

        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        cells.extend(parity_matrix(chosen))
        return Section("engines", {"device": chosen})

    return [*sections, run_check("engines", engines)], cells


def _plain(sections: Sequence[Section], cells: Sequence[Cell], advice: list[str]) -> dict[str, Any]:
    return {
        "sections": {section.title: section.facts for section in sections},
        "engines": [asdict(cell) for cell in cells],
        "advice": advice,
    }


def _print(sections: Sequence[Section], cells: Sequence[Cell], advice: Sequence[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for section in sections:
        console.print(f"[bold]{section.title}[/]")
        width = max(map(len, section.facts), default=0)
        for name, value in section.facts.items():
            console.print(f"  {name:{width}}  {escape(value)}", soft_wrap=True)
    table = Table("op", "engine", "", "error", "ms", "why not", box=None, pad_edge=False)
    for cell in cells:
        state = f"[{_STYLES[cell.verdict]}]{cell.verdict}[/]"
        error = "" if cell.error is None else f"{cell.error:.0e}"
        ms = "" if cell.ms is None else f"{cell.ms:.3g}"
        name = f"{cell.engine} [bold]*[/]" if cell.runs else cell.engine
        table.add_row(cell.op, name, state, error, ms, escape(cell.why_not))
    console.print(table)
    console.print(
        "* runs by default; error: largest difference from plain torch, of its largest value",
        style="dim",
    )
    for line in advice:
        console.print(f"[yellow]advice[/] {escape(line)}", soft_wrap=True)
    if not advice:
        console.print("[green]nothing to mend[/]")
