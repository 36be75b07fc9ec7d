"""Posed pictures of one object, out of a data set of many.

Shapes: V views, S side in pixels.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from epigraf.data.archive import Archive
from epigraf.data.decode import Background, Pixels
from epigraf.data.images import decode_all, settle_resolution
from epigraf.data.index import read_index
from epigraf.data.problems import raise_if_any
from epigraf.errors import DataError

CAMERAS = "cams.json"
"""Beside the pictures of one object, instead of a dataset.json: {"cams": {STEM: [yaw, pitch,
roll]}}."""
_SHOWN = 4


@dataclass(frozen=True)
class PosedViews:
    """Pictures and where they were taken from.

    names: [V] in the archive. colors: [V, 3, S, S] uint8 over black. alpha: [V, S, S] in [0, 1], or
    None where no picture has transparency. angles: [V, 3] (yaw, pitch, roll) radians.
    """

    names: tuple[str, ...]
    colors: Tensor
    alpha: Tensor | None
    angles: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def side(self) -> int:
        """S."""
        return self.colors.shape[-1]

    def part(self, chosen: Sequence[int]) -> PosedViews:
        """Some of the views."""
        index = torch.tensor(list(chosen), dtype=torch.long)
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            colors=self.colors[index],
            alpha=None if self.alpha is None else self.alpha[index],
            angles=self.angles[index],
        )


def read_views(
    path: str | Path, name: str | None = None, resolution: int | None = None
) -> PosedViews:
    """The views of one object of a zip or folder.

    Poses come from `dataset.json` (see `epigraf.data.index`) or from a `cams.json` in the object's
    own folder. An object is what one folder holds.

    Args:
        path: zip or folder; also that of one object.
        name: the object's folder inside it, or its last part; None where there is one object only.
        resolution: side to shrink to; None keeps the files' own.

    Raises:
        DataError: no such object, no poses, damaged pictures, different sizes; in one line.
    """
    with Archive(path) as archive:
        names = _of_object(archive, name)
        angles = _angles(archive, names)
        side, how = settle_resolution(archive, names, resolution, Pixels())
        black, damaged = decode_all(
            archive, names, side, replace(how, background=Background.BLACK), keep=True
        )
        raise_if_any(str(path), [*archive.problems, *damaged])
        white, _ = decode_all(archive, names, side, how, keep=True)
    assert black is not None
    assert white is not None
    alpha = _alpha(black, white)
    return PosedViews(tuple(names), torch.from_numpy(black), alpha, torch.from_numpy(angles))


def _alpha(black: np.ndarray, white: np.ndarray) -> Tensor | None:
    """Opacities [V, S, S] from pictures [V, 3, S, S] over black and over white."""
    through = (white.astype(np.float32) - black).mean(axis=1) / 255
    return torch.from_numpy(1 - through) if through.any() else None


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _of_object(archive: Archive, name: str | None) -> list[str]:
    """The pictures of an object."""
    folders = sorted({_folder(image) for image in archive.images})
    if not folders:
        raise DataError(f"dataset {archive.path}: no image in it that Pillow can read")
    chosen = folders if name is None else [f for f in folders if _means(name, f)]
    if len(chosen) != 1:
        near = difflib.get_close_matches(name or "", folders, n=_SHOWN, cutoff=0.4)
        shown = near or (chosen or folders)[:_SHOWN]
        what = f"{len(chosen)} objects" if chosen else f"no object {name!r}"
        raise DataError(
            f"dataset {archive.path}: {what} (an object is a folder of pictures); choose one "
            f"of {len(folders)} with --object, like {', '.join(shown)}"
        )
    return [image for image in archive.images if _folder(image) == chosen[0]]


def _means(name: str, folder: str) -> bool:
    wanted = name.strip("/")
    return folder == wanted or folder.endswith("/" + wanted)


def _angles(archive: Archive, names: Sequence[str]) -> np.ndarray:
    """(yaw, pitch, roll) [V, 3] float32 of pictures."""
    beside = (PurePosixPath(_folder(names[0])) / CAMERAS).as_posix()
    if not archive.indices and beside in archive:
        return _beside(archive, beside, names)
    index, problems = read_index(archive)
    raise_if_any(str(archive.path), problems)
    if index.angles is None:
        raise DataError(
            f"dataset {archive.path}: no camera_angles in dataset.json and no {CAMERAS} beside the "
            f"pictures: a fit needs the pose of every picture"
        )
    return index.angles[[archive.images.index(name) for name in names]]


def _beside(archive: Archive, file: str, names: Sequence[str]) -> np.ndarray:
    """Angles from the object's own `cams.json`."""
    try:
        cameras = json.loads(archive.read(file))["cams"]
        angles = np.array([cameras[PurePosixPath(name).stem] for name in names], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"dataset {archive.path}: {file}: unreadable, or without {error}") from None
    if angles.shape != (len(names), 3) or not np.isfinite(angles).all():
        raise DataError(f"dataset {archive.path}: {file}: each camera is [yaw, pitch, roll]")
    return angles
