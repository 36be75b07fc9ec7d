"""Rendering through occupancy grids beside rendering everything."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from epigraf.config import LastInterval, RenderBackend
from epigraf.ops import FieldTensors
from epigraf.ops.occupancy import OccupancyGrid, grid_from_binaries, may_absorb
from epigraf.ops.render import March, RayTensors, project_planes
from epigraf.ops.render import render as render_fused
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.occupancy import Cube, ask_where_kept, chart, grid_of
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays, make_rays, pixel_directions
from epigraf.rendering.renderer import FieldSample, Rendered, TensorField, render_rays

HALF_EDGE = 0.26
OPTIONS = RenderOptions(
    num_coarse=24, num_fine=0, near=0.75, far=1.25, deterministic=True, row_length=13,
    early_stop_eps=0.0, last_interval=LastInterval.FINITE,
)  # fmt: skip


class Known(TensorField):
    """A field with a grid."""

    def __init__(self, tensors: FieldTensors, grid: OccupancyGrid | None) -> None:
        super().__init__(tensors)
        self.grid = grid


class Emptied:
    """The same field, asked everywhere; what lies in cells that hold nothing becomes nothing."""

    def __init__(self, field: Known) -> None:
        self.field = field

    def __call__(self, points: torch.Tensor, directions: torch.Tensor) -> FieldSample:
        colors, raw = self.field(points, directions)
        assert self.field.grid is not None
        return FieldSample(colors, raw.masked_fill(~may_absorb(self.field.grid, points), -math.inf))


def tensors(batch: int = 2, dtype: torch.dtype = torch.float64) -> FieldTensors:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return FieldTensors(
        planes=random(batch, 3, 6, 20, 20),
        weights=[random(10, 6), random(4, 10)],
        biases=[random(10), random(4)],
        slope=0.2,
        cube_scale=HALF_EDGE,
    )


def cells(share: float, batch: int = 2) -> OccupancyGrid:
    generator = torch.Generator().manual_seed(2)
    return grid_from_binaries(torch.rand(batch, 32, 32, 32, generator=generator) < share, HALF_EDGE)


def camera_rays(batch: int = 2, side: int = 13, dtype: torch.dtype = torch.float64) -> Rays:
    pose = torch.eye(4, dtype=dtype).repeat(batch, 1, 1)
    pose[:, 2, 3] = 1.0
    directions = pixel_directions(side, side, 32.0).to(dtype)
    return make_rays(pose, torch.nn.functional.normalize(directions, dim=-1))


def close(a: Rendered, b: Rendered, tolerance: float = 3e-8) -> None:
    """To the 1e-10 that an empty sample adds to the transmittance, and rounding."""
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


@torch.no_grad()
def render(field, rays: Rays, options: RenderOptions, seed: int = 0) -> Rendered:
    return render_rays(field, rays, options, draws=RandomDraws(seed))


CASES = {
    "one pass": OPTIONS,
    "jittered": replace(OPTIONS, deterministic=False),
    "two passes": replace(OPTIONS, num_fine=11),
    "infinite": replace(OPTIONS, last_interval=LastInterval.INFINITE),
    "two passes, infinite": replace(OPTIONS, num_fine=8, last_interval=LastInterval.INFINITE),
    "closed": replace(OPTIONS, has_background=True, last_interval=LastInterval.AUTO),
    "last_back": replace(OPTIONS, last_back=True, num_fine=7),
    "noise": replace(OPTIONS, density_noise_std=0.5),
    "ball": replace(OPTIONS, object_radius=0.2, density_gain=20.0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("backend", [RenderBackend.FUSED, RenderBackend.OPS])
def test_what_is_skipped_is_nothing_and_the_rest_is_as_it_was(
    backend: RenderBackend, share: float, name: str
):
    options = replace(CASES[name], backend=backend)
    field = Known(tensors(), cells(share))
    expected = render(Emptied(field), camera_rays(), replace(options, backend=RenderBackend.OPS))
    if options.last_interval is not LastInterval.FINITE or options.last_back:
        # the last sample stands for all behind it, and counts in empty cells too
        expected = _with_last_sample(field, options)
    close(render(field, camera_rays(), options), expected)


def _with_last_sample(field: Known, options: RenderOptions) -> Rendered:
    """Emptied, but for points at the far end of rays."""
    rays = camera_rays()

    class Kept(Emptied):
        def __call__(self, points: torch.Tensor, directions: torch.Tensor) -> FieldSample:
            colors, raw = self.field(points, directions)
            distance = (points - rays.origins[:, :1]).norm(dim=-1)
            kept = may_absorb(cells_of(self.field), points) | (distance > options.far - 1e-9)
            return FieldSample(colors, raw.masked_fill(~kept, -math.inf))

    return render(Kept(field), rays, replace(options, backend=RenderBackend.OPS))


def cells_of(field: Known) -> OccupancyGrid:
    assert field.grid is not None
    return field.grid


def test_a_full_grid_changes_nothing_and_an_empty_one_leaves_nothing():
    full, none = (Known(tensors(), cells(share)) for share in (1.0, 0.0))
    dense = render(TensorField(tensors()), camera_rays(), OPTIONS)
    close(render(full, camera_rays(), OPTIONS), dense, 1e-12)
    # a ray leaves the cube at its ends only, where this camera's rays are within it
    inside = Rays(*(x[:, 84:85] for x in camera_rays()))
    empty = render(none, inside, replace(OPTIONS, near=0.8, far=1.2))
    assert empty.features.abs().max() == 0
    assert empty.opacity.abs().max() == 0
    assert (empty.transmittance == 1).all()


def test_samples_outside_the_cube_of_the_grid_are_asked_for():
    small = replace(OPTIONS, near=0.5, far=0.7)  # in front of the cube
    none, dense = Known(tensors(), cells(0.0)), TensorField(tensors())
    close(render(none, camera_rays(), small), render(dense, camera_rays(), small), 1e-12)


@pytest.mark.parametrize("count", [0, 1, 31, 33])
@pytest.mark.parametrize("fine", [0, 5])
def test_any_number_of_rays(count: int, fine: int):
    rays = Rays(*(x[:, :count] for x in camera_rays()))
    options = replace(OPTIONS, num_fine=fine, row_length=0)
    field = Known(tensors(), cells(0.3))
    expected = render(Emptied(field), rays, replace(options, backend=RenderBackend.OPS))
    close(render(field, rays, options), expected)


def test_projected_planes_are_as_planes():
    plain = tensors()
    rays = camera_rays()
    ready = project_planes(plain)
    assert ready.projected is not None
    close(render(TensorField(ready), rays, OPTIONS), render(TensorField(plain), rays, OPTIONS))
    both = render(Known(ready, cells(0.2)), rays, OPTIONS)
    close(both, render(Known(plain, cells(0.2)), rays, OPTIONS))


def test_a_saturated_ray_ends_within_the_bound():
    thick = replace(OPTIONS, density_gain=40.0, early_stop_eps=1e-2)
    field = Known(tensors(), cells(0.7))
    whole = render(field, camera_rays(), replace(thick, early_stop_eps=0.0))
    ended = render(field, camera_rays(), thick)
    difference = (whole.features - ended.features).abs().max()
    largest = field(torch.rand(2, 4000, 3, dtype=torch.float64) - 0.5, torch.zeros(2, 1, 3))[0]
    assert 0 < difference <= 1e-2 * largest.abs().max()


@pytest.mark.parametrize("place", [0, 3, 11, 23])
@pytest.mark.parametrize("fine", [0, 5])
def test_a_depth_that_is_no_number_is_seen(fine: int, place: int):
    """Among depths that lie in cells that are all empty."""
    rays, field = camera_rays(), tensors()
    shape, samples = rays.directions.shape[:2], 24
    jitter = torch.full((*shape, samples), 0.5, dtype=torch.float64)
    jitter[1, 40, place] = math.nan
    like = torch.ones(shape, dtype=torch.float64)
    given = RayTensors(
        rays.origins, rays.directions, 0.8 * like, 1.2 * like, 0 * like,
        torch.linspace(0, 1, samples, dtype=torch.float64), jitter=jitter,
        u=torch.rand(*shape, fine, dtype=torch.float64) if fine else None,
    )  # fmt: skip
    with torch.no_grad():
        seen = render_fused(field, given, March(finite_interval=True), cells(0.0))
    bad = seen.opacity.isnan()
    assert bad[1, 40]
    assert bad.sum() == 1


def test_nan_in_an_occupied_cell_reaches_its_rays_only():
    broken = tensors()
    broken.planes[0, 0, :, 10, 10] = math.nan
    seen = render(Known(broken, cells(1.0)), camera_rays(), OPTIONS)
    dense = render(TensorField(broken), camera_rays(), OPTIONS)
    assert torch.equal(seen.opacity.isnan(), dense.opacity.isnan())
    assert 0 < seen.opacity.isnan().float().mean() < 0.5


def test_gradients_see_everything():
    leaf = tensors()
    leaf.planes.requires_grad_()
    field = Known(leaf, cells(0.0))
    assert grid_of(field) is None
    seen = render_rays(field, camera_rays(), OPTIONS, draws=RandomDraws(0))
    close(seen, render(TensorField(leaf), camera_rays(), OPTIONS))


def test_two_runs_and_any_number_of_threads_agree():
    field, options = Known(tensors(), cells(0.2)), replace(OPTIONS, num_fine=6)
    threads = torch.get_num_threads()
    first = render(field, camera_rays(), options)
    torch.set_num_threads(3)
    again = render(field, camera_rays(), options)
    torch.set_num_threads(threads)
    close(first, again, 0.0)


def test_a_field_is_asked_at_the_kept_samples_alone():
    asked = []

    def field(points, directions):
        asked.append(points.shape[1])
        return points * 2 + directions, points.sum(-1)

    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 5, 4, 3, generator=generator)
    directions = torch.rand(2, 5, 3, generator=generator)
    kept = torch.rand(2, 5, 4, generator=generator) < 0.4
    colors, raw = ask_where_kept(field, points, directions, kept)
    assert asked == [int(kept.flatten(1).sum(1).max())]
    for b, r, s in torch.cartesian_prod(*map(torch.arange, (2, 5, 4))).tolist():
        if kept[b, r, s]:
            assert torch.equal(colors[b, r, s], points[b, r, s] * 2 + directions[b, r])
            assert torch.equal(raw[b, r, s], points[b, r, s].sum())
        else:
            assert colors[b, r, s].abs().max() == 0
            assert raw[b, r, s] == -math.inf


@pytest.mark.parametrize("halved", [False, True])
def test_the_chart_of_two_balls_holds_them_and_little_else(halved: bool):
    middles = torch.tensor([[0.3, -0.2, 0.1], [-0.4, 0.0, 0.5]])

    def densities(points):
        return 100.0 * ((points - middles[:, None]).norm(dim=-1) < 0.2).float()

    grid = chart(densities, Cube(64, 1.0), 0.01, torch.zeros(2, 1), halved)
    centres = (torch.arange(64) + 0.5) / 32 - 1
    points = torch.cartesian_prod(centres, centres, centres)
    for b in range(2):
        distance = (points - middles[b]).norm(dim=-1).view(64, 64, 64)
        assert grid.binaries[b][distance < 0.2 + 0.5 / 32].all()
        assert not grid.binaries[b][distance > 0.2 + 2.7 * math.sqrt(3) / 32].any()


def test_a_coarse_look_first_finds_the_same_cells_of_a_smooth_scene():
    def densities(points):
        x, y, z = (9 * points).unbind(-1)
        return 8 * (x.sin() * y.cos() + z.sin()).clamp_min(0)

    like = torch.zeros(1, 1)
    once = chart(densities, Cube(64, 1.0), 0.05, like)
    twice = chart(densities, Cube(64, 1.0), 0.05, like, halved=True)
    assert torch.equal(once.words, twice.words)


@pytest.mark.parametrize("halved", [False, True])
def test_what_rays_do_not_see_is_not_asked_for(halved: bool):
    asked = []

    def densities(points):
        asked.append(points.norm(dim=-1).max())
        x, y, z = (9 * points).unbind(-1)
        return 8 * (x.sin() * y.cos() + z.sin()).clamp_min(0)

    like = torch.zeros(1, 1)
    whole = chart(densities, Cube(64, 1.0), 0.05, like, halved)
    asked.clear()
    part = chart(densities, Cube(64, 1.0, ball_radius=0.6), 0.05, like, halved)
    diagonal = 2 * math.sqrt(3) / 32  # of a cell of the coarse look
    assert 0.6 < max(asked) <= 0.6 + diagonal
    centres = (torch.arange(64) + 0.5) / 32 - 1
    distance = torch.cartesian_prod(centres, centres, centres).norm(dim=-1).view(64, 64, 64)
    inside = distance <= 0.6 - 2 * diagonal  # no neighbour of these reaches out
    assert torch.equal(part.binaries[0][inside], whole.binaries[0][inside])
    assert not part.binaries[0][distance > 0.6 + 2 * diagonal].any()
    assert whole.binaries[0][distance > 0.6 + 2 * diagonal].any()
