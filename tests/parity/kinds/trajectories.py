"""Parity of camera paths, of latents and labels from seeds, and of voxel lattices."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from epigraf.geometry.density import Bounds, Lattice
from epigraf.rendering import trajectories
from epigraf.rendering.seeds import labels_from_seeds, latents_from_seeds
from epigraf.rendering.trajectories import CameraPath
from tests.parity.case import Case
from tests.parity.report import Report


def check(case: Case, report: Report) -> None:
    """Recompute every tensor of the case; its name says which function made it."""
    for name, expected in case.tensors.items():
        if name.startswith("voxel/"):
            _check_lattice(name, case.info["cases"][name], expected, report)
        elif match := re.fullmatch(r"z_from_seeds_([\d_]+)", name):
            ours = latents_from_seeds(_numbers(match[1]), expected.shape[1])
            report.compare(name, ours, expected, rtol=0.0, atol=0.0)
        elif match := re.fullmatch(r"c_from_seeds_([\d_]+)_c(\d+)", name):
            ours = labels_from_seeds(_numbers(match[1]), int(match[2]))
            report.compare(name, ours, expected, rtol=0.0, atol=0.0)
        else:
            _check_path(name, case.info["cases"], expected, report)


def _check_path(name: str, cases: dict, expected: Tensor, report: Report) -> None:
    """`NAME/fov<degrees>/angles|fovs`."""
    path_name, fov, part = name.split("/")
    path = _path(cases[path_name], float(fov.removeprefix("fov")))
    ours = path.angles if part == "angles" else path.fov
    report.compare(name, ours, expected, rtol=1e-12, atol=1e-12)


def _path(settings: dict, fov: float) -> CameraPath:
    options = dict(settings)
    kind = options.pop("name")
    if kind == "points":
        return trajectories.points(fov, options["yaws"], pitch=options["pitch"])
    if kind == "front_circle":
        return trajectories.front_circle(fov, **options)
    if kind == "wiggle":
        return trajectories.wiggle(fov, **options)
    own_fov = options.pop("fov")
    return trajectories.line(fov if own_fov is None else own_fov, **options)


def _check_lattice(name: str, settings: dict, expected: Tensor, report: Report) -> None:
    size, origin = settings["cube_size"], settings["voxel_origin"]
    check_sheared_lattice(name, size, origin, expected, report)


def check_sheared_lattice(
    name: str, size: float, origin: list[float], expected: Tensor, report: Report
) -> None:
    """The official lattice [R^3, 3] is ours plus a shear of less than one voxel in x and in y.

    With real instead of integer division, sample i has x index (i / R^2) mod R and y index
    (i / R) mod R.
    """
    resolution = round(expected.shape[0] ** (1 / 3))
    z, y, x = origin  # official: the third component is added to x
    lattice = Lattice(resolution, Bounds.cube(size, (x, y, z)))
    exact = lattice.points(0, len(lattice))
    index = torch.arange(len(lattice), dtype=torch.float64)
    shear = torch.zeros(len(lattice), 3, dtype=torch.float64)
    shear[:, 0] = (index / resolution**2).frac()
    shear[:, 1] = (index / resolution).frac()
    voxel = size / (resolution - 1)
    report.compare(f"{name} minus its shear", expected - shear * voxel, exact, rtol=1e-5)
    worst = float(((expected.double() - exact).abs() / voxel).max())
    report.equal(f"{name} within one voxel of ours", worst < 1.0, True)
    report.deliberate(name, f"exact integer lattice; the official one shears by {worst:.3f} voxels")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split("_")]
