"""The fused renderer beside the ops, plain torch and the official formulation.

python -m benchmarks.bench_render [--threads N] [--rounds N] [--out FOLDER]
48 + 48 samples, planes 3x32x256x256, decoder 32-64-4, float32. Rounds alternate between the
implementations, so that a busy moment of the machine hits all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import composable
from benchmarks.runner import Row, alternate, command_line, with_peak_memory, write_results
from epigraf.config import RenderBackend
from epigraf.ops import FieldTensors
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.rays import Rays, ray_segment, stratified_t
from epigraf.rendering.renderer import RenderOptions, TensorField, render_rays

OPTIONS = RenderOptions(num_coarse=48, num_fine=48, near=0.75, far=1.25)
CHANNELS, HIDDEN, SIDE = 32, 64, 256
CHUNK = 4096  # rays of one pass where no gradient is wanted, for those that need memory


@dataclass(frozen=True)
class Scene:
    """What is rendered: a field and the rays of `batch` square pictures."""

    tensors: FieldTensors
    rays: Rays


def make_scene(batch: int, side: int) -> Scene:
    """Random planes; a camera at distance 1 that sees the cube of half edge 0.3."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape)

    planes = normal(batch, 3 * CHANNELS, SIDE, SIDE).requires_grad_()
    tensors = FieldTensors(
        planes=planes.unflatten(1, (3, CHANNELS)),
        weights=[
            (normal(HIDDEN, CHANNELS) / 4).requires_grad_(),
            normal(4, HIDDEN).requires_grad_(),
        ],
        biases=[torch.zeros(HIDDEN).requires_grad_(), torch.zeros(4).requires_grad_()],
        slope=0.2,
        cube_scale=0.3,
    )
    axis = torch.linspace(-0.2, 0.2, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    directions = F.normalize(torch.stack([x, y, -torch.ones_like(x)], -1), dim=-1)
    directions = directions.view(1, side * side, 3).expand(batch, -1, -1).contiguous()
    return Scene(tensors, Rays(torch.tensor([0.0, 0.0, 1.0]).expand_as(directions), directions))


def picture(scene: Scene, implementation: str) -> Tensor:
    """Colours [B, R, 3]."""
    if implementation == "official":
        return official(scene)
    chunk = None if torch.is_grad_enabled() else CHUNK
    options = replace(OPTIONS, backend=RenderBackend(implementation), max_rays=chunk)
    field = TensorField(scene.tensors)
    return render_rays(field, scene.rays, options, draws=RandomDraws(0)).features


def official(scene: Scene) -> Tensor:
    """The opponent, in as many passes as it needs."""
    origins, directions = scene.rays
    batch, count = directions.shape[:2]
    segment = ray_segment(scene.rays, OPTIONS.near, OPTIONS.far)
    t = stratified_t(segment, OPTIONS.num_coarse, torch.rand(batch, count, OPTIONS.num_coarse))
    u = torch.rand(batch, count, OPTIONS.num_fine)
    size = count if torch.is_grad_enabled() else CHUNK
    parts = zip(*(x.split(size, dim=1) for x in (origins, directions, t, u)), strict=True)
    return torch.cat([composable.render(scene.tensors, *part) for part in parts], dim=1)


def forward(scene: Scene, implementation: str) -> None:
    with torch.no_grad():
        picture(scene, implementation)


def both(scene: Scene, implementation: str) -> None:
    """Forward and backward, to planes and decoder."""
    tensors = scene.tensors
    inputs = [tensors.planes, *tensors.weights, *tensors.biases]
    torch.autograd.grad(picture(scene, implementation).square().sum(), inputs)


def bench(name: str, work: Callable[[Scene, str], None], scene: Scene, rounds: int) -> list[Row]:
    """One case in every implementation."""
    functions = {
        which: partial(work, scene, which) for which in ("fused", "ops", "reference", "official")
    }
    rows = alternate("render", name, functions, rounds)
    return [with_peak_memory(row, functions[row.implementation], "cpu") for row in rows]


def main() -> None:
    arguments = command_line("Benchmark of the fused renderer", rounds=5)
    patch, patches, image = make_scene(1, 64), make_scene(4, 64), make_scene(1, 256)
    rounds = arguments.rounds
    rows = bench("B1 64x64 rays forward", forward, patch, rounds)
    rows += bench("B4 64x64 rays forward", forward, patches, rounds)
    rows += bench("B4 64x64 rays forward + backward", both, patches, rounds)
    rows += bench("B1 256x256 image", forward, image, max(rounds // 2, 2))
    write_results("render", rows, arguments)


if __name__ == "__main__":
    main()
