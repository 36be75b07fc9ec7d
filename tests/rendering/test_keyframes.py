"""Keyframed paths: hand-worked splines, loops, and what is said about a bad file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from epigraf.errors import DataError
from epigraf.rendering.keyframes import Keyframes, keyframe_path, read_keyframes


def frames(*rows: dict[str, float], loop: bool = False) -> Keyframes:
    return Keyframes.model_validate({"keyframes": list(rows), "loop": loop})


def test_two_keyframes_are_a_straight_line() -> None:
    two = frames({"yaw": 0, "pitch": 1, "fov": 10}, {"yaw": 2, "pitch": 2, "fov": 40})
    path = keyframe_path(two, fov=30.0, radius=1.5, num_frames=3)
    assert path.angles.tolist() == [[0, 1, 0], [1, 1.5, 0], [2, 2, 0]]
    assert path.fov.tolist() == pytest.approx([10, 20, 40])  # even steps of the logarithm
    assert path.radius is not None
    assert path.radius.tolist() == pytest.approx([1.5] * 3)


def test_three_keyframes_by_hand() -> None:
    """The natural spline through (0, 0), (1, 1), (2, 0) is 1.5 x - 0.5 x^3 on [0, 1]."""
    three = frames(*({"yaw": yaw, "pitch": 1.5} for yaw in (0, 1, 0)))
    yaw = keyframe_path(three, 30.0, 1.0, 9).angles[:, 0]
    x = torch.arange(5, dtype=torch.float64) / 4
    left = 1.5 * x - 0.5 * x**3
    torch.testing.assert_close(yaw, torch.cat([left, left.flip(0)[1:]]))


def test_times_space_the_keyframes() -> None:
    timed = frames(
        {"yaw": 0, "pitch": 1, "time": 1}, {"yaw": 3, "pitch": 1, "time": 2},
        {"yaw": 6, "pitch": 1, "time": 3}, {"yaw": -1, "pitch": 2, "time": 5},
    )  # fmt: skip
    assert timed.seconds == 4
    path = keyframe_path(timed, 30.0, 1.0, 5)
    assert path.angles[[0, 1, 2, 4], 0].tolist() == pytest.approx([0, 3, 6, -1])


def test_a_loop_turns_evenly_and_leaves_its_end_out() -> None:
    corners = [{"yaw": math.pi / 2 * i, "pitch": 1.2} for i in range(5)]
    path = keyframe_path(frames(*corners, loop=True), 30.0, 1.0, 8)
    expected = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    torch.testing.assert_close(path.angles[:, 0], expected)


def test_one_keyframe_stays_and_poles_are_kept() -> None:
    path = keyframe_path(frames({"yaw": 1, "pitch": 0}), 30.0, 1.0, 2)
    assert path.angles[:, 0].tolist() == [1, 1]
    assert float(path.angles[0, 1]) > 0
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        keyframe_path(frames({"yaw": 1, "pitch": 0}), 30.0, 1.0, 0)


def test_json_and_yaml_are_read(tmp_path: Path) -> None:
    rows = {"keyframes": [{"yaw": 0.5, "pitch": 1.0, "roll": 0.1}], "loop": False}
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.yaml").write_text("keyframes:\n  - {yaw: 0.5, pitch: 1.0, roll: 0.1}\n")
    assert read_keyframes(tmp_path / "a.json") == read_keyframes(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keyframes: [", "not YAML or JSON"),
        ("3", "the file: .*got 3"),
        ("keyframes: []", "keyframes: .*at least 1"),
        ("keyframes: [{yaw: 0}]", "keyframe 1, pitch: Field required"),
        ("keyframes: [{yaw: 0, pitch: 9}]", "keyframe 1, pitch: .*less than or equal to 3.14"),
        ("keyframes: [{yaw: 0, pitch: 1, yow: 2}]", "keyframe 1, yow: unknown key; known are yaw"),
        ("keyframes: [{yaw: .nan, pitch: 1}]", "keyframe 1, yaw: .*finite"),
        ("keyframes: [{yaw: 0, pitch: 1, fov: 0}]", "keyframe 1, fov: .*greater than 0"),
        ("keyframes: [{yaw: 0, pitch: 1, time: 0}, {yaw: 0, pitch: 1}]", "every keyframe a time"),
        (
            "keyframes: [{yaw: 0, pitch: 1, time: 1}, {yaw: 0, pitch: 1, time: 1}]",
            "keyframe 2: time 1.0 is not after 1.0",
        ),
        ("keyframes: [{yaw: 0, pitch: 1}, {yaw: 1, pitch: 1}]\nloop: true", "ends where it began"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"camera path {path}: .*{message}") as error:
        read_keyframes(path)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_keyframes(tmp_path / "nothing.yaml")
