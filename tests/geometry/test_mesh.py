"""Surfaces of analytic fields: a sphere's radius, volume and normals are known exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from epigraf.config import Config, LastInterval
from epigraf.errors import EpigrafError
from epigraf.geometry.clean import count_components, decimate, keep_components, quality, smooth
from epigraf.geometry.density import Bounds, Lattice
from epigraf.geometry.extract import MeshOptions, extract_mesh
from epigraf.geometry.mesh import Mesh, colors_to_uint8
from epigraf.geometry.surface import SurfaceOptions, extract_surface
from epigraf.ops.triplane import sample_triplane
from epigraf.rendering.renderer import FieldSample

RADIUS = 0.6


class Ball:
    """Raw density 50 at depth 1 inside a ball of RADIUS around `centre`, linear in the distance.

    The colour is the point's direction from the centre, or the view direction.
    """

    def __init__(self, centre: tuple[float, float, float] = (0.0, 0.0, 0.0), view: bool = False):
        self.centre, self.view = torch.tensor(centre), view

    def density_raw(self, points_world: Tensor) -> Tensor:
        return 50 * (RADIUS - (points_world - self.centre).norm(dim=-1))

    def __call__(self, points_world: Tensor, directions: Tensor) -> FieldSample:
        offset = points_world - self.centre
        repeat = points_world.shape[1] // directions.shape[1]
        color = directions.repeat_interleave(repeat, dim=1) if self.view else offset
        color = color / color.norm(dim=-1, keepdim=True)
        return FieldSample(color, self.density_raw(points_world))


class Shell(Ball):
    """A ball with a hole of radius 0.2 at its centre."""

    def density_raw(self, points_world: Tensor) -> Tensor:
        return torch.minimum(
            super().density_raw(points_world), 50 * (points_world.norm(dim=-1) - 0.2)
        )


def _surface(field: Ball, level: float = 0.0, resolution: int = 64, **options: object) -> Mesh:
    lattice = Lattice(resolution, Bounds.cube(2.0))
    return extract_surface(field.density_raw, lattice, level, SurfaceOptions(**options))


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (0.13, -0.21, 0.3)])
def test_sphere_has_its_radius_volume_and_normals(centre: tuple[float, float, float]) -> None:
    mesh = _surface(Ball(centre))
    offset = mesh.vertices - centre
    distance = np.linalg.norm(offset, axis=1)
    assert np.abs(distance - RADIUS).max() < 0.1 * 2 / 63
    shape = _trimesh(mesh)
    assert shape.is_watertight
    assert shape.is_winding_consistent
    assert shape.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.005)
    assert (mesh.normals * offset / distance[:, None]).sum(1).min() > 0.9999
    assert (shape.vertex_normals * mesh.normals).sum(1).min() > 0.99


def test_level_moves_the_surface_by_the_gradient() -> None:
    mesh = _surface(Ball(), 5.0)  # 5 / 50 = 0.1 further inside
    distance = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(distance - (RADIUS - 0.1)).max() < 0.1 * 2 / 63


def test_a_level_that_lattice_values_hit_exactly_leaves_no_empty_triangle() -> None:
    mesh = extract_surface(lambda p: 6 - p.norm(dim=-1), Lattice(21, Bounds.cube(20.0)), 0.0)
    shape = _trimesh(mesh)
    assert shape.is_watertight
    assert shape.area_faces.min() > 0
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)


def test_what_leaves_the_lattice_is_capped_half_a_voxel_outside() -> None:
    lattice = Lattice(9, Bounds((-1.0, -2.0, -3.0), (1.0, 2.0, 3.0)))

    def slope(points: Tensor) -> Tensor:
        return 1 + points[..., 0]  # inside: x > -0.5 for level 0.5

    mesh = extract_surface(slope, lattice, 0.5)
    half = lattice.spacing / 2
    assert _trimesh(mesh).is_watertight
    np.testing.assert_allclose(mesh.vertices.min(0), [-0.5, -2 - half[1], -3 - half[2]], atol=1e-5)
    np.testing.assert_allclose(mesh.vertices.max(0), np.array([1, 2, 3]) + half, atol=1e-5)
    opened = extract_surface(slope, lattice, 0.5, SurfaceOptions(close=False))
    assert np.abs(opened.vertices[:, 0] + 0.5).max() < 1e-5


def test_clip_radius_cuts_along_the_ball_and_keeps_what_is_inside() -> None:
    cut = _surface(Ball(), clip_radius=0.5)
    distance = np.linalg.norm(cut.vertices, axis=1)
    assert np.abs(distance - 0.5).max() < 0.5 * 2 / 63
    assert _trimesh(cut).is_watertight
    whole, kept = (_surface(Ball(), clip_radius=r) for r in (None, 0.8))
    np.testing.assert_allclose(kept.vertices, whole.vertices, atol=1e-6)


def test_parts_are_kept_by_number_and_by_share_of_the_area() -> None:
    def two(points: Tensor) -> Tensor:
        big = 0.4 - (points - torch.tensor([-0.4, 0.0, 0.0])).norm(dim=-1)
        small = 0.15 - (points - torch.tensor([0.6, 0.0, 0.0])).norm(dim=-1)
        return torch.maximum(big, small)

    mesh = extract_surface(two, Lattice(48, Bounds.cube(2.0)), 0.0)
    assert count_components(mesh) == 2
    mesh = replace(mesh, colors=np.zeros((len(mesh.vertices), 3), np.uint8))
    assert keep_components(mesh, None, 0.0)[0] is mesh
    assert keep_components(mesh, None, 0.2)[1] == 1  # 0.15^2 / (0.15^2 + 0.4^2) = 0.12
    assert keep_components(mesh, None, 0.1)[1] == 0
    big, dropped = keep_components(mesh, 1, 0.0)
    assert dropped == 1
    assert count_components(big) == 1
    assert big.vertices[:, 0].max() < 0.05
    assert big.colors is not None
    assert len(big.colors) == len(big.normals) == len(big.vertices)
    assert _trimesh(big).is_watertight
    assert _trimesh(big).volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.01)


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        (0.0, 0.0, "the volume is empty, its density is 0 everywhere"),
        (None, 100.0, "level 100 is above every density of the volume; choose one between"),
        (None, -1e4, "level -10000 is below every density"),
        (math.nan, 0.0, "are NaN or infinite, the first at"),
    ],
)
def test_impossible_surfaces_say_why(values: float | None, level: float, message: str) -> None:
    def field(points: Tensor) -> Tensor:
        given = Ball().density_raw(points)
        return given if values is None else torch.full_like(given, values)

    with pytest.raises(ValueError, match=message):
        extract_surface(field, Lattice(8, Bounds.cube(2.0)), level)


def _config(**dataset: object) -> Config:
    return Config.from_dict(
        {
            "dataset": {"cube_scale": 1.0, "camera": {"radius": 3.0}, **dataset},
            "model": {"generator": {"density_gain": 20.0, "last_interval": LastInterval.FINITE}},
        }
    )


def test_colors_are_those_of_the_surface() -> None:
    options = MeshOptions(resolution=48, level=0.0)
    mesh = extract_mesh(Ball(), _config(), options)
    assert mesh.colors is not None
    assert mesh.colors.dtype == np.uint8
    expected = (mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True) + 1) * 127.5
    assert np.abs(mesh.colors - expected).max() <= 1.5


def test_view_conditioned_colors_are_seen_from_outside() -> None:
    mesh = extract_mesh(Ball(view=True), _config(), MeshOptions(resolution=32, level=0.0))
    assert mesh.colors is not None
    assert np.abs(mesh.colors - (1 - mesh.normals) * 127.5).max() <= 1.0


def test_mesh_does_not_depend_on_the_block_size() -> None:
    a, b = (
        extract_mesh(Ball(), _config(), MeshOptions(24, 0.0, max_points=n)) for n in (257, 65536)
    )
    np.testing.assert_array_equal(a.vertices, b.vertices)
    np.testing.assert_array_equal(a.colors, b.colors)


def test_default_bounds_are_the_object_ball_and_it_is_clipped() -> None:
    mesh = extract_mesh(Shell(), _config(object_radius=0.4), MeshOptions(32, 0.0, colors=False))
    distance = np.linalg.norm(mesh.vertices, axis=1)
    outer = distance > 0.3
    assert 0 < outer.sum() < len(outer)
    assert np.abs(distance[outer] - 0.4).max() < 0.5 * 0.8 / 31


def test_a_level_below_everything_is_refused() -> None:
    for radius in (None, 0.4):
        with pytest.raises(EpigrafError, match=r"level -1e\+09 is below every density"):
            extract_mesh(Ball(), _config(object_radius=radius), MeshOptions(32, -1e9))


def test_level_out_of_range_is_a_users_error() -> None:
    with pytest.raises(EpigrafError, match="mesh: surface: level 1e\\+06 is above every density"):
        extract_mesh(Ball(), _config(), MeshOptions(16, 1e6))


def test_colors_to_uint8_maps_minus_one_to_zero_and_clamps() -> None:
    colors = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0])
    assert colors_to_uint8(colors).tolist() == [0, 0, 128, 255, 255]


def test_quality_of_a_torus_a_sheet_and_a_book() -> None:
    mesh = extract_surface(
        lambda p: 0.2 - torch.hypot(torch.hypot(p[..., 0], p[..., 1]) - 0.6, p[..., 2]),
        Lattice(40, Bounds.cube(2.0)),
        0.0,
    )
    state = quality(mesh)
    assert (state.components, state.genus, state.watertight) == (1, 1, True)
    assert (state.holes, state.non_manifold) == (0, 0)
    assert state.vertices - 3 * state.faces // 2 + state.faces == 0  # Euler's number of a torus
    ring = replace(mesh, faces=mesh.faces[(mesh.vertices[mesh.faces, 2] < 0.1).all(1)])
    assert quality(ring).holes == 2  # the cut has an inner and an outer border
    assert quality(ring).genus is None
    places = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]], float)
    pages = np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]], np.int32)
    book = quality(Mesh(places, pages, np.zeros_like(places)))
    assert (book.non_manifold, book.watertight) == (1, False)
    assert "1 non-manifold edge" in str(book)


def test_smoothing_calms_noise_and_keeps_the_size() -> None:
    mesh = _surface(Ball(), resolution=32)
    noise = np.random.default_rng(0).normal(0, 0.01, (len(mesh.vertices), 1))
    rough = replace(mesh, vertices=mesh.vertices * (1 + noise))
    calm = smooth(rough, 10)
    radius = [np.linalg.norm(m.vertices, axis=1) for m in (rough, calm)]
    assert radius[1].std() < radius[0].std() / 2
    assert radius[1].mean() == pytest.approx(RADIUS, rel=0.01)


def test_decimation_keeps_the_shape() -> None:
    mesh = _surface(Ball(), resolution=48)
    small = decimate(mesh, 800)
    assert 600 <= len(small.faces) <= 800
    shape = _trimesh(small)
    assert shape.is_watertight
    assert shape.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)
    outward = small.vertices / np.linalg.norm(small.vertices, axis=1, keepdims=True)
    assert (small.normals * outward).sum(1).min() > 0.95
    assert decimate(small, 5000) is small


def test_a_field_in_planes_has_the_normals_of_its_surface() -> None:
    """sigma = 1 - (x^2 + y^2 + z^2) / r^2 in three planes: each holds half the squares of its two
    axes, so that their sum counts every axis once."""
    side, radius = 257, 0.6
    square = np.linspace(-1, 1, side) ** 2
    plane = torch.from_numpy(0.5 * (square[:, None] + square)).float()
    planes = (1 / 3 - plane / radius**2)[None, None, None].expand(1, 3, 1, side, side)

    def field(points: Tensor) -> Tensor:
        return 3 * sample_triplane(planes, points)[..., 0]

    lattice = Lattice(64, Bounds.cube(1.6))
    mesh = extract_surface(field, lattice, 0.0)
    distance = np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert np.abs(distance - radius).max() < 0.1 * lattice.spacing[0]
    cosine = (mesh.normals * mesh.vertices / distance).sum(1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 2
    assert _trimesh(mesh).volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.005)


def test_averaged_colors_of_a_view_independent_field_are_the_colors() -> None:
    options = [MeshOptions(resolution=32, level=0.0, average=a) for a in (False, True)]
    plain, mean = (extract_mesh(Ball(), _config(), o).colors for o in options)
    assert plain is not None
    assert mean is not None
    assert np.abs(plain.astype(int) - mean).mean() < 3


def test_a_box_outside_the_ball_is_named() -> None:
    lattice = Lattice(17, Bounds((5.0, 5.0, 5.0), (6.0, 6.0, 6.0)))
    with pytest.raises(ValueError, match=r"the box from .* lies outside the object's ball"):
        extract_surface(
            lambda points: points[..., 0], lattice, 0.0, SurfaceOptions(clip_radius=0.9)
        )
