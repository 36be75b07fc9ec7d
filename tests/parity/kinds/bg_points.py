"""Background cases: points of rays beyond the unit sphere (NeRF++ parametrisation)."""

from __future__ import annotations

import torch

from epigraf.models.background import inverse_sphere_points
from epigraf.rendering.camera import cam2world, clamp_pitch
from epigraf.rendering.rays import (
    Rays,
    RaySegment,
    make_rays,
    pixel_directions,
    ray_segment,
    stratified_t,
)
from tests.parity.case import Case
from tests.parity.report import Report


def check(case: Case, report: Report) -> None:
    rays = _check_rays(case, report)
    draws, steps = case.draws(), case.info["num_steps"]
    if "mid/points" in case.tensors:
        draws.uniform("jitter", case.tensors["mid/z"].shape, case.tensors["mid/z"])
    start = case.info.get("bg_start", case.info.get("start", 1.0))
    batch, count = rays.directions.shape[:2]
    zero = torch.zeros(batch, count)
    for noise in (0, 1):
        if f"out/bg_points_noise{noise}" not in case.tensors:
            continue
        jitter = draws.uniform("jitter", (batch, count, steps), zero) if noise else None
        segment = RaySegment(zero + start, zero, None)
        radii = stratified_t(segment, steps, jitter).expand(batch, count, steps)
        points = inverse_sphere_points(rays, radii).flatten(1, 2)
        for name, ours in (("points", points), ("z", radii)):
            key = f"out/bg_{name}_noise{noise}"
            report.compare(key, ours, case.tensors[key])
    draws.finish()


def _check_rays(case: Case, report: Report) -> Rays:
    """The case's rays, recomputed from its cameras."""
    expected = case.tensors["mid/ray_d"]
    side = round(expected.shape[1] ** 0.5)
    angles = clamp_pitch(torch.tensor(case.info["angles"], dtype=torch.float32))
    matrices = cam2world(angles, case.info["radius"])
    rays = make_rays(matrices, pixel_directions(side, side, case.info["fov"]))
    report.compare("mid/ray_d", rays.directions, expected)
    report.compare("mid/ray_o", rays.origins, case.tensors["mid/ray_o"])
    if "mid/z" in case.tensors:
        _check_points(case, report, rays)
    return rays


def _check_points(case: Case, report: Report, rays: Rays) -> None:
    """Foreground depths and points; near and far follow from the jittered depths themselves."""
    z = case.tensors["mid/z"][..., 0]
    points = rays.origins[:, :, None] + rays.directions[:, :, None] * z[..., None]
    report.compare("mid/points", points, case.tensors["mid/points"])
    near, far = _near_far(case, z)
    jitter = case.draws().uniform("jitter", tuple(z.shape), z)
    ours = stratified_t(ray_segment(rays, near, far), z.shape[-1], jitter)
    report.compare("mid/z", ours, z)


def _near_far(case: Case, z: torch.Tensor) -> tuple[float, float]:
    """near and far: given, or solved for from two samples whose stratum fractions are known."""
    info = case.info
    if "ray_start" in info:
        return info["ray_start"], info["ray_end"]
    count = z.shape[-1]
    u = case.draws().uniform("jitter", tuple(z.shape), z).double()
    unit = stratified_t(
        RaySegment(torch.zeros(z.shape[:2]), torch.ones(z.shape[:2]), None), count, u
    )
    design = torch.stack([1 - unit.flatten(), unit.flatten()], dim=1).double()
    near, far = torch.linalg.lstsq(design, z.double().flatten()[:, None]).solution.flatten()
    return float(near), float(far)
