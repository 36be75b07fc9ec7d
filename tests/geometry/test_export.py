"""Files are read back with other programs: units, orientation, normals and colours survive."""

from __future__ import annotations

import errno
import json
import struct
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import trimesh

from epigraf.errors import DataError, EpigrafError
from epigraf.geometry.clean import decimate, quality
from epigraf.geometry.density import Bounds, Lattice, density_grid
from epigraf.geometry.export import MESH_ENDINGS, save_mesh
from epigraf.geometry.mesh import Mesh
from epigraf.geometry.mrc import save_volume
from epigraf.geometry.surface import extract_surface
from epigraf.geometry.texture import textured


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    """An off-centre ball of radius 0.1, coloured by its normals."""
    bounds = Bounds((0.0, -0.2, 0.1), (0.4, 0.2, 0.5))
    surface = extract_surface(
        lambda p: 0.1 - (p - p.new_tensor([0.2, 0.0, 0.3])).norm(dim=-1), Lattice(24, bounds), 0.0
    )
    colors = np.round((surface.normals + 1) * 127.5).astype(np.uint8)
    return replace(surface, colors=colors, facts={"level": "0.5", "units": "world units"})


CENTRE = np.array([0.2, 0.0, 0.3])


def _direction_colors(places: np.ndarray, _: np.ndarray | None = None) -> np.ndarray:
    """The colour of a place on the ball is its direction from the centre."""
    offset = places - CENTRE
    offset = offset / np.linalg.norm(offset, axis=1, keepdims=True)
    return np.round((offset + 1) * 127.5).astype(np.uint8)


@pytest.fixture(scope="module")
def painted(mesh: Mesh) -> Mesh:
    """The ball with a texture."""
    return textured(mesh, _direction_colors, 128)


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


LATTICE = Lattice(5, Bounds((-1.0, 0.0, 2.0), (1.0, 1.0, 2.4)))


def _slope(p):
    return 100 * p[..., 0] + 10 * p[..., 1] + p[..., 2]


def test_mrc_keeps_axes_units_and_origin(tmp_path: Path) -> None:
    values = density_grid(_slope, LATTICE).values
    path = tmp_path / "ball.mrc"
    low, high = save_volume(_slope, LATTICE, path, facts={"level": "0.5"})
    assert [p.name for p in tmp_path.iterdir()] == ["ball.mrc"]
    assert mrcfile.validate(path)
    with mrcfile.open(path) as file:
        assert int(file.header.mode) == 2
        assert file.data.dtype == np.float32
        np.testing.assert_allclose(file.data.transpose(2, 1, 0), values, rtol=1e-6)
        size, origin = file.voxel_size, file.header.origin
        np.testing.assert_allclose([size.x, size.y, size.z], [0.5, 0.25, 0.1], rtol=1e-6)
        np.testing.assert_allclose([origin.x, origin.y, origin.z], [-1, 0, 2], rtol=1e-6)
        np.testing.assert_allclose([low, high], [values.min(), values.max()], rtol=1e-6)
        np.testing.assert_allclose(float(file.header.dmean), values.mean(), rtol=1e-5)
        assert "level: 0.5" in "".join(str(line) for line in file.get_labels())


def test_an_interrupted_volume_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epigraf.geometry.mrc.SLAB_BYTES", 4 * 25)  # a layer
    path, seen = tmp_path / "ball.mrc", []

    def tired(p):
        seen.append(len(p[0]))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return _slope(p)

    with pytest.raises(KeyboardInterrupt):
        save_volume(tired, LATTICE, path, plan="a")
    assert not path.exists()
    save_volume(tired, LATTICE, path, plan="a")
    assert len(seen) == 4 + 2  # three layers were there
    whole = tmp_path / "whole.mrc"
    save_volume(_slope, LATTICE, whole, plan="a")
    with mrcfile.open(path) as one, mrcfile.open(whole) as other:
        np.testing.assert_array_equal(one.data, other.data)
        assert float(one.header.dmean) == float(other.header.dmean)


def test_wrong_endings_are_refused(mesh: Mesh, painted: Mesh, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write ball.abc; use one of .glb, .obj, .ply"):
        save_mesh(mesh, tmp_path / "ball.abc")
    with pytest.raises(DataError, match=r".ply holds no texture"):
        save_mesh(painted, tmp_path / "ball.ply")
    with pytest.raises(DataError, match=r"cannot write ball.ply; use .mrc"):
        save_volume(_slope, LATTICE, tmp_path / "ball.ply")


def test_stl_and_npz_come_back(mesh: Mesh, tmp_path: Path) -> None:
    path = save_mesh(mesh, tmp_path / "ball.stl")
    back = trimesh.load(path, force="mesh")
    assert path.read_bytes().startswith(b"epigraf level 0.5")
    np.testing.assert_allclose(back.bounds, [mesh.vertices.min(0), mesh.vertices.max(0)], atol=1e-6)
    assert back.volume == pytest.approx(4 / 3 * np.pi * 0.1**3, rel=0.03)
    with np.load(save_mesh(mesh, tmp_path / "ball.npz")) as file:
        np.testing.assert_array_equal(file["faces"], mesh.faces)
        np.testing.assert_array_equal(file["colors"], mesh.colors)
        assert json.loads(str(file["facts"]))["level"] == "0.5"


@pytest.mark.parametrize("ending", [".glb", ".obj"])
def test_textures_lie_where_readers_look(painted: Mesh, tmp_path: Path, ending: str) -> None:
    back = trimesh.load(save_mesh(painted, tmp_path / f"ball{ending}"), force="mesh", process=False)
    material = back.visual.material
    picture = material.baseColorTexture if ending == ".glb" else material.image
    middles = back.visual.uv[back.faces].mean(1)
    seen = trimesh.visual.color.uv_to_interpolated_color(middles, picture)[:, :3]
    expected = _direction_colors(back.triangles_center)
    difference = np.abs(seen.astype(int) - expected)
    assert np.percentile(difference, 99) <= 6
    assert difference.mean() < 1.5


def test_an_atlas_keeps_the_surface_whole(mesh: Mesh, painted: Mesh) -> None:
    assert quality(painted).watertight
    assert quality(painted).genus == quality(mesh).genus == 0
    assert painted.uv is not None
    assert painted.uv.min() >= 0
    assert painted.uv.max() <= 1


@pytest.mark.parametrize("ending", ["usda", "usdc", "usdz"])
def test_usd_comes_back(mesh: Mesh, tmp_path: Path, ending: str) -> None:
    from pxr import Usd, UsdGeom

    path = save_mesh(mesh, tmp_path / f"ball.{ending}")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert stage.GetRootLayer().customLayerData["epigraf"]["level"] == "0.5"
    shape = UsdGeom.Mesh(stage.GetPrimAtPath("/object/surface"))
    np.testing.assert_allclose(np.array(shape.GetPointsAttr().Get()), mesh.vertices, atol=1e-6)
    faces = np.array(shape.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    np.testing.assert_array_equal(faces, mesh.faces)
    colors = np.array(shape.GetDisplayColorPrimvar().Get())
    assert mesh.colors is not None
    np.testing.assert_allclose(colors, _linear(mesh.colors / 255), atol=1e-4)


@pytest.mark.parametrize("ending", ["usda", "usdz"])
def test_usd_textures_are_found(painted: Mesh, tmp_path: Path, ending: str) -> None:
    from pxr import Usd, UsdShade, UsdUtils

    path = save_mesh(painted, tmp_path / f"ball.{ending}")
    _, assets, missing = UsdUtils.ComputeAllDependencies(str(path))
    assert len(assets) == 1
    assert not missing
    stage = Usd.Stage.Open(str(path))
    surface = stage.GetPrimAtPath("/object/surface")
    assert UsdShade.MaterialBindingAPI(surface).ComputeBoundMaterial()[0]
    reader = UsdShade.Shader(stage.GetPrimAtPath("/object/material/texture"))
    assert reader.GetInput("sourceColorSpace").Get() == "sRGB"


def test_every_ending_says_where_it_comes_from(mesh: Mesh, tmp_path: Path) -> None:
    for ending in MESH_ENDINGS:
        path = save_mesh(mesh, tmp_path / f"ball{ending}")
        if ending not in (".npz", ".usdc", ".usdz"):  # compressed; read by their tests
            assert b"level" in path.read_bytes()


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


def test_a_full_disk_is_one_line_and_leaves_nothing(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pxr import Tf, Usd

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match=r"cannot write .*ball.mrc: No space left on device"):
        save_volume(_slope, LATTICE, tmp_path / "ball.mrc")

    def broken(*_: object) -> None:
        raise Tf.ErrorException("Error in 'a::Write' at line 7 : 'No space left' Error in 'b'")

    monkeypatch.setattr(Usd.Stage, "CreateNew", broken)
    with pytest.raises(EpigrafError, match=r"cannot write .*ball.usdz: No space left$"):
        save_mesh(mesh, tmp_path / "ball.usdz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["pxr", "fast_simplification"])
def test_a_missing_package_is_one_line_that_says_how_to_get_it(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    use = {
        "pxr": lambda: save_mesh(mesh, tmp_path / "ball.usdz"),
        "fast_simplification": lambda: decimate(mesh, 20),
    }[package]
    with pytest.raises(EpigrafError, match=r"needs the package .*: pip install 'epigraf\[mesh\]'"):
        use()
    assert list(tmp_path.iterdir()) == []
