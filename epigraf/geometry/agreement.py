"""The level at which a mesh agrees best with what the volume looks like.

Along rays of a few views the median depth is where half of the light is absorbed: transmittance
1/2, optical depth ln 2 (NeRF, eq. 1 and 3; the median as in "Nerfies", Park et al. 2021, is less
drawn to fog in front of a surface than the mean). A mesh at some level shows its first crossing of
that level along the same ray. Both come from the same densities, so that all levels are compared at
the cost of one.

Legend: N rays, S samples of a ray, L levels. World units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from epigraf.config import CameraDist, Config
from epigraf.geometry.density import DensityField, density_at
from epigraf.geometry.level import activate, raw_density, segment_length
from epigraf.rendering.camera import cam2world, clamp_pitch
from epigraf.rendering.rays import Rays, patch_rays, ray_segment

VIEWS, SIDE, SAMPLES = 8, 48, 192
TOLERANCE = 1 / 32  # of the ray segment: an error of this size counts as much as a miss
SHARES = np.geomspace(1, 512, 55)  # of the segment: half opaque within a SHARE-th of it


@dataclass(frozen=True)
class Choice:
    """A level, and how it was found.

    score: 0 (perfect) to 1, the mean over all rays that meet the object in either of the two ways
    of min(depth error / tolerance, 1), 1 where only one of them does; None where nothing was
    compared. depth_error: world units, median over rays that both hit. silhouette_iou: in [0, 1].
    """

    level: float
    score: float | None = None
    depth_error: float | None = None
    silhouette_iou: float | None = None

    def __str__(self) -> str:
        if self.score is None:
            return f"level {self.level:.4g}"
        return (
            f"level {self.level:.4g} (against the median depth: score {self.score:.3f}, median "
            f"error {self.depth_error:.2g}, silhouette IoU {self.silhouette_iou:.3f})"
        )


@dataclass(frozen=True)
class RayDensities:
    """Raw densities [N, S] at distances t [N, S] along unit rays."""

    t: np.ndarray
    raw: np.ndarray


def spread_angles(cfg: Config, views: int, turn: float = 0.0) -> Tensor:
    """Camera angles [V, 3] spread over where a model's cameras are; `turn` in [0, 1) moves them.

    Within the deviations of the configuration; where the poses come with the images and objects
    are not on white (faces), 0.5 radians to the sides and 0.2 up and down.
    """
    camera = cfg.dataset.camera
    frontal = camera.dist is CameraDist.CUSTOM and not cfg.dataset.white_back
    wide = 0.5 if frontal else camera.horizontal_stddev
    high = 0.2 if frontal else 0.6 * camera.vertical_stddev
    number = torch.arange(views, dtype=torch.float64)
    steps = (number * 0.6180339887498949 + turn) % 1  # the golden ratio: evenly, at any count
    heights = (number * 0.7548776662466927 + 0.5 + turn) % 1
    yaw = camera.horizontal_mean + wide * (2 * steps - 1)
    pitch = camera.vertical_mean + high * (2 * heights - 1)
    return clamp_pitch(torch.stack([yaw, pitch, torch.zeros(views)], dim=1).float())


def view_rays(cfg: Config, angles: Tensor, side: int) -> Rays:
    """Rays [V, side^2, 3] of cameras at angles [V, 3]."""
    camera = cfg.dataset.camera
    return patch_rays(
        cam2world(clamp_pitch(angles), camera.radius, camera.target), side, side, camera.fov
    )


def densities_along(
    field: DensityField, cfg: Config, rays: Rays, *, max_points: int = 65536
) -> RayDensities:
    """Raw densities of one object at evenly spaced points of rays [V, R, 3], N = V R of them."""
    data = cfg.dataset
    near, far = data.camera.ray_start, data.camera.ray_end
    segment = ray_segment(rays, near, far, data.object_radius)
    even = torch.linspace(0, 1, SAMPLES)
    t = segment.near[..., None] + (segment.far - segment.near)[..., None] * even
    points = rays.origins[..., None, :] + rays.directions[..., None, :] * t[..., None]
    raw = density_at(field, points.reshape(1, -1, 3), max_points=max_points)[0].float()
    return RayDensities(t.flatten(0, 1).numpy(), raw.view(-1, SAMPLES).numpy())


def median_depth(rays: RayDensities, cfg: Config) -> np.ndarray:
    """Distance [N] at which the transmittance is 1/2; infinite where it stays above.

    The optical depth is the trapezoidal integral of sigma, linear between samples.
    """
    sigma = activate(rays.raw, cfg.model.generator)
    steps = np.diff(rays.t, axis=1)
    optical = np.zeros_like(sigma)
    np.cumsum(0.5 * (sigma[:, 1:] + sigma[:, :-1]) * steps, axis=1, out=optical[:, 1:])
    return _first_crossing(optical, rays.t, math.log(2))


def first_crossing(rays: RayDensities, level: float) -> np.ndarray:
    """Distance [N] at which the raw density first exceeds a level, as a mesh shows it; infinite
    where it never does."""
    return _first_crossing(rays.raw, rays.t, level)


def _first_crossing(values: np.ndarray, t: np.ndarray, level: float) -> np.ndarray:
    above = values > level
    hit, k = above.any(axis=1), above.argmax(axis=1)
    rows, before = np.arange(len(k)), np.maximum(k - 1, 0)
    high, low = values[rows, k], values[rows, before]
    share = np.where(k > 0, (level - low) / np.where(high > low, high - low, 1), 0)
    place = t[rows, before] + share * (t[rows, k] - t[rows, before])
    return np.where(hit & (np.ptp(t, axis=1) > 0), place, np.inf)


def choose_level(field: DensityField, cfg: Config, start: float, max_points: int = 65536) -> Choice:
    """The level with the smallest score among those of which a 1st to 512th of the segment is half
    opaque; `start` (see `level.automatic_level`) where no ray is half opaque.

    Args:
        field: points_world [1, P, 3] -> raw densities [1, P] of one object.
        cfg: the model's cameras and density activation.
        start: the level to fall back to, also tried.
        max_points: densities evaluated at a time.
    """
    rays = view_rays(cfg, spread_angles(cfg, VIEWS), SIDE)
    found = densities_along(field, cfg, rays, max_points=max_points)
    median = median_depth(found, cfg)
    if not np.isfinite(median).any():
        return Choice(start)
    levels = _candidates(found, cfg, start)
    scored = [assess(found, median, level, cfg) for level in levels]
    best = min(range(len(scored)), key=lambda i: scored[i].score or 0)
    low, high = (scored[max(best - 1, 0)], scored[min(best + 1, len(scored) - 1)])
    finer = np.linspace(low.level, high.level, 13)[1:-1]
    scored += [assess(found, median, level, cfg) for level in finer]
    return min(scored, key=lambda choice: choice.score or 0)


def _candidates(rays: RayDensities, cfg: Config, start: float) -> list[float]:
    segment, top = segment_length(cfg), float(rays.raw.max())
    wanted = (raw_density(math.log(2) * s / segment, cfg.model.generator) for s in SHARES)
    return sorted({start, *(float(level) for level in wanted if level < top)})


def assess(rays: RayDensities, median: np.ndarray, level: float, cfg: Config) -> Choice:
    """How well the level's first crossings agree with the median depths [N]."""
    depth = first_crossing(rays, level)
    ours, theirs = np.isfinite(depth), np.isfinite(median)
    both, either = ours & theirs, ours | theirs
    error = np.abs(np.where(both, depth, 0) - np.where(both, median, 0))
    limit = TOLERANCE * segment_length(cfg)
    cost = np.where(both, np.minimum(error / limit, 1), 1)[either]
    return Choice(
        level=float(level),
        score=float(cost.mean()) if len(cost) else 1.0,
        depth_error=float(np.median(error[both])) if both.any() else math.inf,
        silhouette_iou=float(both.sum() / max(either.sum(), 1)),
    )
