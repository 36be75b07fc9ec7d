"""Files are read back with other programs: units, orientation, normals and colours survive."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import trimesh

from epigraf.errors import DataError
from epigraf.geometry.density import Bounds, Lattice, Volume, density_grid
from epigraf.geometry.export import save_mesh, save_volume
from epigraf.geometry.mesh import Mesh
from epigraf.geometry.surface import extract_surface


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    """An off-centre ball of radius 0.1, coloured by its normals."""
    bounds = Bounds((0.0, -0.2, 0.1), (0.4, 0.2, 0.5))
    surface = extract_surface(
        lambda p: 0.1 - (p - p.new_tensor([0.2, 0.0, 0.3])).norm(dim=-1), Lattice(24, bounds), 0.0
    )
    return replace(surface, colors=np.round((surface.normals + 1) * 127.5).astype(np.uint8))


def _linear(srgb: np.ndarray) -> np.ndarray:
    """The display curve (IEC 61966-2-1), from a table of its inverse."""
    linear = np.linspace(0, 1, 100_001)
    low, high = 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    return np.interp(srgb, np.where(linear <= 0.0031308, low, high), linear)


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
def test_meshes_come_back(mesh: Mesh, tmp_path: Path, suffix: str) -> None:
    path = save_mesh(mesh, tmp_path / f"ball.{suffix}")
    options = {"maintain_order": True} if suffix == "obj" else {}
    back = trimesh.load(path, force="mesh", process=False, **options)
    np.testing.assert_allclose(back.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_array_equal(back.faces, mesh.faces)
    assert back.is_watertight
    assert back.volume == pytest.approx(4 / 3 * np.pi * 0.1**3, rel=0.03)  # > 0: faces point out
    assert (back.vertex_normals * mesh.normals).sum(1).min() > 0.98
    assert mesh.colors is not None
    if suffix == "glb":
        expected = np.round(255 * _linear(mesh.colors / 255))
        np.testing.assert_allclose(back.visual.vertex_colors[:, :3], expected, atol=1)
    else:
        np.testing.assert_array_equal(back.visual.vertex_colors[:, :3], mesh.colors)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file left


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
def test_meshes_without_colours(mesh: Mesh, tmp_path: Path, suffix: str) -> None:
    path = save_mesh(replace(mesh, colors=None), tmp_path / f"ball.{suffix}")
    back = trimesh.load(path, force="mesh", process=False)
    assert len(back.faces) == len(mesh.faces)


def test_glb_container_is_well_formed(mesh: Mesh, tmp_path: Path) -> None:
    data = save_mesh(mesh, tmp_path / "ball.glb").read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    tree = json.loads(data[20 : 20 + size])
    assert kind == b"JSON"
    assert size % 4 == 0
    position = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    np.testing.assert_allclose(position["max"], mesh.vertices.max(0), rtol=1e-6)


def test_mrc_keeps_axes_units_and_origin(tmp_path: Path) -> None:
    lattice = Lattice(5, Bounds((-1.0, 0.0, 2.0), (1.0, 1.0, 2.4)))
    volume = density_grid(lambda p: 100 * p[..., 0] + 10 * p[..., 1] + p[..., 2], lattice)
    path = save_volume(volume, tmp_path / "ball.mrc")
    with mrcfile.open(path) as file:
        assert int(file.header.mode) == 2
        assert file.data.dtype == np.float32
        np.testing.assert_array_equal(file.data.transpose(2, 1, 0), volume.values)
        size, origin = file.voxel_size, file.header.origin
        np.testing.assert_allclose([size.x, size.y, size.z], [0.5, 0.25, 0.1], rtol=1e-6)
        np.testing.assert_allclose([origin.x, origin.y, origin.z], [-1, 0, 2], rtol=1e-6)


def test_wrong_endings_are_refused(mesh: Mesh, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write ball.stl; use one of .ply, .obj, .glb"):
        save_mesh(mesh, tmp_path / "ball.stl")
    volume = Volume(np.zeros((2, 2, 2), np.float32), Lattice(2, Bounds.cube(1.0)))
    with pytest.raises(DataError, match=r"cannot write ball.ply; use .mrc"):
        save_volume(volume, tmp_path / "ball.ply")


def test_a_failed_write_leaves_the_old_file(mesh: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "ball.ply"
    save_mesh(mesh, path)
    before = path.read_bytes()
    broken = replace(mesh, faces=np.zeros((3, 4), np.int64))
    with pytest.raises(ValueError, match="could not broadcast"):
        save_mesh(broken, path)
    assert path.read_bytes() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        save_mesh(mesh, tmp_path / "file" / "ball.ply")
