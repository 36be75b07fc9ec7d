"""Cameras: worked positions, brute-force frusta, the laws of the priors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.config import CameraConfig, CameraDist
from epigraf.rendering.camera import (
    angles_from_matrix,
    cam2world,
    camera_origins,
    clamp_pitch,
    frustum_fits,
    minimal_cube_scale,
    roll_cameras,
    sample_camera_angles,
)
from epigraf.rendering.draws import RandomDraws, ReplayDraws

HALF = math.pi / 2


@pytest.mark.parametrize(
    ("yaw", "pitch", "origin"),
    [
        (0, HALF, (2, 0, 0)),
        (HALF, HALF, (0, 0, 2)),
        (1.0, 0, (0, 2, 0)),
        (math.pi, HALF, (-2, 0, 0)),
    ],
)
def test_origin_of_worked_angles(yaw: float, pitch: float, origin: tuple) -> None:
    angles = torch.tensor([[yaw, pitch, 0.3]])
    torch.testing.assert_close(
        camera_origins(angles, 2.0), torch.tensor([origin]).float(), atol=1e-6, rtol=0
    )


def test_cam2world_of_the_camera_on_x() -> None:
    # On +x, looking along -x: right is -z (y up, right-handed), backward is +x.
    matrix = cam2world(torch.tensor([[0.0, HALF, 0.0]], dtype=torch.float64), 1.0)[0]
    expected = [[0, 0, 1, 1], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(matrix, torch.tensor(expected).double(), atol=1e-12, rtol=0)


def test_a_quarter_roll_turns_right_into_up() -> None:
    matrix = cam2world(torch.tensor([[0.3, 1.2, 0.0]], dtype=torch.float64), 1.0)
    rolled = roll_cameras(matrix, HALF)
    torch.testing.assert_close(rolled[:, :, 0], matrix[:, :, 1], atol=1e-12, rtol=0)
    torch.testing.assert_close(rolled[:, :, 1], -matrix[:, :, 0], atol=1e-12, rtol=0)
    assert torch.equal(rolled[:, :, 2:], matrix[:, :, 2:])


def test_cam2world_moves_with_its_target() -> None:
    # From +z (yaw pi/2) at distance 2 of (1, -2, 3): stands at (1, -2, 5), right is +x.
    angles = torch.tensor([[HALF, HALF, 0.0]], dtype=torch.float64)
    matrix = cam2world(angles, 2.0, (1.0, -2.0, 3.0))[0]
    expected = [[1, 0, 0, 1], [0, 1, 0, -2], [0, 0, 1, 5], [0, 0, 0, 1]]
    torch.testing.assert_close(matrix, torch.tensor(expected).double(), atol=1e-12, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.floats(-math.pi, math.pi), st.floats(0, math.pi), st.floats(0.5, 3))
def test_cam2world_is_a_rigid_motion_that_looks_at_the_origin(
    yaw: float, pitch: float, radius: float
) -> None:
    angles = clamp_pitch(torch.tensor([[yaw, pitch, 0.0]], dtype=torch.float64))
    matrix = cam2world(angles, radius)[0]
    rotation, origin = matrix[:3, :3], matrix[:3, 3]
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(rotation @ rotation.T, eye, atol=1e-9, rtol=0)
    assert torch.linalg.det(rotation) == pytest.approx(1)
    torch.testing.assert_close(-rotation[:, 2] * radius, -origin, atol=1e-9, rtol=0)
    assert rotation[1, 1] >= 0  # up stays up


def test_poles_are_finite_and_the_callers_angles_unchanged() -> None:
    angles = torch.tensor([[0.4, 0.0, 0.0], [0.4, math.pi, 0.0], [0.4, -1.0, 0.0]])
    before = angles.clone()
    clamped = clamp_pitch(angles)
    assert torch.equal(angles, before)
    assert clamped[0, 1] == pytest.approx(1e-5)
    assert clamped[2, 1] == pytest.approx(1e-5)
    matrices = cam2world(clamped, 1.0)
    gram = matrices[:, :3, :3] @ matrices[:, :3, :3].transpose(1, 2)
    torch.testing.assert_close(gram, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)


def _largest_coordinate(fov: float, near: float, far: float, radius: float) -> float:
    """The largest coordinate of the frustum's corners over a fine grid of cameras."""
    yaw, pitch = np.meshgrid(np.linspace(0, 2 * np.pi, 181), np.linspace(1e-4, np.pi - 1e-4, 361))
    yaw, pitch = yaw.ravel(), pitch.ravel()
    origin = radius * np.stack(
        [np.sin(pitch) * np.cos(yaw), np.cos(pitch), np.sin(pitch) * np.sin(yaw)], axis=1
    )
    forward = -origin / radius
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.cross(right, forward)
    slope = np.tan(np.radians(fov) / 2)
    largest = 0.0
    for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        ray = forward + slope * (x * right + y * up)
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        for t in (near, far):
            largest = max(largest, np.abs(origin + t * ray).max())
    return largest


@pytest.mark.parametrize(
    ("fov", "near", "far"), [(12, 0.88, 1.12), (30, 0.75, 1.25), (50, 0.5, 1.1)]
)
def test_minimal_cube_scale_is_the_largest_corner(fov: float, near: float, far: float) -> None:
    limit = minimal_cube_scale(fov, near, far, 1.0)
    assert limit == pytest.approx(_largest_coordinate(fov, near, far, 1.0), rel=2e-3)
    assert frustum_fits(fov, near, far, 1.0, limit * 1.001)
    assert not frustum_fits(fov, near, far, 1.0, limit * 0.999)


def _angles(dist: CameraDist, n: int = 20000) -> torch.Tensor:
    camera = CameraConfig(
        dist=dist,
        horizontal_mean=0.2,
        horizontal_stddev=0.3,
        vertical_mean=1.4,
        vertical_stddev=0.1,
    )
    return sample_camera_angles(camera, n, draws=RandomDraws(1))


def test_uniform_prior_fills_its_interval() -> None:
    yaw, pitch, roll = _angles(CameraDist.UNIFORM).unbind(1)
    assert -0.1 <= yaw.min() < -0.09
    assert 0.49 < yaw.max() <= 0.5
    assert pitch.min() >= 1.3
    assert pitch.max() <= 1.5
    assert not roll.any()
    assert yaw.std() == pytest.approx(0.6 / math.sqrt(12), rel=0.02)


@pytest.mark.parametrize("dist", [CameraDist.NORMAL, CameraDist.GAUSSIAN])
def test_normal_prior(dist: CameraDist) -> None:
    yaw, pitch, _ = _angles(dist).unbind(1)
    assert yaw.mean() == pytest.approx(0.2, abs=0.01)
    assert yaw.std() == pytest.approx(0.3, rel=0.03)
    assert pitch.mean() == pytest.approx(1.4, abs=0.01)
    assert pitch.std() == pytest.approx(0.1, rel=0.03)


def test_truncated_prior_takes_the_first_valid_of_four() -> None:
    tries = torch.tensor([[[-3.0, 5.0, 1.5, 0.1]], [[9.0, 8.0, 7.0, -6.0]]])
    camera = CameraConfig(
        dist=CameraDist.TRUNCATED_GAUSSIAN, horizontal_mean=1.0, horizontal_stddev=0.5,
        vertical_mean=1.0, vertical_stddev=0.1,
    )  # fmt: skip
    draws = ReplayDraws([("yaw", tries), ("pitch", tries)])
    angles = sample_camera_angles(camera, 2, draws=draws)
    # 1.5 is the first within 2; where none is, the first draw stands.
    expected = torch.tensor([[1.75, 1.15, 0.0], [5.5, 1.9, 0.0]])
    torch.testing.assert_close(angles, expected)


@pytest.mark.parametrize(("coin", "yaw"), [(0.4, 0.2 + 0.25 * 4 * 0.3), (0.6, 0.2 + 0.75 * 0.3)])
def test_hybrid_prior_tosses_one_coin(coin: float, yaw: float) -> None:
    camera = CameraConfig(dist=CameraDist.HYBRID, horizontal_mean=0.2, horizontal_stddev=0.3)
    numbers = torch.tensor([0.75])
    draws = ReplayDraws([("coin", torch.tensor([coin])), ("a", numbers), ("b", numbers)])
    assert sample_camera_angles(camera, 1, draws=draws)[0, 0] == pytest.approx(yaw)


def test_spherical_prior_has_uniform_heights() -> None:
    camera = CameraConfig(dist=CameraDist.SPHERICAL_UNIFORM)
    angles = sample_camera_angles(camera, 20000, draws=RandomDraws(0))
    heights = camera_origins(angles, 1.0)[:, 1].sort().values
    expected = torch.linspace(-1, 1, 20000)
    assert (heights - expected).abs().max() < 0.03


def test_custom_prior_is_refused() -> None:
    with pytest.raises(ValueError, match="custom has no prior"):
        sample_camera_angles(CameraConfig(), 1, draws=RandomDraws(0))


def test_angles_from_matrix_invert_the_rotation() -> None:
    yaw, pitch, roll = 0.7, 1.2, -0.4  # T = Rz(yaw) Ry(roll) Rx(pitch)
    c, s = math.cos, math.sin
    rz = torch.tensor([[c(yaw), -s(yaw), 0], [s(yaw), c(yaw), 0], [0, 0, 1.0]])
    ry = torch.tensor([[c(roll), 0, s(roll)], [0, 1.0, 0], [-s(roll), 0, c(roll)]])
    rx = torch.tensor([[1.0, 0, 0], [0, c(pitch), -s(pitch)], [0, s(pitch), c(pitch)]])
    angles = angles_from_matrix(rz @ ry @ rx)
    torch.testing.assert_close(angles, torch.tensor([yaw, pitch, roll]), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="pitch must lie in"):
        angles_from_matrix(rz @ ry @ rx.T)


def test_wrong_shapes() -> None:
    with pytest.raises(
        ValueError, match=r"clamp_pitch: angles must have shape \[B, 3\], got \[3\]"
    ):
        clamp_pitch(torch.zeros(3))
    with pytest.raises(ValueError, match="angles_from_matrix: matrix must have shape"):
        angles_from_matrix(torch.zeros(2, 2))


def test_each_camera_has_its_radius_and_its_roll() -> None:
    angles = torch.tensor([[0.3, 1.2, 0.0], [1.0, 0.7, 0.0], [-2.0, 1.5, 0.0]], dtype=torch.float64)
    radii, rolls = torch.tensor([1.0, 2.5, 0.7]).double(), torch.tensor([0.0, 0.4, -1.1]).double()
    together = roll_cameras(cam2world(angles, radii, (0.1, 0.2, 0.3)), rolls)
    for i in range(3):
        alone = cam2world(angles[i : i + 1], float(radii[i]), (0.1, 0.2, 0.3))
        torch.testing.assert_close(together[i : i + 1], roll_cameras(alone, float(rolls[i])))
