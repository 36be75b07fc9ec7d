"""epigraf: train, render and take home 3D objects with EpiGRAF (Skorokhodov et al., 2022).

>>> import epigraf                                              # doctest: +SKIP
>>> model = epigraf.load("runs/00000-plants64-plants-128-batch8-gamma1")
>>> ws = model.generator.mapping(z, c)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epigraf.config import Config, load_config
    from epigraf.errors import EpigrafError
    from epigraf.models.discriminator import Discriminator
    from epigraf.models.generator import Generator
    from epigraf.models.loading import LoadedModel, load
    from epigraf.models.pictures import Output, render_views
    from epigraf.models.sampling import Truncation, styles_from_seeds
    from epigraf.rendering.draws import RandomDraws, ReplayDraws
    from epigraf.rendering.frame import Box, Frame

__version__ = "0.1.0"

_EXPORTS = {
    "Config": "epigraf.config",
    "load_config": "epigraf.config",
    "EpigrafError": "epigraf.errors",
    "Discriminator": "epigraf.models.discriminator",
    "Generator": "epigraf.models.generator",
    "LoadedModel": "epigraf.models.loading",
    "load": "epigraf.models.loading",
    "Truncation": "epigraf.models.sampling",
    "Output": "epigraf.models.pictures",
    "render_views": "epigraf.models.pictures",
    "styles_from_seeds": "epigraf.models.sampling",
    "RandomDraws": "epigraf.rendering.draws",
    "ReplayDraws": "epigraf.rendering.draws",
    "Box": "epigraf.rendering.frame",
    "Frame": "epigraf.rendering.frame",
}

__all__ = [  # noqa: RUF022 - in the order in which a user meets them
    "load",
    "load_config",
    "Config",
    "Generator",
    "Discriminator",
    "LoadedModel",
    "Truncation",
    "styles_from_seeds",
    "render_views",
    "Frame",
    "Box",
    "Output",
    "RandomDraws",
    "ReplayDraws",
    "EpigrafError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `import epigraf` stays quick and needs no torch."""
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'epigraf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
