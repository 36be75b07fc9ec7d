"""Parity of everything that is scheduled by the number of images seen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from epigraf.config import LossConfig, PatchConfig, PatchDistribution
from epigraf.training import schedules

if TYPE_CHECKING:
    from tests.parity.case import Case
    from tests.parity.report import Report

_UNIFORM = PatchConfig(distribution=PatchDistribution.UNIFORM)
_LOSS = LossConfig()


def check(case: Case, report: Report) -> None:
    """Each row holds `kimg` and the values that the official defaults have there."""
    for row in case.info["rows"]:
        images = row["kimg"] * 1000
        for name, expected in row.items():
            if name != "kimg":
                report.scalar(f"kimg {row['kimg']:g} {name}", _value(name, images), expected)


def _value(name: str, images: float) -> float:
    if name == "beta":
        return schedules.patch_beta(PatchConfig(), images)
    if match := re.fullmatch(r"uniform_min_scale_(\d+)", name):
        target = _UNIFORM.resolution / int(match[1])
        return schedules.patch_min_scale(_UNIFORM, target, images)
    if name == "nerf_noise_std":
        return schedules.density_noise_std(1.0, 5000, images)
    if name == "gpc_spoof_p":
        return schedules.spoof_probability(0.5, images)
    if name == "blur_sigma":
        return schedules.blur_sigma(_LOSS.blur_init_sigma, _LOSS.blur_fade_kimg, images)
    raise ValueError(f"no schedule is called {name!r}")
