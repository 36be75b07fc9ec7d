"""`epigraf configs`: the presets, or everything that one of them resolves to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from epigraf.config import Config, list_presets, load_config


def configs(
    name: Annotated[
        str | None, typer.Argument(help="A preset or YAML file: print it with every default.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key: a.b=c. Repeatable.")
    ] = None,
) -> None:
    """List the presets, or print one in full.

    [bold]Examples[/bold]

      epigraf configs
      epigraf configs plants64
      epigraf configs plants64 --set training.gamma=0.5 > mine.yaml
    """
    if name is not None:
        cfg = load_config(name, override or [])
        typer.echo(yaml.safe_dump(cfg.to_dict(), sort_keys=False), nl=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("preset", "pictures", "batch", "R1 gamma", "what it is"):
        table.add_column(column, overflow="fold")
    for preset, path in list_presets().items():
        cfg = load_config(preset)
        table.add_row(preset, *_row(cfg), first_comment(path))
    Console().print(table)


def _row(cfg: Config) -> tuple[str, str, str]:
    size = f"{cfg.dataset.resolution}x{cfg.dataset.resolution}"
    gamma = f"{cfg.gamma:g}" + (" (auto)" if cfg.training.gamma == "auto" else "")
    return size, str(cfg.training.batch_size), gamma


def first_comment(path: Path) -> str:
    """The first line of a preset, which says what it is for."""
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    return line.lstrip("# ").strip() if line.startswith("#") else ""
