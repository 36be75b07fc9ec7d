"""Triangle meshes: colours, connected parts.

V vertices, F faces, R samples per axis. Vertices are in world units; faces are wound counter-
clockwise seen from outside (outside = lower density).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

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
