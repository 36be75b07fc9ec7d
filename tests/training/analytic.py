"""Pictures of a ball by its equation: no ray, camera or pixel of the package is used."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

CENTRE, RADIUS = np.array([0.04, -0.03, 0.02]), 0.15
FOV = 30.0


def ball_picture(yaw: float, pitch: float, side: int, finer: int = 4) -> np.ndarray:
    """uint8 [S, S, 4], straight alpha: a ball whose colour is its normal, halved and shifted.

    The camera stands at distance 1, looks at the origin, y up; pixel centres are at (2 i + 1) / S
    - 1 of the frame, and a pixel is the mean of finer x finer points of its area.
    """
    eye = np.array(
        [math.sin(pitch) * math.cos(yaw), math.cos(pitch), math.sin(pitch) * math.sin(yaw)]
    )
    right = np.cross([0.0, 1.0, 0.0], eye)
    right /= np.linalg.norm(right)
    up = np.cross(eye, right)
    places = (2 * np.arange(side * finer) + 1) / (side * finer) - 1
    reach = math.tan(math.radians(FOV) / 2)
    x, y = np.meshgrid(places * reach, -places * reach)
    ways = x[..., None] * right + y[..., None] * up - eye
    ways /= np.linalg.norm(ways, axis=-1, keepdims=True)
    half = -(ways @ (eye - CENTRE))
    inside = half**2 - (eye - CENTRE) @ (eye - CENTRE) + RADIUS**2
    hit = inside > 0
    t = half - np.sqrt(np.maximum(inside, 0))
    normal = (eye + t[..., None] * ways - CENTRE) / RADIUS
    color = np.where(hit[..., None], 0.5 + 0.5 * normal, 0)
    blocks = (side, finer, side, finer)
    alpha = hit.reshape(blocks).mean((1, 3))
    summed = color.reshape(*blocks, 3).mean((1, 3))
    straight = summed / np.maximum(alpha, 1e-9)[..., None]
    return np.round(255 * np.concatenate([straight, alpha[..., None]], -1)).astype(np.uint8)


def write_ball(folder: Path, views: int, side: int, opaque: tuple[int, int, int] | None = None):
    """`views` pictures on a spiral round the ball and their dataset.json, in a new folder; over a
    colour instead of transparent where one is given."""
    folder.mkdir(parents=True)
    angles = {}
    for i in range(views):
        pose = [math.remainder(2.4 * i, 2 * math.pi), math.acos(1 - 2 * (i + 0.5) / views), 0.0]
        picture = Image.fromarray(ball_picture(pose[0], pose[1], side), "RGBA")
        if opaque is not None:
            under = Image.new("RGBA", picture.size, (*opaque, 255))
            picture = Image.alpha_composite(under, picture).convert("RGB")
        picture.save(folder / f"{i:03d}.png")
        angles[f"{i:03d}.png"] = pose
    (folder / "dataset.json").write_text(json.dumps({"camera_angles": angles}), encoding="utf-8")
    return folder
