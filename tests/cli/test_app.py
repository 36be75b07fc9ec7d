from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from epigraf.cli import app as app_module
from epigraf.cli import configs as configs_module
from epigraf.cli.app import describe_error
from epigraf.errors import DataError

Run = Callable[..., Result]
COMMANDS = (
    "bench",
    "train",
    "sample",
    "video",
    "mesh",
    "data",
    "metrics",
    "demo",
    "info",
    "doctor",
    "configs",
)


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "epigraf", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
        check=False,
    )


def test_help_names_every_command(epigraf: Run) -> None:
    result = epigraf("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples(epigraf: Run, command: str) -> None:
    arguments = [(command, "synth"), (command, "check")] if command == "data" else [(command,)]
    for words in arguments:
        result = epigraf(*words, "-h")
        assert result.exit_code == 0
        assert "Examples" in result.output
        assert f"epigraf {' '.join(words)}" in result.output


def test_help_does_not_import_torch() -> None:
    code = "import sys, epigraf.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_user_errors_are_one_line_and_exit_code_1() -> None:
    result = in_a_process("configs", "nothing-like-it.yaml")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "error: config: no such file: nothing-like-it.yaml\n"


def test_debug_shows_the_traceback() -> None:
    result = in_a_process("configs", "nothing-like-it", EPIGRAF_DEBUG="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ConfigError" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["sampel"], "Did you mean 'sample'"),
        (["sample", "x", "--sede", "3"], "--seeds"),
        (["sample"], "MODEL"),
        (["sample", "x", "--class", "-1"], "--class"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_nearest(
    epigraf: Run, arguments: list[str], hint: str
) -> None:
    result = epigraf(*arguments)
    assert result.exit_code == 2
    assert hint in result.output


def test_underscores_are_dashes(epigraf: Run, model: Path, tmp_path: Path) -> None:
    for spelling in ("--mix_layers", "--mix-layers"):
        out = tmp_path / f"{spelling}.png"
        words = ("--seeds", 0, "--mix", 1, spelling, 1)
        result = epigraf("sample", model, *words, "--out", out)
        assert result.exit_code == 0, result.output
        assert out.exists()


def test_ctrl_c_is_exit_code_130(epigraf: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(configs_module, "list_presets", interrupted)
    result = epigraf("configs")
    assert result.exit_code == 130
    assert result.stderr == "stopped\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DataError("a.png: corrupt\nreally"), "a.png: corrupt really"),
        (OSError(errno.ENOSPC, "x", "out/a"), "out/a: no space left"),
        (OSError(errno.EACCES, "x", "out/a"), "out/a: permission denied"),
        (FileNotFoundError(errno.ENOENT, "x", "a"), "a: no such file or folder"),
        (OSError("odd"), "odd"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), "out of memory"),
        (KeyError("k"), r"KeyError: 'k' (EPIGRAF_DEBUG=1"),
    ],
)
def test_describe_error(error: BaseException, text: str) -> None:
    line = describe_error(error)
    assert line.startswith(text)
    assert "\n" not in line


def test_main_is_the_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["epigraf", "configs"])
    with pytest.raises(SystemExit) as stop:
        app_module.main()
    assert stop.value.code == 0


TERMINATED = """
import os, pathlib, signal, sys, time
from epigraf.cli import app, configs, media

out = pathlib.Path(sys.argv.pop())

def halfway():
    with media.atomic(out) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

configs.list_presets = halfway
sys.argv = ["epigraf", "configs"]
app.main()
"""


def test_a_terminated_command_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TERMINATED, str(tmp_path / "a.txt")]
    result = subprocess.run(command, timeout=300, check=False, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 128 + signal.SIGTERM
    assert result.stderr == "terminated\n"
    assert list(tmp_path.iterdir()) == []
