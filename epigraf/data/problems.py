"""What can be wrong with a data set: findings by file name, gathered before raising."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from epigraf.errors import DataError

SHOWN = 5  # problems spelled out in one DataError; the rest is counted


class Severity(Enum):
    """ERROR stops a training before it starts; WARNING is only reported."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Problem:
    """One finding: `file` as named in the archive ("" = the set as a whole), and what to do."""

    file: str
    message: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" if self.file else self.message


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that forbid training, in the order in which they were found."""
    return [problem for problem in problems if problem.severity is Severity.ERROR]


def raise_if_any(where: str, problems: Sequence[Problem]) -> None:
    """Raise one `DataError` that names the first few errors and counts the others."""
    errors = errors_of(problems)
    if not errors:
        return
    shown = "; ".join(str(problem) for problem in errors[:SHOWN])
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    noun = "problem" if len(errors) == 1 else "problems"
    raise DataError(f"dataset {where}: {len(errors)} {noun}: {shown}{more}")
