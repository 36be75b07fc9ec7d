"""The machine itself: its name, how fast it multiplies matrices and how fast it copies."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from epigraf.benchmarks.runner import Case, Counts, Row, Work

SGEMM, COPY = "sgemm", "copy"
SIDES, QUICK_SIDES = (512, 1024, 2048), (256,)
COPIED, QUICK_COPIED = 256 * 2**20, 4 * 2**20  # bytes, beyond every cache


def machine_name(device: str) -> str:
    """The GPU's name, or the CPU's name and the number of its cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name} x{os.cpu_count()}"


def cases(device: str, quick: bool) -> Iterator[Case]:
    """Products of square float32 matrices, and a copy of a large tensor."""
    for side in QUICK_SIDES if quick else SIDES:
        yield Case("machine", f"{SGEMM} {side}", partial(_sgemm, side, device), memory=False)
    size = QUICK_COPIED if quick else COPIED
    yield Case("machine", f"{COPY} {size >> 20} MiB", partial(_copy, size, device), memory=False)


def _sgemm(side: int, device: str) -> Sequence[Work]:
    a, b = torch.randn(2, side, side, device=device)
    out = torch.empty_like(a)
    counts = Counts(flops=2 * side**3)
    run = partial(torch.mm, a, b, out=out)
    return [Work(f"{SGEMM} {side}", "torch", run, counts, control=True)]


def _copy(size: int, device: str) -> Sequence[Work]:
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    counts = Counts(bytes_moved=2 * size)  # read and written
    run = partial(target.copy_, source)
    return [Work(f"{COPY} {size >> 20} MiB", "torch", run, counts, control=True)]


def peak_gflops(rows: Sequence[Row]) -> float:
    """The best that matrix products reached; 0 where none was measured."""
    return max((row.gflops for row in rows if row.op == "machine"), default=0.0)


def peak_bandwidth(rows: Sequence[Row]) -> float:
    """GB/s of the copy, read and written; 0 where it was not measured."""
    copies = [r.counts.bytes_moved / r.best for r in rows if r.op == "machine"]
    return max(copies, default=0.0) / 1e9
