"""Cameras that look at the origin from a sphere: angles, poses, priors, frustum.

Legend: B cameras. Angles are radians ``(yaw, pitch, roll)``; roll is carried but never used. y
points up, pitch is measured from +y (0 = from the top, pi/2 = from the equator), yaw 0 is on +x and
yaw +pi/2 on +z. World units are those of the scene cube. A camera looks along its own -z, with x
right and y up.
Source: EpiGRAF (Skorokhodov et al. 2022), sections 3 and 4; pi-GAN's pose priors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.config import CameraConfig, CameraDist
from epigraf.rendering.draws import Draws

PITCH_EPSILON = 1e-5  # keeps the up vector defined at the poles
_TRUNCATED_TRIES = 4


def _uniform(mean: float, half_width: float, name: str, n: int, draws: Draws) -> Tensor:
    u = draws.uniform(name, (n, 1), torch.empty(()))
    return (u - 0.5) * (2 * half_width) + mean


def _normal(mean: float, std: float, name: str, n: int, draws: Draws) -> Tensor:
    return draws.normal(name, (n, 1), torch.empty(())) * std + mean


def _truncated(mean: float, std: float, name: str, n: int, draws: Draws) -> Tensor:
    """First of four normal draws that lies within 2 std (the first draw if none does)."""
    tries = draws.normal(name, (n, 1, _TRUNCATED_TRIES), torch.empty(()))
    first_valid = (tries.abs() < 2).to(torch.uint8).argmax(dim=-1, keepdim=True)
    return tries.gather(-1, first_valid).squeeze(-1) * std + mean


def _independent(
    camera: CameraConfig, n: int, draws: Draws, law: Callable[..., Tensor], width: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Yaw and pitch drawn from the same law, yaw first."""
    yaw = law(camera.horizontal_mean, width * camera.horizontal_stddev, "camera_yaw", n, draws)
    pitch = law(camera.vertical_mean, width * camera.vertical_stddev, "camera_pitch", n, draws)
    return yaw, pitch


def _hybrid(camera: CameraConfig, n: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """One coin for the whole batch: uniform of doubled width, or normal."""
    coin = draws.random("camera_coin", (1,))
    if float(coin) < 0.5:
        return _independent(camera, n, draws, _uniform, width=2.0)
    return _independent(camera, n, draws, _normal)


def _spherical(camera: CameraConfig, n: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """Uniform on the sphere: the cosine of the pitch is uniform."""
    yaw = _uniform(camera.horizontal_mean, camera.horizontal_stddev, "camera_yaw", n, draws)
    v = _uniform(
        camera.vertical_mean / math.pi, camera.vertical_stddev / math.pi, "camera_pitch", n, draws
    )
    return yaw, torch.arccos(1 - 2 * v.clamp(1e-5, 1 - 1e-5))


def sample_camera_angles(camera: CameraConfig, n: int, *, draws: Draws) -> Tensor:
    """Draw n camera angles [n, 3] (radians, float32 on the CPU) from the configured prior.

    The pitch is clamped to [1e-5, pi - 1e-5]; roll is 0. Raises ValueError for the ``custom``
    distribution, whose angles belong to the images of the data set.
    """
    dist = camera.dist
    if dist is CameraDist.CUSTOM:
        raise ValueError(
            "sample_camera_angles: camera.dist=custom has no prior, its angles come from the "
            "data set's camera_angles"
        )
    if dist is CameraDist.UNIFORM:
        yaw, pitch = _independent(camera, n, draws, _uniform)
    elif dist is CameraDist.HYBRID:
        yaw, pitch = _hybrid(camera, n, draws)
    elif dist is CameraDist.TRUNCATED_GAUSSIAN:
        yaw, pitch = _independent(camera, n, draws, _truncated)
    elif dist is CameraDist.SPHERICAL_UNIFORM:
        yaw, pitch = _spherical(camera, n, draws)
    else:
        yaw, pitch = _independent(camera, n, draws, _normal)
    return clamp_pitch(torch.cat([yaw, pitch, torch.zeros_like(yaw)], dim=1))


def clamp_pitch(angles: Tensor) -> Tensor:
    """Copy of angles [B, 3] with the pitch inside [1e-5, pi - 1e-5] (the caller's stay as they
    are)."""
    yaw, pitch, roll = _check_angles(angles, "clamp_pitch").unbind(1)
    return torch.stack([yaw, pitch.clamp(PITCH_EPSILON, math.pi - PITCH_EPSILON), roll], dim=1)


def camera_origins(angles: Tensor, radius: float | Tensor) -> Tensor:
    """Camera centres [B, 3] in world units for angles [B, 3] on a sphere of the given radius (one,
    or [B])."""
    yaw, pitch, _ = _check_angles(angles, "camera_origins").unbind(1)
    ground = radius * torch.sin(pitch)
    return torch.stack(
        [ground * torch.cos(yaw), radius * torch.cos(pitch), ground * torch.sin(yaw)], dim=1
    )


def cam2world(
    angles: Tensor, radius: float | Tensor, target: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Tensor:
    """Camera-to-world matrices [B, 4, 4] of cameras at angles [B, 3] that look at ``target``.

    They stand on spheres of the given radius (one, or [B]) about the target, all in world units.
    Columns are right, up, backward and the camera centre. At an exact pole the up vector is
    undefined: clamp the pitch first (``clamp_pitch``).
    """
    origins = camera_origins(angles, radius)
    forward = F.normalize(-origins, dim=1)
    world_up = forward.new_tensor([0.0, 1.0, 0.0]).expand_as(forward)
    left = F.normalize(torch.linalg.cross(world_up, forward), dim=1, eps=0.0)
    up = F.normalize(torch.linalg.cross(forward, left), dim=1, eps=0.0)
    top = torch.stack([-left, up, -forward, origins + origins.new_tensor(target)], dim=2)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def roll_cameras(cam2world: Tensor, roll: float | Tensor) -> Tensor:
    """Cameras [B, 4, 4] turned about their viewing axes by `roll` radians (one angle, or [B]),
    anticlockwise as they see it (so that the picture turns clockwise)."""
    angle = torch.as_tensor(roll, dtype=cam2world.dtype, device=cam2world.device).reshape(-1, 1)
    cos, sin = angle.cos(), angle.sin()
    right, up = cam2world[:, :, 0], cam2world[:, :, 1]
    columns = [cos * right + sin * up, cos * up - sin * right, *cam2world[:, :, 2:].unbind(2)]
    return torch.stack(columns, dim=2)


def minimal_cube_scale(fov_degrees: float, near: float, far: float, radius: float) -> float:
    """Smallest half-edge of a cube that holds every frustum corner at every yaw and pitch.

    A camera that may turn anywhere carries a corner round the origin on a sphere, and some yaw and
    pitch put it on an axis; so the answer is the largest distance of a corner from the origin. near
    and far are distances along the corner rays, in world units; fov is the full angle in degrees.
    """
    slope = math.tan(math.radians(fov_degrees) / 2)
    axial = 1 / math.sqrt(1 + 2 * slope * slope)  # cosine between the corner ray and the axis
    return max(math.sqrt(t * t - 2 * t * radius * axial + radius * radius) for t in (near, far))


def frustum_fits(fov_degrees: float, near: float, far: float, radius: float, scale: float) -> bool:
    """Whether all sampled points of all cameras lie inside the scene cube [-scale, scale]^3."""
    return minimal_cube_scale(fov_degrees, near, far, radius) <= scale


def angles_from_matrix(matrix: Tensor) -> Tensor:
    """Angles (yaw, pitch, roll) [..., 3] in radians of camera matrices [..., 3 or 4, 3 or 4].

    yaw = atan2(T10, T00), pitch = atan2(T21, T22), roll = atan2(-T20, |(T21, T22)|): the convention
    of the Megascans data sets. Raises ValueError where the pitch is negative (camera upside down).
    """
    if matrix.ndim < 2 or min(matrix.shape[-2:]) < 3:
        raise ValueError(
            f"angles_from_matrix: matrix must have shape [..., 3|4, 3|4], got {list(matrix.shape)}"
        )
    yaw = torch.atan2(matrix[..., 1, 0], matrix[..., 0, 0])
    pitch = torch.atan2(matrix[..., 2, 1], matrix[..., 2, 2])
    roll = torch.atan2(-matrix[..., 2, 0], torch.hypot(matrix[..., 2, 1], matrix[..., 2, 2]))
    upside_down = (pitch < -1e-6) & (pitch > 1e-6 - math.pi)
    if bool(upside_down.any()):
        raise ValueError(
            f"angles_from_matrix: pitch must lie in [0, pi], got {float(pitch.min()):.6f} radians"
        )
    return torch.stack([yaw, pitch.abs(), roll], dim=-1)


def _check_angles(angles: Tensor, name: str) -> Tensor:
    if angles.ndim != 2 or angles.shape[1] != 3:
        raise ValueError(f"{name}: angles must have shape [B, 3], got {list(angles.shape)}")
    return angles
