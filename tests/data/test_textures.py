"""Patterns: the colours at hand-picked points, and never anything outside 0..1."""

from __future__ import annotations

import math

import numpy as np
import pytest

from epigraf.data.textures import (
    Axis,
    Texture,
    band,
    dots,
    hsv,
    solid,
)

A, B = (0.0, 0.25, 1.0), (1.0, 0.75, 0.0)
TEXTURES: dict[str, Texture] = {
    "solid": solid(A),
    "band": band(A, B, Axis.Y, -0.05, 0.05),
    "dots": dots(A, B, (0, 0, 0), 20, 0.3),
}


def at(texture: Texture, *point: float) -> list[float]:
    return texture(np.array(point, dtype=np.float32)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_colours_stay_between_the_two(name: str) -> None:
    points = np.random.default_rng(1).uniform(-0.2, 0.2, (3, 2000)).astype(np.float32)
    colours = TEXTURES[name](points)
    assert colours.shape == (3, 2000)
    assert colours.min() >= 0
    assert colours.max() <= 1
    if name != "solid":  # both colours are really used
        assert colours[0].min() < 0.05
        assert colours[0].max() > 0.95


def test_patterns_by_hand() -> None:
    belt = band(A, B, Axis.Z, -0.1, 0.2)
    assert at(belt, 9, 9, 0.15) == list(B)
    assert at(belt, 0, 0, 0.25) == at(belt, 0, 0, -0.15) == list(A)
    assert at(belt, 0, 0, 0.2) == pytest.approx((0.5, 0.5, 0.5))  # halfway at its edge
    assert at(band(A, B, Axis.Y, 0.1, math.inf), 0, 9, 0) == list(B)
    assert at(band(A, B, Axis.Y, 0.1, math.inf), 0, 0, 9) == list(A)
    pole = math.acos(1 - 2 * 0.5 / 4)  # direction of the first of four dots
    assert at(dots(A, B, (0, 0, 0), 4, 0.2), *spot(pole)) == list(B)
    assert at(dots(A, B, (0, 0, 0), 4, 0.2), *spot(pole + math.pi / 3)) == list(A)


def spot(polar: float) -> tuple[float, float, float]:
    turn = math.pi * (1 + math.sqrt(5)) * 0.5
    return (
        math.sin(polar) * math.cos(turn),
        math.cos(polar),
        math.sin(polar) * math.sin(turn),
    )


def test_hue_is_periodic() -> None:
    assert hsv(1.25, 1, 1) == pytest.approx(hsv(0.25, 1, 1))
    assert hsv(-1 / 3, 1, 1) == pytest.approx((0, 0, 1))
