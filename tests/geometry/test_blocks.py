"""Block-wise surfaces of analytic fields: places, volume, area, genus, and no seams."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.geometry import blocks
from epigraf.geometry.density import Bounds, Lattice

RADIUS, TUBE = 0.55, 0.18


def sphere(p):
    return RADIUS - np.linalg.norm(p, axis=-1)


def torus(p):
    ring = np.hypot(p[..., 0], p[..., 1]) - RADIUS
    return TUBE - np.hypot(ring, p[..., 2])


def box(p):
    q = np.abs(p) - np.array([0.5, 0.3, 0.4])
    outside = np.linalg.norm(np.maximum(q, 0), axis=-1)
    return -(outside + np.minimum(q.max(-1), 0))


def gyroid(p):
    x, y, z = np.moveaxis(p * 2 * math.pi / 0.8, -1, 0)
    return np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)


def needle(p):
    """A ball with a needle, a voxel thin, across many bricks."""
    direction = np.array([0.6, 0.5, 0.62449980])
    along = np.clip(p @ direction, 0, 0.95)
    thin = 0.03 - np.linalg.norm(p - along[..., None] * direction, axis=-1)
    return np.maximum(0.2 - np.linalg.norm(p, axis=-1), thin)


FIELDS = {"sphere": sphere, "torus": torus, "box": box, "gyroid": gyroid, "needle": needle}


def sampled(field, lattice: Lattice) -> blocks.PointValues:
    low = np.array(lattice.bounds.low)
    return lambda index: field(low + index * lattice.spacing).astype(np.float32)


def surface(field, lattice: Lattice, cells: int, skip: bool = False, level: float = 0.0):
    n, at = lattice.resolution, sampled(field, lattice)
    found, values = blocks.blocks(n, True, cells), blocks.gridded(at)
    if skip:
        bricks = blocks.find_bricks(at, n, level)
        found, values = [b for b in found if bricks.touches(b)], bricks.sparse(at, level)
    values = blocks.closed(values, n, level)
    places, faces = blocks.stitch([blocks.march(values, b, n, level) for b in found], n)
    return np.array(lattice.bounds.low) + places * lattice.spacing, faces, len(found)


@pytest.mark.parametrize(
    ("name", "volume", "area", "euler"),
    [
        ("sphere", 4 / 3 * math.pi * RADIUS**3, 4 * math.pi * RADIUS**2, 2),
        ("torus", 2 * math.pi**2 * RADIUS * TUBE**2, 4 * math.pi**2 * RADIUS * TUBE, 0),
        ("box", 1.0 * 0.6 * 0.8, 2 * (0.6 + 0.8 + 0.48), 2),
    ],
)
def test_place_volume_area_and_genus(name: str, volume: float, area: float, euler: int):
    lattice = Lattice(128, Bounds.cube(2.0))
    vertices, faces, _ = surface(FIELDS[name], lattice, cells=40)
    voxel = lattice.spacing[0]
    assert np.abs(FIELDS[name](vertices)).max() < 0.1 * voxel * (1 if name != "box" else 5)
    shape = trimesh.Trimesh(vertices, faces, process=False)
    assert shape.is_watertight
    assert shape.is_winding_consistent
    assert shape.euler_number == euler
    assert shape.volume == pytest.approx(volume, rel=0.005)
    assert shape.area == pytest.approx(area, rel=0.005 if name != "box" else 0.02)


@pytest.mark.parametrize("name", list(FIELDS))
def test_nothing_depends_on_the_size_of_blocks_to_the_last_bit(name: str):
    lattice = Lattice(45, Bounds((-1.0, -0.9, -1.1), (0.9, 1.0, 1.0)))
    first = surface(FIELDS[name], lattice, cells=64)
    for cells in (7, 16, 31):
        vertices, faces, _ = surface(FIELDS[name], lattice, cells)
        assert vertices.tobytes() == first[0].tobytes()
        assert faces.tobytes() == first[1].tobytes()


@pytest.mark.parametrize("name", ["sphere", "torus", "gyroid", "needle"])
@pytest.mark.parametrize("probes", [16, 256])
def test_blocks_without_surface_are_left_out_and_nothing_else(
    name: str, probes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(blocks, "PROBES", probes)
    lattice = Lattice(65, Bounds.cube(2.0))
    whole, skipped = (surface(FIELDS[name], lattice, 8, skip) for skip in (False, True))
    assert whole[0].tobytes() == skipped[0].tobytes()
    assert whole[1].tobytes() == skipped[1].tobytes()
    assert skipped[2] < whole[2] or name == "gyroid"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(1, 5))
def test_any_densities_give_a_closed_surface_whatever_the_cut(seed: int, n: int, cells: int):
    grid = np.random.default_rng(seed).integers(-2, 3, (n, n, n)).astype(np.float32)
    level = 0.0  # many densities hit it exactly

    def values(x, y, z):
        return grid[np.ix_(x, y, z)]

    closed = blocks.closed(values, n, level)
    results = []
    for size in (cells, n + 1):
        pieces = [blocks.march(closed, b, n, level) for b in blocks.blocks(n, True, size)]
        results.append(blocks.stitch(pieces, n))
    assert results[0][0].tobytes() == results[1][0].tobytes()
    assert results[0][1].tobytes() == results[1][1].tobytes()
    edges = np.sort(results[0][1][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    assert (counts % 2 == 0).all()  # no border


def test_a_ball_cuts_what_leaves_it_and_keeps_what_is_inside():
    lattice = Lattice(61, Bounds.cube(2.0))
    n, voxel = 61, lattice.spacing[0]

    def cut(field):
        values = blocks.gridded(blocks.clipped(sampled(field, lattice), lattice, 0.0, 0.7))
        pieces = [blocks.march(values, b, n, 0.0) for b in blocks.blocks(n, False, 32)]
        places, faces = blocks.stitch(pieces, n)
        return np.array(lattice.bounds.low) + places * lattice.spacing, faces

    inside, _ = cut(sphere)
    assert inside.tobytes() == surface(sphere, lattice, 32)[0].tobytes()
    everywhere, faces = cut(lambda p: np.full(p.shape[:-1], 3.0))
    assert np.abs(np.linalg.norm(everywhere, axis=1) - 0.7).max() < 0.5 * voxel
    assert trimesh.Trimesh(everywhere, faces, process=False).is_watertight
