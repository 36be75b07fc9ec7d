"""Views of objects: one after the other, many at once, and when memory runs out."""

from __future__ import annotations

import pytest
import torch

import epigraf
from epigraf.config import RenderSampler
from epigraf.models import pictures
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import View
from epigraf.models.pictures import Output, Picture
from epigraf.models.sampling import Truncation, styles_from_seeds
from epigraf.models.views import render_views
from epigraf.rendering.budget import RayBudget
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.frame import Box, Frame
from epigraf.rendering.trajectories import CameraPath, circle, front_circle
from tests.models.test_pictures import failing, small


def test_views_of_one_object_and_a_style_for_each() -> None:
    generator = small()
    ws = styles_from_seeds(generator, [0, 1])
    cameras = front_circle(12.0, 3)
    views = list(render_views(generator, ws[:1], cameras, Frame(6)))
    for i, view in enumerate(views):
        expected = generator.synthesis(
            ws[:1],
            cameras.angles[i : i + 1].float(),
            View(fov=float(cameras.fov[i]), resolution=6, deterministic=True),
            noise_mode=NoiseMode.CONST,
            draws=RandomDraws(99),
        )
        torch.testing.assert_close(view[Output.COLOR], expected.image[0], atol=1e-5, rtol=0)
    both = [view[Output.COLOR] for view in render_views(generator, ws, circle(12.0, 2))]
    for i in range(2):
        alone = list(render_views(generator, ws[i : i + 1], circle(12.0, 2)))[i]
        assert torch.equal(both[i], alone[Output.COLOR])
    with pytest.raises(ValueError, match="1 or 3 styles, got 2"):
        list(render_views(generator, ws, circle(12.0, 3)))


BACKGROUNDS = [{}, {"model.generator.bg_model.type": "plane"}]
PATHS = {
    "turntable": circle(30.0, 7),
    "zoom": CameraPath(circle(30.0, 7).angles, torch.linspace(20, 40, 7).double()),
    "dolly": CameraPath(
        circle(30.0, 7).angles,
        torch.full((7,), 30.0).double(),
        torch.tensor([1.0, 1, 1, 1.2, 1.2, 1.4, 1]).double(),
    ),
}


def one_by_one(many: list[Picture], alone: list[Picture], tolerance: float = 0.0) -> None:
    assert len(many) == len(alone)
    for a, b in zip(many, alone, strict=True):
        assert a.keys() == b.keys()
        for output in a:
            torch.testing.assert_close(a[output], b[output], rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("changes", BACKGROUNDS)
def test_many_at_once_are_those_one_by_one(changes: dict[str, str], path: str) -> None:
    """Every output; a budget of 64 rays has room for one picture of 7 x 8, of 1000 for many."""
    generator = small(**changes)
    ws = styles_from_seeds(generator, [3])
    wanted = [o for o in Output if changes or o is not Output.BACKGROUND]
    frame = Frame(8, Box(1, 0, 7, 8))
    films = [
        list(render_views(generator, ws, PATHS[path], frame, wanted, budget=RayBudget(rays)))
        for rays in (1000, 64)
    ]
    one_by_one(*films, tolerance=2e-6)


@pytest.mark.parametrize("sampler", [RenderSampler.DENSE, RenderSampler.OCCUPANCY])
def test_frames_of_the_shipped_model_are_equal_to_the_last_bit(sampler: RenderSampler) -> None:
    model = epigraf.load("plants64", overrides=["render.grid_resolution=64"])
    ws, path = styles_from_seeds(model.generator, [0], Truncation(0.7)), circle(30.0, 6)
    films = [
        list(
            render_views(
                model.generator, ws, path, Frame(60), sampler=sampler, budget=RayBudget(rays)
            )
        )
        for rays in (4 * 60**2, 60**2)
    ]
    one_by_one(*films)


def test_no_pass_has_more_rays_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], pictures.render_rays

    def render_rays(field, rays, options, **more):
        seen.append(rays.directions.shape[1])
        return real(field, rays, options, **more)

    monkeypatch.setattr(pictures, "render_rays", render_rays)
    generator = small()
    ws, shares = styles_from_seeds(generator, [3]), []
    list(
        render_views(
            generator, ws, circle(30.0, 5), Frame(8), budget=RayBudget(130), on_tile=shares.append
        )
    )
    assert seen == [128, 128, 64]
    assert sum(shares) == pytest.approx(5)


def test_out_of_memory_takes_fewer_views_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = small()
    ws, path = styles_from_seeds(generator, [3]), circle(30.0, 5)
    expected = list(render_views(generator, ws, path, Frame(8)))
    monkeypatch.setattr(pictures, "render_rays", failing(100, MemoryError()))
    said: list[str] = []
    budget = RayBudget(260, say=said.append)
    got = list(render_views(generator, ws, path, Frame(8), budget=budget))
    one_by_one(got, expected, tolerance=5e-6)
    assert said == [f"out of memory: going on with tiles of {rays} rays" for rays in (130, 65)]


def test_a_turntable_through_the_grid_is_close_in_every_frame() -> None:
    """As films are made by default: every frame of three objects within 45 dB."""
    model = epigraf.load("plants64")
    path = circle(model.config.dataset.camera.fov, 6)
    for seed in (0, 3, 12):
        ws = styles_from_seeds(model.generator, [seed], Truncation(0.7))
        dense, sparse = (
            render_views(model.generator, ws, path, Frame(128), sampler=sampler)
            for sampler in (RenderSampler.DENSE, RenderSampler.OCCUPANCY)
        )
        for a, b in zip(dense, sparse, strict=True):
            error = ((a[Output.COLOR] - b[Output.COLOR]) / 2).square().mean()
            assert -10 * float(error.log10()) > 45
