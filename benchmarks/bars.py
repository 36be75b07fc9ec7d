"""Rows of dots and of stacked bars as a picture, beside epigraf.curve. Pixels, y down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from epigraf.curve import COLORS, INK, MUTED, RULE, SCALE, axis_ticks, font_of, nice_ticks

WIDTH, LEFT, RIGHT = 840, 180, 60  # of the picture, and beside its axis
TOP, BOTTOM, LINE = 16, 54, 22
SHADES = (*COLORS, (200, 160, 40), (60, 150, 175), (175, 85, 85), (110, 115, 125), (165, 190, 90))


@dataclass(frozen=True)
class Group:
    """A case and its values by name, or a bar and its parts by name; values >= 0, > 0 for dots."""

    title: str
    values: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class _Axis:
    """Maps [low, high] (decimal logarithms, if log) to pixels."""

    low: float
    high: float
    log: bool

    def at(self, value: float) -> float:
        share = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return (LEFT + share * (WIDTH - LEFT - RIGHT)) * SCALE

    def ticks(self) -> list[tuple[float, str]]:
        if self.log:
            found = axis_ticks((self.low, self.high), log=True)
            return [(10**value, text) for value, text in found]
        return [(value, f"{value:g}") for value in nice_ticks(self.low, self.high)]


def draw_dots(groups: Sequence[Group], label: str) -> np.ndarray:
    """A heading a group and a dot a value, on one logarithmic axis; uint8 [H, W, 3]."""
    values = [value for group in groups for _, value in group.values]
    ends = (math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1)
    names = list(dict.fromkeys(name for group in groups for name, _ in group.values))
    lines = sum(len(group.values) + 1.5 for group in groups)
    axis = _Axis(*ends, log=True)
    sheet, draw = _sheet(axis, TOP, lines * LINE, label)
    y = TOP * SCALE
    for group in groups:
        _text(draw, 16, y, group.title, "lm", INK, 12)
        y += LINE * SCALE
        for name, value in group.values:
            _dot(draw, axis, y, (name, value), SHADES[names.index(name) % len(SHADES)])
            y += LINE * SCALE
        y += LINE * SCALE / 2
    return np.asarray(sheet)


def draw_stacks(groups: Sequence[Group], label: str) -> np.ndarray:
    """A bar a group, its parts side by side in one order, their sum behind it; uint8 [H, W, 3]."""
    names = list(dict.fromkeys(name for group in groups for name, _ in group.values))
    longest = max(sum(value for _, value in group.values) for group in groups)
    legend = -(-len(names) // 4)
    top = TOP + (legend + 0.5) * LINE
    axis = _Axis(0.0, longest, log=False)
    sheet, draw = _sheet(axis, top, len(groups) * 2 * LINE, label)
    for k, name in enumerate(names):
        x, y = 16 + k % 4 * (WIDTH - 32) / 4, (TOP + k // 4 * LINE) * SCALE
        color = SHADES[k % len(SHADES)]
        draw.rectangle((x * SCALE, y - 5 * SCALE, (x + 10) * SCALE, y + 5 * SCALE), fill=color)
        _text(draw, x + 16, y, name, "lm", INK)
    for k, group in enumerate(groups):
        y = (top + (2 * k + 1) * LINE) * SCALE
        _text(draw, LEFT - 10, y, group.title, "rm", INK)
        done = 0.0
        for name, value in group.values:
            box = (axis.at(done), y - 0.6 * LINE * SCALE, axis.at(done + value))
            color = SHADES[names.index(name) % len(SHADES)]
            draw.rectangle((*box, y + 0.6 * LINE * SCALE), fill=color)
            done += value
        _text(draw, axis.at(done) / SCALE + 6, y, f"{done:.4g}", "lm", MUTED)
    return np.asarray(sheet)


def _dot(
    draw: ImageDraw.ImageDraw,
    axis: _Axis,
    y: float,
    item: tuple[str, float],
    color: tuple[int, int, int],
) -> None:
    """A name, a faint line to a dot at its value, and the value behind it."""
    name, value = item
    x = axis.at(value)
    _text(draw, LEFT - 10, y, name, "rm", INK)
    draw.line([(LEFT * SCALE, y), (x, y)], fill=RULE, width=SCALE)
    draw.circle((x, y), 5 * SCALE, fill=color)
    _text(draw, x / SCALE + 9, y, f"{value:.3g}" if value < 999.5 else f"{value:.0f}", "lm", MUTED)


def _sheet(
    axis: _Axis, top: float, height: float, label: str
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White paper with the axis' grid, numbers and label below."""
    sheet = Image.new("RGB", (WIDTH * SCALE, round(top + height + BOTTOM) * SCALE), "white")
    draw = ImageDraw.Draw(sheet)
    bottom = (top + height) * SCALE
    for value, text in axis.ticks():
        x = axis.at(value)
        draw.line([(x, (top - LINE / 2) * SCALE), (x, bottom)], fill=RULE, width=SCALE)
        _text(draw, x / SCALE, bottom + 8 * SCALE, text, "mt", MUTED)
    _text(draw, (LEFT + WIDTH - RIGHT) / 2, bottom + 28 * SCALE, label, "mt", MUTED)
    return sheet, draw


def _text(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    text: str,
    anchor: str,
    color: tuple[int, int, int],
    size: int = 11,
) -> None:
    """At x in the layout and y on the sheet."""
    draw.text((x * SCALE, y), text, fill=color, font=font_of(size), anchor=anchor)
