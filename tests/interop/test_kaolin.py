"""Kaolin through stand-ins that compute: the same rays, surfaces in the right place and size."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import trimesh
from typer.testing import CliRunner

from epigraf.cli.app import app
from epigraf.cli.timelapse import write_timelapse
from epigraf.config import Config
from epigraf.errors import EpigrafError
from epigraf.geometry.density import Bounds, Lattice
from epigraf.geometry.mesher import dense_surface, surface_cubes
from epigraf.geometry.surface import SurfaceOptions, extract_surface
from epigraf.interop import kaolin
from epigraf.metrics.geometry import surface_distance
from epigraf.models.generator import Generator
from epigraf.models.loading import write_snapshot
from epigraf.rendering.camera import cam2world
from epigraf.rendering.rays import patch_rays
from tests.cli.conftest import SMALL

from . import kaolin_stand_in as stand_in

CENTRE, RADIUS = torch.tensor([0.1, -0.05, 0.2]), 0.6
BOX = Bounds((-0.8, -0.9, -1.0), (1.0, 0.9, 0.9))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    return stand_in.install(monkeypatch)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "kaolin"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kaolin", None)


def ball(points: torch.Tensor) -> torch.Tensor:
    return 5 + 10 * (RADIUS - (points - CENTRE).norm(dim=-1))


def test_a_camera_by_hand(installed: dict[str, ModuleType]) -> None:
    """yaw 0 on the horizon: at (1, 0, 0), looking along -x, so right is -z and up is y."""
    camera = kaolin.to_kaolin(cam2world(torch.tensor([[0.0, math.pi / 2, 0.0]]), 1.0), 90.0, 5)
    expected = [[0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, -1], [0, 0, 0, 1]]
    torch.testing.assert_close(camera.view_matrix()[0], torch.tensor(expected).float())
    assert float(camera.focal_x) == pytest.approx(2.0)  # 5 pixel centres, 4 apart, over 2 tan 45
    assert (camera.width, camera.height) == (5, 5)


def test_cameras_cast_our_rays_and_come_back(installed: dict[str, ModuleType]) -> None:
    angles = torch.tensor([[0.4, 1.2, 0.0], [-2.0, 2.0, 0.0]], dtype=torch.float64)
    matrices = cam2world(angles, 1.3, (0.1, 0.2, -0.1))
    camera = kaolin.to_kaolin(matrices, 30.0, 7)
    rays = patch_rays(matrices, 7, 7, 30.0)
    for number in range(2):
        origins, ways = camera.generate_rays(number)
        torch.testing.assert_close(origins, rays.origins[number], atol=1e-6, rtol=0)
        torch.testing.assert_close(ways, rays.directions[number], atol=1e-6, rtol=0)
    back = kaolin.from_kaolin(camera)
    torch.testing.assert_close(back.matrices, matrices)
    assert back.fov == pytest.approx(30.0)
    assert back.side == 7


def test_cameras_that_are_none_of_ours(installed: dict[str, ModuleType]) -> None:
    camera = kaolin.to_kaolin(torch.eye(4)[None].repeat(2, 1, 1), 30.0, 7)
    camera.focal_x = torch.tensor([3.0, 4.0])
    with pytest.raises(ValueError, match="one focal length"):
        kaolin.from_kaolin(camera)
    camera.height = 5
    with pytest.raises(ValueError, match="square picture, got pinhole, 7x5"):
        kaolin.from_kaolin(camera)
    with pytest.raises(ValueError, match=r"\[B, 4, 4\] and side"):
        kaolin.to_kaolin(torch.eye(4), 30.0, 7)


def _facts(mesh) -> tuple[float, float, bool]:
    """Volume (positive: wound outwards), largest distance from the sphere, watertight."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    volume = float((a * np.cross(b, c)).sum() / 6)
    off = np.abs(np.linalg.norm(mesh.vertices - CENTRE.numpy(), axis=1) - RADIUS).max()
    edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there = {tuple(e) for e in edges.tolist()}
    return volume, float(off), all((b, a) in there for a, b in there) and len(there) == len(edges)


@pytest.mark.parametrize("name", ["tetrahedra", "flexicubes"])
def test_a_ball_comes_out_at_its_place_and_size(
    installed: dict[str, ModuleType], name: str
) -> None:
    mesher = kaolin.FlexiCubes() if name == "flexicubes" else kaolin.Tetrahedra(surface_cubes)
    lattice = Lattice(16, BOX)
    mesh = dense_surface(ball, lattice, 5.0, mesher)
    volume, off, tight = _facts(mesh)
    assert off < 0.1 * lattice.spacing.max() * (1 if name == "tetrahedra" else 3)
    assert volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.05)
    assert tight
    outside = (mesh.vertices - CENTRE.numpy()) / RADIUS
    np.testing.assert_allclose((mesh.normals * outside).sum(1), 1, atol=0.02)


def test_what_leaves_the_lattice_or_the_ball_is_capped_as_by_our_own(
    installed: dict[str, ModuleType],
) -> None:
    lattice, options = Lattice(12, Bounds.cube(1.0)), SurfaceOptions(clip_radius=0.45)
    mesher = kaolin.Tetrahedra(surface_cubes)
    mesh = dense_surface(lambda p: p[..., 1] + 10, lattice, 10.0, mesher, options)
    own = extract_surface(lambda p: p[..., 1] + 10, lattice, 10.0, options)
    assert _facts(mesh)[2]
    assert _facts(mesh)[0] == pytest.approx(_facts(own)[0], rel=0.08)
    assert np.linalg.norm(mesh.vertices, axis=1).max() < 0.45 + lattice.spacing.max()
    assert mesh.vertices[:, 1].min() > -lattice.spacing.max()


def test_an_older_release_has_flexicubes_elsewhere(
    installed: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(installed["kaolin.ops.conversions"], "FlexiCubes")
    older = ModuleType("kaolin.non_commercial")
    older.FlexiCubes = stand_in.FlexiCubes
    monkeypatch.setitem(sys.modules, "kaolin.non_commercial", older)
    assert len(dense_surface(ball, Lattice(8, BOX), 5.0, kaolin.FlexiCubes()).faces) > 50


def test_nothing_above_the_level_is_an_error() -> None:
    def never(excess, outward):
        raise AssertionError

    with pytest.raises(ValueError, match="level 99 leaves no surface"):
        dense_surface(ball, Lattice(8, BOX), 99.0, never)


def test_distances_are_those_of_the_k_d_tree(
    installed: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    draws = np.random.default_rng(0)
    ours, theirs = draws.normal(size=(50, 3)), draws.normal(size=(70, 3))
    found = surface_distance(ours, theirs, 0.5, kaolin.nearest_distances)
    wanted = surface_distance(ours, theirs, 0.5)
    assert found.chamfer == pytest.approx(wanted.chamfer, rel=1e-5)
    assert found.f_score == pytest.approx(wanted.f_score)


def test_without_kaolin_one_line_says_how_to_get_it(missing: None) -> None:
    attempts = [
        lambda: kaolin.to_kaolin(torch.eye(4)[None], 30.0, 8),
        lambda: kaolin.Tetrahedra(surface_cubes),
        kaolin.FlexiCubes,
        lambda: kaolin.nearest_distances(np.zeros((1, 3)), np.zeros((1, 3))),
        lambda: kaolin.Timelapse("nowhere"),
    ]
    for attempt in attempts:
        with pytest.raises(EpigrafError, match=r"needs NVIDIA Kaolin: .*install it with `pip") as e:
            attempt()
        assert "\n" not in str(e.value)


def test_the_commands_use_it(installed: dict[str, ModuleType], tmp_path: Path) -> None:
    """mesh by tetrahedra, and a timelapse of a run of one snapshot."""
    cfg = Config.from_dict(SMALL)
    run = tmp_path / "00000-small"
    run.mkdir()
    torch.manual_seed(0)
    generator = Generator(cfg)
    layer = generator.decoder.layers[-1]
    layer.bias.data[-1] = 8.0  # opaque: the object is its whole ball
    header = {"config": cfg.to_dict(), "counters": {"images_seen": 3000}}
    weights = {"G_ema": generator.state_dict()}
    write_snapshot(run / "network-snapshot-000003.safetensors", header, weights)
    arguments = ["mesh", run, "--seeds", "1", "--resolution", "10", "--level", "0"]
    result = CliRunner().invoke(
        app, [str(a) for a in [*arguments, "--mesher", "tetrahedra", "-o", tmp_path / "m.ply"]]
    )
    assert result.exit_code == 0, result.output
    assert "watertight" in result.output
    reach = np.linalg.norm(trimesh.load_mesh(tmp_path / "m.ply").vertices, axis=1)
    assert reach.mean() == pytest.approx(0.25, abs=0.04)  # its object_radius

    movie = write_timelapse(run, tmp_path / "movie", [0], 8)
    assert movie == 1
    kinds = {
        (kind, iteration, category, len(first), len(second))
        for kind, iteration, category, first, second in stand_in.Timelapse.written
    }
    assert kinds == {("mesh", 3, "surface", 1, 1), ("points", 3, "colour", 1, 1)}


def test_the_commands_say_what_is_missing(missing: None, tmp_path: Path) -> None:
    for arguments in (
        ["mesh", "plants64", "--mesher", "flexicubes"],
        ["mesh", "plants64", "--mesher", "tetrahedra"],
        ["history", str(tmp_path), "--timelapse", str(tmp_path / "t")],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert "needs NVIDIA Kaolin: kaolin is not installed; install it" in result.output
