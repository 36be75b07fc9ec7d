"""Camera paths: hand-worked frames, closed loops, errors."""

from __future__ import annotations

import math

import pytest
import torch

from epigraf.rendering import trajectories
from epigraf.rendering.trajectories import CameraPath, PathKind, camera_path


def test_circle_goes_once_around_without_repeating_a_frame() -> None:
    path = trajectories.circle(30.0, 4, pitch=1.2, yaw_start=0.5)
    quarter = math.pi / 2
    expected = torch.tensor([0.5 + quarter * i for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(path.angles[:, 0], expected)
    assert path.angles[:, 1].tolist() == [1.2] * 4
    assert path.angles[:, 2].tolist() == [0.0] * 4
    assert path.fov.tolist() == [30.0] * 4


def test_front_circle_quarters_by_hand() -> None:
    path = trajectories.front_circle(12.0, 5, yaw_diff=0.3, pitch_diff=0.2, fov_diff=1.0)
    h = math.pi / 2
    expected = [[0, h + 0.2, 0], [0.3, h, 0], [0, h - 0.2, 0], [-0.3, h, 0], [0, h + 0.2, 0]]
    torch.testing.assert_close(path.angles, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(path.fov, torch.tensor([12, 13, 12, 11, 12], dtype=torch.float64))


def test_wiggle_and_line_and_points_by_hand() -> None:
    wiggle = trajectories.wiggle(12.0, 3, yaw_left=-1.0, yaw_right=1.0, pitch_diff=0.5)
    h = math.pi / 2
    torch.testing.assert_close(
        wiggle.angles[:, :2],
        torch.tensor([[-1, h + 0.5], [0, h - 0.5], [1, h + 0.5]], dtype=torch.float64),
    )
    line = trajectories.line(12.0, 3, yaw_left=0, yaw_right=2, pitch_left=1, pitch_right=0.5)
    assert line.angles[:, :2].tolist() == [[0, 1], [1, 0.75], [2, 0.5]]
    points = trajectories.points(20.0, [0.1, -0.2], pitch=1.5)
    assert points.angles.tolist() == [[0.1, 1.5, 0], [-0.2, 1.5, 0]]


def test_still_stays() -> None:
    path = trajectories.still(12.0, 2, yaw=0.1, pitch=1.2, roll=0.3)
    assert path.angles.tolist() == [[0.1, 1.2, 0.3]] * 2
    assert path.fov.tolist() == [12.0, 12.0]


def test_zoom_and_dolly_by_hand() -> None:
    path = trajectories.move_lens(trajectories.still(90.0, 4), zoom=4.0, dolly=9.0, radius=2.0)
    # sin^2 of 0, 45, 90, 135 degrees is 0, 1/2, 1, 1/2; tan(90 / 2) = 1 becomes 1, 1/2, 1/4, 1/2
    assert torch.tan(torch.deg2rad(path.fov) / 2).tolist() == pytest.approx([1, 0.5, 0.25, 0.5])
    assert path.radius is not None
    assert path.radius.tolist() == pytest.approx([2, 2 / 3, 2 / 9, 2 / 3])


def test_a_dolly_zoom_keeps_the_size_of_the_object() -> None:
    path = trajectories.move_lens(trajectories.circle(30.0, 9), zoom=0.4, dolly=2.5, radius=1.0)
    assert path.radius is not None
    size = 1 / (path.radius * torch.tan(torch.deg2rad(path.fov) / 2))
    torch.testing.assert_close(size, size[:1].expand(9))
    with pytest.raises(ValueError, match="zoom and dolly must be positive, got 0 and 1"):
        trajectories.move_lens(path, 0, 1, 1.0)


@pytest.mark.parametrize("kind", list(PathKind))
@pytest.mark.parametrize("frames", [1, 7])
def test_every_kind_has_the_asked_number_of_valid_cameras(kind: PathKind, frames: int) -> None:
    path = camera_path(kind, 30.0, frames)
    assert len(path) == frames
    assert bool(torch.isfinite(path.angles).all())
    assert bool((path.angles[:, 1] > 0).all())
    assert bool((path.angles[:, 1] < math.pi).all())


def test_errors_name_function_and_value() -> None:
    with pytest.raises(ValueError, match="wiggle: num_frames must be at least 1, got 0"):
        trajectories.wiggle(12.0, 0)
    with pytest.raises(ValueError, match="points: yaws must name at least one view"):
        trajectories.points(12.0, [])
    with pytest.raises(ValueError, match=r"fov must have shape \[N\] = \[2\], got \[3\]"):
        CameraPath(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"radius must have shape \[N\] = \[2\], got \[1\]"):
        CameraPath(torch.zeros(2, 3), torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"angles must be \[N, 3\], got \[2, 2\]"):
        CameraPath(torch.zeros(2, 2), torch.zeros(2))
