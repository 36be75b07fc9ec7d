"""The chosen level, on fields whose median depth is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from epigraf.config import Config
from epigraf.geometry.agreement import (
    RayDensities,
    choose_level,
    first_crossing,
    median_depth,
    spread_angles,
)
from epigraf.geometry.level import raw_density

RADIUS = 0.15


def _config(**dataset: object) -> Config:
    return Config.from_dict(
        {
            "dataset": {
                "cube_scale": 0.3,
                "object_radius": 0.3,
                "white_back": True,
                "camera": {"fov": 30.0, "ray_start": 0.6, "ray_end": 1.4},
                **dataset,
            }
        }
    )


def test_median_depth_of_a_slab_is_ln2_over_sigma_behind_its_face() -> None:
    cfg, t = _config(), np.linspace(0.7, 1.3, 2001)[None]
    sigma = 40.0
    inside = raw_density(sigma, cfg.model.generator)
    raw = np.where(t > 0.9, inside, -100.0)
    depth = median_depth(RayDensities(t, raw), cfg)
    assert depth[0] == pytest.approx(0.9 + math.log(2) / sigma, abs=3e-4)
    thin = np.where((t > 0.9) & (t < 0.91), inside, -100.0)  # opacity 1 - exp(-0.4) < 1/2
    assert math.isinf(median_depth(RayDensities(t, thin), cfg)[0])


def test_first_crossing_is_linear_between_samples() -> None:
    t, raw = np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([[0.0, 1.0, 3.0, 0.0]])
    assert first_crossing(RayDensities(t, raw), 2.0)[0] == pytest.approx(1.5)
    assert first_crossing(RayDensities(t, raw), -1.0)[0] == 0.0
    assert math.isinf(first_crossing(RayDensities(t, raw), 3.5)[0])


@pytest.mark.parametrize("steepness", [2e4, 1e5])
def test_the_level_lies_where_half_of_the_light_is_absorbed(steepness: float) -> None:
    """Raw density k (r - |x|): a ray through the centre is half absorbed at depth s behind the
    sphere of raw 0, where the optical depth (k s)^2 / (2 k) is ln 2 (softplus is close to relu for
    steep fields); the level there is k s. Rays off the centre need a higher one."""
    cfg = _config()

    def ball(points: Tensor) -> Tensor:
        return steepness * (RADIUS - points.norm(dim=-1))

    choice = choose_level(ball, cfg, start=0.0)
    expected = math.sqrt(2 * steepness * math.log(2))
    assert 0.4 * expected < choice.level < 1.3 * expected
    assert choice.score is not None
    assert choice.score < 0.2
    assert choice.silhouette_iou is not None
    assert choice.silhouette_iou > 0.9
    assert "silhouette IoU" in str(choice)


def test_fog_that_is_nowhere_half_opaque_keeps_the_start() -> None:
    choice = choose_level(lambda p: torch.full(p.shape[:2], -5.0), _config(), start=1.25)
    assert (choice.level, choice.score) == (1.25, None)


def test_cameras_are_spread_and_those_held_out_are_others() -> None:
    cfg = _config()
    first, other = spread_angles(cfg, 8), spread_angles(cfg, 8, 0.37)
    gaps = np.diff(np.sort(first[:, 0].numpy()))
    assert gaps.max() < 2 * math.pi / 8 * 2
    assert (first[:, None, 0] - other[:, 0]).abs().min() > 0.01
    frontal = spread_angles(_config(white_back=False), 8)
    assert frontal[:, 0].abs().max() <= 0.5
