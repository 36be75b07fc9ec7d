"""A UV atlas by xatlas, and a texture baked into it.

V vertices, F faces, S side of the texture in pixels; uv in [0, 1], v upwards, the texture's first
row on top (OpenGL's and OBJ's habit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from epigraf.errors import EpigrafError
from epigraf.geometry.mesh import Mesh

Painter = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Places [N, 3] and unit normals [N, 3] of a surface -> colours [N, 3] uint8 sRGB."""
PADDING = 4  # pixels between charts, filled with the nearest chart's colour
MOST_FACES = 200_000  # of an atlas; a larger one takes many minutes


def textured(mesh: Mesh, paint: Painter, side: int) -> Mesh:
    """The mesh with an atlas and a texture, painted at the surface under every texel.

    Vertices on the borders of charts are there once for each of them.

    Args:
        mesh: at most `MOST_FACES` faces.
        paint: gives the colours.
        side: of the texture.

    Raises:
        EpigrafError: too many faces.
    """
    if len(mesh.faces) > MOST_FACES:
        raise EpigrafError(
            f"--texture: {len(mesh.faces)} faces are more than an atlas takes "
            f"({MOST_FACES}); add --decimate {MOST_FACES // 2}, or lower --resolution"
        )
    origin, faces, uv = _atlas(mesh, side)
    mesh = replace(
        mesh,
        vertices=mesh.vertices[origin],
        normals=mesh.normals[origin],
        faces=faces,
        uv=uv,
        colors=None,
    )
    return replace(mesh, texture=_bake(mesh, paint, side))


def _atlas(mesh: Mesh, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Old vertex [V'] of each new one, faces [F, 3], uv [V', 2]."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = side, PADDING, True
    atlas.generate(xatlas.ChartOptions(), pack, False)
    origin, faces, uv = atlas[0]
    return origin.astype(np.int64), faces.astype(np.int32), np.asarray(uv, np.float64)


def _bake(mesh: Mesh, paint: Painter, side: int) -> np.ndarray:
    """The texture [S, S, 3] uint8."""
    pixel, face, weights = _texels(mesh, side)
    corners = mesh.faces[face]
    places = (weights[..., None] * mesh.vertices[corners]).sum(1)
    normals = (weights[..., None] * mesh.normals[corners]).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    texture = np.zeros((side * side, 3), np.uint8)
    texture[pixel] = paint(places, normals)
    empty = np.ones(side * side, bool)
    empty[pixel] = False
    nearest = np.empty((2, side, side), np.int32)
    ndimage.distance_transform_edt(
        empty.reshape(side, side), return_distances=False, return_indices=True, indices=nearest
    )
    return texture.reshape(side, side, 3)[nearest[0], nearest[1]]


def _texels(mesh: Mesh, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texels [N] that charts cover, the face of each and the weights [N, 3] of its corners.

    Those whose centre lies up to half a texel outside of a triangle count too where no other
    triangle claims them, at the nearest place of the triangle: bilinear reads need them.
    """
    if mesh.uv is None:
        raise ValueError("texture: the mesh has no atlas")
    flat = np.stack([mesh.uv[:, 0] * side - 0.5, (1 - mesh.uv[:, 1]) * side - 0.5], axis=1)
    corners = flat[mesh.faces]
    low = np.clip(np.ceil(corners.min(1) - 0.75), 0, side - 1).astype(np.int64)
    high = np.clip(np.floor(corners.max(1) + 0.75), 0, side - 1).astype(np.int64)
    size = np.maximum(high - low + 1, 0)
    count = size[:, 0] * size[:, 1]
    which = np.repeat(np.arange(len(corners)), count)
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    y, x = np.divmod(place, size[which, 0])
    x, y = low[which, 0] + x, low[which, 1] + y
    weights, outside = _barycentric(corners[which], np.stack([x, y], axis=1).astype(float))
    near = outside < 0.75
    pixel, which, weights, outside = (a[near] for a in (y * side + x, which, weights, outside))
    order = np.lexsort((which, outside, pixel))
    first = order[np.flatnonzero(np.diff(pixel[order], prepend=-1))]
    return pixel[first], which[first], weights[first]


def _barycentric(corners: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [N, 3] of triangles [N, 3, 2] at points [N, 2], moved inside, and how far [N] (in
    texels) the move was."""
    a, u, v = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = points - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    safe = np.where(np.abs(area) > 1e-12, area, np.inf)
    s = (p[:, 0] * v[:, 1] - p[:, 1] * v[:, 0]) / safe
    t = (u[:, 0] * p[:, 1] - u[:, 1] * p[:, 0]) / safe
    weights = np.clip(np.stack([1 - s - t, s, t], axis=1), 0, None)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
    moved = (weights[..., None] * corners).sum(1) - points
    return weights, np.linalg.norm(moved, axis=1)
