"""What the fused renderer refuses. Legend: as in `epigraf.ops.render`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from epigraf.ops._checks import check_floating, check_like, check_shape

if TYPE_CHECKING:
    from epigraf.ops.render import FieldTensors, RayTensors


def check_render(field: FieldTensors, rays: RayTensors) -> None:
    """Raises ValueError for a wrong shape or device, TypeError for a wrong dtype."""
    op, planes = "render", field.planes
    check_floating(op, "planes", planes)
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"{op}: planes must have shape [B, 3, C, H, W], got {list(planes.shape)}")
    if 0 in planes.shape[3:]:
        raise ValueError(f"{op}: planes must have at least one pixel, got {list(planes.shape)}")
    if rays.near.ndim != 2 or len(rays.near) != len(planes):
        raise ValueError(
            f"{op}: near must have shape [B, R] with B = {len(planes)}, got {list(rays.near.shape)}"
        )
    if rays.even.ndim != 1 or rays.even.numel() < 2:
        raise ValueError(f"{op}: even must have at least 2 elements, got {list(rays.even.shape)}")
    _check_rays(op, rays, planes)
    _check_decoder(op, field)


def _check_rays(op: str, rays: RayTensors, planes: Tensor) -> None:
    batch, count = rays.near.shape
    if rays.seeds is not None:
        _check_seeds(op, rays)
    coarse = rays.even.numel()
    if rays.u is not None and rays.u.ndim != 3:
        raise ValueError(f"{op}: u must have shape [B, R, F], got {list(rays.u.shape)}")
    fine = rays.num_fine
    if fine > 0 and coarse < 3:
        raise ValueError(f"{op}: fine samples need at least 3 coarse ones, got {coarse}")
    sizes = {
        "origins": ("[B, R, 3]", (batch, count, 3)),
        "directions": ("[B, R, 3]", (batch, count, 3)),
        "near": ("[B, R]", (batch, count)),
        "far": ("[B, R]", (batch, count)),
        "last_delta": ("[B, R]", (batch, count)),
        "even": ("[S]", (coarse,)),
        "jitter": ("[B, R, S]", (batch, count, coarse)),
        "u": ("[B, R, F]", (batch, count, fine)),
        "coarse_noise": ("[B, R, S]", (batch, count, coarse)),
        "final_noise": ("[B, R, N]", (batch, count, coarse + fine)),
    }
    for name, (legend, size) in sizes.items():
        tensor = getattr(rays, name)
        if tensor is not None:
            check_shape(op, name, tensor, legend, size)
            check_like(op, name, tensor, "planes", planes)


def _check_decoder(op: str, field: FieldTensors) -> None:
    if not field.weights or len(field.weights) != len(field.biases):
        raise ValueError(
            f"{op}: weights and biases must be as many and at least one, "
            f"got {len(field.weights)} and {len(field.biases)}"
        )
    width = field.planes.shape[2]
    for i, (weight, bias) in enumerate(zip(field.weights, field.biases, strict=True)):
        if weight.ndim != 2:
            raise ValueError(f"{op}: weights[{i}] must be a matrix, got {list(weight.shape)}")
        check_shape(op, f"weights[{i}]", weight, "[O, I]", (weight.shape[0], width))
        check_shape(op, f"biases[{i}]", bias, "[O]", weight.shape[:1])
        for name, tensor in ((f"weights[{i}]", weight), (f"biases[{i}]", bias)):
            check_like(op, name, tensor, "planes", field.planes)
        width = weight.shape[0]


def _check_seeds(op: str, rays: RayTensors) -> None:
    assert rays.seeds is not None
    seeds, seed, count = rays.seeds, rays.seeds.seed, rays.near.shape[1]
    device = rays.near.device
    if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != device:
        raise ValueError(
            f"{op}: seeds.seed must be one int64 on {device}, "
            f"got {list(seed.shape)} {seed.dtype} on {seed.device}"
        )
    if not 0 <= seeds.first <= seeds.total - count:
        raise ValueError(
            f"{op}: rays {seeds.first} to {seeds.first + count} are not among seeds.total = "
            f"{seeds.total}"
        )
    given = [rays.jitter] * seeds.jitter + [rays.u] * (seeds.num_fine > 0)
    given += [rays.coarse_noise, rays.final_noise] * seeds.noise
    if any(x is not None for x in given):
        raise ValueError(f"{op}: a random number comes as a tensor or from the seed, not both")
