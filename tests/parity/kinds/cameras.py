"""Camera cases: angle priors, origins, camera-to-world matrices, frustum checks, Euler angles."""

from __future__ import annotations

import re

import torch

from epigraf.config import CameraConfig
from epigraf.rendering.camera import (
    angles_from_matrix,
    cam2world,
    camera_origins,
    frustum_fits,
    minimal_cube_scale,
    sample_camera_angles,
)
from epigraf.rendering.draws import ReplayDraws
from tests.parity.case import Case
from tests.parity.report import Report

_BAND = 0.02  # the official frustum check samples at random: near the limit its verdict varies
_PLACEHOLDER = "frustum/dummy"


def check(case: Case, report: Report) -> None:
    for name, info in case.info.get("cases", {}).items():
        _check_distribution(case, report, name, info)
    for index, row in enumerate(case.info.get("frustum", [])):
        _check_frustum(report, f"frustum[{index}]", row["kw"], row["ok"])
    for index, row in enumerate(case.info.get("euler", [])):
        angles = angles_from_matrix(torch.tensor(row["T"], dtype=torch.float64))
        report.compare(f"euler[{index}]", angles, torch.tensor(row["yaw_pitch_roll"]))


def _check_distribution(case: Case, report: Report, name: str, info: dict) -> None:
    lo, hi = info["draw_range"]
    recorded = [(draw, case.tensors[draw]) for draw in case.info["draws"][lo:hi]]
    if info["cfg"]["dist"] == "hybrid":  # its coin is Python's own random number
        recorded.insert(0, ("coin", torch.tensor([info["python_random_first"]])))
    expected = case.tensors[f"{name}/angles"]
    draws = ReplayDraws(recorded)
    angles = sample_camera_angles(CameraConfig(**info["cfg"]), len(expected), draws=draws)
    draws.finish()
    report.compare(f"{name}/angles", angles, expected)
    for key, tensor in case.prefix(f"{name}/").items():
        if match := re.fullmatch(r"c2w_r([\d.]+)", key):
            report.compare(f"{name}/{key}", cam2world(expected, float(match[1])), tensor)
        elif match := re.fullmatch(r"origins_r([\d.]+)", key):
            report.compare(f"{name}/{key}", camera_origins(expected, float(match[1])), tensor)
        elif key != "angles" and f"{name}/{key}" != _PLACEHOLDER:
            report.failure(f"{name}/{key}", "not known to this runner")


def _check_frustum(report: Report, name: str, kw: dict, ok: bool) -> None:
    fov, near, far, radius, scale = (kw[k] for k in ("fov", "near", "far", "radius", "scale"))
    ours = frustum_fits(fov, near, far, radius, scale)
    limit = minimal_cube_scale(fov, near, far, radius)
    if ours != ok and abs(scale - limit) < _BAND * limit:
        report.deliberate(name, "the exact bound instead of a randomly sampled one")
    else:
        report.equal(name, ours, ok)
