"""The doctor finds everything at once: errors that stop a training, and warnings."""

from __future__ import annotations

from pathlib import Path

from epigraf.data.doctor import Severity, check_dataset, errors_of
from tests.data.conftest import png, write_set


def test_healthy_sets_have_no_problems(set_path: Path) -> None:
    files = {f"{i}.png": png(8, seed=i) for i in range(3)}
    angles = {f"{i}": [0.1 * i - 0.1, 1.5, 0] for i in range(3)}
    path = write_set(set_path, files, {"camera_angles": angles, "labels": {"0": 0, "1": 1, "2": 1}})
    assert check_dataset(path) == []
    assert check_dataset(path, 4) == []


def test_every_error_is_listed_before_the_warnings(tmp_path: Path) -> None:
    files = {
        "a.png": png(8, seed=1),
        "b.png": png(8, seed=1),
        "bad.png": b"x",
        "c.png": png(4),
        "../d.png": png(8),
    }
    labels = {"a": 0, "b": 3, "bad": 0, "c": 0, "ghost": 1}
    found = check_dataset(write_set(tmp_path / "set.zip", files, {"labels": labels}), 8)
    errors = errors_of(found)
    assert {problem.file for problem in errors} == {"../d.png", "ghost", "bad.png", "c.png"}
    assert found[: len(errors)] == errors
    warnings = [str(p) for p in found if p.severity is Severity.WARNING]
    assert warnings[0] == "b.png: is an exact copy of a.png"
    assert "no image has class 1, 2" in warnings[1]


def test_unreadable_archives_are_one_problem(tmp_path: Path) -> None:
    (only,) = check_dataset(tmp_path / "nothing.zip")
    assert "no such file" in str(only)
    (only,) = check_dataset(write_set(tmp_path / "empty.zip", {}, {}))
    assert "no image in it" in str(only)


def test_conventions_are_suspected(tmp_path: Path) -> None:
    files = {f"{i}.png": png(8, seed=i) for i in range(4)}
    frontal = {f"{i}": [1.57 + 0.1 * i, 0.1 * i, 0] for i in range(4)}
    text = " ".join(
        map(str, check_dataset(write_set(tmp_path / "a", files, {"camera_angles": frontal})))
    )
    assert "mean yaw is 1.72" in text
    assert "measured from +y" in text
    eg3d = {f"{i}": [0.0] * 24 + [1.0] for i in range(4)}
    (warning,) = check_dataset(write_set(tmp_path / "b", files, {"labels": eg3d}))
    assert "eg3d_to_angles" in warning.message
