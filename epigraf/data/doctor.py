"""Everything that is wrong with a data set, by file name, all at once.

Shapes: N images.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from epigraf.data.archive import Archive
from epigraf.data.decode import DEFAULT_PIXELS, Pixels
from epigraf.data.images import decode_all, settle_resolution
from epigraf.data.index import Index, read_index
from epigraf.data.problems import Problem, Severity, errors_of
from epigraf.errors import DataError

EG3D_WIDTH = 25  # 16 numbers of a camera-to-world matrix and 9 of the intrinsics
OFF_CENTRE = 0.15  # radians; frontal sets further off than this are worth a warning
FRONTAL = 1.0  # radians; a yaw spread (standard deviation) below this is a frontal set

__all__ = ["Problem", "Severity", "check_dataset", "errors_of"]


def check_dataset(
    path: str | Path, resolution: int | None = None, pixels: Pixels = DEFAULT_PIXELS
) -> list[Problem]:
    """Read and decode a whole data set and report what is wrong with it.

    Errors would stop `ImageDataset`: unreadable or unsafe archives, corrupt, non-square or wrongly
    sized images, duplicate names, index entries without an image and images without an entry,
    labels and angles that are malformed, not finite or out of range. Warnings are worth a look:
    identical files, class numbers nobody uses, EG3D camera vectors in `labels`, off-centre yaw.

    Args:
        path: zip or folder.
        resolution: the side in pixels that training will ask for; None = the files' own.
        pixels: transparency and resizing policy.

    Returns:
        All problems, errors first; empty for a healthy set.
    """
    try:
        with Archive(path) as archive:
            return sorted(
                _problems_of(archive, resolution, pixels),
                key=lambda problem: problem.severity is Severity.WARNING,
            )
    except DataError as error:
        return [Problem("", str(error))]


def _problems_of(archive: Archive, resolution: int | None, pixels: Pixels) -> list[Problem]:
    if not archive.images:
        nothing = Problem("", f"dataset {archive.path}: no image in it that Pillow can read")
        return [*archive.problems, nothing]
    index, problems = read_index(archive)
    side, policy = settle_resolution(archive, archive.images, resolution, pixels)
    _, damaged = decode_all(archive, archive.images, side, policy, keep=False)
    warnings = [*_identical(archive), *_label_warnings(index), *_pose_warnings(index)]
    return [*archive.problems, *problems, *damaged, *warnings]


def _warning(file: str, message: str) -> Problem:
    return Problem(file, message, Severity.WARNING)


def _identical(archive: Archive) -> list[Problem]:
    """Files that are byte for byte copies of an earlier one."""
    first: dict[bytes, str] = {}
    found: list[Problem] = []
    for name in archive.images:
        try:
            digest = hashlib.sha256(archive.read(name)).digest()
        except DataError:  # already reported as damaged
            continue
        original = first.setdefault(digest, name)
        if original != name:
            found.append(_warning(name, f"is an exact copy of {original}"))
    return found


def _label_warnings(index: Index) -> list[Problem]:
    if index.labels is None:
        return []
    if index.labels.shape[1] == EG3D_WIDTH and index.angles is None and index.classes is None:
        text = "labels look like EG3D cameras: epigraf.data.poses.eg3d_to_angles converts them"
        return [_warning("", text)]
    if index.classes is None:
        return []
    counts = np.bincount(index.classes)
    empty = [str(number) for number in np.flatnonzero(counts == 0)]
    text = f"no image has class {', '.join(empty)}: numbers should run from 0 without gaps"
    return [_warning("", text)] if empty else []


def _pose_warnings(index: Index) -> list[Problem]:
    if index.angles is None:
        return []
    yaw, pitch = index.angles[:, 0], index.angles[:, 1]
    found: list[Problem] = []
    if yaw.std() < FRONTAL and abs(yaw.mean()) > OFF_CENTRE:
        text = f"mean yaw is {yaw.mean():.2f}: frontal sets should be centred at 0 (+x)"
        found.append(_warning("", text))
    if pitch.std() < FRONTAL / 2 and abs(pitch.mean() - math.pi / 2) > 1.0:
        text = f"mean pitch is {pitch.mean():.2f}: it is measured from +y, the horizon is pi/2"
        found.append(_warning("", text))
    return found
