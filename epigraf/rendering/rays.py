"""Rays: from the pixels of a patch to origins and directions, and depths along them.

Legend: B batch, R rays (row-major, first row on top), S samples per ray. t is the distance along a
unit ray, in world units. Source: EpiGRAF (Skorokhodov et al. 2022), section 3; NeRF for
stratification.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from epigraf import ops
from epigraf.rendering.patches import PatchParams


class Rays(NamedTuple):
    """Origins [B, R, 3] and unit directions [B, R, 3] in world coordinates."""

    origins: Tensor
    directions: Tensor


class RaySegment(NamedTuple):
    """The part of each ray that is sampled: t_near [B, R], t_far [B, R], hit [B, R] (None: all
    hit)."""

    near: Tensor
    far: Tensor
    hit: Tensor | None


def pixel_directions(
    height: int, width: int, fov_degrees: float | Tensor, patch: PatchParams | None = None
) -> Tensor:
    """Unit directions [B, R, 3] of the pixels in the camera frame (x right, y up, looking along
    -z).

    Pixel centres are corner-aligned: the first and last lie on the frustum's edges. The field of
    view is the full angle in degrees, one number or one per sample [B]; a patch narrows the grid
    before the directions are normalised. B is 1 where neither gives a batch.
    """
    fov = torch.as_tensor(fov_degrees, dtype=torch.float32).reshape(-1)
    like = fov if patch is None else patch.scales
    patches = 1 if patch is None else len(patch)
    batch = max(patches, len(fov))
    if len(fov) not in (1, batch) or patches not in (1, batch):
        raise ValueError(
            f"pixel_directions: fov must have 1 or {patches} elements (the patch batch), "
            f"got {len(fov)}"
        )
    identity = torch.eye(4, dtype=like.dtype, device=like.device).expand(batch, 4, 4)
    return patch_rays(identity, height, width, fov, patch).directions


def patch_rays(
    cam2world: Tensor,
    height: int,
    width: int,
    fov_degrees: float | Tensor,
    patch: PatchParams | None = None,
) -> Rays:
    """Rays of cameras [B, 4, 4] through the pixels of a patch, in the matrices' dtype and device.

    The same as `make_rays` of `pixel_directions`, in one pass over memory. One patch serves all
    cameras.
    """
    scales = offsets = None
    if patch is not None:
        batch = len(cam2world) if len(patch) == 1 else len(patch)
        scales, offsets = (x.to(cam2world).expand(batch, 2) for x in (patch.scales, patch.offsets))
    return Rays(*ops.patch_rays(cam2world, fov_degrees, height, width, scales, offsets))


def make_rays(cam2world: Tensor, directions_camera: Tensor) -> Rays:
    """Rays of cameras [B, 4, 4] through directions [B or 1, R, 3] given in the camera frame."""
    if cam2world.ndim != 3 or cam2world.shape[1:] != (4, 4):
        raise ValueError(
            f"make_rays: cam2world must have shape [B, 4, 4], got {list(cam2world.shape)}"
        )
    batch, count = len(cam2world), directions_camera.shape[1]
    directions = directions_camera.expand(batch, count, 3) @ cam2world[:, :3, :3].transpose(1, 2)
    return Rays(cam2world[:, None, :3, 3].expand(batch, count, 3), directions)


def ray_segment(
    rays: Rays, near: float, far: float, object_radius: float | None = None
) -> RaySegment:
    """Where each ray is sampled: near..far, or only its part inside the object's ball.

    A ray that misses the ball gets an empty segment at its closest point to the origin, and
    ``hit`` = False.
    """
    origins, directions = rays
    if object_radius is None:
        shape = directions.shape[:2]
        return RaySegment(
            directions.new_tensor(near).expand(shape),
            directions.new_tensor(far).expand(shape),
            None,
        )
    return RaySegment(*ops.ball_segment(origins, directions, object_radius, near, far))


def stratified_t(segment: RaySegment, num_samples: int, jitter: Tensor | None) -> Tensor:
    """Depths t [B, R, S], increasing from near to far, evenly spaced or moved within their strata.

    The stratum of sample k reaches from midpoint to midpoint (from near, to far at the ends);
    ``jitter`` [B, R, S] in [0, 1) places the sample inside it, None leaves the even spacing (NeRF,
    eq. 2).
    """
    if num_samples < 2:
        raise ValueError(f"stratified_t: num_samples must be at least 2, got {num_samples}")
    near = segment.near
    even = torch.linspace(0, 1, num_samples, dtype=near.dtype, device=near.device)
    if jitter is not None:
        middle = 0.5 * (even[:-1] + even[1:])
        lower = torch.cat([even[:1], middle])
        upper = torch.cat([middle, even[-1:]])
        even = torch.addcmul(lower, upper - lower, jitter)
    return near[..., None] + (segment.far - near)[..., None] * even


def ray_chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``count`` rays."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
