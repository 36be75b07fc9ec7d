"""What the suites `render` and `scaling` render: random planes, a decoder, a camera's rays.

Legend: B batch, R rays, S coarse and F fine samples per ray, C plane channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.benchmarks import composable
from epigraf.benchmarks.runner import Counts
from epigraf.config import RenderBackend
from epigraf.ops import FieldTensors
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays, ray_segment, stratified_t
from epigraf.rendering.renderer import TensorField, fused_reason, render_rays

OFFICIAL = "official"
FUSED_LAST = "fused, channels last"
CHUNK = 4096  # rays of one pass where no gradient is wanted, for those that need memory
TAPS = 3 * 4  # three planes, four corners each


@dataclass(frozen=True)
class Workload:
    """B square pictures of side x side rays, S + F samples a ray, planes of C channels."""

    batch: int
    side: int
    coarse: int = 48
    fine: int = 48
    resolution: int = 256
    channels: int = 32
    hidden: int = 64

    @property
    def rays(self) -> int:
        """Of all pictures."""
        return self.batch * self.side**2

    def counts(self, backward: bool) -> Counts:
        """Useful work: two layers a sample; their two gradients cost as much again, each.

        Bytes are those of the taps, read once, and added to once as gradients.
        """
        samples = self.rays * (self.coarse + self.fine)
        flops = samples * 2 * (self.channels * self.hidden + self.hidden * 4)
        moved = samples * TAPS * self.channels * 4
        return Counts(self.rays, samples, flops * (3 if backward else 1), moved * (1 + backward))


@dataclass(frozen=True)
class Scene:
    """A field and the rays that look at it."""

    tensors: FieldTensors
    rays: Rays
    options: RenderOptions
    channels_last: FieldTensors  # the same field, the channels of a pixel neighbours in memory


def make_scene(workload: Workload, device: str) -> Scene:
    """Random planes; a camera at distance 1 that sees the cube of half edge 0.3."""
    w = workload

    def leaf(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=device) * scale).requires_grad_()

    def zeros(count: int) -> Tensor:
        return torch.zeros(count, device=device, requires_grad=True)

    planes = leaf(w.batch, 3 * w.channels, w.resolution, w.resolution)
    tensors = FieldTensors(
        planes=planes.unflatten(1, (3, w.channels)),
        weights=[leaf(w.hidden, w.channels, scale=0.25), leaf(4, w.hidden)],
        biases=[zeros(w.hidden), zeros(4)],
        slope=0.2,
        cube_scale=0.3,
    )
    axis = torch.linspace(-0.2, 0.2, w.side, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    directions = F.normalize(torch.stack([x, y, -torch.ones_like(x)], -1), dim=-1)
    directions = directions.view(1, w.side**2, 3).expand(w.batch, -1, -1).contiguous()
    origins = torch.tensor([0.0, 0.0, 1.0], device=device).expand_as(directions)
    options = RenderOptions(
        num_coarse=w.coarse, num_fine=w.fine, near=0.75, far=1.25, row_length=w.side
    )
    turned = tensors.planes.detach().movedim(2, 4).contiguous().movedim(4, 2).requires_grad_()
    last = replace(tensors, planes=turned)
    return Scene(tensors, Rays(origins, directions), options, last)


def implementations(scene: Scene) -> list[str]:
    """Fused (where it runs on this device; on NCHW planes as the others, and on channels-last
    ones), ops, plain torch, and the official formulation."""
    fused = not fused_reason(TensorField(scene.tensors), scene.rays, scene.options)
    return [*([FUSED_LAST, "fused"] if fused else []), "ops", "reference", OFFICIAL]


def forward(scene: Scene, implementation: str) -> Tensor:
    """Colours [B, R, 3], without gradients."""
    with torch.no_grad():
        return _picture(scene, implementation)


def both(scene: Scene, implementation: str) -> tuple[Tensor, ...]:
    """Forward and backward: gradients of planes and decoder."""
    tensors = _tensors(scene, implementation)
    inputs = [tensors.planes, *tensors.weights, *tensors.biases]
    return torch.autograd.grad(_picture(scene, implementation).square().sum(), inputs)


def _picture(scene: Scene, implementation: str) -> Tensor:
    if implementation == OFFICIAL:
        return _official(scene)
    chunk = None if torch.is_grad_enabled() else CHUNK
    backend = RenderBackend("fused" if implementation == FUSED_LAST else implementation)
    options = replace(scene.options, backend=backend, max_rays=chunk)
    field = TensorField(_tensors(scene, implementation))
    draws = RandomDraws(0, scene.rays.directions.device)
    return render_rays(field, scene.rays, options, draws=draws).features


def _tensors(scene: Scene, implementation: str) -> FieldTensors:
    return scene.channels_last if implementation == FUSED_LAST else scene.tensors


def _official(scene: Scene) -> Tensor:
    """The opponent, in as many passes as it needs."""
    origins, directions = scene.rays
    options, (batch, count) = scene.options, directions.shape[:2]
    segment = ray_segment(scene.rays, options.near, options.far)
    jitter = torch.rand(batch, count, options.num_coarse, device=origins.device)
    t = stratified_t(segment, options.num_coarse, jitter)
    u = torch.rand(batch, count, options.num_fine, device=origins.device)
    size = count if torch.is_grad_enabled() else CHUNK
    parts = zip(*(x.split(size, dim=1) for x in (origins, directions, t, u)), strict=True)
    return torch.cat([composable.render(scene.tensors, *part) for part in parts], dim=1)
