from __future__ import annotations

import pytest

from epigraf.benchmarks.compare import Verdict, compare, slower, verdict
from epigraf.benchmarks.fit import line_fits, speed_ups
from epigraf.benchmarks.result import Result
from epigraf.benchmarks.runner import Row
from epigraf.errors import EpigrafError

FACTS = {"machine": "m", "device": "cpu", "threads": 2, "allocator": "x", "config": {"rounds": 3}}


def row(*seconds: float, control: bool = False, **more: object) -> Row:
    return Row("op", str(more.pop("case", "c")), "i", list(seconds), control=control, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((1.0, 1.0, 1.0), (1.06, 1.06, 1.06), Verdict.SLOWER),  # 6 % against a tolerance of 5
        ((1.0, 1.0, 1.0), (1.04, 1.04, 1.04), Verdict.SAME),
        ((1.06, 1.06, 1.06), (1.0, 1.0, 1.0), Verdict.FASTER),
        ((1.0, 1.2, 1.3), (1.25, 1.375, 1.5), Verdict.SAME),  # 25 % against 20 + 10
        ((1.0, 1.2, 1.3), (1.31, 1.441, 1.5), Verdict.SLOWER),  # 31 % against 20 + 10
        ((1.0, 1.0), (3.0, 3.0), Verdict.UNCLEAR),
    ],
)
def test_verdict_by_hand(a: tuple, b: tuple, expected: Verdict) -> None:
    assert verdict(row(*a), row(*b))[0] is expected


def test_controls_do_not_count_and_missing_rows_are_named() -> None:
    a = Result("ops", FACTS, [row(1, 1, 1), row(1, 1, 1, case="d", control=True), row(1, case="e")])
    b = Result("ops", FACTS, [row(2, 2, 2), row(2, 2, 2, case="d", control=True), row(1, case="f")])
    changes = compare(a, b)
    assert [c.verdict.name for c in changes] == ["SLOWER", "SLOWER", "ONLY_A", "ONLY_B"]
    assert [c.key[1] for c in slower(changes)] == ["c"]


def test_what_differs_is_named_unless_forced() -> None:
    a = Result("ops", FACTS, [row(1, 1, 1)])
    b = Result("ops", FACTS | {"threads": 1, "config": {"rounds": 9}}, [row(1, 1, 1)])
    with pytest.raises(EpigrafError, match=r"differ in threads: 2 and 1; --force"):
        compare(a, b)
    assert compare(a, b, force=True)[0].verdict is Verdict.SAME
    with pytest.raises(EpigrafError, match="A is of suite ops, B of step"):
        compare(a, Result("step", FACTS), force=True)


def test_a_line_and_its_share_by_hand() -> None:
    rows = [row(2.0 + 3.0 * x, axis="rays", at=x) for x in (1, 2, 4)]
    (line,) = line_fits(rows)
    assert (line.slope, line.intercept, line.r2) == pytest.approx((3.0, 2.0, 1.0))
    bent = [row(y, axis="rays", at=x) for x, y in ((0, 1.0), (1, 1.0), (2, 4.0))]
    assert line_fits(bent)[0].r2 == pytest.approx(0.75)  # 1 - 1.5 / 6
    assert speed_ups([row(4.0, axis="threads", at=1), row(2.5, axis="threads", at=2)]) == [
        ("threads", "i", 2, 1.6)
    ]
