"""Scenes of the shipped model through their occupancy grids."""

from __future__ import annotations

import math

import pytest
import torch

import epigraf
from epigraf.config import RenderSampler
from epigraf.models.backbone import NoiseMode
from epigraf.models.occupancy import (
    grid_resolution,
    occupancy_of,
    sampler_for,
    sampler_line,
    sampler_text,
    scene_field,
)
from epigraf.models.pictures import Output
from epigraf.models.sampling import Truncation, styles_from_seeds
from epigraf.models.views import render_views
from epigraf.ops.occupancy import OccupancyGrid, grid_from_binaries
from epigraf.rendering.frame import Frame
from epigraf.rendering.options import activate_density
from epigraf.rendering.trajectories import circle


@pytest.fixture(scope="module")
def model():
    return epigraf.load("plants64", overrides=["render.grid_resolution=64"])


@pytest.fixture(scope="module")
def styles(model):
    return styles_from_seeds(model.generator, [0], Truncation(0.7))


def test_pictures_through_the_grid_are_those_of_all_samples(model, styles):
    cameras = circle(model.config.dataset.camera.fov, 5)
    films = [
        torch.stack(
            [
                view[Output.COLOR]
                for view in render_views(
                    model.generator, styles, cameras, Frame(64), sampler=sampler
                )
            ]
        )
        for sampler in (RenderSampler.DENSE, RenderSampler.OCCUPANCY)
    ]
    assert not torch.equal(*films)  # something was skipped
    error = ((films[0] - films[1]) / 2).square().mean().item()
    assert -10 * math.log10(error) > 50


def test_no_density_above_the_threshold_lies_in_an_empty_cell(model, styles):
    generator = model.generator
    field = generator.field(generator.planes(styles, NoiseMode.CONST))
    grid = occupancy_of(generator, field)
    assert 0.02 < grid.share.item() < 0.5
    points = 0.52 * torch.rand(1, 200_000, 3, generator=torch.Generator().manual_seed(0)) - 0.26
    from epigraf.models.generator import View
    from epigraf.ops.occupancy import may_absorb

    with torch.no_grad():
        sigma = activate_density(field.density_raw(points), generator.render_options(View()))
    diagonal = math.sqrt(3) * 0.52 / 64
    alpha = 1 - torch.exp(-sigma * diagonal)
    seen = points.norm(dim=-1) <= generator.cfg.dataset.object_radius
    assert 0.4 < seen.float().mean() < 0.6  # a ball in its cube
    assert alpha[~may_absorb(grid, points) & seen].max() < 0.02


def test_a_grid_is_not_made_where_it_cannot_pay(model):
    for sampler in (None, RenderSampler.DENSE):
        assert sampler_for(model.generator, sampler, 10**9) is RenderSampler.DENSE
    chosen = RenderSampler.OCCUPANCY
    assert sampler_for(model.generator, chosen, 64**2) is RenderSampler.DENSE
    assert sampler_for(model.generator, chosen, 256**2) is RenderSampler.OCCUPANCY


def test_the_resolution_follows_the_planes():
    config = epigraf.load("plants64").config
    assert grid_resolution(config) == 128
    small = config.with_overrides(["model.generator.tri_plane.res=32"])
    assert grid_resolution(small) == 64
    large = config.with_overrides(["model.generator.tri_plane.res=512"])
    assert grid_resolution(large) == 128


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ("null", "dense; occupancy .64.3 cells, alpha_thre 0.02. where it is asked for"),
        ("dense", "dense .render.sampler=dense."),
        ("occupancy", "occupancy .64.3 cells.*fewer than 1,07"),
    ],
)
def test_the_sampler_is_named(model, chosen: str, text: str):
    import re

    generator = epigraf.load("plants64", overrides=[
        "render.grid_resolution=64", f"render.sampler={chosen}"
    ]).generator  # fmt: skip
    assert re.search(text, sampler_text(generator)), sampler_text(generator)


def test_a_scene_says_what_samples_it(model, styles):
    generator = model.generator
    planes = generator.planes(styles, NoiseMode.CONST)
    dense = scene_field(generator, planes)
    assert sampler_line(dense, RenderSampler.DENSE) == "sampler   dense (render.sampler=dense)"
    assert "so few rays" in sampler_line(dense, RenderSampler.OCCUPANCY)
    cells = torch.zeros(1, 32, 32, 32, dtype=torch.bool)
    cells[:, :8] = True
    line = sampler_line(dense.prepared(grid_from_binaries(cells, 0.26)), RenderSampler.OCCUPANCY)
    assert line == "sampler   occupancy (32^3 cells, 25% full)"


def test_a_grid_of_other_scenes_is_refused(model, styles):
    generator = model.generator
    field = scene_field(generator, generator.planes(styles, NoiseMode.CONST))
    grid = OccupancyGrid(torch.zeros(2, 1024, dtype=torch.int32), 32, 0.26)
    message = "prepared: the grid is of 2 scenes on cpu, the planes of 1 on cpu"
    with pytest.raises(ValueError, match=message):
        field.prepared(grid)


def test_an_unknown_sampler_names_those_there_are():
    with pytest.raises(epigraf.EpigrafError, match=r"render\.sampler.*dense.*occupancy"):
        epigraf.load("plants64", overrides=["render.sampler=octree"])
