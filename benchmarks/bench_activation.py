"""What follows a convolution: one pass, beside its formulas in plain torch.

Legend: B batch, C channels, r side of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import Curve, activation, use_reference

# of a training step: the generator's largest pictures, its deepest ones
CASES = [(4, 128, 128), (4, 512, 32), (4, 512, 16)]
QUICK_CASES = [(1, 4, 8)]
CURVE = Curve(0.2, math.sqrt(2.0), 256.0)


def cases(settings: Settings) -> Iterator[Case]:
    """A layer of the generator (scale, noise, bias) and one of the discriminator (bias)."""
    for shape in QUICK_CASES if settings.quick else CASES:
        for layer in ("scale noise bias", "bias"):
            for what in ("forward", "backward"):
                name = "B{0} C{1} {2}x{2} ".format(*shape) + f"{layer}, {what}"
                build = partial(_build, name, shape, layer, what, settings.device)
                yield Case("activation", name, build)


def _build(
    name: str, shape: tuple[int, int, int], layer: str, what: str, device: str
) -> Sequence[Work]:
    batch, channels, side = shape
    x = torch.randn(batch, channels, side, side, device=device)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    bias = torch.randn(channels, device=device).requires_grad_()
    inputs, parts = [x, bias], {}
    if layer != "bias":
        parts["scale"] = (torch.rand(batch, channels, device=device) + 0.5).requires_grad_()
        parts["strength"] = torch.tensor(0.3, device=device).requires_grad_()
        inputs += parts.values()
        parts["noise"] = torch.randn(batch, 1, side, side, device=device)

    def forward(reference: bool) -> object:
        with torch.no_grad(), use_reference(reference):
            return activation(x, bias, CURVE, **parts)

    def backward(reference: bool) -> partial:
        with use_reference(reference):
            y = activation(x, bias, CURVE, **parts)
        cotangent = torch.randn_like(y)
        return partial(torch.autograd.grad, y, inputs, cotangent, retain_graph=True)

    counts = Counts(bytes_moved=(2 if what == "forward" else 3) * x.numel() * x.element_size())
    return [
        Work(name, which, partial(forward, ref) if what == "forward" else backward(ref), counts)
        for which, ref in (("native", False), ("reference", True))
    ]
