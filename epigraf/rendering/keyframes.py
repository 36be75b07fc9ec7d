"""Camera paths from a file: keyframes joined by smooth splines.

A JSON or YAML mapping with the list `keyframes` and, optionally, `loop: true`. A keyframe has `yaw`
and `pitch` in radians, and optionally `roll` (radians), `fov` (degrees), `radius` (world units;
0 < radius) and `time` (seconds; all keyframes or none, increasing; by default one second apart).

Legend: K keyframes, N frames.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import yaml
from pydantic import Field, ValidationError
from scipy.interpolate import CubicSpline

from epigraf.config.sections import Section
from epigraf.errors import DataError
from epigraf.rendering.camera import PITCH_EPSILON
from epigraf.rendering.trajectories import CameraPath

_CLOSED = 1e-6  # how well the ends of a loop must meet


class Keyframe(Section):
    """Where the camera is at a time; None: what the model's own cameras have."""

    yaw: float
    pitch: float = Field(ge=0, le=math.pi)
    roll: float = 0.0
    fov: float | None = Field(default=None, gt=0, lt=180)
    radius: float | None = Field(default=None, gt=0)
    time: float | None = None


class Keyframes(Section):
    """The content of a file."""

    keyframes: list[Keyframe] = Field(min_length=1)
    loop: bool = False

    def times(self) -> np.ndarray:
        """Seconds [K] of the keyframes."""
        given = [k.time for k in self.keyframes if k.time is not None]
        return np.asarray(given or range(len(self.keyframes)), dtype=np.float64)

    @property
    def seconds(self) -> float:
        """From the first keyframe to the last."""
        times = self.times()
        return float(times[-1] - times[0])


def read_keyframes(path: Path) -> Keyframes:
    """Read and check a file of keyframes.

    Raises:
        DataError: it cannot be read; says what is wrong with which keyframe.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"camera path {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"camera path {path}: not YAML or JSON: {_line(error)}") from None
    try:
        frames = Keyframes.model_validate(values)
    except ValidationError as error:
        raise DataError(f"camera path {path}: {_explain(error)}") from None
    _check_times(path, frames)
    _check_loop(path, frames)
    return frames


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    if where[:1] == ["keyframes"] and len(where) > 1:
        where = [f"keyframe {int(where[1]) + 1}", *where[2:]]
    if first["type"] == "extra_forbidden":
        known = ", ".join(Keyframe.model_fields if len(where) > 1 else Keyframes.model_fields)
        return f"{', '.join(where)}: unknown key; known are {known}"
    return f"{', '.join(where) or 'the file'}: {first['msg']}, got {first['input']!r}"


def _check_times(path: Path, frames: Keyframes) -> None:
    given = [k.time for k in frames.keyframes if k.time is not None]
    if given and len(given) < len(frames.keyframes):
        raise DataError(f"camera path {path}: give every keyframe a time, or none")
    for i, (a, b) in enumerate(pairwise(given), start=2):
        if b <= a:
            raise DataError(f"camera path {path}: keyframe {i}: time {b} is not after {a}")


def _check_loop(path: Path, frames: Keyframes) -> None:
    if not frames.loop:
        return
    first, last = frames.keyframes[0], frames.keyframes[-1]
    turns = (last.yaw - first.yaw) / (2 * math.pi)
    same = abs(turns - round(turns)) < _CLOSED and all(
        getattr(first, name) == getattr(last, name) for name in ("pitch", "roll", "fov", "radius")
    )
    if len(frames.keyframes) < 2 or not same:
        raise DataError(
            f"camera path {path}: a loop ends where it began; repeat the first keyframe as the "
            f"last one (its yaw may have gained full turns)"
        )


def keyframe_path(frames: Keyframes, fov: float, radius: float, num_frames: int) -> CameraPath:
    """`num_frames` cameras, evenly spread over the time of the keyframes.

    Cubic splines with continuous second derivatives go through the keyframes: natural ones, whose
    end is a frame, or with `loop` periodic ones, whose end is left out. Fields of view and radii
    run in their logarithms, so that they stay positive; pitch and field of view are kept in range.

    Args:
        fov, radius: of keyframes that give none (degrees, world units).
    """
    if num_frames < 1:
        raise ValueError(f"keyframe_path: num_frames must be at least 1, got {num_frames}")
    times = frames.times()
    at = np.linspace(times[0], times[-1], num_frames, endpoint=not frames.loop)
    rows = [
        (k.yaw, k.pitch, k.roll, math.log(k.fov or fov), math.log(k.radius or radius))
        for k in frames.keyframes
    ]
    values = torch.from_numpy(_spline(times, np.asarray(rows), at, frames.loop))
    angles = values[:, :3].clone()
    angles[:, 1] = angles[:, 1].clamp(PITCH_EPSILON, math.pi - PITCH_EPSILON)
    return CameraPath(angles, values[:, 3].exp().clamp_max(179.0), values[:, 4].exp())


def _spline(times: np.ndarray, rows: np.ndarray, at: np.ndarray, loop: bool) -> np.ndarray:
    """Values [N, C] at times `at` [N] of splines through rows [K, C] at `times` [K]."""
    if len(times) == 1:
        return np.repeat(rows, len(at), axis=0)
    if not loop:
        return CubicSpline(times, rows, bc_type="natural")(at)
    span = times[-1] - times[0]
    drift = (rows[-1] - rows[0]) / span  # full turns of the yaw, which a periodic spline has not
    flat = rows - (times - times[0])[:, None] * drift
    flat[-1] = flat[0]
    return CubicSpline(times, flat, bc_type="periodic")(at) + (at - times[0])[:, None] * drift
