"""The decoder in blocks of points against plain torch.

python -m benchmarks.bench_decoder [--threads N] [--device cpu|cuda] [--rounds N]
    [--out FOLDER]
Legend: B batch, R rays, S samples per ray. The gradients are those of features and parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.runner import Row, alternate, command_line, with_peak_memory, write_results
from epigraf.ops import decode, use_reference

# batch, rays of one image, samples per ray, layer sizes: a small CPU training, and a full one
CASES = [(8, 1024, 20, (16, 32, 4)), (4, 4096, 96, (32, 64, 4))]
SLOPE = 0.2


def network(sizes: tuple[int, ...], device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Weights that keep the variance, and biases; all of them want gradients."""
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [torch.randn(o, i, device=device) * i**-0.5 for o, i in pairs]
    biases = [torch.randn(o, device=device) for o, _ in pairs]
    return [w.requires_grad_() for w in weights], [b.requires_grad_() for b in biases]


def bench(case: tuple[int, int, int, tuple[int, ...]], device: str, rounds: int) -> list[Row]:
    """Forward without gradients, and forward and backward together; time and peak memory."""
    batch, rays, samples, sizes = case
    name = f"B{batch} R{rays} S{samples} {'-'.join(map(str, sizes))}"
    points = (batch, rays * samples)
    features = torch.randn(*points, sizes[0], device=device).requires_grad_()
    weights, biases = network(sizes, device)
    cotangents = [torch.randn(*points, n, device=device) for n in (sizes[-1] - 1, 1)]
    cotangents[1] = cotangents[1].squeeze(-1)

    def forward() -> object:
        with torch.no_grad():
            return decode(features, weights, biases, SLOPE)

    def both() -> object:
        outputs = decode(features, weights, biases, SLOPE)
        return torch.autograd.grad(outputs, (features, *weights, *biases), cotangents)

    rows = []
    for step, function in (("forward", forward), ("forward + backward", both)):
        functions = {"blocks": function, "reference": use_reference()(function)}
        measured = alternate("decoder", f"{name} {step}", functions, rounds)
        rows += [with_peak_memory(r, functions[r.implementation], device) for r in measured]
    return rows


def main() -> None:
    arguments = command_line("Benchmark of decode")
    rows = []
    for case in CASES:
        rows += bench(case, arguments.device, arguments.rounds)
    write_results("decoder", rows, arguments)


if __name__ == "__main__":
    main()
