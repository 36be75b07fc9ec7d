"""Empty space of scenes that are rendered once: densities on a lattice, and pictures without it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import epigraf
from epigraf.config import ClampMode, Config
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, View
from epigraf.models.lattice import ALPHA_THRE, CELLS, coarse_grid, lattice_densities
from epigraf.models.sampling import Truncation, styles_from_seeds
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.occupancy import Cube, chart
from epigraf.rendering.patches import PatchParams


def _small(**planes: object) -> Generator:
    torch.manual_seed(0)
    section = {
        "z_dim": 8, "w_dim": 8, "cmax": 8, "density_prior_radius": 0.2,
        "tri_plane": {"res": 16, "feat_dim": 4, "mlp": {"hid_dim": 8, "n_layers": 3}, **planes},
    }  # fmt: skip
    cfg = {"dataset": {"resolution": 16}, "model": {"generator": section}}
    cfg["training"] = {"patch": {"resolution": 8}}
    return Generator(Config.from_dict(cfg)).requires_grad_(False)


def test_densities_on_a_lattice_are_those_of_its_points() -> None:
    generator = _small()
    field = generator.field(torch.randn(2, 12, 16, 16))
    ticks = torch.tensor([-0.2, -0.13, 0.0, 0.05, 0.2])
    points = torch.cartesian_prod(ticks, ticks, ticks).expand(2, -1, -1)
    tensors = field.tensors()
    assert tensors is not None
    assert len(tensors.weights) > 2
    found = lattice_densities(field, tensors, ticks)
    torch.testing.assert_close(found.flatten(1), field.density_raw(points), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("encoded", [False, True])
def test_the_grid_is_that_of_all_points_asked_one_by_one(encoded: bool) -> None:
    generator = _small(**({"posenc_period_len": 10.0} if encoded else {}))
    field = generator.field(torch.randn(1, 12, 16, 16))
    field.prior = None
    assert (field.tensors() is None) == encoded
    options = replace(
        generator.render_options(View()),
        density_shift=-0.4, density_gain=40.0, clamp_mode=ClampMode.RELU,
    )  # fmt: skip

    def densities(points: torch.Tensor) -> torch.Tensor:
        return (field.density_raw(points) - 0.4).relu() * 40

    asked = chart(densities, Cube(CELLS, 0.2), ALPHA_THRE, field.planes)
    grid = coarse_grid(field, 0.2, options)
    assert 0.02 < grid.share.item() < 0.98
    assert (grid.binaries != asked.binaries).float().mean() < 1e-3  # roundings at the threshold


def test_patches_without_empty_space_are_those_with_it() -> None:
    generator = epigraf.load("plants64").generator
    ws = styles_from_seeds(generator, [0, 1], Truncation(1.0))
    planes = generator.planes(ws, NoiseMode.CONST)
    angles = torch.tensor([[0.3, 1.4, 0.0], [2.0, 1.2, 0.0]])
    patch = PatchParams(torch.tensor([[1.0, 1.0], [0.5, 0.5]]), torch.tensor([[0.0, 0.0]] * 2))

    def see(skip_empty: bool) -> torch.Tensor:
        view = View(patch=patch, resolution=32, skip_empty=skip_empty)
        return generator.synthesis(ws, angles, view, draws=RandomDraws(3), planes=planes).image

    with torch.no_grad():
        dense, sparse = see(False), see(True)
    field = generator.field(planes)
    half_edge = generator.cfg.dataset.object_radius
    assert half_edge is not None
    assert coarse_grid(field, half_edge, generator.render_options(View())).share.max() < 0.5
    assert not torch.equal(dense, sparse)
    torch.testing.assert_close(sparse, dense, rtol=0, atol=0.02)  # of 2, black to white
    assert (sparse - dense).square().mean().sqrt() < 1e-3
    with torch.enable_grad():
        torch.testing.assert_close(see(True), dense, rtol=0, atol=1e-5)  # nothing is skipped
