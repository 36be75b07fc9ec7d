"""Chamfer and F-score: worked values, a brute-force matrix, even coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from epigraf.metrics.geometry import surface_distance, surface_points

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
HALVES = np.array([[0, 1, 2], [0, 2, 3]])


def test_worked_by_hand() -> None:
    ours = np.array([[0.0, 0, 0], [3, 0, 0]])
    theirs = np.array([[0.0, 0, 1]])
    found = surface_distance(ours, theirs, 2.0)
    assert found.accuracy == pytest.approx((1 + math.sqrt(10)) / 2)
    assert found.completeness == pytest.approx(1)
    assert found.chamfer == pytest.approx((found.accuracy + 1) / 2)
    assert (found.precision, found.recall) == (0.5, 1.0)
    assert found.f_score == pytest.approx(2 * 0.5 / 1.5)
    assert surface_distance(ours, theirs + 9, 0.1).f_score == 0


def test_a_matrix_of_all_distances_says_the_same() -> None:
    draws = np.random.default_rng(0)
    ours, theirs = draws.normal(size=(70, 3)), draws.normal(size=(50, 3))
    matrix = np.linalg.norm(ours[:, None] - theirs, axis=2)
    found = surface_distance(ours, theirs, 0.3)
    assert found.accuracy == pytest.approx(matrix.min(1).mean())
    assert found.completeness == pytest.approx(matrix.min(0).mean())
    assert found.precision == pytest.approx((matrix.min(1) < 0.3).mean())
    assert found.recall == pytest.approx((matrix.min(0) < 0.3).mean())


def test_points_cover_by_area() -> None:
    small = SQUARE * [0.5, 0.5, 1] + [2, 0, 0]
    vertices = np.concatenate([SQUARE, small])
    points = surface_points(vertices, np.concatenate([HALVES, HALVES + 4]), 40_000)
    first = points[points[:, 0] < 1.5]
    assert len(first) / len(points) == pytest.approx(0.8, abs=0.01)
    np.testing.assert_allclose(first[:, :2].mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(first[:, :2].var(0), 1 / 12, atol=0.003)  # even over the square
    with pytest.raises(ValueError, match="no area"):
        surface_points(SQUARE * 0, HALVES, 4)
