"""`dataset.json`: forms, name matching, and every complaint by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epigraf.data.archive import Archive
from epigraf.data.index import Index, read_index
from epigraf.data.problems import Problem
from tests.data.conftest import png, write_set

NAMES = ["x/a.png", "x/b.jpg", "y/c.png"]
ANGLES = [[0.1, 1.0, 0.0], [-3.0, 2.0, 0.1], [3.0, 0.5, 0.0]]


def read(path: Path, index: Any, names: list[str] = NAMES) -> tuple[Index, list[Problem]]:
    with Archive(write_set(path, {name: png() for name in names}, index)) as archive:
        return read_index(archive)


def both_forms(names: list[str], values: list[Any]) -> list[Any]:
    pairs = list(zip(names, values, strict=True))
    return [dict(pairs), [list(pair) for pair in reversed(pairs)]]


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize(
    "keys",
    [
        NAMES,
        ["x/a", "x/b", "y/c"],
        ["x/a.webp", "x/b.png", "y/c.png"],
        ["set/x/a.png", "set/x/b.jpg", "set/y/c.png"],
        ["x\\a.png", "x\\b.jpg", "y\\c.png"],
    ],
)
def test_names_match_leniently(set_path: Path, keys: list[str], form: int) -> None:
    index = {
        "camera_angles": both_forms(keys, ANGLES)[form],
        "labels": both_forms(keys, [2, 0, 1])[form],
    }
    found, problems = read(set_path, index)
    assert problems == []
    assert found.angles is not None
    assert found.labels is not None
    assert np.array_equal(found.angles, np.array(ANGLES, dtype=np.float32))
    assert np.array_equal(found.labels, np.eye(3, dtype=np.float32)[[2, 0, 1]])


def test_images_below_a_folder_of_the_sets_name(tmp_path: Path) -> None:
    files = {f"set/{name}": png() for name in NAMES}
    index = b'{"labels": {"x/a.png": 0, "x/b.jpg": 1, "y/c.png": 1}}'
    for name in ("set.zip", "renamed.zip"):
        path = write_set(tmp_path / name, {**files, "set/dataset.json": index})
        with Archive(path) as archive:
            found, problems = read_index(archive)
        assert problems == []
        assert found.classes is not None
        assert found.classes.tolist() == [0, 1, 1]


@pytest.mark.parametrize("index", [None, {}, {"labels": None}, {"labels": [], "camera_angles": {}}])
def test_absent_fields_mean_none(tmp_path: Path, index: Any) -> None:
    assert read(tmp_path / "set", index) == (Index(None, None, None), [])


def test_vectors_are_taken_as_they_are(tmp_path: Path) -> None:
    vectors = [[0.5, 1], [2, 3.25], [-1, 0]]
    found, problems = read(tmp_path / "set", {"labels": both_forms(NAMES, vectors)[0]})
    assert problems == []
    assert found.labels is not None
    assert found.classes is None
    assert found.labels.tolist() == vectors


@pytest.mark.parametrize(
    ("index", "file", "message"),
    [
        (b"{", "dataset.json", "not valid JSON"),
        (b"[]", "dataset.json", "must be an object"),
        ({"labels": 3}, "dataset.json", "labels must be an object"),
        ({"labels": [["x/a.png"]]}, "dataset.json", "labels must be an object"),
        ({"camera_angle": {}}, "dataset.json", "did you mean 'camera_angles'"),
        ({"labels": {"x/a": 0, "x/b": 1}}, "y/c.png", "has no entry in labels"),
        ({"labels": {"x/a": 0, "x/b": 1, "y/c": None}}, "y/c.png", "has no entry in labels"),
        ({"labels": {"x/a": 0, "x/b": 0, "y/c": 0, "z": 0}}, "z", "there is no such image"),
        (b'{"labels": {"x/a": 0, "x/a": 1, "x/b": 0, "y/c": 0}}', "x/a", "appears twice"),
        ({"labels": {"x/a": 0, "x/b": "cat", "y/c": 0}}, "x/b.jpg", "class number"),
        ({"labels": {"x/a": 0, "x/b": -1, "y/c": 0}}, "x/b.jpg", "class number"),
        ({"labels": {"x/a": 0, "x/b": True, "y/c": 0}}, "x/b.jpg", "class number"),
        ({"labels": {"x/a": 0, "x/b": 10**9, "y/c": 0}}, "x/b.jpg", "is above 65535"),
        ({"labels": {"x/a": 0, "x/b": 1.5, "y/c": 0}}, "x/b.jpg", "class number"),
        ({"labels": {"x/a": [1, 2], "x/b": [1], "y/c": [1, 2]}}, "x/b.jpg", "list of 2 numbers"),
        (b'{"labels": {"x/a": [1], "x/b": [NaN], "y/c": [0]}}', "x/b.jpg", "not finite"),
    ],
)
def test_label_problems_name_the_file(tmp_path: Path, index: Any, file: str, message: str) -> None:
    _, problems = read(tmp_path / "set.zip", index)
    assert file in [problem.file for problem in problems]
    assert message in " ".join(problem.message for problem in problems)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("[NaN, 1, 0]", "not finite"),
        ("[0, Infinity, 0]", "not finite"),
        ("[0, 1]", "must be [yaw, pitch, roll]"),
        ("0.5", "must be [yaw, pitch, roll]"),
        ("[3.2, 1, 0]", "yaw 3.2 is outside [-pi, pi]"),
        ("[90, 1, 0]", "are these degrees?"),
        ("[0, -0.1, 0]", "pitch -0.1 is outside [0, pi]"),
        ("[0, 90, 0]", "are these degrees?"),
    ],
)
def test_angle_problems_name_the_file(tmp_path: Path, bad: str, message: str) -> None:
    text = f'{{"camera_angles": {{"x/a": [0, 1, 0], "x/b": {bad}, "y/c": [0, 1, 0]}}}}'
    found, problems = read(tmp_path / "set.zip", text.encode())
    assert [problem.file for problem in problems] == ["x/b.jpg"]
    assert message in problems[0].message
    assert found.angles is None


def test_rounded_ends_of_the_range_are_fine(tmp_path: Path) -> None:
    ends = [[3.141593, 3.141593, 0], [-3.141593, -0.0, 0], [math.pi, math.pi, 0]]
    assert read(tmp_path / "set", {"camera_angles": both_forms(NAMES, ends)[0]})[1] == []


def test_all_zero_angles_are_refused(tmp_path: Path) -> None:
    zeros = {"camera_angles": both_forms(NAMES, [[0, 0, 0]] * 3)[0]}
    assert "all zero" in read(tmp_path / "set", zeros)[1][0].message


def test_names_that_differ_only_in_extension(tmp_path: Path) -> None:
    index = {"labels": {"x/a": 0, "x/b": 1}}
    _, problems = read(tmp_path / "set", index, ["x/a.jpg", "x/a.png", "x/b.png"])
    assert problems[0].file == "x/a.png"
    assert "differs from x/a.jpg only in its extension" in problems[0].message
