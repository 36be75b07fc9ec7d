"""A mesh beside its volume: both seen from the same cameras, held out from all that chose the mesh.

Legend: V views, S side of the pictures, N = S^2 rays of a view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from epigraf.config import Config
from epigraf.geometry.agreement import densities_along, median_depth, spread_angles, view_rays
from epigraf.geometry.density import Bounds, Lattice
from epigraf.geometry.extract import ObjectField
from epigraf.geometry.mesh import Mesh, colors_to_uint8
from epigraf.geometry.raster import Hits, rasterize
from epigraf.geometry.surface import outward_normals
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, View
from epigraf.rendering.camera import cam2world
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.rays import Rays

_NORMAL_RESOLUTION = 128  # gradients are differences over a voxel of such a lattice
HELD_OUT = 0.37
"""By how much of a turn the cameras differ from those that chose the level."""


@dataclass(frozen=True)
class Likeness:
    """How alike a mesh and its volume look from one camera, or the mean over several.

    silhouette_iou: of what the mesh covers and where the volume's opacity is above 1/2.
    depth_error: median difference to the median depth where both are, world units.
    normal_degrees: median angle between the mesh's normal and the volume's density gradient there.
    psnr: of the mesh's picture against the volume's, dB, colours in [0, 1], the whole picture.
    """

    silhouette_iou: float
    depth_error: float
    normal_degrees: float
    psnr: float

    def __str__(self) -> str:
        return (
            f"silhouette IoU {self.silhouette_iou:.3f}, depth error {self.depth_error:.2g}, "
            f"normals {self.normal_degrees:.1f} degrees, PSNR {self.psnr:.1f} dB"
        )


@dataclass(frozen=True)
class Comparison:
    """One view: pictures of volume and mesh [S, S, 3] uint8, and the difference of their depths
    [S, S] (NaN where only one or none is)."""

    likeness: Likeness
    volume: np.ndarray
    mesh: np.ndarray
    depth_difference: np.ndarray


@torch.no_grad()
def compare(
    mesh: Mesh, generator: Generator, ws: Tensor, field: ObjectField, views: int, side: int
) -> Iterator[Comparison]:
    """The mesh of an object beside its volume (without a background model's part) from `views`
    held-out cameras.

    Args:
        mesh: with vertex colours or a texture, or neither (grey).
        generator: in eval mode.
        ws: [1, num_ws, w_dim], the object.
        field: of the object, on the CPU.
        views: how many.
        side: of the pictures.
    """
    planes = generator.planes(ws, NoiseMode.CONST)
    view = View(resolution=side, deterministic=True, ignore_bg=True)
    for camera in spread_angles(generator.cfg, views, HELD_OUT)[:, None]:
        seen = generator.synthesis(
            ws, camera.to(ws.device), view, draws=RandomDraws(0), planes=planes
        )
        volume = colors_to_uint8(seen.image[0].permute(1, 2, 0))
        yield _beside(mesh, volume, camera, field, generator.cfg)


def _beside(
    mesh: Mesh, volume: np.ndarray, camera: Tensor, field: ObjectField, cfg: Config
) -> Comparison:
    side, data = len(volume), cfg.dataset
    rays = view_rays(cfg, camera, side)
    depth = median_depth(densities_along(field.density_raw, cfg, rays), cfg)
    pose = cam2world(camera.double(), data.camera.radius, data.camera.target)[0].numpy()
    hits = rasterize(mesh.vertices, mesh.faces, pose, data.camera.fov, side)
    ours, theirs = hits.face >= 0, np.isfinite(depth)
    both, either = ours & theirs, ours | theirs
    difference = np.where(both, hits.t - np.where(both, depth, 0), np.nan)
    picture = _picture(mesh, hits, data.white_back, data.black_back).reshape(volume.shape)
    error = (picture.astype(float) - volume.astype(float)) / 255
    angle = _normal_angle(mesh, hits, field, depth, both, rays, cfg) if both.any() else math.nan
    likeness = Likeness(
        silhouette_iou=float(both.sum() / max(either.sum(), 1)),
        depth_error=float(np.median(np.abs(difference[both]))) if both.any() else math.nan,
        normal_degrees=angle,
        psnr=float(-10 * np.log10(max(np.mean(error**2), 1e-10))),
    )
    return Comparison(likeness, volume, picture, difference.reshape(side, side))


def _normal_angle(
    mesh: Mesh, hits: Hits, field: ObjectField, depth: np.ndarray, both: np.ndarray, rays: Rays,
    cfg: Config,
) -> float:  # fmt: skip
    """Median angle, degrees, between the mesh's normals and -grad(density) at the median depth."""
    origins, directions = (x[0].double().numpy()[both] for x in rays)
    places = origins + directions * depth[both, None]
    bounds = Bounds.model(cfg.dataset.cube_scale, cfg.dataset.object_radius)
    theirs = outward_normals(field.density_raw, places, Lattice(_NORMAL_RESOLUTION, bounds))
    ours = hits.interpolate(mesh.normals, mesh.faces)[both]
    ours /= np.maximum(np.linalg.norm(ours, axis=1, keepdims=True), 1e-12)
    return float(np.degrees(np.median(np.arccos(np.clip((ours * theirs).sum(1), -1, 1)))))


def _picture(mesh: Mesh, hits: Hits, white: bool, black: bool) -> np.ndarray:
    """Colours [N, 3] uint8 of the mesh; where it is not, what an empty volume shows."""
    if mesh.texture is not None and mesh.uv is not None:
        colors = _texture_at(mesh.texture, hits.interpolate(mesh.uv, mesh.faces))
    elif mesh.colors is not None:
        colors = hits.interpolate(mesh.colors, mesh.faces)
    else:
        colors = np.full((len(hits.face), 3), 160.0)
    empty = 255 if white else 0 if black else 128
    return np.round(np.where(hits.face[:, None] >= 0, colors, empty)).astype(np.uint8)


def _texture_at(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear reads [N, 3] of a texture at uv [N, 2]."""
    height, width, _ = texture.shape
    row, column = (1 - uv[:, 1]) * height - 0.5, uv[:, 0] * width - 0.5
    channels = np.moveaxis(texture.astype(float), 2, 0)
    reads = (
        ndimage.map_coordinates(channel, [row, column], order=1, mode="nearest")
        for channel in channels
    )
    return np.stack(list(reads), axis=1)


def mean_likeness(views: list[Likeness]) -> Likeness:
    """The mean over views, those left out where there was nothing to compare."""
    rows = np.array([astuple(view) for view in views])
    known = np.isfinite(rows)
    mean = np.where(known, rows, 0).sum(0) / np.maximum(known.sum(0), 1)
    return Likeness(*(float(x) for x in mean))
