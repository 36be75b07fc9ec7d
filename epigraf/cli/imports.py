"""`epigraf import`: a snapshot of EpiGRAF or EG3D as a model of ours, without running its code."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    from epigraf.interop.importer import Imported

_SHOWN = 6  # names of one list


class Which(Enum):
    """The networks of a snapshot that can be taken."""

    G_EMA = "G_ema"
    G = "G"


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pkl", help="A snapshot of a release.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The model to write.")],
    which: Annotated[
        Which, typer.Option("--which", help="The weight average, or the network itself.")
    ] = Which.G_EMA,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change the rebuilt configuration: KEY=VALUE, repeatable."),
    ] = None,
) -> None:
    """Take over a snapshot of EpiGRAF or EG3D. Nothing in the file is run.

    [bold]Examples[/bold]

      epigraf import network-snapshot-025000.pkl ffhq.safetensors
      epigraf video ffhq.safetensors --seeds 0-15 --grid 4x4 --out faces.mp4
    """
    from epigraf.interop.importer import import_model

    if out.suffix != ".safetensors":
        raise EpigrafError(f"OUT {out}: must end in .safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    for line in report(import_model(file, out, which.value, overrides or ())):
        typer.echo(line)


def report(imported: Imported) -> list[str]:
    """What was taken over and what was not, in lines."""
    weights = imported.weights
    taken = len(weights.tensors) - len(weights.filled)
    lines = [
        f"{imported.path} ({imported.path.stat().st_size / 1e6:.1f} MB): {weights.release} at "
        f"{imported.kimg:g} kimg, {taken} tensors taken over"
    ]
    lists = {
        "constants, which are code here": weights.constants,
        "not mapped": weights.unmapped,
        "not in the file, from the configuration": weights.filled,
    }
    for what, names in lists.items():
        if names:
            more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{len(names)} {what}: {', '.join(sorted(names)[:_SHOWN])}{more}")
    return [*lines, *weights.notes]
