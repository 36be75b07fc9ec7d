from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epigraf.curve import SCALE, Panel, Series, draw_curves, nice_ticks, read_series, smooth


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 12.0, [0, 5, 10]),
        (-3.0, 3.0, [-2, 0, 2]),
        (5.0, 5.0, [5]),
    ],
)
def test_nice_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_nice_ticks_lie_inside_and_evenly(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)


def test_smooth_against_a_plain_loop() -> None:
    values = [1.0, 5.0, 2.0, 8.0, 0.0]
    window = 3
    expected = []
    for i in range(len(values)):
        near = [values[j] for j in range(len(values)) if abs(i - j) <= window // 2]
        expected.append(sum(near) / len(near))
    assert smooth(values, window) == pytest.approx(expected)
    assert smooth(values, 1) == values


def test_read_series_skips_rows_without_the_number() -> None:
    rows = [{"Progress/kimg": 1.0, "a": 2.0}, {"Progress/kimg": 2.0}]
    assert read_series(rows, "A", "a") == Series("A", [1.0], [2.0])


def test_a_line_goes_from_the_first_to_the_last_point() -> None:
    panel = Panel("t", "x", [Series("s", [0, 1, 2], [0.0, math.nan, 1.0])])
    picture = draw_curves([panel, Panel("empty", "x", [])])
    height, width, _ = picture.shape
    assert (height, width) == (280 * SCALE, 2 * 420 * SCALE)
    blue = (picture.astype(int) - np.array([37, 99, 185])).__abs__().sum(axis=2) < 10
    rows, columns = np.nonzero(blue[60 * SCALE : -40 * SCALE])
    assert columns.max() - columns.min() > 300 * SCALE  # spans the axes
    assert rows[columns.argmin()] > rows[columns.argmax()]  # and rises


def test_a_single_point_is_a_dot() -> None:
    picture = draw_curves([Panel("t", "x", [Series("s", [2.0], [1.0])])]).astype(int)
    blue = (picture - np.array([37, 99, 185])).__abs__().sum(axis=2) < 10
    assert 20 < blue[60 * SCALE :].sum() < 200
