"""Patch cases: scales and offsets from their laws, sampling grids, patches of images."""

from __future__ import annotations

from epigraf.config import PatchConfig, PatchDistribution
from epigraf.rendering.patches import (
    PatchParams,
    extract_patches,
    patch_grid,
    sample_patch_params,
)
from tests.parity.case import Case
from tests.parity.report import Report

_CONFIG_KEYS = ("max_scale", "alpha", "discrete_support")


def check(case: Case, report: Report) -> None:
    images = case.tensors["in/img"]
    for name, info in case.info["cases"].items():
        patch = _check_params(case, report, name, info, len(images))
        expected = case.prefix(f"{name}/")
        resolution = expected["patches"].shape[-1]
        grid = patch_grid(patch, resolution)[: len(expected["grid"])]
        # The grid is in [-1, 1] and zero where rows meet the axis: its unit is the half image.
        report.compare(f"{name}/grid", grid, expected["grid"], atol=1e-6)
        ours = extract_patches(images, patch, resolution)
        report.compare(f"{name}/patches", ours, expected["patches"])


def _check_params(case: Case, report: Report, name: str, info: dict, batch: int) -> PatchParams:
    cfg = info["cfg"]
    settings = {key: cfg[key] for key in _CONFIG_KEYS if key in cfg}
    support = cfg.get("discrete_support", cfg.get("support"))
    if support is not None:
        settings["discrete_support"] = tuple(support)
    patch = PatchConfig(distribution=PatchDistribution(cfg["distribution"]), **settings)
    draws = case.draws(*info["draw_range"])
    ours = sample_patch_params(
        patch, batch, cfg["mbstd_group_size"], cfg["min_scale"], cfg.get("beta", 1.0), draws=draws
    )
    draws.finish()
    report.compare(f"{name}/scales", ours.scales, case.tensors[f"{name}/scales"])
    report.compare(f"{name}/offsets", ours.offsets, case.tensors[f"{name}/offsets"])
    return ours
