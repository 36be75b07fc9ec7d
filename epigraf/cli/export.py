"""`epigraf export`: the generator alone, out of a training snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epigraf.cli.arguments import Model
from epigraf.errors import EpigrafError


def export(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .safetensors file to write.")
    ] = Path("model.safetensors"),
) -> None:
    """Write the averaged generator alone: a small file to share, without optimisers and critic.

    [bold]Examples[/bold]

      epigraf export runs/00000-tiny-shapes --out toys.safetensors
      epigraf sample toys.safetensors --seeds 0-15
    """
    from epigraf.models.loading import export_model

    if out.suffix != ".safetensors":
        raise EpigrafError(f"--out {out}: must end in .safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    path = export_model(model, out)
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
