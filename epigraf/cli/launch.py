"""Several processes of one command on this machine: started together, ended together.

The launcher waits. Ctrl-C and SIGTERM go on to every process, which save and leave; when one dies,
the others are ended and one line says which it was. A process whose launcher dies ends at once.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any

LAUNCHED = "EPIGRAF_LAUNCHED"  # set in the environment of each process
PEER_LOST = 75  # exit code of a process that ended only because another one did
GRACE_SECONDS = 10.0  # for the others, once one has ended
POLL_SECONDS = 0.05
STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM}


@dataclass
class Worker:
    """One process; what it writes to stderr, where that is kept and not shown."""

    process: subprocess.Popen[bytes]
    said: IO[bytes] | None

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        if self.said is None:
            return ""
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


class Forward:
    """Passes SIGINT and SIGTERM on to all workers. Use as a context manager.

    Attributes:
        received: the last of them. interrupts: how many SIGINT came.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.received: int | None = None
        self.interrupts = 0
        self._workers = workers
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Forward:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _forward(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self.interrupts += number == signal.SIGINT
        for worker in self._workers:
            worker.process.send_signal(number)


def launch(command: Sequence[str], count: int) -> tuple[int, str]:
    """Run `command` in `count` processes, each told its place in the environment.

    The first one has the terminal; of the others only the last words are kept.

    Returns:
        (exit code of the whole, one line for stderr or nothing): 0 done, 130 and 143 stopped by a
        signal, 1 where a process failed.
    """
    workers: list[Worker] = []
    with ExitStack() as stack:
        forward = stack.enter_context(Forward(workers))
        port = _free_port()
        for rank in range(count):
            said = None if _shown(rank) else stack.enter_context(tempfile.TemporaryFile())
            process = stack.enter_context(_start(command, rank, count, port, said))
            stack.callback(process.kill)  # what is left when this is over; usually nothing
            workers.append(Worker(process, said))
        if forward.received is not None:  # it may have missed some; nothing has begun yet
            return 128 + forward.received, ""
        codes = _wait(workers, forward)
        return _verdict(workers, codes, forward.received)


def watch_launcher() -> None:
    """In a launched process: end at once when the launcher is gone (its pipe to stdin closes)."""
    if LAUNCHED in os.environ:
        threading.Thread(target=_until_launcher_ends, daemon=True).start()


def _until_launcher_ends() -> None:
    while os.read(0, 1):
        pass
    os._exit(PEER_LOST)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _shown(rank: int) -> bool:
    """Whether a process may write to the terminal's stderr."""
    return rank == 0 or os.environ.get("EPIGRAF_DEBUG", "0") not in ("", "0")


def _start(
    command: Sequence[str], rank: int, count: int, port: int, said: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LAUNCHED: 1}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        stderr=said,
        env={**os.environ, **{name: str(value) for name, value in (places | meeting).items()}},
        start_new_session=True,  # Ctrl-C on the terminal reaches the launcher alone
    )


def _wait(workers: Sequence[Worker], forward: Forward) -> list[int | None]:
    """Until all have ended, or GRACE_SECONDS after the first did or a second Ctrl-C came; the exit
    codes by then."""
    deadline = float("inf")
    while True:
        codes = [worker.process.poll() for worker in workers]
        ended = sum(code is not None for code in codes)
        if ended == len(workers) or time.monotonic() > deadline:
            return codes
        if (ended or forward.interrupts > 1) and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_SECONDS
        time.sleep(POLL_SECONDS)


def _verdict(
    workers: Sequence[Worker], codes: Sequence[int | None], received: int | None
) -> tuple[int, str]:
    """Exit code and message of the whole from those of its parts."""
    count, codes = len(workers), [_exit_code(code, received) for code in codes]
    quiet = {0, PEER_LOST} | STOPPED
    if failed := [rank for rank, code in enumerate(codes) if code not in quiet]:
        return 1, _obituary(workers[failed[0]], failed[0], count, codes[failed[0]])
    if stopped := [code for code in codes if code in STOPPED]:
        return stopped[0], ""
    if received is not None:
        return 128 + received, ""
    if PEER_LOST not in codes:
        return 0, ""
    lost = ", ".join(str(rank) for rank, code in enumerate(codes) if code == PEER_LOST)
    return 1, (
        f"error: rank {lost} of {count} lost the connection to the others; whole snapshots remain: "
        f"continue with --resume latest"
    )


def _exit_code(code: int | None, received: int | None) -> int:
    """Of a process: 0 where it had not ended, 128 + n where signal n that was passed on came so
    early that Python did not handle it yet."""
    if code is not None and received is not None and code == -received:
        return 128 + received
    return code or 0


def _obituary(worker: Worker, rank: int, count: int, code: int) -> str:
    """One line on the process that failed first; what it said itself where it did."""
    if code > 0 and rank == 0:
        return ""  # its line is on the terminal
    if code > 0 and (words := worker.last_words()):
        return words
    cause = f"ended with exit code {code}"
    if code < 0:
        name = signal.Signals(-code).name
        cause = f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return (
        f"error: rank {rank} of {count} {cause}; the others were ended and whole snapshots remain: "
        f"continue with --resume latest"
    )


def this_command() -> list[str]:
    """The command line that this process was started with."""
    return [sys.executable, "-m", "epigraf", *sys.argv[1:]]
