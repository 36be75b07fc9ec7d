"""`epigraf doctor` never crashes, and what it says is so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import epigraf as package
from epigraf import ops
from epigraf.cli.app import app
from epigraf.doctor import installation, parity
from epigraf.doctor.checkup import Section, run_check
from epigraf.ops.engines import Engine

Run = Callable[..., Result]


def examined(folder: Path, *first: Path, **environment: str) -> dict:
    """The JSON of a doctor in a process of its own, which sees the folders in `first` first."""
    path = os.pathsep.join([*map(str, first), str(Path(package.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "epigraf", "doctor", "--json"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment},
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def epigraf() -> Run:
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "_SECONDS", 0.0)


@pytest.mark.usefixtures("quick")
def test_every_op_agrees_on_every_engine_that_is_on(epigraf: Run):
    result = epigraf("doctor", "--json")
    assert result.exit_code == 0
    found = json.loads(result.output)
    states = {(cell["op"], cell["engine"]): cell["verdict"] for cell in found["engines"]}
    assert "wrong" not in states.values()
    assert states["composite", "reference"] == "ok"
    if ops.available():
        assert {states[op, "cpu"] for op in ("triplane", "decoder", "render")} == {"ok"}
    assert found["sections"]["torch"]["version"] == torch.__version__


@pytest.mark.usefixtures("quick")
def test_a_wrong_op_is_found_and_is_an_error(epigraf: Run, monkeypatch: pytest.MonkeyPatch):
    good = parity._RUNS["composite"]

    def bad(device: str):
        runs = good(device)
        broken = [x + 1e-2 for x in runs[Engine.REFERENCE]()]
        return {**runs, Engine.NERFACC: lambda: broken}

    monkeypatch.setitem(parity._RUNS, "composite", bad)
    result = epigraf("doctor")
    if "composite on nerfacc is wrong: error" not in result.output:
        pytest.skip("nerfacc is not installed")
    assert result.exit_code == 1


@pytest.mark.usefixtures("quick")
def test_an_op_that_raises_is_a_cell(monkeypatch: pytest.MonkeyPatch):
    def raises(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setitem(parity._RUNS, "merge", lambda _: {Engine.REFERENCE: raises})
    cells = [cell for cell in parity.parity_matrix() if cell.op == "merge"]
    assert {cell.verdict for cell in cells} <= {"wrong", "off"}
    assert any("ZeroDivisionError: planted" in cell.why_not for cell in cells)


def test_a_check_that_fails_is_a_finding():
    def broken() -> Section:
        raise OSError("no\nsuch thing")

    section = run_check("memory", broken)
    assert section.facts == {"failed": "OSError: no such thing"}
    assert section.advice == ["memory: this check failed (OSError: no such thing)"]


@pytest.mark.slow
def test_a_core_of_another_python_and_no_core_at_all(tmp_path: Path):
    source = Path(package.__file__).parent
    tree = tmp_path / "tree"
    skip = shutil.ignore_patterns("_C*", "__pycache__", "shipped")
    shutil.copytree(source, tree / "epigraf", ignore=skip, symlinks=False)
    (tree / "epigraf" / "_C.cpython-39-x86_64-linux-gnu.so").write_bytes(b"not for us")
    (tree / "epigraf" / "_C.abi3.so").write_bytes(b"damaged")
    found = examined(tmp_path, tree)
    core = found["sections"]["native core"]
    assert core["found"].startswith("no: epigraf._C not built")
    assert "cpython-39" in core["others beside it"]
    assert any("plain torch, many times slower" in line for line in found["advice"])
    verdicts = {cell["op"]: cell["verdict"] for cell in found["engines"] if cell["runs"]}
    assert set(verdicts.values()) == {"ok"}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["nerfacc", "tinycudann", "kaolin"])
def test_an_optional_part_that_fails_to_import(part: str, tmp_path: Path):
    (tmp_path / f"{part}.py").write_text("raise OSError('libcuda.so.1 is missing')")
    facts = examined(tmp_path, tmp_path)["sections"]["optional parts"]
    assert facts[part].startswith(
        f"off: {part} fails to import: OSError: libcuda.so.1 is missing; "
    )
    assert "pip install" in facts[part]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\nexit 3\n", "is not a working nvcc (exit code 3)"),
        ("#!/bin/sh\necho hello\n", "is not a working nvcc (exit code 0)"),
        ("#!/bin/sh\nprintf '\\377\\376'\n", "does not run (UnicodeDecodeError)"),
        ("not a script", "does not run (OSError)"),
        ("#!/bin/sh\nexec sleep 60\n", "does not run (TimeoutExpired)"),
        ("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n", "13.0 in"),
    ],
)
def test_whatever_calls_itself_nvcc(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(installation, "_SECONDS", 0.5)
    fake = tmp_path / "nvcc"
    fake.write_text(script)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert said in installation._nvcc()[0]


@pytest.mark.parametrize(
    ("archs", "device", "runs"),
    [
        ("75-real 80-real 90", 86, True),  # machine code of 80 runs on 86
        ("75-real 80-real 90", 90, True),
        ("75-real 80-real 90", 120, True),  # by PTX of 90
        ("75-real 80-real 90", 70, False),
        ("86-real 90", 80, False),  # 86 does not run on 80, and PTX only goes up
        ("", 80, False),
    ],
)
def test_which_devices_compiled_code_serves(archs: str, device: int, runs: bool):
    assert installation.runs_on(archs, device) is runs


def test_requirements_are_those_always_needed():
    names = [name for name, _ in installation._requirements()]
    assert "torch" in names
    assert "nerfacc" in names
    assert "pytest" not in names
