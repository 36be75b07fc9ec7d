"""The decoder in blocks of points against plain torch.

Legend: B batch, R rays, S samples per ray. The gradients are those of features and parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import decode, use_reference

Shape = tuple[int, int, int, tuple[int, ...]]
# batch, rays of one image, samples per ray, layer sizes: a small CPU training, and a full one
CASES: list[Shape] = [(8, 1024, 20, (16, 32, 4)), (4, 4096, 96, (32, 64, 4))]
QUICK_CASES: list[Shape] = [(1, 16, 4, (4, 8, 4))]
SLOPE = 0.2


def cases(settings: Settings) -> Iterator[Case]:
    """Forward without gradients, and forward and backward together."""
    for shape in QUICK_CASES if settings.quick else CASES:
        for what in ("forward", "forward + backward"):
            batch, rays, samples, sizes = shape
            name = f"B{batch} R{rays} S{samples} {'-'.join(map(str, sizes))} {what}"
            yield Case("decoder", name, partial(_build, name, shape, what, settings.device))


def network(sizes: tuple[int, ...], device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Weights that keep the variance, and biases; all of them want gradients."""
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [torch.randn(o, i, device=device) * i**-0.5 for o, i in pairs]
    biases = [torch.randn(o, device=device) for o, _ in pairs]
    return [w.requires_grad_() for w in weights], [b.requires_grad_() for b in biases]


def _build(name: str, shape: Shape, what: str, device: str) -> Sequence[Work]:
    batch, rays, samples, sizes = shape
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

    run, passes = (forward, 1) if what == "forward" else (both, 3)
    count = batch * rays * samples
    flops = passes * count * 2 * sum(w.numel() for w in weights)
    counts = Counts(samples=count, flops=flops)
    return [
        Work(name, "blocks", run, counts),
        Work(name, "reference", use_reference()(run), counts),
    ]
