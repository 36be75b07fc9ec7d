"""Cameras that the commands choose, and those that the user names."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import torch

from epigraf.cli.values import require_finite
from epigraf.config import CameraDist, Config
from epigraf.errors import EpigrafError
from epigraf.rendering.keyframes import Keyframes, keyframe_path, read_keyframes
from epigraf.rendering.trajectories import CameraPath, PathKind, camera_path, move_lens, still

LOOK_DOWN = 0.35
"""Radians above the horizon from which turning objects are shown (20 degrees)."""

AUTO = "auto"


def turns_around(cfg: Config) -> bool:
    """Whether the data shows objects from all sides (a turntable makes sense) or from the front.

    The spread of the poses of a dataset is not in the config: objects on white count as turning.
    """
    camera = cfg.dataset.camera
    if camera.dist is CameraDist.CUSTOM:
        return cfg.dataset.white_back
    return camera.horizontal_stddev > math.pi / 3


@dataclass(frozen=True)
class CameraMove:
    """How a user wants the camera to move; None: the model's own, or what suits it.

    `path` is `auto`, the name of a PathKind or a file of keyframes. yaw, pitch, roll (radians) are
    a still camera's; fov in degrees, radius in world units; zoom and dolly as in `move_lens`.
    """

    path: str = AUTO
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    fov: float | None = None
    radius: float | None = None
    zoom: float = 1.0
    dolly: float = 1.0

    def __post_init__(self) -> None:
        for name in ("yaw", "pitch", "roll"):
            require_finite(f"--{name}", getattr(self, name))
        if not self.is_still and (self.yaw, self.pitch, self.roll) != (None, None, None):
            raise EpigrafError(
                "--yaw, --pitch and --roll place a single view; add --path still, or leave them out"
            )
        self.keyframes()

    @property
    def is_still(self) -> bool:
        """Whether it does not move."""
        return self.path == PathKind.STILL.value

    def keyframes(self) -> Keyframes | None:
        """Those of the file, if the path is one.

        Raises:
            EpigrafError: neither a known name nor a file.
        """
        names = [AUTO, *(kind.value for kind in PathKind)]
        if self.path.replace("-", "_") in names:
            return None
        file = Path(self.path)
        if not file.is_file():
            close = get_close_matches(self.path.replace("-", "_"), names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise EpigrafError(
                f"--path {self.path}: no such file, and none of {', '.join(names)}{hint}"
            )
        return read_keyframes(file)

    def cameras(self, cfg: Config, count: int) -> CameraPath:
        """`count` cameras along the path."""
        camera = cfg.dataset.camera
        fov, radius = self.fov or camera.fov, self.radius or camera.radius
        keyframes = self.keyframes()
        if keyframes is not None:
            path = keyframe_path(keyframes, fov, radius, count)
        elif self.is_still:
            path = single_view(cfg, self.yaw, self.pitch, self.roll, count)
        else:
            path = view_path(cfg, self.path, count)
        if keyframes is None:
            path = _based(path, camera.fov, fov, self.radius)
        if self.zoom == self.dolly == 1.0:
            return path
        return move_lens(path, self.zoom, self.dolly, camera.radius)


def _based(path: CameraPath, trained: float, fov: float, radius: float | None) -> CameraPath:
    """A path made for the field of view `trained`, with another one, at another distance."""
    radii = None if radius is None else torch.full_like(path.fov, radius)
    return replace(path, fov=(path.fov + (fov - trained)).clamp(0.1, 179.0), radius=radii)


def view_path(cfg: Config, name: str, count: int) -> CameraPath:
    """`count` cameras along a path; AUTO is a turntable, or a circle around the front."""
    if name == AUTO:
        kind = PathKind.CIRCLE if turns_around(cfg) else PathKind.FRONT_CIRCLE
    else:
        kind = PathKind(name.replace("-", "_"))
    return camera_path(kind, cfg.dataset.camera.fov, count)


def single_view(
    cfg: Config,
    yaw: float | None = None,
    pitch: float | None = None,
    roll: float | None = None,
    count: int = 1,
) -> CameraPath:
    """One camera (radians), `count` times; None is the mean pose, a little from above for turning
    objects."""
    camera = cfg.dataset.camera
    if pitch is None:
        pitch = camera.vertical_mean - (LOOK_DOWN if turns_around(cfg) else 0.0)
    yaw = camera.horizontal_mean if yaw is None else yaw
    return still(camera.fov, count, yaw=yaw, pitch=pitch, roll=roll or 0.0)
