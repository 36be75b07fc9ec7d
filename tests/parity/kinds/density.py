"""Parity of raw densities at given points and of marching cubes.

The case holds no weights of its own: its note names the generator case with the same ones.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from epigraf.geometry.blocks import Block, march
from epigraf.geometry.density import DensityField, density_at
from epigraf.interop.official import generator_state_from_official
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator
from tests.parity.case import Case, load_case
from tests.parity.kinds.trajectories import check_sheared_lattice
from tests.parity.report import Report


def check(case: Case, report: Report) -> None:
    """Raw densities through the generator, then the surface at the case's iso level."""
    field = _field(case)
    points = case.tensors["coords"].expand(len(case.tensors["sigma"]), -1, -1)
    ours = density_at(field, points, max_points=4096)
    report.compare("sigma", ours[..., None], case.tensors["sigma"], rtol=2e-5)
    _check_surface(case, report)
    size = case.info["cube_size"]
    check_sheared_lattice("coords", size, [0.0, 0.0, 0.0], case.tensors["coords"], report)


def _field(case: Case) -> DensityField:
    """Points [B, P, 3] -> raw densities [B, P], of the case's latents."""
    source = _with_weights(case)
    generator = Generator(source.config()).eval()
    generator.load_state_dict(generator_state_from_official(source.prefix("G/")))
    given = source.tensors
    with torch.no_grad():
        ws = generator.mapping(
            given["in/z"],
            given.get("in/c"),
            given.get("in/camera_angles_cond"),
            truncation_psi=source.info.get("truncation_psi", 1),
            truncation_cutoff=source.info.get("truncation_cutoff"),
        )
        return generator.field(generator.planes(ws, NoiseMode.CONST)).density_raw


def _with_weights(case: Case) -> Case:
    if case.prefix("G/"):
        return case
    named = re.search(r"identical to (\w+)", case.info.get("note", ""))
    path = case.folder / f"{named[1]}.json" if named else None
    if path is None or not path.exists():
        raise FileNotFoundError(f"density: the case with its weights is missing: {path}")
    source = load_case(path)
    return replace(source, tensors={**source.tensors, **_own_inputs(case)})


def _own_inputs(case: Case) -> dict[str, Tensor]:
    return {name: value for name, value in case.tensors.items() if name.startswith("in/")}


def _check_surface(case: Case, report: Report) -> None:
    """On the recorded densities of the first object: the level is one of them or lies between two
    that agree to a few digits, so that rounding could change the triangles of recomputed ones.
    """
    side = case.info["volume_res"]
    values = case.tensors["sigma"][0].reshape(side, side, side).numpy()
    whole = Block((0, 0, 0), (side - 1,) * 3)
    piece = march(lambda *axes: values[np.ix_(*axes)], whole, side, case.info["iso"])
    places = np.stack(np.unravel_index(piece.edges // 3, (side + 2,) * 3), axis=1) - 1.0
    places[np.arange(len(places)), piece.edges % 3] += piece.fractions
    report.compare("mc_vertices", torch.from_numpy(places), case.tensors["mc_vertices"])
    faces = torch.from_numpy(piece.faces.astype(np.int64))
    report.compare("mc_triangles", faces, case.tensors["mc_triangles"], rtol=0.0)
