"""Camera paths for videos and turntables (spec section 15).

Angles are `[yaw, pitch, roll]` in radians, pitch measured from +y (pi/2 = horizon); `fov` is the
full field of view in degrees. N frames. Everything is float64 so that a path is exact; cast to the
model's dtype where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

HORIZON = math.pi / 2


@dataclass(frozen=True)
class CameraPath:
    """A camera per frame: `angles` [N, 3] radians (yaw, pitch, roll), `fov` [N] degrees, `radius`
    [N] distances from the origin in world units (None: where the model's cameras stand)."""

    angles: Tensor
    fov: Tensor
    radius: Tensor | None = None

    def __post_init__(self) -> None:
        if self.angles.ndim != 2 or self.angles.shape[1] != 3:
            raise ValueError(f"CameraPath: angles must be [N, 3], got {list(self.angles.shape)}")
        for name, value in (("fov", self.fov), ("radius", self.radius)):
            if value is not None and value.shape != self.angles.shape[:1]:
                raise ValueError(
                    f"CameraPath: {name} must have shape [N] = [{self.angles.shape[0]}], "
                    f"got {list(value.shape)}"
                )

    def __len__(self) -> int:
        return int(self.angles.shape[0])

    def __getitem__(self, frames: slice) -> CameraPath:
        """Some of the cameras."""
        radius = None if self.radius is None else self.radius[frames]
        return CameraPath(self.angles[frames], self.fov[frames], radius)


class PathKind(Enum):
    """The camera paths that the command line offers."""

    STILL = "still"
    CIRCLE = "circle"
    FRONT_CIRCLE = "front_circle"
    WIGGLE = "wiggle"
    LINE = "line"
    POINTS = "points"


def still(
    fov: float, num_frames: int = 1, *, yaw: float = 0.0, pitch: float = HORIZON, roll: float = 0.0
) -> CameraPath:
    """A camera that stays where it is."""
    _check_frames("still", num_frames)
    angles = torch.tensor([[yaw, pitch, roll]], dtype=torch.float64).repeat(num_frames, 1)
    return CameraPath(angles, torch.full_like(angles[:, 0], fov))


def circle(
    fov: float,
    num_frames: int = 64,
    *,
    pitch: float = HORIZON - 0.35,
    yaw_start: float = 0.0,
    turns: float = 1.0,
) -> CameraPath:
    """A turntable: `turns` full turns of the yaw at a fixed pitch.

    The end is left out, so that the frames loop without a repeated one. Negative `turns` go the
    other way. The default pitch looks down by 20 degrees.
    """
    _check_frames("circle", num_frames)
    phase = torch.arange(num_frames, dtype=torch.float64) / num_frames
    yaw = yaw_start + 2 * math.pi * turns * phase
    return _path(yaw, torch.full_like(yaw, pitch), fov)


def front_circle(
    fov: float,
    num_frames: int = 64,
    *,
    yaw_diff: float = 0.3,
    pitch_diff: float = 0.2,
    fov_diff: float = 1.0,
    yaw_mean: float = 0.0,
) -> CameraPath:
    """The camera circles around the frontal view, as in the official videos.

    yaw = yaw_diff sin, pitch = pi/2 + pitch_diff cos, fov = fov + fov_diff sin, over one loop whose
    end is included.
    """
    _check_frames("front_circle", num_frames)
    phase = 2 * math.pi * torch.linspace(0, 1, num_frames, dtype=torch.float64)
    yaw = yaw_mean + yaw_diff * torch.sin(phase)
    pitch = HORIZON + pitch_diff * torch.cos(phase)
    return _path(yaw, pitch, fov + fov_diff * torch.sin(phase))


def wiggle(
    fov: float,
    num_frames: int = 16,
    *,
    yaw_left: float = -1.57,
    yaw_right: float = 1.57,
    pitch_diff: float = 0.5,
) -> CameraPath:
    """Yaw runs evenly from left to right while the pitch swings once: pi/2 + pitch_diff cos."""
    _check_frames("wiggle", num_frames)
    yaw = torch.linspace(yaw_left, yaw_right, num_frames, dtype=torch.float64)
    phase = 2 * math.pi * torch.linspace(0, 1, num_frames, dtype=torch.float64)
    return _path(yaw, HORIZON + pitch_diff * torch.cos(phase), fov)


def line(
    fov: float,
    num_frames: int = 16,
    *,
    yaw_left: float = -1.57,
    yaw_right: float = 1.57,
    pitch_left: float = 0.835,
    pitch_right: float = 0.835,
) -> CameraPath:
    """Yaw and pitch run evenly from the left end to the right end, both included."""
    _check_frames("line", num_frames)
    yaw = torch.linspace(yaw_left, yaw_right, num_frames, dtype=torch.float64)
    pitch = torch.linspace(pitch_left, pitch_right, num_frames, dtype=torch.float64)
    return _path(yaw, pitch, fov)


def points(
    fov: float, yaws: Sequence[float] = (0.0, -0.3, 0.3), *, pitch: float = 1.57
) -> CameraPath:
    """One frame for each yaw, all at the same pitch."""
    if not yaws:
        raise ValueError("points: yaws must name at least one view")
    yaw = torch.tensor(list(yaws), dtype=torch.float64)
    return _path(yaw, torch.full_like(yaw, pitch), fov)


def camera_path(kind: PathKind, fov: float, num_frames: int) -> CameraPath:
    """The path of a kind with its default extent; `points` gives `num_frames` views spread evenly
    over yaw -0.3..0.3.
    """
    if kind is PathKind.POINTS:
        _check_frames("points", num_frames)
        yaws = torch.linspace(-0.3, 0.3, num_frames, dtype=torch.float64)
        return points(fov, [float(y) for y in yaws] if num_frames > 1 else (0.0,))
    makers = {
        PathKind.STILL: still,
        PathKind.CIRCLE: circle,
        PathKind.FRONT_CIRCLE: front_circle,
        PathKind.WIGGLE: wiggle,
        PathKind.LINE: line,
    }
    return makers[kind](fov, num_frames)


def move_lens(path: CameraPath, zoom: float, dolly: float, radius: float) -> CameraPath:
    """Zoom and drive along a path, there and back: frame i of N is magnified by zoom^s and stands
    dolly^s times nearer, s = sin^2(pi i / N), so that a loop stays one.

    Zooming narrows the field of view: tan(fov / 2) is divided. An object at the origin grows by
    (zoom dolly)^s; zoom = 1 / dolly keeps its size while the perspective changes (dolly zoom).

    Args:
        zoom, dolly: factors > 0 at the middle of the path; below 1 widens, or backs away.
        radius: where the cameras of a path without radii stand.
    """
    if not (zoom > 0 and dolly > 0):
        raise ValueError(f"move_lens: zoom and dolly must be positive, got {zoom} and {dolly}")
    phase = torch.arange(len(path), dtype=torch.float64) / len(path)
    s = torch.sin(math.pi * phase).square()
    slope = torch.tan(torch.deg2rad(path.fov) / 2) / zoom**s
    radii = path.radius if path.radius is not None else torch.full_like(path.fov, radius)
    return CameraPath(path.angles, torch.rad2deg(2 * torch.atan(slope)), radii / dolly**s)


def _check_frames(name: str, num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"{name}: num_frames must be at least 1, got {num_frames}")


def _path(yaw: Tensor, pitch: Tensor, fov: float | Tensor) -> CameraPath:
    """Stack yaw [N] and pitch [N] with a zero roll; a number as fov is repeated."""
    angles = torch.stack([yaw, pitch, torch.zeros_like(yaw)], dim=1)
    degrees = fov if isinstance(fov, Tensor) else torch.full_like(yaw, fov)
    return CameraPath(angles, degrees)
