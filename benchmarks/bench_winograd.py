"""3x3 convolutions with stride 1 or 2 by Winograd's transforms beside torch's direct ones, 1x1 ones
and linear layers of few rows by the core's products beside torch's, and their adjoints.

Legend: B batch, C channels in and out, r side of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import use_reference
from epigraf.ops.linear import linear
from epigraf.ops.pointwise import pointwise, pointwise_input, pointwise_weight
from epigraf.ops.winograd import runs_winograd, winograd, winograd_input, winograd_weight

KINDS = ("forward", "input gradient", "weight gradient")
NATIVE, DIRECT = "native", "reference"


class Shape(NamedTuple):
    """Of a convolution; with stride 2 it reads 2 side + 1 pixels a side and writes `side`."""

    batch: int
    inputs: int
    outputs: int
    side: int
    stride: int = 1

    def pictures(self, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, C, r, r], which is read, y, which is written, channels-last; the weight."""
        read = self.side if self.stride == 1 else 2 * self.side + 1
        x, y = (
            torch.randn(self.batch, channels, side, side, device=device)
            for channels, side in ((self.inputs, read), (self.outputs, self.side))
        )
        weight = torch.randn(self.outputs, self.inputs, 3, 3, device=device) / self.inputs
        order = torch.channels_last
        return x.contiguous(memory_format=order), y.contiguous(memory_format=order), weight

    @property
    def label(self) -> str:
        """Channels and pixels."""
        changes = self.inputs != self.outputs or self.stride == 2
        channels = f"C{self.inputs}" + (f"-{self.outputs}" if changes else "")
        return channels if self.side == 1 else f"{channels} {self.side}x{self.side}"

    @property
    def products(self) -> float:
        """Multiplications of a tap, done directly."""
        return self.batch * self.inputs * self.outputs * self.side**2


CASES = [Shape(4, 128, 128, 128), *(Shape(4, 512, 512, side) for side in (32, 16, 8, 4))]
CASES_STRIDE2 = [
    Shape(4, 128, 256, 64, 2),
    Shape(4, 256, 512, 32, 2),
    *(Shape(4, 512, 512, side, 2) for side in (16, 8, 4)),
]
CASES_LINEAR = [Shape(4, 8192, 512, 1), Shape(1, 8192, 512, 1)]  # of "batch" rows
QUICK_CASES = [Shape(1, 4, 4, 8)]
QUICK_CASES_STRIDE2 = [Shape(1, 4, 4, 8, 2)]
QUICK_CASES_LINEAR = [Shape(2, 1024, 1024, 1)]


def cases(settings: Settings) -> Iterator[Case]:
    """A convolution and its adjoints, of the shapes of a training step."""
    stride1, stride2, few_rows = (
        (QUICK_CASES, QUICK_CASES_STRIDE2, QUICK_CASES_LINEAR)
        if settings.quick
        else (CASES, CASES_STRIDE2, CASES_LINEAR)
    )
    for op, build, shapes in (
        ("conv3x3", _build, stride1),
        ("conv3x3 stride 2", _build, stride2),
        ("conv1x1", _build_pointwise, stride1),
        ("linear", _build_linear, few_rows),
    ):
        for shape in shapes:
            for kind in KINDS:
                name = f"B{shape.batch} {shape.label} {kind}"
                yield Case(op, name, partial(build, name, kind, shape, settings.device))


def _build_pointwise(name: str, kind: str, shape: Shape, device: str) -> Sequence[Work]:
    x, y, weight = shape.pictures(device)
    weight = weight[:, :, :1, :1].contiguous()
    counts = Counts(flops=2.0 * shape.products)
    runs: dict[str, Callable[[], Tensor]] = {
        "forward": partial(pointwise, x, weight),
        "input gradient": partial(pointwise_input, y, weight),
        "weight gradient": partial(pointwise_weight, y, x),
    }

    def reference() -> Tensor:
        with use_reference():
            return runs[kind]()

    return [Work(name, NATIVE, runs[kind], counts), Work(name, DIRECT, reference, counts)]


def _build_linear(name: str, kind: str, shape: Shape, device: str) -> Sequence[Work]:
    x = torch.randn(shape.batch, shape.inputs, device=device).requires_grad_(kind == KINDS[1])
    weight = torch.randn(shape.outputs, shape.inputs, device=device)
    weight.requires_grad_(kind == KINDS[2])
    counts = Counts(flops=2.0 * shape.products, bytes_moved=4.0 * weight.numel())
    grad = torch.randn(shape.batch, shape.outputs, device=device)

    def run() -> Tensor:
        y = linear(x, weight)
        if kind == KINDS[0]:
            return y
        leaf = x if x.requires_grad else weight
        return torch.autograd.grad(y, leaf, grad, retain_graph=True)[0]

    def reference() -> Tensor:
        with use_reference():
            return run()

    return [Work(name, NATIVE, run, counts), Work(name, DIRECT, reference, counts)]


def _build(name: str, kind: str, shape: Shape, device: str) -> Sequence[Work]:
    x, y, weight = shape.pictures(device)
    counts = Counts(flops=2.0 * 9 * shape.products)
    how = {"stride": shape.stride, "padding": 1 if shape.stride == 1 else 0}
    works = [Work(name, DIRECT, partial(_direct, kind, x, y, weight, **how), counts)]
    if runs_winograd(x):
        size = (x.shape[2], x.shape[3])
        ours: dict[str, Callable[[], Tensor]] = {
            "forward": partial(winograd, x, weight, **how),
            "input gradient": partial(winograd_input, y, weight, size, **how),
            "weight gradient": partial(winograd_weight, y, x, **how),
        }
        works.insert(0, Work(name, NATIVE, ours[kind], counts))
    return works


def _direct(kind: str, x: Tensor, y: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if kind == "forward":
        return torch.nn.functional.conv2d(x, weight, stride=stride, padding=padding)
    mask = [kind == "input gradient", kind == "weight gradient", False]
    grads = torch.ops.aten.convolution_backward(
        y, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
    )
    return grads[0] if mask[0] else grads[1]
