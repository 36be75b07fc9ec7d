"""Parity of the data set: order, subset, mirroring, pixels, labels and angles, bit for bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from epigraf.data.archive import Archive
from epigraf.data.images import ImageDataset
from tests.parity.case import Case
from tests.parity.report import Report

PREFIX = re.compile(r"xflip(?P<mirror>[01])_max(?P<size>None|\d+)(?:_seed(?P<seed>\d+))?/$")


def check(case: Case, report: Report) -> None:
    """Every variant (mirrored or not, subsampled or not) that the case lists."""
    path = case.folder / case.info["zip"]
    for prefix, expected in case.info["cases"].items():
        found = PREFIX.match(prefix)
        if found is None:
            report.failure(prefix, "cannot read mirror and max_size from this name")
            continue
        data = ImageDataset(
            path,
            mirror=found["mirror"] == "1",
            use_labels=case.tensors[f"{prefix}labels"].shape[1] > 0,
            max_size=None if found["size"] == "None" else int(found["size"]),
            seed=int(found["seed"] or 0),
        )
        _check_facts(prefix, data, path, expected, report)
        _check_tensors(prefix, data, case, report)


def _check_facts(
    prefix: str, data: ImageDataset, path: Path, expected: dict[str, Any], report: Report
) -> None:
    with Archive(path) as archive:
        facts: dict[str, object] = {"name": archive.name, "fnames": archive.images}
    facts["len"], facts["label_dim"] = len(data), data.label_dim
    facts["raw_idx"] = data.raw_index * (2 if data.mirror else 1)
    for key, value in expected.items():
        if key in facts:
            report.equal(f"{prefix}{key}", facts[key], value)


def _check_tensors(prefix: str, data: ImageDataset, case: Case, report: Report) -> None:
    items = range(len(data))
    ours = {
        "images": torch.stack([data.image(i) for i in items]),
        "labels": torch.stack([data.label(i) for i in items]),
        "camera_angles": torch.stack([data.angles(i) for i in items]),
    }
    for name, value in case.prefix(prefix).items():
        report.compare(f"{prefix}{name}", ours[name], value, rtol=0.0)
