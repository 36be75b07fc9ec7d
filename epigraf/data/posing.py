"""A copy of a set of aligned faces, with the camera angles that its pictures suggest."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import torch

from epigraf.data.archive import INDEX_NAME, Archive
from epigraf.data.images import ImageDataset
from epigraf.data.yaw import Muzzle, estimate_yaw
from epigraf.errors import DataError

_PITCH_LIMIT = 2  # standard deviations


def write_posed(
    path: str | Path,
    out: str | Path,
    *,
    muzzle: Muzzle | None = None,
    pitch_stddev: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    """Copy a data set to the zip ``out`` with camera angles; returns them, [N, 3] in radians.

    The yaw is estimated (`estimate_yaw`). The pitch is not known: it is drawn about the horizon
    with ``pitch_stddev`` (normal, cut at two), so that a generator sees a bit of above and below;
    train with `camera_cond_yaw_only`. Labels stay.

    Raises:
        DataError: `out` exists or is no zip, the set is damaged, or holds no faces.
    """
    target = Path(out).expanduser()
    if target.suffix != ".zip" or target.exists():
        raise DataError(f"poses: {out} must be the name of a new .zip file")
    dataset = ImageDataset(path)
    images = torch.stack([dataset.image(item) for item in range(len(dataset))])
    yaw = estimate_yaw(images, muzzle).double().numpy()
    draws = np.random.default_rng(seed).standard_normal(len(yaw))
    pitch = math.pi / 2 + pitch_stddev * draws.clip(-_PITCH_LIMIT, _PITCH_LIMIT)
    angles = np.stack([yaw, pitch, np.zeros_like(yaw)], axis=1)
    with Archive(path) as archive:
        index = _index(archive)
        index["camera_angles"] = dict(zip(dataset.names, angles.tolist(), strict=True))
        _write(archive, index, target)
    return angles


def _index(archive: Archive) -> dict:
    return json.loads(archive.read(archive.indices[0])) if archive.indices else {"labels": None}


def _write(archive: Archive, index: dict, target: Path) -> None:
    """Pictures and index; nothing is left under the name when the writing fails."""
    partial = target.with_name(target.name + ".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as copy:
            for name in archive.images:
                copy.writestr(name, archive.read(name))
            copy.writestr(INDEX_NAME, json.dumps(index))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
