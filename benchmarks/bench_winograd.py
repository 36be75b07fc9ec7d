"""Convolutions with stride 1: 3x3 by Winograd's transforms beside torch's direct ones, 1x1 by the
core's products beside torch's, and their adjoints.

Legend: B batch, C channels in and out, r side of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import use_reference
from epigraf.ops.pointwise import pointwise, pointwise_input, pointwise_weight
from epigraf.ops.winograd import runs_winograd, winograd, winograd_input, winograd_weight

CASES = [(4, 128, 128), (4, 512, 32), (4, 512, 16)]
QUICK_CASES = [(1, 4, 8)]
KINDS = ("forward", "input gradient", "weight gradient")
NATIVE, DIRECT = "native", "reference"


def cases(settings: Settings) -> Iterator[Case]:
    """A convolution and its adjoints, of the shapes of a training step."""
    for op, build in (("conv3x3", _build), ("conv1x1", _build_pointwise)):
        for shape in QUICK_CASES if settings.quick else CASES:
            for kind in KINDS:
                name = "B{0} C{1} {2}x{2} ".format(*shape) + kind
                yield Case(op, name, partial(build, name, kind, shape, settings.device))


def _build_pointwise(
    name: str, kind: str, shape: tuple[int, int, int], device: str
) -> Sequence[Work]:
    batch, channels, side = shape
    x = torch.randn(batch, channels, side, side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 1, 1, device=device) / channels
    counts = Counts(flops=2.0 * batch * channels**2 * side**2)
    runs: dict[str, Callable[[], Tensor]] = {
        "forward": partial(pointwise, x, weight),
        "input gradient": partial(pointwise_input, x, weight),
        "weight gradient": partial(pointwise_weight, x, x),
    }

    def reference() -> Tensor:
        with use_reference():
            return runs[kind]()

    return [Work(name, NATIVE, runs[kind], counts), Work(name, DIRECT, reference, counts)]


def _build(name: str, kind: str, shape: tuple[int, int, int], device: str) -> Sequence[Work]:
    batch, channels, side = shape
    x = torch.randn(batch, channels, side, side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device) / channels
    counts = Counts(flops=2.0 * 9 * batch * channels**2 * side**2)
    direct = partial(_direct, kind, x, weight)
    works = [Work(name, DIRECT, direct, counts)]
    if runs_winograd(x):
        ours: dict[str, Callable[[], Tensor]] = {
            "forward": partial(winograd, x, weight, padding=1),
            "input gradient": partial(winograd_input, x, weight, (side, side), padding=1),
            "weight gradient": partial(winograd_weight, x, x, padding=1),
        }
        works.insert(0, Work(name, NATIVE, ours[kind], counts))
    return works


def _direct(kind: str, x: Tensor, weight: Tensor) -> Tensor:
    if kind == "forward":
        return torch.nn.functional.conv2d(x, weight, padding=1)
    mask = [kind == "input gradient", kind == "weight gradient", False]
    grads = torch.ops.aten.convolution_backward(
        x, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
    )
    return grads[0] if mask[0] else grads[1]
