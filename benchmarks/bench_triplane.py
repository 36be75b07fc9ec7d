"""Tri-plane look-up against its plain-torch reference and torch's own grid_sample.

Planes are NCHW in float32 unless a case says otherwise.

Legend: B batch, P points, F channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.benchmarks.runner import Case, Counts, Settings, Work
from epigraf.ops import sample_triplane, use_reference

# batch, points of one image, channels, resolution: small CPU trainings, and one image at full size
CASES = [(8, 20480, 8, 64), (8, 20480, 16, 64), (4, 65536, 32, 128), (1, 262144, 32, 512)]
QUICK_CASES = [(1, 64, 4, 8)]
KIND_CASES = [(4, 65536, 32, 128)]  # with other planes than NCHW ones in float32
SAMPLES_PER_RAY = 32
TAPS = 3 * 4


@dataclass(frozen=True)
class PlaneKind:
    """How planes lie in memory, and of what numbers; points are float32."""

    label: str = ""
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    def planes(self, batch: int, channels: int, resolution: int, device: str) -> Tensor:
        """Random planes [B, 3, F, H, W]."""
        planes = torch.randn(batch, 3, channels, resolution, resolution, device=device)
        if self.channels_last:
            planes = planes.movedim(2, 4).contiguous().movedim(4, 2)
        return planes.to(self.dtype)


NCHW_FLOAT = PlaneKind()
PLANE_KINDS = (
    PlaneKind("channels last ", torch.float32, channels_last=True),
    PlaneKind("channels last float16 ", torch.float16, channels_last=True),
    PlaneKind("channels last bfloat16 ", torch.bfloat16, channels_last=True),
    PlaneKind("float16 ", torch.float16),
    PlaneKind("bfloat16 ", torch.bfloat16),
)


def grid_sample_triplane(planes: Tensor, points: Tensor) -> Tensor:
    """The usual implementation: three planes as a batch of grid_sample."""
    batch, _, channels, height, width = planes.shape
    points = points.to(planes.dtype)
    pairs = torch.stack([points[..., [0, 1]], points[..., [0, 2]], points[..., [1, 2]]], 1)
    reads = F.grid_sample(
        planes.reshape(batch * 3, channels, height, width),
        pairs.reshape(batch * 3, 1, -1, 2),
        align_corners=True,
    )
    return reads.view(batch, 3, channels, -1).mean(1).transpose(1, 2)


def points_on_rays(batch: int, points: int, device: str) -> Tensor:
    """[B, P, 3]: segments through the cube, as a renderer samples them."""
    rays = points // SAMPLES_PER_RAY
    start, end = torch.rand(2, batch, rays, 1, 3, device=device) * 2 - 1
    step = torch.linspace(0, 1, SAMPLES_PER_RAY, device=device).view(1, 1, -1, 1)
    return torch.lerp(start, end, step).reshape(batch, points, 3).contiguous()


IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "native": sample_triplane,
    "reference": use_reference()(sample_triplane),
    "grid_sample": grid_sample_triplane,
}


def cases(settings: Settings) -> Iterator[Case]:
    """Forward, gradient of the planes, gradient of the points; kinds of planes forward and back."""
    every = ("forward", "grad planes", "grad points")
    for shape in QUICK_CASES if settings.quick else CASES:
        yield from (_case(shape, NCHW_FLOAT, what, settings.device) for what in every)
    for shape in QUICK_CASES if settings.quick else KIND_CASES:
        for kind in PLANE_KINDS:
            yield from (_case(shape, kind, what, settings.device) for what in every[:2])


def _case(shape: tuple[int, int, int, int], kind: PlaneKind, what: str, device: str) -> Case:
    name = "B{0} P{1} F{2} {3}x{3} {4}{5}".format(*shape, kind.label, what)
    return Case("triplane", name, partial(_build, name, shape, kind, what, device))


def _build(
    name: str, shape: tuple[int, int, int, int], kind: PlaneKind, what: str, device: str
) -> Sequence[Work]:
    batch, count, channels, resolution = shape
    planes = kind.planes(batch, channels, resolution, device)
    points = points_on_rays(batch, count, device)
    moved = batch * count * TAPS * channels * planes.element_size()
    counts = Counts(samples=batch * count, bytes_moved=moved)
    return [
        Work(name, which, _run(which, planes, points, what), counts, which == "grid_sample")
        for which in IMPLEMENTATIONS
    ]


def _run(which: str, planes: Tensor, points: Tensor, what: str) -> Callable[[], object]:
    """The look-up, or its backward pass to planes or points."""
    function = IMPLEMENTATIONS[which]
    if what == "forward":
        return partial(function, planes, points)
    leaf = (planes if what == "grad planes" else points).detach().clone().requires_grad_()
    features = function(leaf, points) if what == "grad planes" else function(planes, leaf)
    cotangent = torch.randn_like(features)
    return lambda: torch.autograd.grad(features, leaf, cotangent, retain_graph=True)
