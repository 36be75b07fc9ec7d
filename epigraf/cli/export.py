"""`epigraf export`: the generator alone, out of a training snapshot."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from epigraf.cli.arguments import Model
from epigraf.errors import EpigrafError


class ExportFormat(Enum):
    """Whose names the weights carry."""

    EPIGRAF = "epigraf"
    OFFICIAL = "official"


def export(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .safetensors file to write.")
    ] = Path("model.safetensors"),
    format: Annotated[
        ExportFormat,
        typer.Option("--format", help="A model of ours, or weights under the release's names."),
    ] = ExportFormat.EPIGRAF,
) -> None:
    """Write the averaged generator alone: a small file to share, without optimisers and critic.

    [bold]Examples[/bold]

      epigraf export runs/00000-tiny-shapes --out toys.safetensors
      epigraf sample toys.safetensors --seeds 0-15
      epigraf export toys.safetensors --format official --out weights.safetensors
    """
    from epigraf.interop.exchange import export_official
    from epigraf.models.loading import export_model

    if out.suffix != ".safetensors":
        raise EpigrafError(f"--out {out}: must end in .safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    only_here = []
    if format is ExportFormat.OFFICIAL:
        only_here = export_official(model, out)
    else:
        export_model(model, out)
    typer.echo(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    if only_here:
        typer.echo(f"settings that the release does not have: {', '.join(only_here)}")
