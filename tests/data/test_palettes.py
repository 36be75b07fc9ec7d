"""Paints: the colours that their spreads allow, and no others."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from epigraf.data import palettes
from epigraf.data.palettes import HUE_SPREAD, TONE_SPREAD, Paint, drawn, mixed, toned

PALETTES = {name: value for name, value in vars(palettes).items() if isinstance(value, tuple)}


def test_a_mixed_paint_stays_within_its_spreads_and_fills_them() -> None:
    generator = np.random.default_rng(0)
    paint = Paint(0.5, 0.5, 0.5)
    found = np.array([colorsys.rgb_to_hsv(*mixed(paint, generator)) for _ in range(2000)])
    away = np.abs(found - 0.5)
    spreads = np.array([HUE_SPREAD, TONE_SPREAD, TONE_SPREAD])
    assert (away <= spreads + 1e-9).all()
    assert (away.max(axis=0) > 0.95 * spreads).all()
    assert np.abs(found.mean(axis=0) - 0.5).max() < 0.005


def test_channels_are_never_beyond_one() -> None:
    generator = np.random.default_rng(0)
    paint = Paint(0.0, 1.0, 1.0)
    colours = np.array([mixed(paint, generator) for _ in range(200)])
    assert colours.min() >= 0
    assert colours.max() <= 1


def test_a_palette_is_drawn_as_often_as_it_names_a_paint() -> None:
    generator = np.random.default_rng(0)
    red, blue = Paint(0.0, 0.8, 0.8), Paint(0.66, 0.8, 0.8)
    colours = [drawn((red, red, blue), generator) for _ in range(3000)]
    assert np.mean([c[0] > c[2] for c in colours]) == pytest.approx(2 / 3, abs=0.03)


def test_tones_by_hand() -> None:
    assert toned((0.5, 0.25, 1.0), 0.5) == (0.25, 0.125, 0.5)
    assert toned((0.5, 0.25, 0.875), 2.0) == (1.0, 0.5, 1.0)


@pytest.mark.parametrize("name", sorted(PALETTES))
def test_paints_stand_out_from_the_white_behind_them(name: str) -> None:
    for paint in PALETTES[name]:
        assert 0 <= paint.hue <= 1
        assert min(paint.saturation, 1 - paint.saturation) >= 0.05
        assert paint.value * (1 - paint.saturation) < 0.8  # the darkest channel, far below white
