"""NVIDIA Kaolin (0.15 or later) where it is installed; the only file that imports it.

Its cameras, FlexiCubes (Shen et al. 2023) and marching tetrahedra, distances between point clouds
on CUDA, and the Timelapse that its web viewer shows. Kaolin has wheels for CUDA builds of torch
only, and the package of that name on PyPI is a placeholder.

Legend: B cameras, N lattice points along an axis, V vertices, F faces, T tetrahedra, P points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from epigraf.errors import EpigrafError
from epigraf.optional import import_optional

INSTALL = (
    "pip install kaolin==0.18.0 -f <NVIDIA's page of wheels for your torch and CUDA> "
    "(docs/kaolin.md)"
)
_FLEXICUBES = ("kaolin.ops.conversions", "kaolin.non_commercial")  # newer, older releases
_CORNERS = np.array([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)])  # x changes fastest


def why_not_kaolin(part: str = "kaolin", needed: Sequence[str] = ()) -> str:
    """Why a module of Kaolin cannot be used here, in one line; empty where it can."""
    reason = import_optional("kaolin", ("ops",)).reason or import_optional(part, needed).reason
    return f"{reason}; install it with `{INSTALL}`" if reason else ""


def _part(name: str, needed: str, purpose: str) -> Any:
    """A module of Kaolin that has the attribute `needed`.

    Raises:
        EpigrafError: it is missing; says what for, why, and how to get it.
    """
    if reason := why_not_kaolin(name, (needed,)):
        raise EpigrafError(f"{purpose} needs NVIDIA Kaolin: {reason}")
    return import_module(name)


# Cameras -----------------------------------------------------------------------------------------


class Cameras(NamedTuple):
    """matrices [B, 4, 4] camera to world (x right, y up, looking along -z), fov: full angle in
    degrees between the centres of the first and last pixels, side of the picture in pixels."""

    matrices: Tensor
    fov: float
    side: int


def to_kaolin(
    matrices: Tensor, fov_degrees: float, side: int, near: float = 1e-2, far: float = 1e2
) -> Any:
    """Our cameras as one batched `kaolin.render.camera.Camera` that casts the same rays.

    The axes are the same. Our pictures span the angle from the centre of the first pixel to that of
    the last, Kaolin's from edge to edge: focal length in pixels = (side - 1) / (2 tan(fov / 2)).

    Args:
        matrices: [B, 4, 4] camera to world, from `rendering.camera.cam2world`.
        fov_degrees: full angle, as everywhere in epigraf.
        side: of the square picture in pixels, at least 2.
        near, far: clipping planes, world units.

    Raises:
        EpigrafError: Kaolin is missing. ValueError: the shape is wrong.
    """
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4) or side < 2:
        raise ValueError(
            f"to_kaolin: matrices must have shape [B, 4, 4] and side be at least 2, "
            f"got {list(matrices.shape)} and {side}"
        )
    camera = _part("kaolin.render.camera", "Camera", "a Kaolin camera").Camera
    focal = (side - 1) / (2 * math.tan(math.radians(fov_degrees) / 2))
    return camera.from_args(
        view_matrix=_inverse(matrices), focal_x=focal, width=side, height=side, near=near, far=far,
        device=matrices.device, dtype=matrices.dtype,
    )  # fmt: skip


def from_kaolin(camera: Any) -> Cameras:
    """Our cameras of a pinhole `kaolin.render.camera.Camera`.

    Raises:
        ValueError: it is not pinhole, not square, off-centre, or its cameras have different lenses.
    """
    if camera.lens_type != "pinhole" or camera.width != camera.height:
        raise ValueError(
            f"from_kaolin: needs a pinhole camera of a square picture, got {camera.lens_type}, "
            f"{camera.width}x{camera.height}"
        )
    focal = torch.cat([camera.focal_x.reshape(-1), camera.focal_y.reshape(-1)]).double()
    offset = torch.cat([camera.x0.reshape(-1), camera.y0.reshape(-1)])
    if not torch.allclose(focal, focal[:1].expand_as(focal)) or bool(offset.abs().max() > 1e-6):
        raise ValueError(
            "from_kaolin: all cameras must have one focal length and a principal point in the "
            f"centre, got focal lengths {focal.tolist()} and offsets {offset.tolist()}"
        )
    half = math.atan((camera.width - 1) / (2 * float(focal[0])))
    return Cameras(_inverse(camera.view_matrix()), 2 * math.degrees(half), int(camera.width))


def _inverse(rigid: Tensor) -> Tensor:
    """Of rotations and translations [B, 4, 4]."""
    turned = rigid[:, :3, :3].transpose(1, 2)
    moved = -turned @ rigid[:, :3, 3:]
    return torch.cat([torch.cat([turned, moved], dim=2), rigid[:, 3:]], dim=1)


# Surfaces ----------------------------------------------------------------------------------------


class Tetrahedra:
    """A `geometry.mesher.Mesher`: marching tetrahedra, six to a cube.

    Args:
        cubes: excess -> lowest corners [C, 3] of the cubes that the surface passes through.
        device: where Kaolin computes.
    """

    def __init__(
        self, cubes: Callable[[np.ndarray], np.ndarray], device: torch.device | str = "cpu"
    ) -> None:
        self._march = _part(
            "kaolin.ops.conversions", "marching_tetrahedra", "--mesher tetrahedra"
        ).marching_tetrahedra
        self._cubes, self._device = cubes, device

    def __call__(
        self, excess: np.ndarray, outward: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vertices [V, 3] in voxel units and faces [F, 3]."""
        corners = self._cubes(excess)[:, None] + _CORNERS  # [C, 8, 3]
        used, cubes = np.unique(
            np.ravel_multi_index(tuple(corners.reshape(-1, 3).T), excess.shape), return_inverse=True
        )
        tets = cubes.reshape(-1, 8)[:, _tetrahedra()].reshape(-1, 4)
        places = np.stack(np.unravel_index(used, excess.shape), axis=1).astype(np.float32)
        vertices, faces = self._march(
            torch.from_numpy(places)[None].to(self._device),
            torch.from_numpy(tets).to(self._device),
            torch.from_numpy(excess.reshape(-1)[used])[None].to(self._device),
        )[:2]
        return vertices[0].cpu().numpy(), faces[0].cpu().numpy()


def _tetrahedra() -> np.ndarray:
    """Corners [6, 4] of the six tetrahedra along a cube's diagonal, all of one orientation; those
    of neighbouring cubes meet face to face (Freudenthal 1942)."""
    even = {(1, 2, 4), (2, 4, 1), (4, 1, 2)}
    return np.array(
        [
            (0, a, a + b, 7) if (a, b, c) in even else (0, a + b, a, 7)
            for a, b, c in permutations((1, 2, 4))
        ]
    )


class FlexiCubes:
    """A `geometry.mesher.Mesher`: dual marching cubes with vertices where the normals of a cube's
    crossings meet.

    Args:
        device: where Kaolin computes.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        place = _FLEXICUBES[0]
        if why_not_kaolin(place, ("FlexiCubes",)) and not why_not_kaolin(
            _FLEXICUBES[1], ("FlexiCubes",)
        ):
            place = _FLEXICUBES[1]
        self._make = _part(place, "FlexiCubes", "--mesher flexicubes").FlexiCubes
        self._device = device

    def __call__(
        self, excess: np.ndarray, outward: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vertices [V, 3] in voxel units and faces [F, 3]."""
        index = np.arange(excess.size).reshape(excess.shape)
        places = np.stack(np.unravel_index(index.reshape(-1), excess.shape), axis=1)
        low = [slice(None, -1), slice(1, None)]
        corners = [index[low[x], low[y], low[z]].reshape(-1) for x, y, z in _CORNERS]

        def gradient(points: Tensor) -> Tensor:
            normals = outward(points.detach().cpu().double().numpy())
            return torch.from_numpy(normals).to(points)

        vertices, faces = self._make(device=self._device)(
            torch.from_numpy(places.astype(np.float32)).to(self._device),
            torch.from_numpy(-excess.reshape(-1)).to(self._device),  # negative inside
            torch.from_numpy(np.stack(corners, axis=1)).to(self._device),
            [n - 1 for n in excess.shape],
            grad_func=gradient,
        )[:2]
        return vertices.cpu().numpy(), faces.cpu().numpy()


# Distances ---------------------------------------------------------------------------------------


def nearest_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance [N] of each of points [N, 3] to the nearest of others [M, 3], on the GPU; for
    `metrics.geometry.surface_distance`.

    Raises:
        EpigrafError: Kaolin is missing.
    """
    metrics = _part("kaolin.metrics.pointcloud", "sided_distance", "distances on the GPU")
    near, far = (torch.from_numpy(x).float().cuda()[None] for x in (points, others))
    return metrics.sided_distance(near, far)[0][0].sqrt().cpu().numpy()


# Timelapse ---------------------------------------------------------------------------------------


class Timelapse:
    """Meshes of a training run over time, for `kaolin-dash3d --logdir FOLDER`.

    Args:
        folder: where its USD files go.
    """

    def __init__(self, folder: Path) -> None:
        made = _part("kaolin.visualize", "Timelapse", "a timelapse").Timelapse
        self._writer = made(str(folder))

    def add(
        self,
        iteration: int,
        vertices: Sequence[np.ndarray],
        faces: Sequence[np.ndarray],
        colors: Sequence[np.ndarray],
    ) -> None:
        """Objects of one moment: vertices [V, 3] in world units, faces [F, 3] and colours [V, 3]
        uint8 of each; the viewer shows the surfaces grey, and their vertices in colour."""
        places = [torch.from_numpy(x).float() for x in vertices]
        self._writer.add_mesh_batch(
            iteration=iteration,
            category="surface",
            vertices_list=places,
            faces_list=[torch.from_numpy(x).long() for x in faces],
        )
        self._writer.add_pointcloud_batch(
            iteration=iteration,
            category="colour",
            pointcloud_list=places,
            colors=[torch.from_numpy(x).float() / 255 for x in colors],
            points_type="usd_geom_points",
        )
