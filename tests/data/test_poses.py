"""Pose conventions: worked examples, round trips, and independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from epigraf.data.poses import (
    angles_to_blender,
    angles_to_eg3d,
    angles_to_opencv,
    angles_to_opengl,
    blender_to_angles,
    colmap_to_opencv,
    eg3d_to_angles,
    looks_at_origin,
    megascans_to_angles,
    opencv_to_angles,
    opencv_to_colmap,
    opengl_to_angles,
)
from epigraf.rendering.camera import cam2world

ANGLES = st.tuples(
    st.floats(-math.pi, math.pi),
    st.floats(0.01, math.pi - 0.01),
    st.floats(-math.pi, math.pi),
)
ONE = given(angles=ANGLES, radius=st.floats(0.1, 10))
QUICK = settings(max_examples=60, deadline=None)


def same_angles(ours: np.ndarray, expected: np.ndarray) -> bool:
    turn = np.abs(np.exp(1j * ours) - np.exp(1j * expected))
    return bool(turn.max() < 1e-7)


def test_front_top_and_side_by_hand() -> None:
    front, side = angles_to_opengl(
        np.array([[0, math.pi / 2, 0], [math.pi / 2, math.pi / 2, 0]]), 2
    )
    assert np.allclose(front, [[0, 0, 1, 2], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    assert np.allclose(side, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]])
    (top,) = angles_to_opengl(np.array([[0, 0, 0]]))
    assert np.allclose(top[:3, 3], [0, 1, 0], atol=1e-4)
    assert np.isfinite(top).all()


def test_roll_turns_the_camera_counter_clockwise() -> None:
    (pose,) = angles_to_opengl(np.array([[math.pi / 2, math.pi / 2, math.pi / 2]]))
    assert np.allclose(pose[:3, 0], [0, 1, 0])  # its right is the world's up
    assert np.allclose(pose[:3, 1], [-1, 0, 0])


@ONE
@QUICK
def test_matrices_are_the_renderers(angles: tuple[float, ...], radius: float) -> None:
    level = np.array([[angles[0], angles[1], 0.0]])
    theirs = cam2world(torch.from_numpy(level), radius).numpy()
    assert np.allclose(angles_to_opengl(level, radius), theirs, atol=1e-6)


@ONE
@QUICK
def test_every_convention_round_trips(angles: tuple[float, ...], radius: float) -> None:
    given_angles = np.array([angles])
    assert same_angles(opengl_to_angles(angles_to_opengl(given_angles, radius)), given_angles)
    assert same_angles(opencv_to_angles(angles_to_opencv(given_angles, radius)), given_angles)
    assert same_angles(blender_to_angles(angles_to_blender(given_angles, radius)), given_angles)
    pose = angles_to_opencv(given_angles, radius)
    assert np.allclose(colmap_to_opencv(*opencv_to_colmap(pose)), pose, atol=1e-9)
    back, distance, fov = eg3d_to_angles(angles_to_eg3d(given_angles, 30.0, radius))
    assert same_angles(back, given_angles)
    assert distance[0] == pytest.approx(radius)
    assert fov[0] == pytest.approx(30.0)


@ONE
@QUICK
def test_opencv_camera_sees_the_origin_in_the_middle(
    angles: tuple[float, ...], radius: float
) -> None:
    (pose,) = angles_to_opencv(np.array([angles]), radius)
    origin = np.linalg.inv(pose) @ [0, 0, 0, 1]
    assert np.allclose(origin[:3], [0, 0, radius], atol=1e-9)
    assert looks_at_origin(angles_to_opengl(np.array([angles]), radius)).all()


@ONE
@QUICK
def test_colmap_quaternions_are_scipys(angles: tuple[float, ...], radius: float) -> None:
    pose = angles_to_opencv(np.array([angles]), radius)
    quaternions, translations = opencv_to_colmap(pose)
    rotation = Rotation.from_quat(quaternions[:, [1, 2, 3, 0]]).as_matrix()
    world_to_camera = np.linalg.inv(pose)
    assert np.allclose(rotation, world_to_camera[:, :3, :3], atol=1e-9)
    assert np.allclose(translations, world_to_camera[:, :3, 3], atol=1e-9)
    assert quaternions[0, 0] >= 0


def test_blenders_azimuth_turns_the_other_way() -> None:
    """A Blender camera on +y (behind the x axis, z up) stands on -z here: yaw -pi/2. Its matrix has
    right = -x, up = z, backward = y; the official Euler yaw atan2(T10, T00) = pi is not ours."""
    matrix = np.array([[[-1, 0, 0, 0], [0, 0, 1, 3], [0, 1, 0, 0], [0, 0, 0, 1]]], dtype=float)
    (angles,) = blender_to_angles(matrix)
    assert np.allclose(angles, [-math.pi / 2, math.pi / 2, 0])
    euler_yaw = math.atan2(matrix[0, 1, 0], matrix[0, 0, 0])
    assert np.exp(1j * angles[0]) == pytest.approx(np.exp(1j * (math.pi / 2 - euler_yaw)))


@ONE
@QUICK
def test_megascans_angles_are_those_of_their_matrices(
    angles: tuple[float, ...], radius: float
) -> None:
    """The official formulas on a level Blender camera, corrected, give its angles."""
    level = np.array([[angles[0], angles[1], 0.0]])
    (t,) = angles_to_blender(level, radius)
    official = [math.atan2(t[1, 0], t[0, 0]), math.atan2(t[2, 1], t[2, 2]), 0.0]
    assert same_angles(megascans_to_angles(np.array([official])), level)


def test_eg3d_vectors_by_hand() -> None:
    (vector,) = angles_to_eg3d(
        np.array([[math.pi / 2, math.pi / 2, 0]]), 2 * math.degrees(math.atan(0.5))
    )
    pose = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 1], [0, 0, 0, 1]]
    assert np.allclose(vector[:16].reshape(4, 4), pose)
    assert np.allclose(vector[16:].reshape(3, 3), [[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])


def test_cameras_that_look_elsewhere_are_told_apart() -> None:
    pose = angles_to_opengl(np.array([[0.3, 1.2, 0.0]] * 2), 1.0)
    pose[1, :3, 3] += [0.0, 0.2, 0.0]
    assert looks_at_origin(pose).tolist() == [True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: angles_to_opengl(np.zeros(3)), r"angles must have shape \[N, 3\], got \[3\]"),
        (lambda: angles_to_opengl(np.full((1, 3), np.nan)), "not finite"),
        (lambda: opengl_to_angles(np.zeros((2, 3, 3))), r"\[N, 4, 4\], got \[2, 3, 3\]"),
        (lambda: opengl_to_angles(np.diag([2.0, 2, 2, 1])[None]), "off by 3"),
        (lambda: opengl_to_angles(np.diag([-1.0, 1, 1, 1])[None]), "mirrored"),
        (lambda: opengl_to_angles(np.full((1, 4, 4), np.nan)), "not finite"),
        (lambda: eg3d_to_angles(np.zeros((1, 24))), r"\[N, 25\], got \[1, 24\]"),
    ],
)
def test_wrong_input_is_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
