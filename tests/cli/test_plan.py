"""`epigraf plan` as a stranger uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result as Outcome

from epigraf.benchmarks.result import Result, new_result, result_path, write_result
from epigraf.benchmarks.runner import Counts, Row, Settings

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _measurement(**facts: object) -> Result:
    """A step of plants64 that took 0.5 s, in two backends."""
    result = new_result("step", Settings(threads=1, device="cpu", preset="plants64"))
    result.facts |= facts
    result.complete = True
    counts = Counts(images=8)
    for backend, factor in (("fused", 1.0), ("ops", 2.0)):
        rows = {"Gmain": 0.3, "Dmain": 0.1, "Dreg": 0.4, "data": 0.05, "step": 0.5}
        result.rows += [
            Row("step", case, backend, [3.0, factor * seconds], counts)
            for case, seconds in rows.items()
        ]
    return result


def test_a_prediction_says_so(epigraf: Run) -> None:
    result = epigraf("plan", "ffhq512-author", "--gpu", "a100", "--gpus", "8")
    assert result.exit_code == 0
    for words in (
        "G 29.2", "batch 32 on 8 x A100, 4 images a pass", "backbone b512", "R1",
        "PREDICTION, nothing was measured", "of 80; training.batch_gpu=4 is the most that fits",
        "backbone dominates", "epigraf bench step --config ffhq512-author", "8 devices assumed",
    ):  # fmt: skip
        assert words in result.output


def test_json_for_programs(epigraf: Run) -> None:
    values = json.loads(epigraf("plan", "tiny", "--gpu", "RTX4090", "--json").output)
    assert values["gpu"] == "RTX4090"
    assert values["predicted"] is True
    memory = dict(values["memory_bytes"])
    assert memory.pop("peak") == pytest.approx(sum(memory.values()))
    assert values["days"] == pytest.approx(values["seconds_per_kimg"] * values["kimg"] / 86400)
    assert values["seconds_per_kimg"] == pytest.approx(
        1000 * sum(values["seconds_per_image"].values())
    )


def test_a_measurement_of_this_machine_is_found(epigraf: Run, tmp_path: Path) -> None:
    for name, date in (("old", "2026-01-01T00:00:00+00:00"), ("new", "2026-02-01T00:00:00+00:00")):
        result = _measurement(date=date)
        if name == "old":
            result.rows = [row for row in result.rows if row.implementation == "ops"]
        write_result(result, result_path(result, tmp_path / "bench-results"))
    other = _measurement(machine="another machine", date="2026-03-01T00:00:00+00:00")
    write_result(other, result_path(other, tmp_path / "bench-results"))
    (tmp_path / "bench-results" / "broken_step.json").write_text("{", encoding="utf-8")
    values = json.loads(epigraf("plan", "plants64", "--json").output)
    assert values["predicted"] is False
    assert values["gpu"] is None
    # 0.3 + 0.1 + 0.4 / 8 + 0.05 s for eight images, in the quicker backend of the newer file
    assert values["seconds_per_kimg"] == pytest.approx(62.5)
    assert "this machine, 8 images a pass" in epigraf("plan", "plants64").output
    predicted = json.loads(epigraf("plan", "plants64", "--gpu", "H100", "--json").output)
    assert predicted["predicted"] is True


def test_a_measurement_of_the_same_configuration_comes_first(epigraf: Run, tmp_path: Path) -> None:
    same = _measurement(date="2026-01-01T00:00:00+00:00")
    other = _measurement(date="2026-02-01T00:00:00+00:00")
    other.facts["config"] = other.facts["config"] | {"set": ["training.batch_size=16"]}
    lost = _measurement(date="2026-03-01T00:00:00+00:00")
    lost.facts["config"] = lost.facts["config"] | {"preset": "gone.yaml"}
    for result in (same, other, lost):
        write_result(result, result_path(result, tmp_path / "bench-results"))
    values = json.loads(epigraf("plan", "plants64", "--json").output)
    assert values["source"].startswith("measured on")
    values = json.loads(epigraf("plan", "plants64", "--set", "training.seed=3", "--json").output)
    assert values["source"].startswith("scaled by FLOPs from plants64")


def test_a_measurement_can_be_named(epigraf: Run, tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    write_result(_measurement(machine="NVIDIA A100-SXM4-80GB"), path)
    output = epigraf("plan", "plants64", "--bench", path).output
    assert "measured on NVIDIA A100-SXM4-80GB (step.json)" in output
    assert "of 80;" in output
    wrong = epigraf("plan", "plants64", "--bench", path, "--gpu", "H100")
    assert wrong.exit_code == 1
    assert "was measured on NVIDIA A100-SXM4-80GB, not on H100; leave out --gpu" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plants46",), "did you mean 'plants64'"),
        (("plants64", "--gpus", "3"), "--gpus 3: must divide training.batch_size 8"),
        (("plants64", "--bench", "gone.json"), "gone.json"),
        (("plants64", "--set", "training.gama=1"), "did you mean 'training.gamma'"),
    ],
)
def test_mistakes_are_one_line(epigraf: Run, words: tuple[str, ...], message: str) -> None:
    result = epigraf("plan", *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_gpu_is_wrong_usage(epigraf: Run) -> None:
    assert epigraf("plan", "tiny", "--gpu", "abacus").exit_code == 2
    assert epigraf("plan", "tiny", "--gpus", "0").exit_code == 2


def test_another_suite_is_no_step(epigraf: Run, tmp_path: Path) -> None:
    result = new_result("ops", Settings(threads=1, device="cpu"))
    result.rows, result.complete = [Row("triplane", "x", "native", [1.0])], True
    write_result(result, tmp_path / "ops.json")
    failed = epigraf("plan", "tiny", "--bench", tmp_path / "ops.json")
    assert failed.exit_code == 1
    assert "not a result of `epigraf bench step`" in failed.stderr
