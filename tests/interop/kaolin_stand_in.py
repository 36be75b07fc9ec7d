"""Stand-ins for the parts of NVIDIA Kaolin that epigraf uses, from its documentation.

Only conventions matter here: column-vector view matrices, focal lengths in pixels from the centre
of the canvas, rays through pixel centres; signed distances that are positive inside for the
tetrahedra and negative inside for FlexiCubes; squared distances; USD written over time.
"""

from __future__ import annotations

import itertools
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor


class Camera:
    """Pinhole, batched; `from_args(view_matrix, focal_x, width, height, ...)`."""

    lens_type = "pinhole"

    def __init__(self, view: Tensor, focal: float, width: int, height: int) -> None:
        self._view, self.width, self.height = view, width, height
        self.focal_x = self.focal_y = torch.full((len(view),), focal, dtype=view.dtype)
        self.x0 = self.y0 = torch.zeros(len(view), dtype=view.dtype)

    @classmethod
    def from_args(
        cls, *, view_matrix: Tensor, focal_x: float, width: int, height: int, near: float,
        far: float, device: torch.device, dtype: torch.dtype,
    ) -> Camera:  # fmt: skip
        assert 0 < near < far
        return cls(view_matrix.to(device, dtype), focal_x, width, height)

    def view_matrix(self) -> Tensor:
        return self._view

    def generate_rays(self, number: int) -> tuple[Tensor, Tensor]:
        """Origins and unit directions [H W, 3] of one camera, row by row from the top."""
        view = self._view[number]
        x = torch.arange(self.width) + 0.5 - self.width / 2
        y = self.height / 2 - (torch.arange(self.height) + 0.5)
        y, x = torch.meshgrid(y, x, indexing="ij")
        focal = float(self.focal_x[number])
        local = torch.stack([x / focal, y / focal, -torch.ones_like(x)], dim=-1).reshape(-1, 3)
        ways = torch.linalg.solve(view[:3, :3], local.to(view).T).T
        origin = torch.linalg.solve(view, torch.tensor([0.0, 0, 0, 1]).to(view))[:3]
        return origin.expand_as(ways), ways / ways.norm(dim=-1, keepdim=True)


def marching_tetrahedra(vertices: Tensor, tets: Tensor, sdf: Tensor, return_tet_idx: bool = False):
    """Lists of vertices [V, 3] and faces [F, 3]; inside is where sdf > 0. A slow loop."""
    assert vertices.ndim == 3
    assert tets.ndim == 2
    assert sdf.shape == vertices.shape[:2]
    places: dict[tuple[int, int], int] = {}
    points, faces = [], []

    def cut(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in places:
            low, high = (float(sdf[0, i]) for i in key)
            share = low / (low - high)
            points.append(vertices[0, key[0]].lerp(vertices[0, key[1]], share))
            places[key] = len(points) - 1
        return places[key]

    def wound(face: list[int], towards: Tensor) -> list[int]:
        a, b, c = (points[i] for i in face)
        outside = torch.dot(torch.linalg.cross(b - a, c - a), towards - a) < 0
        return face if outside else face[::-1]

    for tet in tets.tolist():
        inside = [i for i in tet if sdf[0, i] > 0]
        outside = [i for i in tet if sdf[0, i] <= 0]
        if not inside or not outside:
            continue
        middle = vertices[0, inside].mean(dim=0)
        if len(inside) == 2:
            a, b = (cut(inside[0], o) for o in outside)
            c, d = (cut(inside[1], o) for o in outside)
            faces += [wound([a, b, c], middle), wound([b, c, d], middle)]
        else:
            lone, others = (inside, outside) if len(inside) == 1 else (outside, inside)
            faces.append(wound([cut(lone[0], o) for o in others], middle))
    return [torch.stack(points)], [torch.tensor(faces)]


class FlexiCubes:
    """Surface nets: a vertex where a cube's crossings are, in the mean; checks the grid's order."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = device

    def __call__(
        self, voxelgrid_vertices, scalar_field, cube_idx, resolution, qef_reg_scale=1e-3,
        weight_scale=0.99, beta=None, alpha=None, gamma_f=None, training=False,
        output_tetmesh=False, grad_func=None, voxelgrid_features=None,
    ):  # fmt: skip
        corners = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)]).float()
        first = voxelgrid_vertices[cube_idx[:, :1]]
        assert torch.equal(voxelgrid_vertices[cube_idx], first + corners)
        count = resolution[0] * resolution[1] * resolution[2]
        assert len(cube_idx) == count  # in the order of nested loops, x outermost
        expected = torch.cartesian_prod(*(torch.arange(n) for n in resolution)).float()
        assert torch.equal(first[:, 0], expected)
        value = scalar_field[cube_idx]
        crossed = ((value < 0).any(1) & (value >= 0).any(1)).nonzero()[:, 0]
        edges = [(a, b) for a, b in itertools.combinations(range(8), 2)
                 if (a ^ b).bit_count() == 1]  # fmt: skip
        number, points = {}, []
        for cube in crossed.tolist():
            here = voxelgrid_vertices[cube_idx[cube]]
            cuts = [here[a].lerp(here[b], float(value[cube, a] / (value[cube, a] - value[cube, b])))
                    for a, b in edges if (value[cube, a] < 0) != (value[cube, b] < 0)]  # fmt: skip
            number[cube] = len(points)
            points.append(torch.stack(cuts).mean(dim=0))
        vertices = torch.stack(points)
        assert grad_func is not None
        assert grad_func(vertices).shape == vertices.shape
        steps = [resolution[1] * resolution[2], resolution[2], 1]
        faces = []
        for cube in number:
            for axis, (u, v) in enumerate([(1, 2), (2, 0), (0, 1)]):
                a, b = value[cube, 7 ^ (1 << axis)], value[cube, 7]  # the edge at the far end
                ring = [cube, cube + steps[u], cube + steps[u] + steps[v], cube + steps[v]]
                if (a < 0) != (b < 0) and all(c in number for c in ring):
                    quad = [number[c] for c in ring]
                    quad = quad if a < 0 else quad[::-1]
                    faces += [quad[:3], [quad[0], quad[2], quad[3]]]
        return vertices, torch.tensor(faces), torch.zeros(len(vertices))


def sided_distance(p1: Tensor, p2: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [B, N] and indices [B, N]."""
    return tuple((p1[:, :, None] - p2[:, None]).square().sum(-1).min(dim=2))


class Timelapse:
    """Remembers what it is told."""

    written: list[tuple[str, int, str, list, list]] = []  # noqa: RUF012

    def __init__(self, log_dir: str, up_axis: str = "Y") -> None:
        self.folder = log_dir

    def add_mesh_batch(self, iteration=0, category="", vertices_list=None, faces_list=None) -> None:
        self.written.append(("mesh", iteration, category, vertices_list, faces_list))

    def add_pointcloud_batch(
        self, iteration=0, category="", pointcloud_list=None, colors=None,
        points_type="point_instancer",
    ) -> None:  # fmt: skip
        assert points_type in ("point_instancer", "usd_geom_points")
        self.written.append(("points", iteration, category, pointcloud_list, colors))


PARTS = {
    "kaolin": {"ops": None, "__version__": "0.18.0"},
    "kaolin.ops": {},
    "kaolin.ops.conversions": {
        "marching_tetrahedra": marching_tetrahedra, "FlexiCubes": FlexiCubes
    },
    "kaolin.render": {},
    "kaolin.render.camera": {"Camera": Camera},
    "kaolin.metrics": {},
    "kaolin.metrics.pointcloud": {"sided_distance": sided_distance},
    "kaolin.visualize": {"Timelapse": Timelapse},
}  # fmt: skip


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Put the stand-ins where Kaolin would be, for one test."""
    modules = {}
    for name, attributes in PARTS.items():
        modules[name] = ModuleType(name)
        modules[name].__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, modules[name])
    Timelapse.written.clear()
    return modules
