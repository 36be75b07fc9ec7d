"""Compositing against its plain-torch reference.

python -m benchmarks.bench_composite [--threads N] [--device cpu|cuda] [--rounds N]
    [--out FOLDER]
Legend: B batch, R rays, S samples per ray.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.runner import Row, alternate, command_line, write_results
from epigraf.ops import composite, use_reference

# batch, rays of one image, samples per ray: small CPU trainings, a 64x64 patch, a 256x256 image
CASES = [(8, 1024, 40), (4, 4096, 96), (1, 65536, 96)]


def functions(case: tuple[int, int, int], device: str) -> tuple[Callable, Callable]:
    """Forward, and the gradient of colours and densities, in the implementation in force."""
    colors = torch.randn(*case, 3, device=device).requires_grad_()
    densities = (torch.rand(*case, device=device) * 10).requires_grad_()
    t = torch.rand(*case, device=device).sort(-1).values
    output = composite(colors, densities, t, 1e10).features
    cotangent = torch.randn_like(output)

    def forward() -> object:
        with torch.no_grad():
            return composite(colors, densities, t, 1e10)

    def backward() -> object:
        inputs = (colors, densities)
        return torch.autograd.grad(output, inputs, cotangent, retain_graph=True)

    return forward, backward


def bench(case: tuple[int, int, int], device: str, rounds: int) -> list[Row]:
    """Both directions in both implementations."""
    name = "B{} R{} S{}".format(*case)
    native = functions(case, device)
    with use_reference():
        reference = functions(case, device)
    rows = alternate(
        "composite",
        f"{name} forward",
        {"native": native[0], "reference": use_reference()(reference[0])},
        rounds,
    )
    return rows + alternate(
        "composite", f"{name} backward", {"native": native[1], "reference": reference[1]}, rounds
    )


def main() -> None:
    arguments = command_line("Benchmark of composite")
    rows = []
    for case in CASES:
        rows += bench(case, arguments.device, arguments.rounds)
    write_results("composite", rows, arguments)


if __name__ == "__main__":
    main()
