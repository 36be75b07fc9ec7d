from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Run = Callable[..., Result]


@pytest.mark.parametrize("suite", ["ops", "render", "step", "occupancy", "mesh", "scaling"])
def test_quick_suites_write_every_round(epigraf: Run, tmp_path: Path, suite: str) -> None:
    result = epigraf("bench", suite, "--quick", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    assert (content["complete"], content["suite"], content["threads"]) == (True, suite, 1)
    assert all(len(row["seconds"]) == 3 for row in content["rows"])
    same = epigraf("bench", "compare", path, path)
    assert same.exit_code == 0, same.output
    assert "nothing got slower" in same.output


def slower_copy(path: Path, out: Path) -> Path:
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row["seconds"] = [9 * x for x in row["seconds"]]
    out.write_text(json.dumps(content | {"config": {**content["config"], "quick": False}}))
    return out


def test_compare_fails_and_report_writes(epigraf: Run, tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert epigraf("bench", "scaling", "--quick", "--only", "rays", "--out", out).exit_code == 0
    (path,) = out.iterdir()
    content = json.loads(path.read_text())
    content["config"] |= {"quick": False, "only": ""}
    path.write_text(json.dumps(content))
    worse = slower_copy(path, tmp_path / "worse.json")
    failed = epigraf("bench", "compare", path, worse)
    assert failed.exit_code == 1
    assert "slower" in failed.output
    assert epigraf("bench", "compare", path, worse, "--no-fail").exit_code == 0
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nz\n")
    done = epigraf("bench", "report", out, "--readme", readme)
    assert done.exit_code == 0, done.output
    assert readme.read_text().startswith("a\n<!-- bench:begin -->\n")
    assert "old" not in readme.read_text()
    assert readme.read_text().endswith("<!-- bench:end -->\nz\n")
    assert "R2 =" in (out / "bench.md").read_text()
    assert (out / "bench-scaling-1.png").stat().st_size > 1000


def test_errors_are_one_line(epigraf: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    assert "not JSON" in epigraf("bench", "compare", bad, bad).stderr
    bad.write_text('{"rows": []}')
    assert "format 1, this version reads 2" in epigraf("bench", "compare", bad, bad).stderr
    assert "Did you mean 'render'" in epigraf("bench", "rendr").output
    assert "no case has 'zzz'" in epigraf("bench", "ops", "--only", "zzz", "--out", tmp_path).stderr
    some = epigraf("bench", "ops", "--quick", "--only", "linear, cnov", "--out", tmp_path)
    assert "no case has 'cnov'" in some.stderr  # not only one of them
    assert "no complete result" in epigraf("bench", "report", tmp_path).stderr
    assert "--device nowhere" in epigraf("bench", "ops", "--device", "nowhere").stderr


def test_ctrl_c_leaves_what_was_measured(
    epigraf: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from epigraf.benchmarks import bench_rays

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_rays, "_build", interrupted)
    result = epigraf("bench", "ops", "--quick", "--out", tmp_path)
    assert result.exit_code == 130
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    assert not content["complete"]
    assert {"machine", "triplane", "merge"} <= {row["op"] for row in content["rows"]}
    assert "(stopped)" in result.output
    assert "merge B1 R16 S6 F6 forward" in result.output


def test_what_is_asked_for_is_measured(epigraf: Run, tmp_path: Path) -> None:
    done = epigraf("bench", "step", "--quick", "--only", "ops", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.iterdir()
    rows = [row for row in json.loads(path.read_text())["rows"] if row["op"] == "step"]
    assert {row["implementation"] for row in rows} == {"ops"}
    both = tmp_path / "both"
    assert (
        epigraf("bench", "ops", "--quick", "--only", "linear,conv1x1", "--out", both).exit_code == 0
    )
    (path,) = both.iterdir()
    ops = {row["op"] for row in json.loads(path.read_text())["rows"]}
    assert ops - {"machine"} == {"linear", "conv1x1"}
    nothing = epigraf("bench", "step", "--quick", "--only", "zzz", "--out", tmp_path)
    assert "no case has 'zzz'" in nothing.stderr


def kernel(spills: int) -> object:
    from epigraf.benchmarks.kernel_report import Kernel

    return Kernel("f_kernel<float>", 80, registers=40, shared=0, stack=0, spills=spills)


def test_kernels_fail_on_a_spill(
    epigraf: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from epigraf.benchmarks import kernel_report

    page = tmp_path / "kernels.md"
    monkeypatch.setattr(kernel_report, "compile_kernels", lambda archs: [kernel(0)])
    done = epigraf("bench", "kernels", "80", "--page", page)
    assert (done.exit_code, "f_kernel<float>" in page.read_text()) == (0, True)
    monkeypatch.setattr(kernel_report, "compile_kernels", lambda archs: [kernel(8)])
    failed = epigraf("bench", "kernels", "80")
    assert failed.exit_code == 1
    assert "registers spill in f_kernel<float> on sm_80" in failed.stderr


def test_kernels_without_a_compiler_or_of_an_unknown_gpu(
    epigraf: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no limits known for [70]" in epigraf("bench", "kernels", "70", "80").stderr
    monkeypatch.setenv("NVCC", "no-such-compiler")
    missing = epigraf("bench", "kernels", "80")
    assert (missing.exit_code, "nvcc not found" in missing.stderr) == (1, True)
