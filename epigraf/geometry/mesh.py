"""Triangle meshes and their colours.

V vertices, F faces. Vertices are in world units; faces are wound counter-clockwise seen from
outside (outside = lower density).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from epigraf.geometry.density import Progress
from epigraf.rendering.draws import ReplayDraws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import Field, render_rays


@dataclass(frozen=True)
class Mesh:
    """A surface and where it comes from.

    vertices: [V, 3] float64 world units. faces: [F, 3] int32. normals: [V, 3] unit and outward.
    colors: [V, 3] uint8 sRGB or None. uv: [V, 2] in [0, 1], v upwards, and texture: [H, W, 3] uint8
    sRGB, first row on top, or both None. facts: what a file should say of itself (level, score,
    source, units).
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    facts: dict[str, str] = field(default_factory=dict)

    def part(self, keep: np.ndarray) -> Mesh:
        """The mesh of the faces all of whose vertices are in keep [V] bool, the others dropped."""
        number = (np.cumsum(keep) - 1).astype(self.faces.dtype)
        chosen = self.faces[keep[self.faces].all(axis=1)]
        return replace(
            self,
            vertices=self.vertices[keep],
            faces=number[chosen],
            normals=self.normals[keep],
            colors=None if self.colors is None else self.colors[keep],
            uv=None if self.uv is None else self.uv[keep],
        )


@torch.no_grad()
def surface_colors(
    points: np.ndarray,
    normals: np.ndarray,
    field: Field,
    rays: RenderOptions,
    *,
    max_points: int = 65536,
    progress: Progress | None = None,
) -> np.ndarray:
    """Colours [N, 3] uint8 sRGB of points [N, 3] of a surface as they look from straight outside.

    A short ray comes in along -normal, centred on the point; its composited colour over its opacity
    is the point's colour (the field's colour at the point where nothing is opaque). With
    view-conditioned fields the view direction is -normal.

    Args:
        points: in world units.
        normals: [N, 3] unit, outward.
        field: colours and raw densities.
        rays: `near` 0 and `far` = length of the short rays, and the density's activation.
        max_points: field evaluations at a time.
        progress: told how many points are done.
    """
    step = max(1, max_points // rays.num_coarse)
    blocks = [np.zeros((0, 3), np.uint8)]
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        there = torch.from_numpy(points[part].astype(np.float32))[None]
        inward = torch.from_numpy(-normals[part].astype(np.float32))[None]
        blocks.append(colors_to_uint8(_seen(field, there, inward, rays)[0]))
        if progress is not None:
            progress(min(part.stop, len(points)), len(points))
    return np.concatenate(blocks)


def averaged_colors(
    points: np.ndarray,
    normals: np.ndarray,
    cameras: Tensor,
    field: Field,
    rays: RenderOptions,
    *,
    max_points: int = 65536,
    progress: Progress | None = None,
) -> np.ndarray:
    """Colours as `surface_colors`, averaged over the view directions of cameras [V, 3] that a point
    faces, weighted by the cosine; straight from outside where it faces none of them."""
    straight = surface_colors(points, normals, field, rays, max_points=max_points)
    total, weight = np.zeros((len(points), 3)), np.zeros((len(points), 1))
    for number, camera in enumerate(cameras.double().numpy(), 1):
        towards = camera - points
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        cosine = (towards * normals).sum(1)
        seen = np.flatnonzero(cosine > 0.2)
        colors = surface_colors(points[seen], towards[seen], field, rays, max_points=max_points)
        total[seen] += cosine[seen, None] * colors
        weight[seen] += cosine[seen, None]
        if progress is not None:
            progress(number, len(cameras))
    mean = np.where(weight > 0, total / np.maximum(weight, 1e-9), straight)
    return np.round(mean).astype(np.uint8)


def _seen(field: Field, points: Tensor, inward: Tensor, rays: RenderOptions) -> Tensor:
    """Colours [1, N, 3] in [-1, 1] of points [1, N, 3] along unit directions [1, N, 3]."""
    short = Rays(points - inward * (rays.far / 2), inward)
    seen = render_rays(field, short, rays, draws=ReplayDraws([]))
    opacity = seen.opacity[..., None]
    there = field(points, inward).colors
    return torch.where(opacity > 1e-3, seen.features / opacity.clamp_min(1e-3), there)


def colors_to_uint8(colors: Tensor) -> np.ndarray:
    """Image values [..., 3] in [-1, 1] (sRGB, clamped) as uint8."""
    scaled = (colors.float() * 127.5 + 127.5).clamp(0, 255).round()
    return scaled.to(torch.uint8).cpu().numpy()
