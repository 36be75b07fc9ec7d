"""A run on the terminal: a live panel, or one plain line a tick where the output is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from epigraf.training.log import Numbers, format_time

_REFRESH_SECONDS = 0.5


class Display:
    """Shows lines, and between them the newest numbers. Use as a context manager.

    Args:
        title: heads the panel.
        backend: the line that says which backend computes.
        live: False prints lines only; None asks whether stdout is a terminal.
    """

    def __init__(self, title: str, backend: str, live: bool | None = None) -> None:
        self._console = Console()
        self.live = sys.stdout.isatty() if live is None else live
        self._title, self._backend = title, backend
        self._live: Live | None = None
        self._drawn = 0.0

    def __enter__(self) -> Display:
        if self.live:
            live = Live(console=self._console, auto_refresh=False)
            live.start()
            self._live = live
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, text: str) -> None:
        """Print a line (above the panel)."""
        if self._live is not None:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def update(self, row: Numbers, done: float) -> None:
        """Redraw the panel, at most twice a second.

        Args:
            row: the numbers of the step (names as in stats.jsonl).
            done: share of the run that is over, 0..1.
        """
        now = time.monotonic()
        if self._live is None or now - self._drawn < _REFRESH_SECONDS:
            return
        self._drawn = now
        self._live.update(self._panel(row, done), refresh=True)

    def _panel(self, row: Numbers, done: float) -> Panel:
        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column()
        cells = _cells(row)
        for left, right in zip(cells[::2], cells[1::2], strict=True):
            table.add_row(*left, *right)
        grid = Table.grid()
        grid.add_row(ProgressBar(total=1.0, completed=done, width=60))
        grid.add_row(table)
        grid.add_row(self._backend)
        return Panel(grid, title=self._title, expand=False)


def _cells(row: Numbers) -> list[tuple[str, str]]:
    def show(name: str, form: str) -> str:
        return format(row[name], form) if name in row else "-"

    cells = [
        ("kimg", f"{row['Progress/kimg']:.2f} of {row['Progress/kimg_total']:g}"),
        ("time left", format_time(row["Timing/left_sec"])),
        ("s/kimg", show("Timing/sec_per_kimg", ".2f")),
        ("images/s", show("Timing/images_per_sec", ".1f")),
        ("rays/s", show("Timing/rays_per_sec", ",.0f")),
        ("memory", show("Resources/cpu_mem_gb", ".2f") + " GiB"),
        ("G loss", show("Loss/G/loss", ".3f")),
        ("D loss", show("Loss/D/loss", ".3f")),
        ("D(real)", show("Loss/scores/real", ".2f")),
        ("D(fake)", show("Loss/scores/fake", ".2f")),
        ("R1", show("Loss/D/r1_penalty", ".3g")),
        ("ADA p", show("Progress/augment", ".3f")),
    ]
    if "Resources/peak_gpu_mem_gb" in row:
        cells += [
            ("GPU memory", show("Resources/peak_gpu_mem_gb", ".2f") + " GiB"),
            ("reserved", show("Resources/peak_gpu_mem_reserved_gb", ".2f") + " GiB"),
        ]
    return cells
