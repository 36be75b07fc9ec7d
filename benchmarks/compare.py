"""Did anything get slower? Two results of a suite, row by row, and a verdict that knows of noise.

Noise only adds time, so the quickest rounds are compared. A row differs when they are further apart
than both rows' rounds scatter: change = best_b / best_a - 1 against
noise = max(tolerance, spread_a + spread_b), where spread = median / best - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from epigraf.benchmarks.result import Result
from epigraf.benchmarks.runner import Row
from epigraf.errors import EpigrafError

TOLERANCE = 0.05
FEWEST_ROUNDS = 3
MUST_AGREE = ("machine", "device", "threads", "allocator", "config")


class Verdict(Enum):
    """What may be said of a row."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "no difference"
    UNCLEAR = "too few rounds"
    ONLY_A = "only in A"
    ONLY_B = "only in B"


@dataclass(frozen=True)
class Change:
    """A row in both results; ratio = best of B over best of A, noise as a share of the time."""

    key: tuple[str, str, str]
    verdict: Verdict
    control: bool = False
    a: Row | None = None
    b: Row | None = None
    ratio: float | None = None
    noise: float | None = None


def verdict(a: Row, b: Row, tolerance: float = TOLERANCE) -> tuple[Verdict, float, float]:
    """(verdict, ratio, noise) of B against A; symmetric: faster is slower the other way round."""
    ratio = b.best / a.best
    noise = max(tolerance, a.spread + b.spread)
    if min(len(a.seconds), len(b.seconds)) < FEWEST_ROUNDS:
        return Verdict.UNCLEAR, ratio, noise
    if ratio - 1 > noise:
        return Verdict.SLOWER, ratio, noise
    if 1 / ratio - 1 > noise:
        return Verdict.FASTER, ratio, noise
    return Verdict.SAME, ratio, noise


def compare(
    a: Result, b: Result, tolerance: float = TOLERANCE, force: bool = False
) -> list[Change]:
    """All rows of both results, in the order of A.

    Raises:
        EpigrafError: they are of different suites, or (without `force`) of different machines,
        threads or configurations; says what differs.
    """
    require_comparable(a, b, force)
    rows_a, rows_b = ({_key(row): row for row in result.rows} for result in (a, b))
    changes = []
    for key in dict.fromkeys([*rows_a, *rows_b]):
        changes.append(_change(key, rows_a.get(key), rows_b.get(key), tolerance))
    return changes


def _key(row: Row) -> tuple[str, str, str]:
    return row.op, row.case, row.implementation


def _change(key: tuple[str, str, str], a: Row | None, b: Row | None, tolerance: float) -> Change:
    if a is None or b is None:
        found = b if a is None else a
        missing = Verdict.ONLY_B if a is None else Verdict.ONLY_A
        return Change(key, missing, found is not None and found.control, a, b)
    found, ratio, noise = verdict(a, b, tolerance)
    return Change(key, found, a.control, a, b, ratio, noise)


def require_comparable(a: Result, b: Result, force: bool) -> None:
    """Raise EpigrafError where the results cannot be compared; see `compare`."""
    if a.suite != b.suite:
        raise EpigrafError(f"compare: A is of suite {a.suite}, B of {b.suite}")
    differences = [text for key in MUST_AGREE if (text := _difference(key, a, b))]
    if differences and not force:
        raise EpigrafError(
            f"compare: A and B differ in {'; '.join(differences)}; --force compares them anyway"
        )


def _difference(key: str, a: Result, b: Result) -> str:
    left, right = _settled(a.facts.get(key)), _settled(b.facts.get(key))
    return "" if left == right else f"{key}: {left} and {right}"


def _settled(value: Any) -> Any:
    """How many rounds and which cases were measured does not matter to a row."""
    if not isinstance(value, dict):
        return value
    return {k: v for k, v in value.items() if k not in ("rounds", "only")}


def slower(changes: list[Change]) -> list[Change]:
    """Rows of ours that got slower; opponents and the machine are controls."""
    return [c for c in changes if c.verdict is Verdict.SLOWER and not c.control]
