"""Curves as a picture, drawn with Pillow alone. Coordinates in pixels, y down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, MUTED, RULE = (32, 38, 46), (120, 128, 138), (228, 231, 235)
COLORS = ((37, 99, 185), (214, 106, 33), (42, 140, 90), (150, 70, 160))
SCALE = 2
"""Pixels drawn for each pixel of the layout: crisp on dense screens."""


@dataclass(frozen=True)
class Series:
    """One line: y over x, of equal lengths; not finite points are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One set of axes with its lines."""

    title: str
    x_label: str
    series: Sequence[Series]
    log: bool = False  # both axes; every value must be positive
    y_label: str = ""  # stands above the axis


@dataclass(frozen=True)
class _Box:
    """Where a panel's axes lie, and the values at their ends."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        u = (x - self.x[0]) / (self.x[1] - self.x[0])
        v = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + u * (self.right - self.left),
            self.bottom - v * (self.bottom - self.top),
        )


def draw_curves(panels: Sequence[Panel], width: int = 420, height: int = 280) -> np.ndarray:
    """Panels side by side as uint8 [H, W, 3]; `width` and `height` of one panel before SCALE."""
    w, h = width * SCALE, height * SCALE
    sheet = Image.new("RGB", (w * max(len(panels), 1), h), "white")
    draw = ImageDraw.Draw(sheet)
    for i, panel in enumerate(panels):
        _draw_panel(draw, panel, i * w, w, h)
    return np.asarray(sheet)


def read_series(rows: Sequence[Mapping[str, float]], name: str, key: str) -> Series:
    """One number of a run's stats.jsonl over kimg, smoothed when there are many rows."""
    kept = [row for row in rows if key in row]
    values = smooth([row[key] for row in kept], max(1, len(kept) // 15))
    return Series(name, [row["Progress/kimg"] for row in kept], values)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Centred running mean over up to `window` values; shorter at the ends."""
    x = np.asarray(values, dtype=np.float64)
    half = window // 2
    return [float(x[max(0, i - half) : i + half + 1].mean()) for i in range(len(x))]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _draw_panel(
    draw: ImageDraw.ImageDraw, panel: Panel, left: int, width: int, height: int
) -> None:
    s = SCALE
    points = [_finite(series, panel.log) for series in panel.series]
    every = [p for line in points for p in line]
    draw.text((left + 16 * s, 12 * s), panel.title, fill=INK, font=font_of(14))
    if not every:
        draw.text((left + 16 * s, height / 2), "no values yet", fill=MUTED, font=font_of(12))
        return
    start = min(p[0] for p in every)
    x_range = _widened(start if panel.log else min(0.0, start), max(p[0] for p in every), 0.0)
    y_range = _widened(min(p[1] for p in every), max(p[1] for p in every), 0.06)
    right, bottom = left + width - 20 * s, height - 46 * s
    top = (76 if panel.y_label else 60) * s
    box = _Box(left + 58 * s, top, right, bottom, x_range, y_range)
    _draw_axes(draw, box, panel)
    for k, line in enumerate(points):
        color, path = COLORS[k % len(COLORS)], [box.at(*p) for p in line]
        if len(path) == 1:
            draw.circle(path[0], 3 * s, fill=color)
        draw.line(path, fill=color, width=2 * s, joint="curve")
    _draw_legend(draw, panel.series, left + 16 * s, 36 * s)


def _draw_axes(draw: ImageDraw.ImageDraw, box: _Box, panel: Panel) -> None:
    font, s = font_of(11), SCALE
    for y, text in axis_ticks(box.y, panel.log):
        _, v = box.at(box.x[0], y)
        draw.line([(box.left, v), (box.right, v)], fill=RULE, width=s)
        draw.text((box.left - 8 * s, v), text, fill=MUTED, font=font, anchor="rm")
    for x, text in axis_ticks(box.x, panel.log):
        u, _ = box.at(x, box.y[0])
        draw.text((u, box.bottom + 8 * s), text, fill=MUTED, font=font, anchor="mt")
    if panel.y_label:
        above = (box.left - 42 * s, box.top - 8 * s)
        draw.text(above, panel.y_label, fill=MUTED, font=font, anchor="ls")
    middle = (box.left + box.right) / 2
    draw.text((middle, box.bottom + 26 * s), panel.x_label, fill=MUTED, font=font, anchor="mt")


def _draw_legend(
    draw: ImageDraw.ImageDraw, series: Sequence[Series], left: float, top: float
) -> None:
    font, s = font_of(11), SCALE
    for k, line in enumerate(series):
        color = COLORS[k % len(COLORS)]
        draw.line([(left, top + 7 * s), (left + 14 * s, top + 7 * s)], fill=color, width=3 * s)
        draw.text((left + 20 * s, top + 7 * s), line.name, fill=INK, font=font, anchor="lm")
        left += 38 * s + draw.textlength(line.name, font=font)


def _finite(series: Series, log: bool) -> list[tuple[float, float]]:
    """The points that can be drawn; of a log panel their decimal logarithms."""
    pairs = [p for p in zip(series.x, series.y, strict=True) if all(map(math.isfinite, p))]
    return [(math.log10(x), math.log10(y)) for x, y in pairs] if log else pairs


def axis_ticks(ends: tuple[float, float], log: bool) -> list[tuple[float, str]]:
    """Places and texts; on a log axis 1, 2 and 5 times powers of ten (few decades) or powers."""
    if not log:
        return [(t, f"{t:g}") for t in nice_ticks(*ends)]
    low, high = ends
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    values = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in factors]
    return [(math.log10(v), f"{v:g}") for v in values if low <= math.log10(v) <= high]


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    margin = (high - low) * share if high > low else max(abs(low), 1.0) * 0.5
    return low - margin, high + margin


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, `size` in pixels of the layout."""
    return ImageFont.load_default(size * SCALE)
