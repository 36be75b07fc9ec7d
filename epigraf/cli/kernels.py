"""`epigraf bench kernels`: what the compiler makes of the CUDA kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epigraf.errors import EpigrafError


def kernels(
    archs: Annotated[
        list[int] | None,
        typer.Argument(metavar="[ARCH]...", help="80 for sm_80. [dim]Default: all[/dim]"),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="Write the report to this file, docs/kernels.md.")
    ] = None,
) -> None:
    """Compile the CUDA kernels and report registers, spills, occupancy, predicted speed.

    Needs nvcc (or $NVCC) and a source tree, no GPU. Exit code 1 if registers spill.

    [bold]Examples[/bold]

      epigraf bench kernels 80
      epigraf bench kernels --page docs/kernels.md
    """
    from epigraf.benchmarks.kernel_report import LIMITS, compile_kernels, spilled
    from epigraf.benchmarks.kernel_report import page as page_of
    from epigraf.benchmarks.roofline import Case

    found = compile_kernels(sorted(set(archs or LIMITS)))
    text = page_of(found, Case())
    if page is None:
        typer.echo(text)
    else:
        page.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {page}")
    if names := spilled(found):
        raise EpigrafError(f"bench kernels: registers spill in {', '.join(names)}")
