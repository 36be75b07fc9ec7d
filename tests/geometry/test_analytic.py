"""Surfaces whose places, volume, area, genus and normals are known: a sphere, a torus and a gyroid
held exactly by three planes, a box as a function. Volume and area of the gyroid: it halves space
and has 3.0915 a^2 in a cube of edge a (Schoen 1970), where its Euler number is -8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from epigraf.geometry.clean import quality
from epigraf.geometry.density import Bounds, Lattice
from epigraf.geometry.mesh import Mesh
from epigraf.geometry.surface import SurfaceOptions, extract_surface
from epigraf.ops.triplane import sample_triplane

RADIUS, RING, TUBE, PERIOD = 0.6, 0.55, 0.2, 0.8
WAVE = 2 * math.pi / PERIOD
HALF = np.array([0.5, 0.3, 0.4])
SIDE = 385

Plane = Callable[[Tensor, Tensor], Tensor]


def in_planes(xy: Plane, xz: Plane, yz: Plane) -> Callable[[Tensor], Tensor]:
    """The field xy(x, y) + xz(x, z) + yz(y, z), read from planes of features."""
    along = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    second, first = torch.meshgrid(along, along, indexing="ij")  # rows: the second coordinate
    planes = torch.stack([plane(first, second) for plane in (xy, xz, yz)]).float()
    planes = planes[None, :, None].contiguous()
    return lambda points: 3 * sample_triplane(planes, points)[..., 0]


def box(points: Tensor) -> Tensor:
    return (torch.from_numpy(HALF).float() - points.abs()).amin(dim=-1)


def _nothing(first: Tensor, second: Tensor) -> Tensor:
    return torch.zeros_like(first)


def _mixed(a: Tensor, b: Tensor) -> Tensor:
    return torch.sin(WAVE * a) * torch.cos(WAVE * b)


SPHERE = in_planes(
    lambda x, y: RADIUS**2 - x**2 - y**2, lambda x, z: -(z**2), _nothing
)  # fmt: skip
TORUS = in_planes(
    lambda x, y: TUBE**2 - (torch.hypot(x, y) - RING) ** 2, lambda x, z: -(z**2), _nothing
)
GYROID = in_planes(_mixed, lambda x, z: _mixed(z, x), _mixed)


def sphere_truth(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the surface [V] and outward normals [V, 3]."""
    length = np.linalg.norm(places, axis=1, keepdims=True)
    return length[:, 0] - RADIUS, places / length


def torus_truth(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ring = places * [1, 1, 0]
    ring *= RING / np.linalg.norm(ring, axis=1, keepdims=True)
    length = np.linalg.norm(places - ring, axis=1, keepdims=True)
    return length[:, 0] - TUBE, (places - ring) / length


def gyroid_truth(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distance to first order: value over slope."""
    s, c = np.sin(WAVE * places).T, np.cos(WAVE * places).T
    value = s[0] * c[1] + s[1] * c[2] + s[2] * c[0]
    slope = np.stack(
        [c[0] * c[1] - s[2] * s[0], c[1] * c[2] - s[0] * s[1], c[2] * c[0] - s[1] * s[2]], axis=1
    )
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    return value / (WAVE * length[:, 0]), -slope / length


def shape_of(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def check_places(mesh: Mesh, truth: tuple[np.ndarray, np.ndarray], lattice: Lattice) -> None:
    distance, normals = truth
    assert np.abs(distance).max() < 0.1 * lattice.spacing.min()
    cosine = (mesh.normals * normals).sum(1).clip(-1, 1)
    assert np.degrees(np.arccos(cosine)).max() < 2


@pytest.mark.parametrize(
    ("field", "truth", "volume", "area", "genus"),
    [
        (SPHERE, sphere_truth, 4 / 3 * math.pi * RADIUS**3, 4 * math.pi * RADIUS**2, 0),
        (
            TORUS, torus_truth,
            2 * math.pi**2 * RING * TUBE**2, 4 * math.pi**2 * RING * TUBE, 1,
        ),
    ],
    ids=["sphere", "torus"],
)  # fmt: skip
def test_sphere_and_torus_in_planes(field, truth, volume: float, area: float, genus: int) -> None:
    lattice = Lattice(96, Bounds.cube(1.7))
    mesh = extract_surface(field, lattice, 0.0)
    check_places(mesh, truth(mesh.vertices), lattice)
    shape, state = shape_of(mesh), quality(mesh)
    assert shape.volume == pytest.approx(volume, rel=0.005)
    assert shape.area == pytest.approx(area, rel=0.005)
    assert shape.is_watertight
    assert shape.is_winding_consistent
    assert (state.watertight, state.components, state.genus) == (True, 1, genus)
    assert shape.euler_number == 2 - 2 * genus


def test_a_box_but_for_its_edges_which_a_voxel_cuts_off() -> None:
    lattice = Lattice(161, Bounds((-0.51, -0.31, -0.41), (0.51, 0.31, 0.41)))
    mesh = extract_surface(box, lattice, 0.0)
    voxel = lattice.spacing.max()
    depth = np.sort(HALF - np.abs(mesh.vertices), axis=1)  # under the nearest, next, last face
    flat = depth[:, 1] > 1.5 * voxel
    assert np.abs(depth[flat, 0]).max() < 0.1 * lattice.spacing.min()
    assert np.abs(depth[:, 0]).max() < 0.5 * voxel
    axis = np.argmin(HALF - np.abs(mesh.vertices[flat]), axis=1)
    normals = np.eye(3)[axis] * np.sign(mesh.vertices[flat])
    assert (mesh.normals[flat] * normals).sum(1).min() > math.cos(math.radians(2))
    shape, state = shape_of(mesh), quality(mesh)
    assert shape.volume == pytest.approx(8 * HALF.prod(), rel=0.005)
    assert shape.area == pytest.approx(8 * (HALF.prod() / HALF).sum(), rel=0.005)
    assert (state.watertight, state.components, state.genus) == (True, 1, 0)


def test_a_gyroid_in_planes() -> None:
    cells, per_cell = 2, 32
    away = (0.013, 0.007, -0.011)  # from lattice points where the gyroid is exactly 0
    lattice = Lattice(cells * per_cell + 1, Bounds.cube(cells * PERIOD, away))
    mesh = extract_surface(GYROID, lattice, 0.0, SurfaceOptions(close=False))
    check_places(mesh, gyroid_truth(mesh.vertices), lattice)
    assert shape_of(mesh).area == pytest.approx(3.0915 * PERIOD**2 * cells**3, rel=0.005)
    assert euler_number_of_a_period(mesh, lattice) == -8 * cells**3
    whole = extract_surface(GYROID, lattice, 0.0)  # capped half a voxel outside
    assert quality(whole).watertight
    capped = cells * PERIOD + lattice.spacing[0]
    assert shape_of(whole).volume == pytest.approx(capped**3 / 2, rel=0.005)


def euler_number_of_a_period(mesh: Mesh, lattice: Lattice) -> int:
    """Of the surface whose opposite ends are one: V - E + F."""
    place = (mesh.vertices - np.array(lattice.bounds.low)) / lattice.spacing
    index, rows = np.round(place), np.arange(len(place))
    axis = np.abs(place - index).argmax(axis=1)  # of the lattice edge that the vertex lies on
    index[rows, axis] = np.floor(place[rows, axis])
    names = np.column_stack([index % (lattice.resolution - 1), axis])
    points, number = np.unique(names, axis=0, return_inverse=True)
    faces = number.reshape(-1)[mesh.faces]
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    return len(points) - len(np.unique(edges, axis=0)) + len(faces)


@pytest.mark.parametrize("field", [SPHERE, TORUS, GYROID, box], ids=["sphere", "torus", "g", "box"])
def test_nothing_depends_on_blocks_to_the_last_bit(field: Callable[[Tensor], Tensor]) -> None:
    lattice = Lattice(49, Bounds((-0.8, -0.7, -0.75), (0.8, 0.75, 0.7)))
    first = extract_surface(field, lattice, 0.0)
    for options in (
        SurfaceOptions(cells=11, max_points=1000),
        SurfaceOptions(cells=48, skip_empty=False, max_points=1 << 20),
    ):
        mesh = extract_surface(field, lattice, 0.0, options)
        assert mesh.vertices.tobytes() == first.vertices.tobytes()
        assert mesh.faces.tobytes() == first.faces.tobytes()
        assert mesh.normals.tobytes() == first.normals.tobytes()
