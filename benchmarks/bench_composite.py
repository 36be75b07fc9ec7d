"""Compositing against its plain-torch reference.

python -m benchmarks.bench_composite [--threads N] [--device cpu|cuda] [--out FOLDER]
Legend: B batch, R rays, S samples per ray.
"""

from __future__ import annotations

import torch

from benchmarks.runner import Row, command_line, measure, write_results
from epigraf.ops import composite, use_reference

# batch, rays of one image, samples per ray: small CPU trainings, a 64x64 patch, a 256x256 image
CASES = [(8, 1024, 40), (4, 4096, 96), (1, 65536, 96)]


def bench_implementation(case: tuple[int, int, int], device: str, which: str) -> list[Row]:
    """Forward, and the gradient of colours and densities."""
    name = "B{} R{} S{}".format(*case)
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

    return [
        measure("composite", f"{name} forward", which, forward),
        measure("composite", f"{name} backward", which, backward),
    ]


def main() -> None:
    arguments = command_line("Benchmark of composite")
    rows = []
    for case in CASES:
        for which in ("native", "reference"):
            with use_reference(which == "reference"):
                rows += bench_implementation(case, arguments.device, which)
    write_results("composite", rows, arguments)


if __name__ == "__main__":
    main()
