"""Scalar encoders: patch parameters, camera angles, inverse-sphere points and ray directions."""

from __future__ import annotations

import math

from torch import Tensor

from epigraf.models.layers import ScalarEncoder
from tests.parity.case import Case
from tests.parity.report import Report


def check(case: Case, report: Report) -> None:
    """Recompute every NAME/emb from NAME/x.

    The highest value a NAME's coordinates can take follows from the number of its frequencies and
    from the lowest of them, pi / 2^K; raw values and cosines follow from the width.
    """
    names = sorted({name.split("/")[0] for name in case.tensors})
    multipliers = {"patch": 1000.0, "camera": 64.0, "bg": 64.0, "raydir": 8.0}
    for name in names:
        part = case.prefix(f"{name}/")
        multiplier = multipliers.get(name, 2.0 ** len(part["freqs"]))
        encoder = _encoder(part, multiplier)
        assert encoder.fourier_encoder is not None
        freqs = encoder.fourier_encoder.fourier_coefs
        report.compare(f"{name}/freqs", freqs, part["freqs"], rtol=1e-6)
        # sin(x) loses |x| ulps of its argument
        atol = 2e-7 * max(1.0, float(part["x"].abs().max() * multiplier * freqs.max()))
        report.compare(f"{name}/emb", encoder(part["x"]), part["emb"], rtol=1e-6, atol=atol)


def _encoder(part: dict[str, Tensor], multiplier: float) -> ScalarEncoder:
    """The encoder whose width is that of the recorded embedding."""
    coords, freqs = part["x"].shape[-1], math.ceil(math.log2(multiplier))
    per_coord = part["emb"].shape[-1] // coords
    for use_raw in (False, True):
        for use_cos in (False, True):
            if per_coord == freqs * (1 + use_cos) + use_raw:
                return ScalarEncoder(coords, multiplier, use_raw=use_raw, use_cos=use_cos)
    raise ValueError(f"no encoder of {freqs} frequencies has {per_coord} values per scalar")
