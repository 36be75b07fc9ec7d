"""Compositing against its plain-torch reference.

Legend: B batch, R rays, S samples per ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import composite, use_reference

# batch, rays of one image, samples per ray: small CPU trainings, a 64x64 patch, a 256x256 image
CASES = [(8, 1024, 40), (4, 4096, 96), (1, 65536, 96)]
QUICK_CASES = [(1, 16, 8)]


def cases(settings: Settings) -> Iterator[Case]:
    """Forward, and the gradients of colours and densities."""
    for shape in QUICK_CASES if settings.quick else CASES:
        for what in ("forward", "backward"):
            name = "B{} R{} S{} {}".format(*shape, what)
            yield Case("composite", name, partial(_build, name, shape, what, settings.device))


def _build(name: str, shape: tuple[int, int, int], what: str, device: str) -> Sequence[Work]:
    colors = torch.randn(*shape, 3, device=device).requires_grad_()
    densities = (torch.rand(*shape, device=device) * 10).requires_grad_()
    t = torch.rand(*shape, device=device).sort(-1).values
    inputs = (colors, densities)

    def forward(reference: bool) -> object:
        with torch.no_grad(), use_reference(reference):
            return composite(colors, densities, t, 1e10)

    def backward(reference: bool) -> partial:
        with use_reference(reference):
            output = composite(colors, densities, t, 1e10).features
        cotangent = torch.randn_like(output)
        return partial(torch.autograd.grad, output, inputs, cotangent, retain_graph=True)

    batch, rays, samples = shape
    counts = Counts(rays=batch * rays, samples=batch * rays * samples)
    return [
        Work(name, which, partial(forward, ref) if what == "forward" else backward(ref), counts)
        for which, ref in (("native", False), ("reference", True))
    ]
