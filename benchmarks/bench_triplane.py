"""Tri-plane look-up against its plain-torch reference and torch's own grid_sample.

python -m benchmarks.bench_triplane [--threads N] [--device cpu|cuda] [--rounds N]
    [--out FOLDER]
Legend: B batch, P points, F channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.runner import Row, alternate, command_line, write_results
from epigraf.ops import sample_triplane, use_reference

# batch, points of one image, channels, resolution: small CPU trainings, and one image at full size
CASES = [(8, 20480, 8, 64), (8, 20480, 16, 64), (4, 65536, 32, 128), (1, 262144, 32, 512)]
SAMPLES_PER_RAY = 32


def grid_sample_triplane(planes: Tensor, points: Tensor) -> Tensor:
    """The usual implementation: three planes as a batch of grid_sample."""
    batch, _, channels, height, width = planes.shape
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


def gradient(which: str, planes: Tensor, points: Tensor, leaf: Tensor) -> Callable[[], object]:
    """The backward pass to `leaf`, which is one of planes and points."""
    leaf.requires_grad_()
    features = IMPLEMENTATIONS[which](planes, points)
    cotangent = torch.randn_like(features)
    return lambda: torch.autograd.grad(features, leaf, cotangent, retain_graph=True)


def bench(case: tuple[int, int, int, int], device: str, rounds: int) -> list[Row]:
    """Forward, gradient of the planes, gradient of the points."""
    batch, count, channels, resolution = case
    name = f"B{batch} P{count} F{channels} {resolution}x{resolution}"
    planes = torch.randn(batch, 3, channels, resolution, resolution, device=device)
    points = points_on_rays(batch, count, device)
    forward = {which: partial(f, planes, points) for which, f in IMPLEMENTATIONS.items()}
    rows = alternate("triplane", f"{name} forward", forward, rounds)
    for text in ("planes", "points"):
        backward = {}
        for which in IMPLEMENTATIONS:
            leaves = {"planes": planes.clone(), "points": points.clone()}
            backward[which] = gradient(which, **leaves, leaf=leaves[text])
        rows += alternate("triplane", f"{name} grad {text}", backward, rounds)
    return rows


def main() -> None:
    arguments = command_line("Benchmark of sample_triplane")
    rows = []
    for case in CASES:
        rows += bench(case, arguments.device, arguments.rounds)
    write_results("triplane", rows, arguments)


if __name__ == "__main__":
    main()
