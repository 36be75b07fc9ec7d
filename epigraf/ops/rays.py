"""Rays through the pixels of a patch: origins and unit directions in world coordinates; and the
part of a ray that lies in a ball.

Legend: B batch, R = height * width rays, row by row from the top. Source: EpiGRAF
(arXiv:2206.10535), section 3.2. Formulas: docs/math/rays.md.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._checks import check_floating, check_like, check_shape


def patch_rays(
    cam2world: Tensor,
    fov_degrees: float | Tensor,
    height: int,
    width: int,
    scales: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Origins and unit directions, both [B, R, 3], of cameras that look along their -z (rays 1-5).

    cam2world: [B, 4, 4], a rotation and an origin. fov_degrees: full angle of view, one number or
        [B] or [1]. Pixel centres are corner-aligned: the first and last lie on the frustum's edges.
    scales, offsets: [B, 2] each, (x, y) in image units [0, 1], the y offset from the bottom: the
        patch of the image that the pixels cover; both or neither (the whole image).
    Differentiable in everything, through plain torch: where an input requires a gradient that path
    is taken. float32 and float64 run natively otherwise. Two runs, with any number of threads,
    agree bit for bit.
    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype.
    """
    fov = torch.as_tensor(fov_degrees, dtype=cam2world.dtype, device=cam2world.device).reshape(-1)
    _check(cam2world, fov, (height, width), scales, offsets)
    inputs = (cam2world, fov, scales, offsets)
    wants_grad = any(x is not None and x.requires_grad for x in inputs)
    if (wants_grad and torch.is_grad_enabled()) or not _native.runs_native(cam2world):
        return _patch_rays_reference(cam2world, fov, height, width, scales, offsets)
    return _native_rays((height, width), (*inputs, None, None))


def pixel_rays(
    cam2world: Tensor, fov_degrees: float | Tensor, columns: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Origins and unit directions, both [B, H W, 3], through places of the image plane (rays 2, 4,
    5): columns [W] are x to the right, rows [H] are y upwards, -1 and 1 at the frustum's edges.

    cam2world and fov_degrees as for `patch_rays`. A ray depends on its own place alone, to the last
    bit. Without gradients.
    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype.
    """
    fov = torch.as_tensor(fov_degrees, dtype=cam2world.dtype, device=cam2world.device).reshape(-1)
    op = "pixel_rays"
    _check(cam2world, fov, (0, 0), None, None, op)
    for name, places, legend in (("columns", columns, "[W]"), ("rows", rows, "[H]")):
        check_shape(op, name, places, legend, (places.numel(),))
        check_like(op, name, places, "cam2world", cam2world)
    inputs = tuple(x.detach() for x in (cam2world, fov, columns, rows))
    if _native.runs_native(cam2world):
        return _native_rays((len(rows), len(columns)), (*inputs[:2], None, None, *inputs[2:]))
    matrices, fov, columns, rows = inputs
    origins, directions = _through(matrices, fov, columns[None], rows[None])
    return origins, directions


def ball_segment(
    origins: Tensor, directions: Tensor, radius: float, near: float, far: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each ray enters and leaves the ball of a radius about the origin, between near and far
    (rays 6): t_near and t_far, [B, R] each, and whether it is inside at all, bool [B, R].

    origins, directions: [B, R, 3], directions of unit length. A ray that misses the ball has both
    at the place, between near and far, that is nearest to the origin. Differentiable, and without
    the native core, through plain torch. NaN stays NaN, and hits nothing.
    Raises ValueError for a wrong shape or device or a negative radius, TypeError for a wrong dtype.
    """
    _check_ball(origins, directions, radius)
    wants_grad = origins.requires_grad or directions.requires_grad
    if (wants_grad and torch.is_grad_enabled()) or not _native.runs_native(directions):
        return _ball_segment_reference(origins, directions, (radius**2, near, far))
    rays = [origins.contiguous(), directions.contiguous()]  # held while they are read
    shape = directions.shape[:2]
    ends = [directions.new_empty(shape) for _ in range(2)]
    hit = directions.new_empty(shape, dtype=torch.bool)
    _native.core().ball_segments(
        _native.launch(directions),
        hit.numel(),
        (radius**2, near, far),
        _native.addresses(*rays),
        _native.addresses(*ends, hit),
    )
    return ends[0], ends[1], hit


def _ball_segment_reference(
    origins: Tensor, directions: Tensor, numbers: tuple[float, float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """`ball_segment` in plain torch; numbers: radius squared, near, far."""
    radius_squared, near, far = numbers
    closest = -_dot(origins, directions)
    chord = (radius_squared - (_dot(origins, origins) - closest.square())).clamp_min(0).sqrt()
    t_near, t_far = ((closest + end).clamp(near, far) for end in (-chord, chord))
    return t_near, t_far, t_far > t_near


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """[...] of [..., 3] each; a sum over so short an axis is slow."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return ax * bx + ay * by + az * bz


def _check_ball(origins: Tensor, directions: Tensor, radius: float) -> None:
    check_floating("ball_segment", "directions", directions)
    if directions.ndim != 3 or directions.shape[2] != 3:
        raise ValueError(
            f"ball_segment: directions must have shape [B, R, 3], got {list(directions.shape)}"
        )
    check_shape("ball_segment", "origins", origins, "[B, R, 3]", tuple(directions.shape))
    check_like("ball_segment", "origins", origins, "directions", directions)
    if not radius >= 0:
        raise ValueError(f"ball_segment: radius must not be negative, got {radius}")


def _native_rays(size: tuple[int, int], inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
    """Rays of `size` pixels; inputs: cam2world, fov, scales, offsets, columns, rows."""
    inputs = tuple(None if x is None else x.contiguous() for x in inputs)
    cam2world, fov = inputs[:2]
    assert cam2world is not None
    assert fov is not None
    batch, (height, width) = len(cam2world), size
    outputs = [cam2world.new_empty(batch, height * width, 3) for _ in range(2)]
    _native.core().patch_rays(
        _native.launch(cam2world),
        (batch, height, width, int(len(fov) > 1)),
        _native.addresses(*inputs),
        _native.addresses(*outputs),
    )
    return outputs[0], outputs[1]


def _patch_rays_reference(
    cam2world: Tensor,
    fov: Tensor,
    height: int,
    width: int,
    scales: Tensor | None,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`patch_rays` in plain torch; fov is [B] or [1]."""
    place = {"dtype": cam2world.dtype, "device": cam2world.device}
    x = torch.linspace(-1, 1, width, **place)[None]
    y = torch.linspace(1, -1, height, **place)[None]
    if scales is not None and offsets is not None:
        x = (x + 1) * scales[:, :1] - 1 + 2 * offsets[:, :1]
        y = (y + 1) * scales[:, 1:] - 1 + 2 * offsets[:, 1:]
    return _through(cam2world, fov, x, y)


def _through(cam2world: Tensor, fov: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rays through places x [B or 1, W] and y [B or 1, H]; fov is [B] or [1]."""
    z = -1 / torch.tan(fov * (math.pi / 360))
    shape = (len(cam2world), y.shape[1], x.shape[1])
    grid = torch.stack(
        [x[:, None, :].expand(shape), y[:, :, None].expand(shape), z[:, None, None].expand(shape)],
        dim=-1,
    )
    local = F.normalize(grid.view(len(cam2world), shape[1] * shape[2], 3), dim=-1)
    directions = local @ cam2world[:, :3, :3].transpose(1, 2)
    return cam2world[:, None, :3, 3].expand_as(directions), directions


def _check(
    cam2world: Tensor,
    fov: Tensor,
    size: tuple[int, int],
    scales: Tensor | None,
    offsets: Tensor | None,
    op: str = "patch_rays",
) -> None:
    check_floating(op, "cam2world", cam2world)
    if cam2world.ndim != 3 or cam2world.shape[1:] != (4, 4):
        raise ValueError(f"{op}: cam2world must have shape [B, 4, 4], got {list(cam2world.shape)}")
    batch = len(cam2world)
    if len(fov) not in (1, batch):
        raise ValueError(f"{op}: fov_degrees must have 1 or {batch} elements, got {len(fov)}")
    if min(size) < 0:
        raise ValueError(f"{op}: height and width must not be negative, got {list(size)}")
    if (scales is None) != (offsets is None):
        raise ValueError(f"{op}: scales and offsets come together, got only one of them")
    for name, tensor in (("scales", scales), ("offsets", offsets)):
        if tensor is not None:
            check_shape(op, name, tensor, "[B, 2]", (batch, 2))
            check_like(op, name, tensor, "cam2world", cam2world)
