"""Rays of a patch, random numbers, importance samples and their merge against plain torch.

python -m benchmarks.bench_samples [--threads N] [--device cpu|cuda] [--rounds N]
    [--out FOLDER]
Legend: B batch, R rays of one patch, S samples per ray of each pass.
"""

from __future__ import annotations

import math

import torch

from benchmarks.runner import Row, alternate, command_line, write_results
from epigraf.ops import (
    importance_t,
    merge_samples,
    patch_rays,
    philox_normal,
    philox_uniform,
    use_reference,
)

CASES = [(8, 1024, 20), (4, 4096, 48)]


def bench(case: tuple[int, int, int], device: str, rounds: int) -> list[Row]:
    """Each op once, natively and by its reference."""
    batch, rays, samples = case
    side = math.isqrt(rays)
    like = torch.empty(0, device=device)
    cameras = torch.eye(4, device=device).repeat(batch, 1, 1)
    t = torch.rand(case, device=device).sort(-1).values
    weights, u = torch.rand(case, device=device) / samples, torch.rand(case, device=device)
    coarse = (torch.randn(*case, 3, device=device), torch.randn(case, device=device), t)
    fine = (torch.randn(*case, 3, device=device), torch.randn(case, device=device), u + 0)
    functions = {
        "patch_rays": lambda: patch_rays(cameras, 30.0, side, side),
        "philox_uniform": lambda: philox_uniform(0, 0, case, like),
        "philox_normal": lambda: philox_normal(0, 0, case, like),
        "importance_t": lambda: importance_t(t, weights, u),
        "merge_samples": lambda: merge_samples(fine, coarse),
    }
    rows = []
    for name, function in functions.items():
        both = {"native": function, "reference": use_reference()(function)}
        rows += alternate(name, f"B{batch} R{rays} S{samples}", both, rounds)
    return rows


def main() -> None:
    arguments = command_line("Benchmark of rays, random numbers and importance samples")
    rows = []
    for case in CASES:
        rows += bench(case, arguments.device, arguments.rounds)
    write_results("samples", rows, arguments)


if __name__ == "__main__":
    main()
