"""A check-up that cannot crash: every part of it that fails becomes a line of its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass
class Section:
    """Facts under one heading, by name, and what to do about those that are wrong."""

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)


Check = Callable[[], Section]


def checkup(checks: Iterable[tuple[str, Check]]) -> list[Section]:
    """Run every check; one that raises, whatever it raises, leaves a section that says so."""
    return [run_check(title, check) for title, check in checks]


def run_check(title: str, check: Check) -> Section:
    """The section that `check` makes, or one that holds its error."""
    try:
        return check()
    except Exception as error:
        text = one_line(error)
        return Section(title, {"failed": text}, [f"{title}: this check failed ({text})"])


def one_line(error: BaseException) -> str:
    """Name and text of an error, short enough for a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
