"""Believable colours: a thing is painted with one of a few paints, each varied a little.

A colour drawn from the whole wheel tells nothing about the part that wears it; one drawn from the
paints of the part does, and a network learns it at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from epigraf.data.textures import Colour, hsv

HUE_SPREAD, TONE_SPREAD = 0.012, 0.06  # half widths: hue in turns; saturation and value in 0..1


@dataclass(frozen=True)
class Paint:
    """A colour to vary: hue in turns (red 0, green 1/3), saturation and value in 0..1."""

    hue: float
    saturation: float
    value: float


Palette = tuple[Paint, ...]

RED = Paint(0.01, 0.78, 0.86)
WINE = Paint(0.97, 0.6, 0.56)
ORANGE = Paint(0.07, 0.76, 0.9)
TERRACOTTA = Paint(0.045, 0.58, 0.82)
OCHRE = Paint(0.105, 0.6, 0.86)
YELLOW = Paint(0.135, 0.66, 0.98)
CREAM = Paint(0.12, 0.2, 0.9)
HONEY = Paint(0.085, 0.5, 0.82)
BROWN = Paint(0.065, 0.52, 0.54)
GREEN = Paint(0.37, 0.5, 0.58)
CELADON = Paint(0.4, 0.24, 0.82)
TEAL = Paint(0.5, 0.55, 0.66)
SKY = Paint(0.56, 0.42, 0.88)
BLUE = Paint(0.6, 0.66, 0.76)
NAVY = Paint(0.62, 0.55, 0.48)
GREY = Paint(0.6, 0.08, 0.66)
DARK = Paint(0.62, 0.15, 0.16)

CAPS: Palette = (RED, RED, BROWN, OCHRE, WINE)
POTS: Palette = (TERRACOTTA, TERRACOTTA, BLUE, CELADON, GREY)
FEATHERS: Palette = (YELLOW, YELLOW, CREAM, BROWN, SKY)
HULLS: Palette = (CREAM, CREAM, GREY, SKY)
TRIMS: Palette = (RED, ORANGE, NAVY, TEAL)
CARS: Palette = (RED, BLUE, CREAM, GREEN, YELLOW, SKY)
FURS: Palette = (HONEY, HONEY, BROWN, GREY, CREAM)
SCARVES: Palette = (RED, BLUE, GREEN)
GLAZES: Palette = (BLUE, CELADON, TERRACOTTA, CREAM, OCHRE, TEAL)


def mixed(paint: Paint, generator: np.random.Generator) -> Colour:
    """A paint, varied evenly within the spreads; RGB in 0..1."""
    hue, saturation, value = generator.uniform(-1, 1, size=3)
    return hsv(
        paint.hue + hue * HUE_SPREAD,
        min(max(paint.saturation + saturation * TONE_SPREAD, 0.0), 1.0),
        min(max(paint.value + value * TONE_SPREAD, 0.0), 1.0),
    )


def drawn(palette: Palette, generator: np.random.Generator) -> Colour:
    """One paint of a palette, all as likely as often as they are named in it, varied."""
    return mixed(palette[int(generator.integers(len(palette)))], generator)


def toned(colour: Colour, factor: float) -> Colour:
    """The same colour, darker (factor below 1) or lighter (above; no channel beyond 1)."""
    red, green, blue = (min(channel * factor, 1.0) for channel in colour)
    return red, green, blue
