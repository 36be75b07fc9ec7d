"""Camera poses: (yaw, pitch, roll) of EpiGRAF to and from what other tools write.

The world of EpiGRAF is y up; angles are radians; a camera at (yaw, pitch) stands at
r (sin pitch cos yaw, cos pitch, sin pitch sin yaw) and looks at the origin (spec §5). Its pitch is
measured from +y: 0 is the top, pi/2 the horizon.

Camera frames: OpenGL (also Blender, nerfstudio): x right, y up, looks along -z.
OpenCV (also COLMAP, EG3D): x right, y down, looks along +z.
Matrices are camera-to-world, with unit x, y, z axes in the columns, unless said otherwise.

Legend: N cameras. float64 throughout.
"""

from __future__ import annotations

import math

import numpy as np

POLE = 1e-5  # radians; pitches are kept this far from straight up and down (spec §5)
EG3D_WIDTH = 25  # 16 numbers of the camera-to-world matrix, 9 of the intrinsics
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
# Blender's world is z up: x_world = x_blender, y_world = z_blender, z_world = -y_blender
_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def _angles(angles: np.ndarray) -> np.ndarray:
    values = np.asarray(angles, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] not in (2, 3):
        raise ValueError(f"poses: angles must have shape [N, 3], got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("poses: angles are not finite")
    if values.shape[1] == 2:
        return np.concatenate([values, np.zeros((len(values), 1))], axis=1)
    return values


def _matrices(matrices: np.ndarray) -> np.ndarray:
    values = np.asarray(matrices, dtype=np.float64)
    if values.ndim != 3 or values.shape[1:] not in ((4, 4), (3, 4)):
        raise ValueError(f"poses: matrices must have shape [N, 4, 4], got {list(values.shape)}")
    if values.shape[1] == 3:
        last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(values), 1, 4))
        values = np.concatenate([values, last], axis=1)
    rotation = values[:, :3, :3]
    error = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(initial=0)
    if not error < 1e-3 or np.linalg.det(rotation).min(initial=1) < 0:
        raise ValueError(
            f"poses: not camera-to-world matrices: the rotation part is off by {error:.2g} "
            f"(scaled, mirrored or not finite)"
        )
    return values


def angles_to_opengl(angles: np.ndarray, radius: float = 1.0) -> np.ndarray:
    """Camera-to-world matrices [N, 4, 4] of angles [N, 3] (roll: about the viewing axis).

    A positive roll turns the camera counter-clockwise as seen by itself. EpiGRAF's renderer
    ignores roll; here it is kept, so that conversions lose nothing.
    """
    yaw, pitch, roll = _angles(angles).T
    pitch = np.clip(pitch, POLE, math.pi - POLE)
    outward = np.stack(
        [np.sin(pitch) * np.cos(yaw), np.cos(pitch), np.sin(pitch) * np.sin(yaw)], axis=1
    )
    right = np.stack([np.sin(yaw), np.zeros_like(yaw), -np.cos(yaw)], axis=1)
    up = np.cross(outward, right)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    pose = np.tile(np.eye(4), (len(yaw), 1, 1))
    pose[:, :3, 0] = cos * right + sin * up
    pose[:, :3, 1] = cos * up - sin * right
    pose[:, :3, 2] = outward
    pose[:, :3, 3] = radius * outward
    return pose


def opengl_to_angles(matrices: np.ndarray) -> np.ndarray:
    """Angles [N, 3] of camera-to-world matrices [N, 4, 4] that look at the origin.

    Taken from the viewing direction, so the distance from the origin does not matter; see
    `looks_at_origin` for cameras that look elsewhere. yaw and roll in (-pi, pi].
    """
    pose = _matrices(matrices)
    outward, right = pose[:, :3, 2], pose[:, :3, 0]
    yaw = np.arctan2(outward[:, 2], outward[:, 0])
    horizontal = np.hypot(outward[:, 0], outward[:, 2])
    pitch = np.clip(np.arctan2(horizontal, outward[:, 1]), POLE, math.pi - POLE)
    level = angles_to_opengl(np.stack([yaw, pitch, np.zeros_like(yaw)], axis=1))
    across = (right * level[:, :3, 0]).sum(axis=1)
    upward = (right * level[:, :3, 1]).sum(axis=1)
    return np.stack([yaw, pitch, np.arctan2(upward, across)], axis=1)


def looks_at_origin(matrices: np.ndarray, tolerance: float = 1e-2) -> np.ndarray:
    """Which cameras [N] see the origin in the image centre, within `tolerance` radians.

    The others cannot be written as (yaw, pitch, roll): re-centre the scene first.
    """
    pose = _matrices(matrices)
    position, outward = pose[:, :3, 3], pose[:, :3, 2]
    distance = np.linalg.norm(position, axis=1)
    cosine = (position * outward).sum(axis=1) / np.maximum(distance, 1e-12)
    return (cosine >= math.cos(tolerance)) & (distance > 0)


def opengl_to_opencv(matrices: np.ndarray) -> np.ndarray:
    """Turn camera frames (its own inverse): y and z of the camera change sign, [N, 4, 4]."""
    return _matrices(matrices) @ _FLIP_YZ


def opencv_to_opengl(matrices: np.ndarray) -> np.ndarray:
    """Turn camera frames: y and z of the camera change sign, [N, 4, 4]."""
    return _matrices(matrices) @ _FLIP_YZ


def angles_to_opencv(angles: np.ndarray, radius: float = 1.0) -> np.ndarray:
    """Camera-to-world matrices [N, 4, 4] in OpenCV's frame."""
    return opengl_to_opencv(angles_to_opengl(angles, radius))


def opencv_to_angles(matrices: np.ndarray) -> np.ndarray:
    """Angles [N, 3] of camera-to-world matrices in OpenCV's frame."""
    return opengl_to_angles(opencv_to_opengl(matrices))


def colmap_to_opencv(quaternions: np.ndarray, translations: np.ndarray) -> np.ndarray:
    """Camera-to-world matrices [N, 4, 4] of COLMAP's images.txt.

    Args:
        quaternions: [N, 4] (w, x, y, z), world-to-camera.
        translations: [N, 3], world-to-camera.
    """
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    to_camera = np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )
    pose = np.tile(np.eye(4), (len(to_camera), 1, 1))
    pose[:, :3, :3] = to_camera.transpose(0, 2, 1)
    pose[:, :3, 3] = -np.einsum("nji,nj->ni", to_camera, np.asarray(translations, np.float64))
    return pose


def opencv_to_colmap(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera quaternions [N, 4] (w >= 0, x, y, z) and translations [N, 3]."""
    pose = _matrices(matrices)
    to_camera = pose[:, :3, :3].transpose(0, 2, 1)
    quaternions = np.stack([_quaternion(rotation) for rotation in to_camera])
    return quaternions, -np.einsum("nij,nj->ni", to_camera, pose[:, :3, 3])


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(w, x, y, z) with w >= 0: the eigenvector of largest eigenvalue of Bar-Itzhack's matrix."""
    r = rotation
    symmetric = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], 0, 0, 0],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], 0, 0],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    vector = np.linalg.eigh(symmetric, UPLO="L")[1][:, -1]
    return vector if vector[0] >= 0 else -vector


def angles_to_eg3d(angles: np.ndarray, fov_degrees: float, radius: float = 1.0) -> np.ndarray:
    """EG3D's camera vectors [N, 25]: a camera-to-world matrix in OpenCV's frame (16 numbers) and
    intrinsics normalised by the image size (focal length on the diagonal, centre 0.5)."""
    pose = angles_to_opencv(angles, radius).reshape(-1, 16)
    focal = 0.5 / math.tan(math.radians(fov_degrees) / 2)
    intrinsics = np.array([focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1])
    return np.concatenate([pose, np.tile(intrinsics, (len(pose), 1))], axis=1)


def eg3d_to_angles(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(angles [N, 3], radius [N], fov_degrees [N]) of EG3D's camera vectors [N, 25]."""
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != EG3D_WIDTH:
        raise ValueError(f"poses: EG3D cameras must have shape [N, 25], got {list(values.shape)}")
    pose = values[:, :16].reshape(-1, 4, 4)
    fov = np.degrees(2 * np.arctan(0.5 / values[:, 16]))
    return opencv_to_angles(pose), np.linalg.norm(pose[:, :3, 3], axis=1), fov


def blender_to_opengl(matrices: np.ndarray) -> np.ndarray:
    """Blender's `matrix_world` of cameras (z-up world) in EpiGRAF's y-up world, [N, 4, 4].

    Blender's camera frame is OpenGL's already; only the world is turned. With an azimuth measured
    in Blender's x-y plane, yaw = -azimuth: the two count in opposite senses, and leaving the sign
    out mirrors the turning of every multi-view set.
    """
    return _FROM_Z_UP @ _matrices(matrices)


def opengl_to_blender(matrices: np.ndarray) -> np.ndarray:
    """The inverse of `blender_to_opengl`, [N, 4, 4]."""
    return _FROM_Z_UP.T @ _matrices(matrices)


def blender_to_angles(matrices: np.ndarray) -> np.ndarray:
    """Angles [N, 3] of Blender camera matrices (z-up world)."""
    return opengl_to_angles(blender_to_opengl(matrices))


def megascans_to_angles(euler: np.ndarray) -> np.ndarray:
    """Correct angles [N, 3] that the official Megascans script wrote from Blender matrices.

    It stores yaw = atan2(T10, T00), the heading of the camera's right side in Blender's world,
    which turns the other way: our yaw is pi/2 - yaw. Pitch is the same; the set has no roll.
    """
    yaw, pitch, roll = _angles(euler).T
    turned = math.pi / 2 - yaw
    return np.stack([np.arctan2(np.sin(turned), np.cos(turned)), pitch, roll], axis=1)


def angles_to_blender(angles: np.ndarray, radius: float = 1.0) -> np.ndarray:
    """Blender camera matrices [N, 4, 4] (z-up world) of angles [N, 3]."""
    return opengl_to_blender(angles_to_opengl(angles, radius))
