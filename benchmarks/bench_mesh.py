"""`mesh`: the surface of the shipped model, block by block and from a dense grid with one call of
PyMCubes; both of the same densities, with normals and without colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import mcubes
import numpy as np
import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Row, Settings, Work
from epigraf.config import Config
from epigraf.geometry.density import Lattice, density_grid
from epigraf.geometry.extract import MeshOptions, OnCPU, object_lattice, object_level
from epigraf.geometry.surface import SurfaceOptions, extract_surface, outward_normals
from epigraf.models.loading import load
from epigraf.models.sampling import Truncation, object_field, styles_from_seeds

RESOLUTIONS, QUICK_RESOLUTIONS = (128, 256, 512), (16,)
ROUNDS = 3
MODEL, SEED, TRUNCATION = "plants64", 15, 0.7
BLOCKS, DENSE = "blocks", "dense grid, one call"

Parts = tuple[Tensor, Tensor, Tensor]
"""Vertices [V, 3], faces [F, 3] and normals [V, 3]."""


def cases(settings: Settings) -> Iterator[Case]:
    """Every resolution."""
    for resolution in QUICK_RESOLUTIONS if settings.quick else RESOLUTIONS:
        build = partial(_build, resolution, settings.device)
        yield Case("mesh", f"{resolution}^3", build, heavy=resolution > 256)


def _build(resolution: int, device: str) -> Sequence[Work]:
    model = load(MODEL, device)
    ws = styles_from_seeds(model.generator, [SEED], Truncation(TRUNCATION))
    with torch.no_grad():
        field = OnCPU(object_field(model.generator, ws), device)
    options = MeshOptions(resolution=resolution)
    level = object_level(field, model.config, options).level
    counts = Counts(samples=resolution**3)
    functions: dict[str, Callable[[OnCPU, Config, MeshOptions, float], Parts]] = {
        BLOCKS: by_blocks,
        DENSE: from_dense_grid,
    }
    return [
        Work(f"{resolution}^3", name, partial(run, field, model.config, options, level), counts)
        for name, run in functions.items()
    ]


def by_blocks(field: OnCPU, cfg: Config, options: MeshOptions, level: float) -> Parts:
    """As `epigraf mesh` does it."""
    how = SurfaceOptions(clip_radius=cfg.dataset.object_radius, max_points=options.max_points)
    mesh = extract_surface(field.density_raw, object_lattice(cfg, options), level, how)
    return _parts(mesh.vertices, mesh.faces, mesh.normals)


def from_dense_grid(field: OnCPU, cfg: Config, options: MeshOptions, level: float) -> Parts:
    """All densities at once; outside of the object's ball they are below the level, as there."""
    lattice = object_lattice(cfg, options)
    values = density_grid(field.density_raw, lattice, max_points=options.max_points).values
    radius = cfg.dataset.object_radius
    if radius is not None:
        _empty_outside(values, lattice, radius, level)
    vertices, faces = mcubes.marching_cubes(values, level)
    places = np.array(lattice.bounds.low) + vertices * lattice.spacing
    return _parts(places, faces, outward_normals(field.density_raw, places, lattice))


def _empty_outside(values: np.ndarray, lattice: Lattice, radius: float, level: float) -> None:
    axes = [low + np.arange(lattice.resolution) * step
            for low, step in zip(lattice.bounds.low, lattice.spacing, strict=True)]  # fmt: skip
    flat = axes[1][:, None] ** 2 + axes[2] ** 2
    for layer, x in zip(values, axes[0], strict=True):
        layer[flat > radius**2 - x**2] = level - 1


def _parts(*arrays: np.ndarray) -> Parts:
    vertices, faces, normals = map(torch.from_numpy, arrays)
    return vertices, faces, normals


def mesh_lines(rows: Sequence[Row]) -> Iterator[str]:
    """What blocks are worth, resolution by resolution."""
    named = {(row.case, row.implementation): row for row in rows if row.op == "mesh"}
    for (case, implementation), row in named.items():
        dense = named.get((case, DENSE))
        if implementation != BLOCKS or dense is None:
            continue
        ratio = dense.best / row.best
        text = f"{case}: {row.best:.3g} s, {ratio:.3g} times as fast as a dense grid and one call"
        if row.peak_mib and dense.peak_mib:
            text += f"; {row.peak_mib:.0f} MiB instead of {dense.peak_mib:.0f}"
        yield text
