from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epigraf.cli.values import parse_grid, parse_seeds
from epigraf.errors import EpigrafError


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("0-3,7", [0, 1, 2, 3, 7]), (" 5 , 2-2,", [5, 2]), ("3,3", [3, 3])],
)
def test_seeds_worked_examples(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@given(st.lists(st.tuples(st.integers(0, 2**32 - 60), st.integers(0, 50)), min_size=1, max_size=6))
def test_seeds_of_any_ranges(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" for first, more in ranges)
    expected = [first + i for first, more in ranges for i in range(more + 1)]
    assert parse_seeds(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one seed"),
        ("a", "cannot read 'a'"),
        ("-1", "cannot read '-1'"),
        ("1.5", "cannot read"),
        ("7-3", "runs backwards"),
        ("0-999999999", "more than 100000 seeds"),
        ("4294967296", "too large"),
    ],
)
def test_seeds_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(EpigrafError, match=message):
        parse_seeds(text)


def test_grid() -> None:
    assert parse_grid("4x3") == (4, 3)
    assert parse_grid(" 1X16 ") == (1, 16)
    for text in ("4", "0x3", "4x", "ax2", "-1x2", "100x1"):
        with pytest.raises(EpigrafError, match="COLUMNSxROWS"):
            parse_grid(text)
