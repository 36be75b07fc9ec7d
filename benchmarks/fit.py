"""Is the cost linear? Least-squares lines through the quickest rounds of a scaling axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from epigraf.benchmarks.runner import Row


@dataclass(frozen=True)
class Line:
    """seconds = intercept + slope * at, and the share R^2 of the variance that it explains."""

    axis: str
    implementation: str
    slope: float
    intercept: float
    r2: float


def line_fits(rows: Sequence[Row]) -> list[Line]:
    """A line for every axis and implementation with at least three points; none for threads, and
    none for the share of a volume, of which nobody expects one."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.axis and not row.axis.startswith(("threads", "share")):
            groups.setdefault((row.axis, row.implementation), []).append(row)
    return [_fit(*key, members) for key, members in groups.items() if len(members) >= 3]


def _fit(axis: str, implementation: str, rows: Sequence[Row]) -> Line:
    x = np.array([row.at for row in rows], dtype=np.float64)
    y = np.array([row.best for row in rows])
    slope, intercept = np.polyfit(x, y, 1)
    residual = ((y - intercept - slope * x) ** 2).sum()
    total = ((y - y.mean()) ** 2).sum()
    r2 = 1 - residual / total if total > 0 else 1.0
    return Line(axis, implementation, float(slope), float(intercept), float(r2))


def speed_ups(rows: Sequence[Row]) -> list[tuple[str, str, int, float]]:
    """(axis, implementation, threads, times faster than one thread) of the axes of threads."""
    single = {(r.axis, r.implementation): r.best for r in rows if r.at == 1}
    found = []
    for row in rows:
        key = (row.axis, row.implementation)
        if row.axis.startswith("threads") and row.at is not None and row.at > 1 and key in single:
            found.append((*key, int(row.at), single[key] / row.best))
    return found
