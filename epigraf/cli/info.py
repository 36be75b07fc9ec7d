"""`epigraf info`: versions and backend, or what a model is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from epigraf.config import Config
    from epigraf.models.loading import LoadedModel

PACKAGES = ("torch", "numpy", "pydantic", "safetensors", "Pillow", "PyMCubes", "imageio-ffmpeg")


def info(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="A run folder, a snapshot file or a shipped model."),
    ] = None,
) -> None:
    """Say which backend runs and which versions are installed; with MODEL, what the model is.

    [bold]Examples[/bold]

      epigraf info
      epigraf info runs/00000-tiny-shapes
    """
    rows = machine_facts()
    if model is not None:
        from epigraf.models.loading import load

        rows |= model_facts(load(model))
    width = max(map(len, rows))
    for name, value in rows.items():
        typer.echo(f"{name:{width}}  {value}")


def machine_facts() -> dict[str, str]:
    """Name -> text about this machine and its packages."""
    import torch

    from epigraf import __version__
    from epigraf.models.loading import shipped_models
    from epigraf.ops import backend_line

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "epigraf": __version__,
        "backend": backend_line(),
        "python": f"{platform.python_version()} on {platform.platform(terse=True)}",
        "models": ", ".join(shipped_models()) or "none shipped",
        "processors": f"{os.cpu_count()} ({torch.get_num_threads()} threads in use)",
        "CUDA device": device,
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    }


def model_facts(loaded: LoadedModel) -> dict[str, str]:
    """Name -> text about a trained model."""
    from epigraf.models.occupancy import sampler_text

    generator, cfg = loaded.generator, loaded.config
    count = sum(p.numel() for p in generator.parameters())
    source = loaded.source or {}
    origin = f"{source.get('network')} of {source.get('release')}'s {source.get('file')}"
    return {
        "model": str(loaded.path),
        **({"imported": f"{origin} (sha256 {source.get('sha256', '')[:16]})"} if source else {}),
        "preset": cfg.name,
        "trained": f"{loaded.kimg:.1f} kimg on {cfg.dataset.name}",
        "generator": f"{count / 1e6:.2f} M parameters, {planes_text(cfg)}",
        "pictures": f"{cfg.dataset.resolution}x{cfg.dataset.resolution}",
        "classes": str(generator.c_dim or "none"),
        "renderer": generator.renderer(),
        "sampler": sampler_text(generator),
    }


def planes_text(cfg: Config) -> str:
    """The tri-plane of a configuration in words."""
    planes = cfg.model.generator.tri_plane
    return f"planes 3x{planes.feat_dim}x{planes.res}x{planes.res}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
