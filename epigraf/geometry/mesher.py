"""Other ways to triangulate a surface than our own blocks: on the whole lattice at once.

A mesher works in voxel units; this file gives it the densities above the level, cut to the object's
ball and closed, and brings its triangles back to the world, wound outwards.

Legend: N lattice points along an axis with the closing layer, P points, V vertices, F faces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from epigraf.geometry.density import DensityField, Lattice, density_grid
from epigraf.geometry.mesh import Mesh
from epigraf.geometry.surface import SurfaceOptions, outward_normals

Outward = Callable[[np.ndarray], np.ndarray]
"""Places [P, 3] in voxel units -> unit outward normals [P, 3] there."""


_OPTIONS = SurfaceOptions()


class Mesher(Protocol):
    """excess [N, N, N] float32, positive inside, at the points (i, j, k) -> vertices [V, 3] in
    voxel units and faces [F, 3]; the winding must be the same all over, whichever it is."""

    def __call__(self, excess: np.ndarray, outward: Outward) -> tuple[np.ndarray, np.ndarray]: ...


def dense_surface(
    field: DensityField,
    lattice: Lattice,
    level: float,
    mesher: Mesher,
    options: SurfaceOptions = _OPTIONS,
) -> Mesh:
    """The surface where the raw density crosses `level`, by any mesher.

    Needs the whole lattice in memory, and what the mesher makes of it.

    Args:
        field: points_world [1, P, 3] -> raw densities [1, P].
        lattice: where it is sampled.
        level: raw density of the surface; inside is above it.
        mesher: makes the triangles.
        options: clip_radius, max_points; the surface is always closed.

    Raises:
        ValueError: the level is not inside the range of the densities, or they are not finite.
    """
    volume = density_grid(field, lattice, max_points=options.max_points)
    excess = _inside_ball(volume.values - np.float32(level), lattice, options.clip_radius)
    if not excess.min() < 0 < excess.max():
        low, high = float(volume.values.min()), float(volume.values.max())
        raise ValueError(
            f"surface: level {level:g} leaves no surface; the densities of the volume lie between "
            f"{low:g} and {high:g}"
        )
    excess = np.pad(excess, 1, mode="edge")
    shell = np.ones(excess.shape, bool)
    shell[1:-1, 1:-1, 1:-1] = False
    excess[shell] = -np.abs(excess[shell])  # half a voxel outside, as in `blocks.closed`
    excess[excess == 0] = np.float32(1e-12)  # a point on the surface belongs to the inside
    start, spacing = np.array(lattice.bounds.low) - lattice.spacing, lattice.spacing

    def outward(places: np.ndarray) -> np.ndarray:
        world = outward_normals(field, start + places * spacing, lattice, options.max_points)
        turned = world * spacing
        return turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-30)

    places, faces = mesher(excess, outward)
    vertices = start + np.asarray(places, np.float64) * spacing
    normals = outward_normals(field, vertices, lattice, options.max_points)
    return Mesh(vertices, _wound(vertices, faces, normals).astype(np.int32), normals)


def _inside_ball(excess: np.ndarray, lattice: Lattice, radius: float | None) -> np.ndarray:
    """Densities above the level, and at most the depth below the ball's surface in voxels: the
    surface of the two together is cut where the ball ends."""
    if radius is None:
        return excess
    depth = (radius - lattice.distance()) / np.float32(lattice.spacing.max())
    return np.minimum(excess, depth, dtype=np.float32)


def _wound(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Faces turned over, all of them, where most look inwards."""
    corners = vertices[faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outwards = float((area * normals[faces[:, 0]]).sum())
    return faces if outwards >= 0 else faces[:, ::-1]


def surface_cubes(excess: np.ndarray) -> np.ndarray:
    """Lowest corners [C, 3] of the cubes of the lattice that the surface passes through."""
    inside = torch.from_numpy(excess > 0)[None, None].to(torch.uint8).float()
    low = -torch.nn.functional.max_pool3d(-inside, 2, stride=1)
    high = torch.nn.functional.max_pool3d(inside, 2, stride=1)
    return (low != high)[0, 0].nonzero().numpy()
