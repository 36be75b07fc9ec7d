"""3x3 convolutions: Winograd's transforms beside torch's direct ones, and their two adjoints.

Legend: B batch, C channels in and out, r side of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops.winograd import runs_winograd, winograd, winograd_input, winograd_weight

CASES = [(4, 128, 128), (4, 512, 32), (4, 512, 16)]
QUICK_CASES = [(1, 4, 8)]
NATIVE, DIRECT = "native", "reference"


def cases(settings: Settings) -> Iterator[Case]:
    """A convolution and its adjoints, of the shapes of a training step."""
    for shape in QUICK_CASES if settings.quick else CASES:
        for kind in ("forward", "input gradient", "weight gradient"):
            name = "B{0} C{1} {2}x{2} ".format(*shape) + kind
            yield Case("conv3x3", name, partial(_build, name, kind, shape, settings.device))


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
