"""Interpolations of pickled configurations, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from epigraf.interop.allowed import SNAPSHOT
from epigraf.interop.experiment import experiment
from epigraf.interop.inert import PickleError
from epigraf.interop.unpickler import Budget, Machine
from tests.interop.released import dumps, omegaconf_tree


def through(tree: dict[str, Any], inner: str, old: bool = False) -> dict[str, Any]:
    """The whole tree again, reached from its section `inner` alone."""
    section = omegaconf_tree(tree, old=old)._content[inner]
    value = Machine(memoryview(dumps({"cfg": section})), SNAPSHOT, Budget()).run()
    return experiment(value["cfg"], tuple(tree))


@pytest.mark.parametrize("old", [False, True])
def test_references(old: bool) -> None:
    tree = {
        "a": {
            "x": 1, "whole": "${b}", "one": "${b.y}", "text": "r${b.y}-${a.x}",
            "list": [1, "${a.x}"],
        },
        "b": {
            "y": 2.5, "up": "${..a.x}", "beside": "${.y}", "item": "${a.list.1}", "way": "${c.y}",
        },
        "c": "${b}",
        "d": {
            "unset": "???", "none": None, "env": "${env:HOME}", "gone": "${a.nothing}", "yes": True,
        },
    }  # fmt: skip
    b = {"y": 2.5, "up": 1, "beside": 2.5, "item": 1, "way": 2.5}
    assert through(tree, "a", old) == {
        "a": {"x": 1, "whole": b, "one": 2.5, "text": "r2.5-1", "list": [1, 1]},
        "b": b,
        "c": b,
        "d": {
            "unset": None, "none": None, "env": "${env:HOME}", "gone": "${a.nothing}", "yes": True,
        },
    }  # fmt: skip


def test_a_reference_in_brackets() -> None:
    assert through({"a": {"l": [3, 4], "x": "${a.l[1]}"}}, "a")["a"]["x"] == 4


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"x": "${a.x}"}}, "go round"),
        ({"a": {"x": "${a.y}", "y": "n${a.x}"}}, "go round"),
        ({"a": {"x": "${a}"}}, "go round|more than"),
        ({"a": {f"k{i}": f"${{a.k{i + 1}}}" * 2 for i in range(40)} | {"k40": "lol"}}, "more than"),
        ({"a": {"x": {"l": "lol" * 9}, "y": "${a.x.l}" * 400}}, "is longer than"),
        ({"a": {"k" * 200: 1}}, "keys that are not names"),
    ],
)  # fmt: skip
def test_bombs(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(PickleError, match=message):
        through(tree, "a")


def test_plain_configurations_are_read_too() -> None:
    assert experiment({"a": {"x": [1, 2]}}, ("a", "b")) == {"a": {"x": [1, 2]}}
    assert experiment(None, ("a",)) == {}
