"""Parity of the ADA pipeline: recorded draws in, augmented images out."""

from __future__ import annotations

from typing import Any

import torch

from epigraf.config import AugmentProbs
from epigraf.training.augment import AugmentPipe
from epigraf.training.transforms import Strengths
from epigraf.training.wavelets import SYM6, band_filters
from tests.parity.case import Case
from tests.parity.report import Report

OFFICIAL_STRENGTHS = {"imgfilter_bands": "bands", "imgfilter_std": "band_std"}
IMAGES = 1e-4


def pipe_of(kwargs: dict[str, Any]) -> AugmentPipe:
    """An `AugmentPipe` from the official constructor's keywords (absent multipliers are 0)."""
    probs = {name: kwargs.get(name, 0.0) for name in AugmentProbs.model_fields}
    rest = {k: v for k, v in kwargs.items() if k not in probs}
    named = {
        OFFICIAL_STRENGTHS.get(k, k): tuple(v) if isinstance(v, list) else v
        for k, v in rest.items()
    }
    return AugmentPipe(AugmentProbs(**probs), Strengths(**named))


def check(case: Case, report: Report) -> None:
    """Images, and the filters where the case records them."""
    draws = case.draws()
    images = pipe_of(case.info["kwargs"])(case.tensors["in/img"], case.info["p"], draws=draws)
    report.compare("out/img", images, case.tensors["out/img"], rtol=IMAGES)
    report.equal("draws left over", draws.remaining, 0)
    filters = {"Hz_geom": torch.tensor(SYM6), "Hz_fbank": band_filters()}
    for name, ours in filters.items():
        if name in case.tensors:
            report.compare(name, ours, case.tensors[name], rtol=1e-6)
