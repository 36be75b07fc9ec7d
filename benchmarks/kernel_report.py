"""What the compiler makes of the CUDA kernels, and what a GPU could make of the fused renderer.

epigraf bench kernels [ARCH...]

Compiles csrc/cuda for every architecture (or those given, 80 for sm_80) with nvcc, reads ptxas'
report and prints registers, shared memory, spills and theoretical occupancy of every kernel; with
all architectures it writes docs/kernels.md too. Fails where nvcc fails or a kernel spills. Needs
nvcc (or $NVCC) and c++filt, no GPU: nothing here is measured on one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epigraf.benchmarks.roofline import GPUS, Case, backward_work, forward_work, rays_per_second

WARP = 32


def source_tree() -> Path:
    """The folder of csrc/cuda: this file's own tree, else the current folder."""
    for folder in (Path(__file__).resolve().parents[1], Path.cwd()):
        if (folder / "csrc" / "cuda").is_dir():
            return folder
    raise SystemExit("kernel_report: there is no csrc/cuda here; run it in a source tree")


@dataclass(frozen=True)
class Limits:
    """One multiprocessor (CUDA C++ Programming Guide, "Compute Capabilities"): resident warps and
    blocks, shared memory in KB, and what one block can have of it."""

    warps: int
    blocks: int
    shared: int
    shared_of_block: int
    reserved: int = 1  # KB of shared memory that every block costs
    registers: int = 64 * 1024
    register_unit: int = 256  # registers are handed to warps in such pieces
    warp_unit: int = 4  # and warps live on one of four partitions


LIMITS = {
    75: Limits(warps=32, blocks=16, shared=64, shared_of_block=64, reserved=0),
    80: Limits(warps=64, blocks=32, shared=164, shared_of_block=163),
    86: Limits(warps=48, blocks=16, shared=100, shared_of_block=99),
    89: Limits(warps=48, blocks=24, shared=100, shared_of_block=99),
    90: Limits(warps=64, blocks=32, shared=228, shared_of_block=227),
    100: Limits(warps=64, blocks=32, shared=228, shared_of_block=227),
    120: Limits(warps=48, blocks=24, shared=100, shared_of_block=99),
}


@dataclass(frozen=True)
class Kernel:
    """ptxas' report on one kernel for one architecture; shared, stack and spills in bytes."""

    name: str
    arch: int
    registers: int
    shared: int
    stack: int
    spills: int


def compile_kernels(archs: Sequence[int]) -> list[Kernel]:
    """Every kernel of csrc/cuda for every architecture. Raises SystemExit where nvcc fails."""
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
    if nvcc is None:
        raise SystemExit("kernel_report: nvcc not found (set NVCC)")
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
    flags = ["-std=c++17", "-O3", "--threads=2", "-Xptxas=-v", "-Xcompiler=-Wall,-Wextra,-fPIC"]
    kernels, root = [], source_tree()
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted((root / "csrc" / "cuda").glob("*.cu")):
            command = [nvcc, *flags, "-Werror", "all-warnings", "-I", str(root / "csrc/include")]
            command += [*codes, "-c", str(source), "-o", str(Path(folder, "object.o"))]
            done = subprocess.run(command, capture_output=True, text=True)
            log = done.stdout + done.stderr
            if done.returncode != 0:
                raise SystemExit(f"{log}\nkernel_report: {source.name} does not compile")
            named = subprocess.run(["c++filt"], input=log, capture_output=True, text=True)
            kernels += parse(named.stdout)
    if not kernels:
        raise SystemExit("kernel_report: no kernel in the output of ptxas")
    return sorted(set(kernels), key=lambda k: (k.name, k.arch))


def parse(log: str) -> list[Kernel]:
    """Kernels of ptxas' verbose output, with names demangled."""
    kernels = []
    for part in log.split("Compiling entry function")[1:]:
        name, arch = re.findall(r"'([^']*)'", part)[:2]
        stack, stores, loads = map(
            int, re.search(r"(\d+) bytes stack.* (\d+) bytes spill st.* (\d+) bytes", part).groups()
        )
        shared = re.search(r"(\d+) bytes smem", part)
        kernels.append(
            Kernel(
                name=re.sub(r"\(anonymous namespace\)::|epigraf::|void |\(\w.*", "", name),
                arch=int(arch.removeprefix("sm_")),
                registers=int(re.search(r"Used (\d+) registers", part)[1]),
                shared=int(shared[1]) if shared else 0,
                stack=stack,
                spills=stores + loads,
            )
        )
    return kernels


def resident_warps(limits: Limits, warps: int, registers: int, shared: int) -> int:
    """Warps on one multiprocessor, in blocks of `warps` warps with `shared` bytes each."""
    unit = limits.register_unit
    of_warp = -(-registers * WARP // unit) * unit
    by_registers = limits.registers // of_warp // limits.warp_unit * limits.warp_unit // warps
    if shared > limits.shared_of_block * 1024:
        return 0
    bytes_of_block = shared + limits.reserved * 1024
    by_shared = limits.shared * 1024 // bytes_of_block if bytes_of_block else limits.blocks
    return warps * min(limits.blocks, limits.warps // warps, by_registers, by_shared)


def is_render(kernel: Kernel) -> bool:
    """The fused renderer's kernels, whose blocks are as large as shared memory makes best."""
    return kernel.name.startswith("render_")


def render_bytes(kernel_name: str, case: Case, warps: int) -> int:
    """Dynamic shared memory of a block: csrc/include/epigraf/render_memory.h in Python, where a
    test holds the one against the other."""
    item = 8 if "double" in kernel_name else 4
    unit = 64 // item

    def whole(count: int) -> int:
        return -(-count // unit) * unit

    decoder = whole(whole(case.hidden) * (case.channels + 5) + 4)
    tile = whole(WARP * (case.channels | 1))
    if "backward" in kernel_name:
        sums = whole(case.hidden * (case.channels + 5) + 4)
        of_warp = 2 * tile + WARP * (unit + unit // 4) + whole(5 * case.samples)
        return (decoder + sums + warps * of_warp) * item
    draws = 1 << max(case.fine - 1, 0).bit_length() if case.fine else 0
    between = max(case.coarse + draws, case.samples + case.fine) if case.fine else 0
    of_warp = max(tile, whole(between)) + whole(6 * case.samples)
    return (decoder + warps * of_warp) * item


@dataclass(frozen=True)
class Launch:
    """Warps and dynamic shared bytes of a block, and warps on a multiprocessor."""

    warps: int
    dynamic: int
    resident: int


def launch_of(kernel: Kernel, case: Case) -> Launch:
    """As the launchers choose it (csrc/cuda/render_launch.cuh, kBlockThreads in device.cuh)."""
    limits = LIMITS[kernel.arch]
    sizes = [(8, 0)]
    if is_render(kernel):
        most = 6 if "backward" in kernel.name else 8
        sizes = [(w, render_bytes(kernel.name, case, w)) for w in range(most, 0, -1)]
    launches = [
        Launch(w, d, resident_warps(limits, w, kernel.registers, kernel.shared + d))
        for w, d in sizes
    ]
    return max(launches, key=lambda launch: launch.resident)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, columns aligned."""
    lines = [heading, ["---"] * len(heading), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heading))]
    return "\n".join(
        "| " + " | ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def kernel_table(kernels: Sequence[Kernel], case: Case) -> str:
    """One row a kernel, one column an architecture: registers, and the share of resident warps."""
    archs = sorted({k.arch for k in kernels})
    by_name: dict[str, dict[int, Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault(kernel.name, {})[kernel.arch] = kernel

    def cell(kernel: Kernel) -> str:
        share = launch_of(kernel, case).resident / LIMITS[kernel.arch].warps
        return f"{kernel.registers} / {share:.0%}"

    rows = [
        [
            f"`{name}`",
            *(cell(of[arch]) for arch in archs),
            str(max(k.shared for k in of.values())),
            str(max(k.stack for k in of.values())),
            str(max(k.spills for k in of.values())),
        ]
        for name, of in by_name.items()
    ]
    return table(["kernel", *(f"sm_{a}" for a in archs), "static shared", "stack", "spills"], rows)


def launch_table(kernels: Sequence[Kernel], case: Case) -> str:
    """Blocks of the renderer where it loads 16 bytes at a time, as it does from aligned planes."""
    rows = []
    for kernel in kernels:
        if not is_render(kernel) or "<1," in kernel.name:
            continue
        launch, limit = launch_of(kernel, case), LIMITS[kernel.arch].warps
        block = f"{launch.warps} x 32" if launch.resident else "does not fit"
        resident = f"{launch.resident} of {limit}"
        rows.append([f"`{kernel.name}`", f"sm_{kernel.arch}", block, str(launch.dynamic), resident])
    return table(["kernel", "GPU", "block", "dynamic shared", "resident warps"], rows)


def work_table(case: Case) -> str:
    """What one sample costs."""
    rows = []
    for name, w in (("forward", forward_work(case)), ("backward", backward_work(case))):
        numbers = [w.flops, w.shared_words, w.tap_bytes, w.kept_bytes]
        numbers.append(w.flops / (w.tap_bytes + w.kept_bytes))
        rows.append([name, *(f"{x:.1f}".removesuffix(".0") for x in numbers)])
    heading = ["per sample", "FLOP", "shared words (128 B)", "bytes of taps", "bytes kept"]
    return table([*heading, "FLOP/byte"], rows)


def prediction_table(case: Case) -> str:
    """The roofs of three GPUs."""
    rows = []
    for gpu in GPUS:
        peak = f"{gpu.tflops} TFLOP/s, {gpu.bandwidth:.0f} GB/s"
        for name, work in (("forward", forward_work(case)), ("backward", backward_work(case))):
            best, why = rays_per_second(gpu, case, work, cached=True)
            worst, why_worst = rays_per_second(gpu, case, work, cached=False)
            rows.append([gpu.name, peak, name, f"{best / 1e6:.1f} M ({why})"])
            rows[-1].append(f"{worst / 1e6:.1f} M ({why_worst})")
    heading = ["GPU", "data sheet", "pass", "rays/s at most, taps cached", "taps from memory"]
    return table(heading, rows)


TEXT = """# The CUDA kernels, as compiled

Generated by `epigraf bench kernels`; do not edit. It compiles, and counts; **nothing
on this page was measured on a GPU.**

## Registers and occupancy

Registers a thread / warps that fit on a multiprocessor, of those that it can hold, by the limits on
registers, shared memory, warps and blocks of the CUDA C++ Programming Guide. The rest in bytes, the
largest of all architectures. A stack without spills is an array indexed at run time, or a library
function's.

{kernels}

## Blocks of the fused renderer

{case.channels} channels, {case.hidden} hidden units, {case.coarse} + {case.fine} samples, aligned
planes. The launcher takes the number of warps to a block that puts most of them on a
multiprocessor; dynamic shared memory in bytes.

{launches}

## What a sample costs

Counted from the algorithm, in float. Taps are bytes of planes that a sample reads (and, backwards,
adds to, before neighbours in a cell are gathered), in whatever cache they lie; kept is what
training writes or reads.

{work}

## Predicted: roofs, not measurements

Rays of {case.samples} samples a second if one unit were always busy and never waited for another:
arithmetic at the data sheet's float peak, shared memory at one 128-byte word a clock and
multiprocessor, memory at the data sheet's bandwidth. "Taps cached": memory moves each picture's
planes (3 x {case.channels} x {case.side} x {case.side}, {case.rays} rays) once; "from memory":
every tap of every sample. What a GPU does will lie below the first, by latencies that the occupancy
above does not hide, by atomics and by the renderer's short scans and sorts.

{predictions}
"""


def page(kernels: Sequence[Kernel], case: Case) -> str:
    """docs/kernels.md."""
    return TEXT.format(
        case=case,
        kernels=kernel_table(kernels, case),
        launches=launch_table(kernels, case),
        work=work_table(case),
        predictions=prediction_table(case),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a kernel spills."""
    parser = argparse.ArgumentParser(prog="epigraf bench kernels", description=__doc__)
    parser.add_argument("arch", nargs="*", type=int, help=f"of {sorted(LIMITS)}; none: all")
    archs = parser.parse_args(argv).arch or sorted(LIMITS)
    if unknown := set(archs) - set(LIMITS):
        parser.error(f"no limits known for {sorted(unknown)}, only for {sorted(LIMITS)}")
    kernels = compile_kernels(archs)
    text = page(kernels, Case())
    print(text)
    if set(archs) == set(LIMITS):
        (source_tree() / "docs" / "kernels.md").write_text(text)
    spilled = [f"{k.name} on sm_{k.arch}" for k in kernels if k.spills > 0]
    if spilled:
        print(f"kernel_report: registers spill in {', '.join(spilled)}", file=sys.stderr)
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
