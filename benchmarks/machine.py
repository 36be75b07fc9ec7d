"""The machine itself: its name, how fast it multiplies and adds (in registers, in matrix products),
copies, and reads its caches."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from epigraf.benchmarks.runner import Case, Counts, Row, Work
from epigraf.ops import _native, available

FMA, SGEMM, COPY, READ = "fma", "sgemm", "copy", "read"
FMA_STEPS, QUICK_FMA_STEPS = 5_000_000, 10_000  # 0.02 s or so
VECTORS = {16: "baseline", 32: "AVX2", 64: "AVX-512"}  # by bytes
SIDES, QUICK_SIDES = (512, 1024, 2048), (256,)
COPIED, QUICK_COPIED = 256 * 2**20, 4 * 2**20  # bytes, beyond every cache
READS, QUICK_READS = (256 * 2**10, 16 * 2**20), (16 * 2**10,)  # bytes, within caches
READ_IN_ALL, QUICK_READ_IN_ALL = 64 * 2**20, 2**20  # bytes of one call


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
    """Multiply-adds in registers, on all threads and on one; products of square float32 matrices, a
    copy of a large tensor, small ones read again."""
    if not device.startswith("cuda") and available():
        for threads in sorted({torch.get_num_threads(), 1}, reverse=True):
            steps = QUICK_FMA_STEPS if quick else FMA_STEPS
            case = f"{FMA} {threads} thread{'s' * (threads > 1)}"
            yield Case("machine", case, partial(_fma, case, steps, threads), memory=False)
    for side in QUICK_SIDES if quick else SIDES:
        yield Case("machine", f"{SGEMM} {side}", partial(_sgemm, side, device), memory=False)
    size = QUICK_COPIED if quick else COPIED
    yield Case("machine", f"{COPY} {size >> 20} MiB", partial(_copy, size, device), memory=False)
    in_all = QUICK_READ_IN_ALL if quick else READ_IN_ALL
    for size in QUICK_READS if quick else READS:
        name = f"{READ} {size >> 20} MiB" if size >> 20 else f"{READ} {size >> 10} KiB"
        build = partial(_read, name, size, in_all // size, device)
        yield Case("machine", name, build, memory=False)


def _fma(case: str, steps: int, threads: int) -> Sequence[Work]:
    """Chains of multiply-adds that never leave the registers, in every instruction set."""
    core = _native.core()
    return [
        Work(
            case,
            VECTORS[width],
            partial(core.fma_loop, width, steps, threads),
            Counts(flops=2 * steps * threads * core.FMA_CHAINS * (width // 4)),
            control=True,
        )
        for width in core.vector_widths()
    ]


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


def _read(name: str, size: int, times: int, device: str) -> Sequence[Work]:
    """Sums of one and the same tensor: every thread reads all of it, again and again."""
    rows = torch.zeros(size // 4, device=device).expand(times, -1)
    counts = Counts(bytes_moved=times * size)
    return [Work(name, "torch", partial(torch.sum, rows, 1), counts, control=True)]


def peak_gflops(rows: Sequence[Row]) -> float:
    """The best that matrix products reached; 0 where none was measured."""
    return max((row.gflops for row in _machine(rows, SGEMM)), default=0.0)


def peak_fma(rows: Sequence[Row]) -> float:
    """GFLOP/s of multiply-adds in registers, all threads; 0 where they were not measured."""
    return max((row.gflops for row in _machine(rows, FMA)), default=0.0)


def peak_read(rows: Sequence[Row]) -> float:
    """GB/s of the fastest repeated read; 0 where none was measured."""
    return max(read_bandwidths(rows).values(), default=0.0)


def peak_bandwidth(rows: Sequence[Row]) -> float:
    """GB/s of the copy, read and written; 0 where it was not measured."""
    return max(_bandwidths(rows, COPY).values(), default=0.0)


def read_bandwidths(rows: Sequence[Row]) -> dict[str, float]:
    """GB/s of repeated reads by size ("256 KiB"); empty where they were not measured."""
    return _bandwidths(rows, READ)


def _bandwidths(rows: Sequence[Row], kind: str) -> dict[str, float]:
    found = _machine(rows, kind)
    return {r.case.removeprefix(f"{kind} "): r.counts.bytes_moved / r.best / 1e9 for r in found}


def _machine(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.op == "machine" and row.case.startswith(f"{kind} ")]


def describe_peaks(rows: Sequence[Row]) -> str:
    """One line of all that was measured of the machine."""
    reads = [f"{size} {speed:.0f}" for size, speed in read_bandwidths(rows).items()]
    fma = f"FMA {peak_fma(rows):.0f} GFLOP/s, " if peak_fma(rows) else ""
    copied = f"{fma}sgemm {peak_gflops(rows):.0f} GFLOP/s, copy {peak_bandwidth(rows):.0f} GB/s"
    return f"{copied}, reads again and again: {', '.join(reads)} GB/s" if reads else copied
