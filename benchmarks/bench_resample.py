"""Blurring, halving and doubling pictures: one pass, beside torch's convolution and interpolation.

Legend: B batch, C channels, r side of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import blur2d, downsample2d, upsample2d, use_reference

# of a training step: the discriminator's, its deepest ones, the planes of the generator
CASES = [(4, 256, 64), (4, 512, 32), (4, 512, 16), (4, 96, 128)]
QUICK_CASES = [(1, 4, 8)]
MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": partial(blur2d, pad=2),
    "down": downsample2d,
    "up": upsample2d,
}


def cases(settings: Settings) -> Iterator[Case]:
    """The three maps, channels-last; their derivatives are the same maps."""
    for shape in QUICK_CASES if settings.quick else CASES:
        for what in MAPS:
            name = "B{0} C{1} {2}x{2} ".format(*shape) + what
            yield Case("resample", name, partial(_build, name, shape, what, settings.device))


def _build(name: str, shape: tuple[int, int, int], what: str, device: str) -> Sequence[Work]:
    batch, channels, side = shape
    x = torch.randn(batch, channels, side, side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)

    def run(reference: bool) -> Tensor:
        with torch.no_grad(), use_reference(reference):
            return MAPS[what](x)

    counts = Counts(bytes_moved=(x.numel() + run(False).numel()) * x.element_size())
    return [
        Work(name, which, partial(run, reference), counts)
        for which, reference in (("native", False), ("reference", True))
    ]
