"""Cameras that the commands choose when the user names none."""

from __future__ import annotations

import math

import torch

from epigraf.cli.arguments import PathName
from epigraf.config import CameraDist, Config
from epigraf.rendering.trajectories import CameraPath, PathKind, camera_path

LOOK_DOWN = 0.35
"""Radians above the horizon from which turning objects are shown (20 degrees)."""


def turns_around(cfg: Config) -> bool:
    """Whether the data shows objects from all sides (a turntable makes sense) or from the front.

    The spread of the poses of a dataset is not in the config: objects on white count as turning.
    """
    camera = cfg.dataset.camera
    if camera.dist is CameraDist.CUSTOM:
        return cfg.dataset.white_back
    return camera.horizontal_stddev > math.pi / 3


def view_path(cfg: Config, name: PathName, frames: int) -> CameraPath:
    """`frames` cameras; AUTO is a turntable, or a circle around the front."""
    if name is PathName.AUTO:
        kind = PathKind.CIRCLE if turns_around(cfg) else PathKind.FRONT_CIRCLE
    else:
        kind = PathKind(name.value)
    return camera_path(kind, cfg.dataset.camera.fov, frames)


def single_view(cfg: Config, yaw: float | None = None, pitch: float | None = None) -> CameraPath:
    """One camera (radians); None is the mean pose, a little from above for turning objects."""
    camera = cfg.dataset.camera
    if pitch is None:
        pitch = camera.vertical_mean - (LOOK_DOWN if turns_around(cfg) else 0.0)
    yaw = camera.horizontal_mean if yaw is None else yaw
    angles = torch.tensor([[yaw, pitch, 0.0]], dtype=torch.float64)
    return CameraPath(angles, torch.tensor([camera.fov], dtype=torch.float64))
