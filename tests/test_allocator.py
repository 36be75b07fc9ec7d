"""`keep_freed_memory` in processes of its own: it changes the C library's settings for good."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from epigraf.allocator import _VARIABLES, keep_freed_memory

PROGRAM = "from epigraf.allocator import keep_freed_memory; print(keep_freed_memory())"
# Frees 96 MB and says how much of it the process still holds, in MB.
PROGRAM_FREES = """
from pathlib import Path
from epigraf.allocator import keep_freed_memory
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmRSS")).split()[1]) / 1024
if {asked}:
    keep_freed_memory()
before = resident()
block = bytearray(b"x" * (48 << 20))
del block
print(resident() - before)
"""
GLIBC = platform.libc_ver()[0] == "glibc"


def run(program: str, **settings: str) -> str:
    """What `program` prints in a process with `settings`, and no others of malloc's."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": path, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_true_on_glibc() -> None:
    assert run(PROGRAM) == "True"


@pytest.mark.parametrize("variable", _VARIABLES)
def test_false_where_the_user_has_chosen(variable: str) -> None:
    assert run(PROGRAM, **{variable: "1000000"}) == "False"


def test_false_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
@pytest.mark.parametrize("asked", [False, True])
def test_freed_memory_stays_if_asked(asked: bool) -> None:
    """A buffer above glibc's 32 MB goes back to the kernel when freed; here it must not."""
    left = float(run(PROGRAM_FREES.format(asked=asked)))
    assert left > 40 if asked else left < 8
