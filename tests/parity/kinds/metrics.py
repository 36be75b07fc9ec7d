"""Parity of the formulas of metrics on given features and probabilities."""

from __future__ import annotations

import torch

from epigraf.metrics.fid import fid
from epigraf.metrics.inception_score import inception_score
from epigraf.metrics.kid import Subset, kid
from epigraf.metrics.precision_recall import precision_recall
from tests.parity.case import Case
from tests.parity.report import Report


def check(case: Case, report: Report) -> None:
    """Recompute every scalar of `results` from the tensors `real`, `gen` and `probs`."""
    expected = case.info["results"]
    ours = _results(case)
    for name, value in expected.items():
        if name in ours:
            report.scalar(name, ours[name], value, rtol=1e-5)
        else:
            report.failure(name, "unknown metric")


def _results(case: Case) -> dict[str, float]:
    real, fake = case.tensors["real"], case.tensors["gen"]
    results: dict[str, float] = {"fid": fid(real.numpy(), fake.numpy())}
    if "kid" in case.info:
        results["kid"] = kid(real.numpy(), fake.numpy(), _subsets(case))
    if "pr" in case.info:
        k = case.info["pr"]["nhood_size"]  # the recorded values were computed in float16
        pair = precision_recall(real, fake, neighbours=k, dtype=torch.float16)
        results |= {"precision": pair.precision, "recall": pair.recall}
    if "is_splits" in case.info:
        score = inception_score(case.tensors["probs"].numpy(), splits=case.info["is_splits"])
        results |= {"is_mean": score.mean, "is_std": score.std}
    return results


def _subsets(case: Case) -> list[Subset]:
    """The recorded indices: for each subset those of the fakes, then those of the reals."""
    indices = [case.tensors[name].numpy() for name in case.info["draws"]]
    return list(zip(indices[0::2], indices[1::2], strict=True))
