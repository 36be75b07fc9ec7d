"""Believable colours: a thing is painted with one of a few paints, each varied a little.

A colour drawn from the whole wheel tells nothing about the part that wears it. The paints of a part
share a hue and differ in tone: a network learns the hue at once, and mixtures of two paints are
paints again, where those of red and blue would be neither.
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
WINE = Paint(0.98, 0.72, 0.6)
ORANGE = Paint(0.05, 0.76, 0.9)
OCHRE = Paint(0.115, 0.66, 0.8)
YELLOW = Paint(0.135, 0.66, 0.98)
CREAM = Paint(0.11, 0.36, 0.9)
HONEY = Paint(0.075, 0.54, 0.8)
BROWN = Paint(0.065, 0.54, 0.5)
GREEN = Paint(0.37, 0.55, 0.62)
CELADON = Paint(0.39, 0.34, 0.8)
SKY = Paint(0.57, 0.42, 0.88)
BLUE = Paint(0.6, 0.66, 0.76)
NAVY = Paint(0.62, 0.6, 0.46)
GREY = Paint(0.6, 0.16, 0.68)
DARK = Paint(0.62, 0.15, 0.16)

CAPS: Palette = (RED, RED, WINE)
FEATHERS: Palette = (YELLOW, OCHRE)
HULLS: Palette = (SKY, GREY)
TRIMS: Palette = (RED, ORANGE)
CARS: Palette = (BLUE, NAVY, SKY)
FURS: Palette = (HONEY, BROWN)
GLAZES: Palette = (GREEN, CELADON)


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
