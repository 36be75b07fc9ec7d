"""Triangle meshes of iso-surfaces: marching cubes, normals, colours, connected parts.

V vertices, F faces, R samples per axis. Vertices are in world units; faces are wound counter-
clockwise seen from outside (outside = lower density).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mcubes
import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from epigraf.geometry.density import Volume
from epigraf.rendering.draws import ReplayDraws
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import Field, RenderOptions, render_rays


@dataclass(frozen=True)
class Mesh:
    """vertices [V, 3] float64 world units, faces [F, 3] int64, normals [V, 3] unit and outward,
    colors [V, 3] uint8 sRGB or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    colors: np.ndarray | None = None


def marching_cubes(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Iso-surface of values [R, R, R]: vertices [V, 3] in voxel units and faces [F, 3] int64."""
    vertices, faces = mcubes.marching_cubes(values, level)
    return np.asarray(vertices, dtype=np.float64), faces.astype(np.int64)


def extract_surface(
    volume: Volume, level: float, *, clip_radius: float | None = None, close: bool = True
) -> Mesh:
    """The surface where the raw density crosses `level`, without colours.

    Args:
        volume: raw densities on a lattice.
        level: raw density of the surface; inside is above it.
        clip_radius: what lies outside this ball around the origin counts as empty (models whose
            rays are limited to an object ball are undefined outside it); the cut is exact to half a
            voxel.
        close: caps what leaves the lattice, half a voxel outside it: the mesh is watertight.

    Raises:
        ValueError: the level is not inside the range of the densities.
    """
    spacing, low = volume.lattice.spacing, np.array(volume.lattice.bounds.low)
    values = volume.values
    if clip_radius is not None:
        values = _clip_to_ball(volume, level, clip_radius)
    _check_level(values, level)
    values = _off_level(values, level)
    if close:
        values = _pad_below(values, level)
    index, faces = marching_cubes(values, level)
    normals = _outward_normals(values, index, spacing)
    return Mesh(low + (index - int(close)) * spacing, faces, normals)


def largest_component(mesh: Mesh) -> Mesh:
    """The connected part with the largest surface area, unused vertices dropped."""
    labels = _component_labels(mesh)
    corners = mesh.vertices[mesh.faces]
    doubled = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.bincount(labels[mesh.faces[:, 0]], weights=np.linalg.norm(doubled, axis=1))
    keep = labels == int(np.argmax(area))
    number = np.cumsum(keep) - 1
    return replace(
        mesh,
        vertices=mesh.vertices[keep],
        faces=number[mesh.faces[keep[mesh.faces[:, 0]]]],
        normals=mesh.normals[keep],
        colors=None if mesh.colors is None else mesh.colors[keep],
    )


def count_components(mesh: Mesh) -> int:
    """The number of connected parts."""
    return int(_component_labels(mesh).max(initial=-1)) + 1


@torch.no_grad()
def color_mesh(mesh: Mesh, field: Field, rays: RenderOptions, *, max_points: int = 65536) -> Mesh:
    """Colour the vertices as they look from straight outside.

    A short ray comes in along -normal, centred on the vertex; its composited colour over its
    opacity is the vertex's colour (the field's colour at the vertex where nothing is opaque). With
    view-conditioned fields the view direction is -normal.

    Args:
        mesh: vertices in world units.
        field: colours and raw densities.
        rays: `near` 0 and `far` = length of the short rays, and the density's activation.
        max_points: field evaluations at a time.
    """
    step = max(1, max_points // rays.num_coarse)
    blocks = [np.zeros((0, 3), np.uint8)]
    for start in range(0, len(mesh.vertices), step):
        part = slice(start, start + step)
        points = torch.from_numpy(mesh.vertices[part].astype(np.float32))[None]
        inward = torch.from_numpy(-mesh.normals[part].astype(np.float32))[None]
        short = Rays(points - inward * (rays.far / 2), inward)
        seen = render_rays(field, short, rays, draws=ReplayDraws([]))
        opacity = seen.opacity[..., None]
        there = field(points, inward).colors
        colors = torch.where(opacity > 1e-3, seen.features / opacity.clamp_min(1e-3), there)
        blocks.append(colors_to_uint8(colors[0]))
    return replace(mesh, colors=np.concatenate(blocks))


def colors_to_uint8(colors: Tensor) -> np.ndarray:
    """Image values [..., 3] in [-1, 1] (sRGB, clamped) as uint8."""
    scaled = (colors.float() * 127.5 + 127.5).clamp(0, 255).round()
    return scaled.to(torch.uint8).cpu().numpy()


def _component_labels(mesh: Mesh) -> np.ndarray:
    """The number of the connected part of every vertex [V]."""
    edges = np.concatenate([mesh.faces[:, :2], mesh.faces[:, 1:]])
    ones = np.ones(len(edges), dtype=np.int8)
    shape = (len(mesh.vertices),) * 2
    graph = sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=shape)
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def _check_level(values: np.ndarray, level: float) -> None:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("surface: the volume contains NaN or infinity")
    if low == high:
        raise ValueError(f"surface: the volume is empty, its density is {low:g} everywhere")
    if not low < level < high:
        side = "above" if level >= high else "below"
        raise ValueError(
            f"surface: level {level:g} is {side} every density of the volume; "
            f"choose one between {low:g} and {high:g}"
        )


def _clip_to_ball(volume: Volume, level: float, radius: float) -> np.ndarray:
    """Lower the values near and outside the ball so that they cross the level on its sphere.

    The slope is one voxel from the level to the largest value: surfaces further inside keep their
    place.
    """
    rise = max(float(volume.values.max()) - level, 1e-6 * abs(level), 1e-6)
    slope = rise / float(volume.lattice.spacing.max())
    ball = level + slope * (radius - volume.lattice.distance())
    return np.minimum(volume.values, ball.astype(np.float32))


def _off_level(values: np.ndarray, level: float) -> np.ndarray:
    """Move values that hit the level exactly a little above it: no zero-area triangles."""
    step = 1e-6 * float(values.max() - values.min())
    return np.where(np.abs(values - level) < step, np.float32(level + step), values)


def _pad_below(values: np.ndarray, level: float) -> np.ndarray:
    """Surround with one layer below the level, as far below it as the edge is above or below."""
    edge = np.pad(values, 1, mode="edge")
    padded = level - np.maximum(np.abs(edge - level), np.float32(1e-6))
    padded[1:-1, 1:-1, 1:-1] = values
    return padded.astype(values.dtype)


def _outward_normals(values: np.ndarray, index: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """-grad(density), central differences at the two lattice points of each vertex's edge.

    `index` [V, 3] are vertices in voxel units; each lies on a lattice edge, so that linear
    interpolation between the edge's ends is the trilinear one.
    """
    first = np.floor(index).astype(np.int64)
    second = np.minimum(np.ceil(index).astype(np.int64), np.array(values.shape) - 1)
    weight = (index - first).sum(axis=1, keepdims=True)
    gradient = (1 - weight) * _gradient(values, first) + weight * _gradient(values, second)
    gradient = gradient / spacing
    length = np.linalg.norm(gradient, axis=1, keepdims=True)
    fallback = np.array([0.0, 1.0, 0.0])
    return np.where(length > 0, -gradient / np.maximum(length, 1e-30), fallback)


def _gradient(values: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Differences per voxel [V, 3] at lattice nodes [V, 3]; one-sided at the border."""
    parts = []
    for axis in range(3):
        offset = np.zeros(3, dtype=np.int64)
        offset[axis] = 1
        above = np.minimum(node + offset, np.array(values.shape) - 1)
        below = np.maximum(node - offset, 0)
        rise = values[tuple(above.T)].astype(np.float64) - values[tuple(below.T)]
        parts.append(rise / (above - below)[:, axis])
    return np.stack(parts, axis=1)
