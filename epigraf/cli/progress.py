"""How far the work is: a bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0
"""Between two lines where the output is no terminal; short work prints none."""


class Meter:
    """Progress of `total` units of work called `what`; use as a context manager.

    Args:
        live: draw a bar; None asks whether stderr is a terminal.
    """

    def __init__(self, what: str, total: float, live: bool | None = None) -> None:
        self._what, self._total, self._done = what, max(total, 1e-9), 0.0
        self._began = self._spoke = time.monotonic()
        self._noted = False
        self._bar: Progress | None = None
        if sys.stderr.isatty() if live is None else live:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(
                *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
            )
            self._bar.add_task(what, total=total)

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, units: float) -> None:
        """Count `units` as done."""
        self._done += units
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], units)
            return
        now = time.monotonic()
        if now - self._spoke >= PLAIN_SECONDS:
            self._spoke = now
            share, seconds = self._done / self._total, now - self._began
            typer.echo(f"{self._what}: {share:.0%} in {seconds:.0f} s", err=True)

    def note(self, text: str) -> None:
        """Print a line, above the bar, unless a note was printed before."""
        if not self._noted:
            self._noted = True
            self.say(text)

    def describe(self, what: str) -> None:
        """Call the work something else from now on."""
        self._what = what
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=what)

    def say(self, text: str) -> None:
        """Print a line, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            typer.echo(text, err=True)


@contextmanager
def stages(what: str) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """One meter after another, each for a stage of the work on `what`. Called with a stage's name
    it begins one, and returns what is told how many of how many parts are done."""
    with ExitStack() as running:

        def begin(stage: str) -> Callable[[int, int], None]:
            running.close()
            meter, done = running.enter_context(Meter(f"{what}: {stage}", 1.0)), 0.0

            def told(count: int, total: int) -> None:
                nonlocal done
                meter.advance(count / total - done)
                done = count / total

            return told

        yield begin
