"""Sphere tracing of a procedural object: images, coverage and true depth, in NumPy.

The camera is the renderer's (spec §5): pixel (i, j) of an R x R image looks along
(x, y, -1/tan(fov/2)) with x = linspace(-1, 1, R), y = linspace(1, -1, R), so poses are exact.

Legend: V views, R side in pixels, P points (all rays of all views), M materials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from epigraf.data.poses import angles_to_opengl
from epigraf.data.solids import Solid
from epigraf.data.textures import Texture

FOV_DEGREES = 30.0
RADIUS = 1.0  # distance of the camera from the origin
BALL = 0.245  # everything lies in this ball about the origin
STEPS = 40
HIT = 4e-4  # world units; a ray closer than this has arrived
EASE = 0.9  # share of the distance bound that a step takes
FIT_CELLS = 40  # lattice points a side when an object is measured
LIGHT = np.array([0.45, 0.8, 0.4], dtype=np.float32) / np.float32(math.sqrt(1.0025))


@dataclass(frozen=True)
class Part:
    """A solid and the colour of its surface."""

    solid: Solid
    texture: Texture


@dataclass(frozen=True)
class Toy:
    """Parts in their own coordinates; `centre` (of those) comes to the world's origin, enlarged by
    `scale`."""

    parts: Sequence[Part]
    centre: np.ndarray
    scale: float


@dataclass(frozen=True)
class Views:
    """images uint8 [V, R, R, 3] on white; depth float32 [V, R, R], distance along the unit ray
    (0 = background); coverage float32 [V, R, R] in 0..1."""

    images: np.ndarray
    depth: np.ndarray
    coverage: np.ndarray


def fitted(parts: Sequence[Part]) -> Toy:
    """Centre and enlarge an object so that it just fits into the ball of radius `BALL`.

    The size is measured on a lattice, conservatively: no part of the surface leaves the ball.
    """
    ticks = np.linspace(-0.3, 0.3, FIT_CELLS, dtype=np.float32)
    points = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij")).reshape(3, -1)
    slack = float(ticks[1] - ticks[0]) * math.sqrt(3) / 2  # half a cell's diagonal
    touched = points[:, distance_of(parts, points) <= slack]
    centre = (touched.min(axis=1) + touched.max(axis=1)) / 2
    reach = float(np.linalg.norm(touched - centre[:, None], axis=0).max())
    return Toy(parts, centre, BALL / reach)


def render_views(toy: Toy, angles: np.ndarray, resolution: int) -> Views:
    """Render an object from several sides.

    Args:
        toy: the object (see `fitted`).
        angles: float [V, 3] (yaw, pitch, roll) in radians.
        resolution: R.
    """
    origins, directions = camera_rays(angles, resolution)
    scale = np.float32(toy.scale)
    origins = origins / scale + toy.centre.astype(np.float32)[:, None]  # the object's own lengths
    t, gap = _march(toy, origins, directions)
    pixel = _pixel_radius(resolution) / toy.scale
    touching = np.flatnonzero(gap < pixel)
    radiance = np.ones_like(origins)
    points = origins[:, touching] + directions[:, touching] * t[touching]
    radiance[:, touching] = _shade(toy.parts, points)
    hit = gap <= HIT
    coverage = np.where(hit, 1, np.clip(1 - gap / pixel, 0, 1)).astype(np.float32)
    colours = 1 + coverage * (radiance - 1)
    shape = (len(angles), resolution, resolution)
    images = np.rint(np.clip(colours.T, 0, 1) * 255).astype(np.uint8).reshape(*shape, 3)
    depth = np.where(hit, t * scale, 0).astype(np.float32)
    return Views(images, depth.reshape(shape), coverage.reshape(shape))


def camera_rays(angles: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions, float32 [3, V R R], rows of pixels from the top."""
    grid = np.linspace(-1, 1, resolution)
    x, y = np.meshgrid(grid, -grid)
    z = np.full_like(x, -1 / math.tan(math.radians(FOV_DEGREES) / 2))
    local = np.stack([x, y, z]).reshape(3, -1)
    local /= np.linalg.norm(local, axis=0)
    poses = angles_to_opengl(np.asarray(angles, dtype=np.float64), RADIUS)
    directions = np.einsum("vij,jp->ivp", poses[:, :3, :3], local).reshape(3, -1)
    origins = np.repeat(poses[:, :3, 3].T, resolution * resolution, axis=1)
    return origins.astype(np.float32), directions.astype(np.float32)


def _pixel_radius(resolution: int) -> float:
    """Half the width of a pixel at the distance of the origin."""
    return RADIUS * math.tan(math.radians(FOV_DEGREES) / 2) / (resolution - 1)


def distance_of(parts: Sequence[Part], points: np.ndarray) -> np.ndarray:
    """Signed distance [P] of the union of parts at points [3, P]."""
    total = parts[0].solid.distance(points)
    for part in parts[1:]:
        np.minimum(total, part.solid.distance(points), out=total)
    return total


def _march(toy: Toy, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walk along each ray through the ball, in the object's own lengths.

    Returns:
        Where the ray came closest to the object, and how close (<= HIT means it arrived), [P].
    """
    offset = origins - toy.centre.astype(np.float32)[:, None]
    middle = -(offset * directions).sum(axis=0)
    reach = (BALL / toy.scale) ** 2 - ((offset + middle * directions) ** 2).sum(axis=0)
    span = np.sqrt(np.maximum(reach, 0))
    t = middle - span
    best_t, best_gap = middle.copy(), np.full_like(t, np.inf)
    active = np.flatnonzero(reach > 0)
    for _ in range(STEPS):
        points = origins[:, active] + directions[:, active] * t[active]
        gap = distance_of(toy.parts, points)
        closer = gap < best_gap[active]
        best_gap[active[closer]], best_t[active[closer]] = gap[closer], t[active[closer]]
        t[active] += gap * EASE
        active = active[(gap > HIT / 4) & (t[active] < middle[active] + span[active])]
        if len(active) == 0:
            break
    return best_t, best_gap


def _normals(parts: Sequence[Part], points: np.ndarray) -> np.ndarray:
    """Unit gradients of the distance [3, P], by four evaluations at a tetrahedron's corners."""
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=np.float32)
    normal = np.zeros_like(points)
    for corner in corners:
        normal += corner[:, None] * distance_of(parts, points + corner[:, None] * np.float32(1e-3))
    return normal / np.maximum(np.linalg.norm(normal, axis=0), 1e-9)


def _shade(parts: Sequence[Part], points: np.ndarray) -> np.ndarray:
    """Radiance [3, P] in 0..1: the nearest part's texture under a soft light from the upper front
    and a bright sky; the same from every side, so one object has one appearance."""
    distances = np.stack([part.solid.distance(points) for part in parts])
    nearest = distances.argmin(axis=0)
    albedo = np.zeros_like(points)
    for number, part in enumerate(parts):
        mine = np.flatnonzero(nearest == number)
        if len(mine):
            albedo[:, mine] = part.texture(points[:, mine])
    normals = _normals(parts, points)
    sun = np.clip((LIGHT @ normals + 0.35) / 1.35, 0, 1)
    sky = 0.5 + 0.5 * normals[1]
    return albedo * (0.6 + 0.32 * sun + 0.12 * sky)
