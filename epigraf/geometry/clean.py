"""What a mesh is put through before it goes home: parts, smoothing, fewer triangles; and its state.

V vertices, F faces, E edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import sparse

from epigraf.errors import EpigrafError
from epigraf.geometry.mesh import Mesh

MIN_SHARE = 0.001
_FACES, _EDGES = 1 << 20, 1 << 23  # at a time


def keep_components(mesh: Mesh, keep: int | None, min_share: float) -> tuple[Mesh, int]:
    """The largest connected parts by surface area, and how many others there were.

    Args:
        mesh: any.
        keep: at most so many; None: all.
        min_share: drop parts with less than this share of the whole area.
    """
    labels = _component_labels(mesh)
    area = np.zeros(int(labels.max(initial=-1)) + 1)
    for start in range(0, len(mesh.faces), _FACES):
        faces = mesh.faces[start : start + _FACES]
        corners = mesh.vertices[faces]
        doubled = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        size = np.linalg.norm(doubled, axis=1)
        area += np.bincount(labels[faces[:, 0]], weights=size, minlength=len(area))
    order = np.argsort(-area, kind="stable")
    chosen = order[: len(order) if keep is None else keep]
    chosen = chosen[(area[chosen] >= min_share * area.sum()) | (chosen == order[0])]
    if len(chosen) == len(order):
        return mesh, 0
    kept = np.zeros(len(area), bool)
    kept[chosen] = True
    return mesh.part(kept[labels]), len(area) - len(chosen)


def smooth(mesh: Mesh, iterations: int) -> Mesh:
    """Taubin's smoothing (1995) by trimesh: lambda 0.5, mu 0.53; it hardly shrinks. Normals stay
    those of the old places."""
    import trimesh

    shape = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    trimesh.smoothing.filter_taubin(shape, iterations=iterations)
    return replace(mesh, vertices=np.asarray(shape.vertices))


def decimate(mesh: Mesh, target: int) -> Mesh:
    """At most about `target` faces, by quadric edge collapses (Garland and Heckbert 1997) in the
    package fast-simplification. Normals are those of the new triangles.

    Raises:
        EpigrafError: the package is missing.
    """
    if len(mesh.faces) <= target:
        return mesh
    vertices, faces = decimator()(
        mesh.vertices, mesh.faces, target_count=target, return_collapses=False
    )[:2]
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    places, faces = vertices.astype(np.float64), faces.astype(np.int32)
    fewer = Mesh(places, faces, face_normals(places, faces), facts=mesh.facts)
    return fewer.part(used)


def decimator() -> Callable[..., tuple[np.ndarray, ...]]:
    """`simplify` of fast-simplification.

    Raises:
        EpigrafError: the package is missing.
    """
    try:
        from fast_simplification import simplify
    except ImportError:
        raise EpigrafError(
            "--decimate needs the package fast-simplification: pip install 'epigraf[mesh]'"
        ) from None
    return simplify


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals [V, 3] of the faces around each vertex; +y without any."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack(
        [np.bincount(faces.ravel(), np.repeat(normal[:, a], 3), len(vertices)) for a in range(3)], 1
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(length > 0, total / np.maximum(length, 1e-30), np.array([0.0, 1.0, 0.0]))


@dataclass(frozen=True)
class Quality:
    """The state of a mesh. genus: the sum over its parts; None unless it is closed and manifold.
    holes: loops of edges with one face. non_manifold: edges with more than two.
    """

    vertices: int
    faces: int
    components: int
    genus: int | None
    watertight: bool
    holes: int
    non_manifold: int

    def __str__(self) -> str:
        genus = "unknown" if self.genus is None else str(self.genus)
        parts = (
            f"{self.vertices} vertices",
            f"{self.faces} faces",
            _count(self.components, "component"),
            f"genus {genus}",
            "watertight" if self.watertight else "not watertight",
            _count(self.holes, "hole"),
            _count(self.non_manifold, "non-manifold edge"),
        )
        return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def quality(mesh: Mesh) -> Quality:
    """Count what can be wrong with a mesh. Watertight: every edge has two faces (or an even number,
    at non-manifold edges), which run through it in opposite directions. Vertices that an atlas has
    doubled count once."""
    mesh = _welded(mesh) if mesh.uv is not None else mesh
    count, edges, non_manifold, watertight = len(mesh.vertices), 0, 0, True
    border = [np.empty(0, np.int64)]
    for code, uses, forward in _edges(mesh.faces, count):
        edges += len(code)
        non_manifold += int((uses > 2).sum())
        watertight &= bool((2 * forward == uses).all())
        border.append(code[uses == 1])
    loose = np.concatenate(border)
    components = count_components(mesh)
    used = np.zeros(count, bool)
    used[mesh.faces] = True
    euler = int(used.sum()) - edges + len(mesh.faces)
    genus = components - euler // 2 if watertight and not non_manifold else None
    return Quality(
        vertices=count,
        faces=len(mesh.faces),
        components=components,
        genus=genus,
        watertight=watertight,
        holes=_loops(loose // count, loose % count),
        non_manifold=non_manifold,
    )


def _edges(faces: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The edges of faces [F, 3], some at a time: codes [E] (smaller vertex * count + larger), by
    how many faces each is used and by how many of them from the smaller to the larger."""
    parts = -(-3 * len(faces) // _EDGES)
    ends = np.linspace(0, count, parts + 1).astype(np.int64)
    for low, high in pairwise(ends):
        found = []
        for start in range(0, len(faces), _FACES):
            part = faces[start : start + _FACES].astype(np.int64)
            for a, b in ((0, 1), (1, 2), (2, 0)):
                here, there = part[:, a], part[:, b]
                near = np.minimum(here, there)
                chosen = (near >= low) & (near < high)
                here, there, near = here[chosen], there[chosen], near[chosen]
                found.append(2 * (near * count + np.maximum(here, there)) + (here < there))
        code = np.sort(np.concatenate(found))
        if len(code) == 0:
            continue
        start = np.flatnonzero(np.diff(code >> 1, prepend=-1))
        forward = np.add.reduceat((code & 1).astype(np.int32), start)
        yield code[start] >> 1, np.diff(start, append=len(code)), forward


def _welded(mesh: Mesh) -> Mesh:
    """Without texture, vertices of one place made one."""
    places, same = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = same.reshape(-1)[mesh.faces].astype(mesh.faces.dtype)
    return Mesh(places, faces, np.zeros_like(places))


def _loops(here: np.ndarray, there: np.ndarray) -> int:
    """Connected groups of edges between vertices `here` [E] and `there` [E]."""
    if len(here) == 0:
        return 0
    _, number = np.unique(np.concatenate([here, there]), return_inverse=True)
    number, count = number.reshape(2, -1), int(number.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(here), np.int8), tuple(number)), shape=(count, count))
    return int(sparse.csgraph.connected_components(graph, directed=False)[0])


def count_components(mesh: Mesh) -> int:
    """The number of connected parts."""
    return int(_component_labels(mesh).max(initial=-1)) + 1


def _component_labels(mesh: Mesh) -> np.ndarray:
    """The number of the connected part of every vertex [V] int32, some faces at a time."""
    labels = np.arange(len(mesh.vertices), dtype=np.int32)
    for start in range(0, len(mesh.faces), _FACES):
        ends = labels[mesh.faces[start : start + _FACES]]
        here, there = ends[:, [0, 1]].ravel(), ends[:, [1, 2]].ravel()
        count = int(labels.max()) + 1
        ones = np.ones(len(here), dtype=np.int8)
        graph = sparse.coo_matrix((ones, (here, there)), shape=(count, count))
        labels = sparse.csgraph.connected_components(graph, directed=False)[1][labels]
    return labels
