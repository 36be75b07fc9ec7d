"""The launcher: its processes know their place, and end together with one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from epigraf.cli import launch as launch_module
from epigraf.cli.launch import PEER_LOST, launch

Run = Callable[..., Result]
RANK = "import os, signal, sys, time; rank = int(os.environ['RANK']); "
FOREVER = "time.sleep(1000)"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module, "GRACE_SECONDS", 0.3)


def _python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", RANK + code]


def test_each_process_is_told_its_place(tmp_path: Path) -> None:
    write = f"import json; json.dump(dict(os.environ), open(f'{tmp_path}/{{rank}}', 'w'))"
    assert launch(_python(write), 3) == (0, "")
    for rank in range(3):
        told = json.loads((tmp_path / str(rank)).read_text())
        assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"]) == (str(rank), str(rank), "3")
        assert told["MASTER_ADDR"] == "127.0.0.1"


def test_a_killed_process_is_named_and_takes_the_others_with_it(tmp_path: Path) -> None:
    code = f"open(f'{tmp_path}/{{os.getpid()}}', 'w'); time.sleep(0.1); "
    code += "rank == 1 and os.kill(os.getpid(), signal.SIGKILL); "
    code += "signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOREVER
    status, words = launch(_python(code), 3)
    assert status == 1
    assert words == (
        "error: rank 1 of 3 was killed by SIGKILL (out of memory?); the others were ended and "
        "whole snapshots remain: continue with --resume latest"
    )
    assert len(list(tmp_path.iterdir())) == 3
    for pid in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.name), 0)


def test_a_failed_process_speaks_for_itself(capfd: pytest.CaptureFixture[str]) -> None:
    code = "print(f'error: rank {rank} of 2: no', file=sys.stderr); "
    code += f"sys.exit(1 if rank == FAILS else {PEER_LOST})"
    second = _python(code.replace("FAILS", "1"))
    assert launch(second, 2) == (1, "error: rank 1 of 2: no")
    assert "rank 1" not in capfd.readouterr().err
    first = _python(code.replace("FAILS", "0"))
    assert launch(first, 2) == (1, "")  # it has the terminal
    assert capfd.readouterr().err == "error: rank 0 of 2: no\n"


def test_other_ends_have_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    status, words = launch(_python("sys.exit(3 * rank)"), 2)
    assert status == 1
    assert words.startswith("error: rank 1 of 2 ended with exit code 3;")
    status, words = launch(_python(f"sys.exit({PEER_LOST} * rank)"), 2)
    assert status == 1
    assert words.startswith("error: rank 1 of 2 lost the connection to the others;")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_every_process(tmp_path: Path, number: signal.Signals) -> None:
    code = f"signal.signal({number}, lambda n, _: (open(f'{tmp_path}/{{rank}}', 'w'), "
    code += f"sys.exit(128 + n))); open(f'{tmp_path}/ready{{rank}}', 'w'); " + FOREVER

    def interrupt() -> None:
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.01)
        time.sleep(0.2)  # both are in their endless sleep, not in the call that made the file
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.getsignal(number)
    assert launch(_python(code), 2) == (128 + number, "")
    assert signal.getsignal(number) is before
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


def test_a_second_ctrl_c_does_not_wait_for_ever() -> None:
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN); "
    timers = [threading.Timer(t, os.kill, (os.getpid(), signal.SIGINT)) for t in (0.3, 0.6)]
    for timer in timers:
        timer.start()
    assert launch(_python(ignore + FOREVER), 2) == (130, "")


def test_processes_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    child = "import os, time; from epigraf.cli.launch import watch_launcher; watch_launcher(); "
    child += f"open(f'{tmp_path}/{{os.getpid()}}', 'w'); time.sleep(1000)"
    code = "import sys; from epigraf.cli.launch import launch; "
    code += f"launch([sys.executable, '-c', {child!r}], 2)"
    launcher = subprocess.Popen([sys.executable, "-c", code])
    while len(list(tmp_path.iterdir())) < 2:
        assert launcher.poll() is None
        time.sleep(0.01)
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 20
    for pid in tmp_path.iterdir():
        while Path(f"/proc/{pid.name}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.monotonic() < deadline


TRAIN = (
    "train", "tiny", "--out", "runs", "--resume", "latest", "--batch", "8", "--batch-gpu", "2",
    "--set", "dataset.resolution=16", "--set", "training.patch.resolution=16",
    "--set", "model.generator.cmax=16", "--set", "model.discriminator.cmax=16",
    "--set", "training.tick=0.04", "--set", "training.snap=1", "--set", "training.image_snap=100",
    "--set", "training.metric_samples=0", "--data", "shapes",
)  # fmt: skip


class Training:
    """A training in several processes, in a folder of its own."""

    def __init__(self, folder: Path, kimg: float, *words: str) -> None:
        command = [sys.executable, *words, "--set", f"training.kimg={kimg}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.out, self.err = (folder / name for name in ("out.txt", "err.txt"))
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=out, stderr=err, env=environment
            )

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in self.out.read_text():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def children(self) -> list[int]:
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in found.split()]

    def end(self) -> tuple[int, list[str], list[str]]:
        code = self.process.wait(timeout=120)
        return code, self.out.read_text().splitlines(), self.err.read_text().splitlines()


@pytest.mark.slow
def test_a_training_in_two_processes_from_start_to_finish(epigraf: Run, tmp_path: Path) -> None:
    """A process dies, the scheduler stops the next session, a third is started by torchrun."""
    words = ("--objects", 6, "--views", 2, "--resolution", 16)
    assert epigraf("data", "synth", tmp_path / "shapes", *words).exit_code == 0
    run = Training(tmp_path, 1000, "-m", "epigraf", *TRAIN, "--gpus", "2")
    run.wait_for("tick 1 ")
    os.kill(run.children()[1], signal.SIGKILL)
    code, out, err = run.end()
    assert code == 1
    assert "batch      8 images a step = 2 processes x 4, 2 a pass, 2 to a step" in out
    assert err == [
        "error: rank 1 of 2 was killed by SIGKILL (out of memory?); the others were ended and "
        "whole snapshots remain: continue with --resume latest"
    ]
    run = Training(tmp_path, 1000, "-m", "epigraf", *TRAIN, "--gpus", "2")
    run.wait_for("tick 2 ")
    run.process.send_signal(signal.SIGTERM)
    code, out, err = run.end()
    assert (code, err) == (143, [])
    assert out[-1].startswith("continue with --resume runs/00000-tiny-shapes-batch8")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "epigraf")
    code, out, err = Training(tmp_path, 0.4, *torchrun, *TRAIN).end()
    assert code == 0, err
    assert any(line.startswith("resumed from runs/00000-") for line in out)
    assert not any("streams of random numbers" in line for line in out)


def test_gpus_and_batches_are_checked_before_anything_starts(
    epigraf: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "tiny", "--data", tmp_path / "nothing")
    result = epigraf(*words, "--gpus", 2)
    assert result.exit_code == 1
    assert "nothing: no such file or folder" in result.stderr
    result = epigraf(*words, "--gpus", 3)
    assert "batch_size 8 must be a multiple of the number of processes 3" in result.stderr
    result = epigraf(*words, "--gpus", 2, "--batch", 12, "--batch-gpu", 4)
    assert "batch_gpu 4 must divide the 6 images of a process" in result.stderr
    assert epigraf(*words, "--gpus", 0).exit_code == 2
    place = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "a", "MASTER_PORT": 1}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    result = epigraf(*words, "--gpus", 4)
    assert result.stderr == (
        "error: rank 0 of 2: train: --gpus 4, but 2 processes were started on this machine; leave "
        "--gpus out\n"
    )
