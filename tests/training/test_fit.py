"""A field fitted to a ball that an equation drew: where its surface is, and what a file keeps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from epigraf.config import load_config
from epigraf.data.views import PosedViews, read_views
from epigraf.errors import CheckpointError, ConfigError
from epigraf.geometry.extract import MeshOptions, extract_mesh
from epigraf.geometry.mesh import Mesh
from epigraf.metrics.geometry import SurfaceDistance, surface_distance, surface_points
from epigraf.models.generator import View
from epigraf.models.loading import load, shipped_models
from epigraf.models.sampling import object_field, styles_from_seeds
from epigraf.rendering.camera import cam2world
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.rays import patch_rays
from epigraf.training.fit import Fit, FitOptions, fit_config, run_fit
from epigraf.training.pixels import pixel_center_fov

from .analytic import CENTRE, RADIUS, write_ball

SMALL = [
    "model.generator.tri_plane.res=32",
    "model.generator.tri_plane.feat_dim=8",
    "model.generator.tri_plane.mlp.hid_dim=16",
    "model.generator.num_ray_steps=24",
    "model.generator.test_ray_steps=64",
]


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> PosedViews:
    return read_views(write_ball(tmp_path_factory.mktemp("ball") / "ball", 16, 32))


def fitted(views: PosedViews, steps: int, options: FitOptions) -> Fit:
    fit = Fit(views, fit_config(load_config("fit", SMALL), views, options), options)
    run_fit(fit, steps, None)
    return fit


def mesh_of(path: Path, resolution: int) -> Mesh:
    model = load(path)
    ws = styles_from_seeds(model.generator, [0])
    return extract_mesh(object_field(model.generator, ws), model.config, MeshOptions(resolution))


def distance_to_ball(mesh: Mesh) -> SurfaceDistance:
    """Of a mesh to the true ball: both surfaces as points."""
    ways = np.random.default_rng(0).normal(size=(20_000, 3))
    truth = CENTRE + RADIUS * ways / np.linalg.norm(ways, axis=1, keepdims=True)
    return surface_distance(surface_points(mesh.vertices, mesh.faces, 20_000), truth, 0.01)


def test_the_mesh_of_a_fitted_ball_is_the_ball(views: PosedViews, tmp_path: Path) -> None:
    train, test = views.part(range(14)), views.part([14, 15])
    fit = fitted(train, 100, FitOptions(rays=512))
    assert min(fit.psnr(test)) > 25
    fit.save(tmp_path / "ball.safetensors")
    mesh = mesh_of(tmp_path / "ball.safetensors", 48)
    assert distance_to_ball(mesh).chamfer < 0.0167  # a pixel, and a texel of the planes
    np.testing.assert_allclose(mesh.vertices.mean(axis=0), CENTRE, atol=0.004)
    assert np.linalg.norm(mesh.vertices - CENTRE, axis=1).std() < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("opaque", [None, (255, 255, 255)])
def test_a_longer_fit_is_nearer(tmp_path: Path, opaque: tuple[int, int, int] | None) -> None:
    views = read_views(write_ball(tmp_path / "ball", 24, 64, opaque))
    fit = fitted(views, 800, FitOptions(rays=1024))
    fit.save(tmp_path / "ball.safetensors")
    found = distance_to_ball(mesh_of(tmp_path / "ball.safetensors", 96))
    assert found.chamfer < 0.0084  # half a pixel of the shorter one, a whole one of these


def test_a_resumed_fit_is_the_uninterrupted_one_to_the_last_bit(
    views: PosedViews, tmp_path: Path
) -> None:
    options = FitOptions(rays=64, background=(0.2, 0.4, 0.6), sparsity=0.01)
    cfg = fit_config(load_config("fit", SMALL), views, options)
    whole, first, second = (Fit(views, cfg, options) for _ in range(3))
    errors = [whole.step(0.1) for _ in range(4)]
    assert [first.step(0.1) for _ in range(2)] == errors[:2]
    first.save(tmp_path / "half.safetensors")
    second.resume(tmp_path / "half.safetensors")
    assert second.steps == 2
    assert [second.step(0.1) for _ in range(2)] == errors[2:]
    for name, tensor in whole.generator.state_dict().items():
        assert torch.equal(tensor, second.generator.state_dict()[name]), name


def test_every_seed_is_the_object_over_its_background(views: PosedViews, tmp_path: Path) -> None:
    options = FitOptions(rays=64, background=(0.2, 0.4, 0.6))
    fit = fitted(views, 2, options)
    fit.save(tmp_path / "m.safetensors")
    generator = load(tmp_path / "m.safetensors").generator
    ws = styles_from_seeds(generator, [0, 7])
    planes = generator.planes(ws)
    assert torch.equal(planes[0], planes[1])
    angles = torch.tensor([[0.3, 1.2, 0.0]]).repeat(2, 1)
    seen = generator.synthesis(ws, angles, View(deterministic=True), draws=RandomDraws(0))
    behind = torch.tensor([0.2, 0.4, 0.6]) * 2 - 1
    expected = seen.foreground + (1 - seen.opacity) * behind[:, None, None]
    torch.testing.assert_close(seen.image, expected, atol=1e-5, rtol=0)


def test_pixel_centres_by_hand() -> None:
    """4 pixels of a frame 60 degrees wide: centres at -3/4, -1/4, 1/4, 3/4 of tan 30 degrees."""
    eye = cam2world(torch.tensor([[0.0, math.pi / 2, 0.0]]), 1.0)
    ways = patch_rays(eye, 4, 4, pixel_center_fov(60.0, 4)).directions[0].view(4, 4, 3)
    slope = (ways[0, :, 2] / ways[0, :, 0]).tolist()  # the camera looks along -x, its right is -z
    expected = [x * math.tan(math.radians(30)) for x in (-0.75, -0.25, 0.25, 0.75)]
    assert slope == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_fitted_says_why(views: PosedViews, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tri_plane\.fixed=true"):
        fit_config(load_config("plants64"), views, FitOptions())
    options = FitOptions()
    fit = Fit(views, fit_config(load_config("fit", SMALL), views, options), options)
    with pytest.raises(CheckpointError, match="not written by a fit"):
        fit.resume(shipped_models()["plants64"])
