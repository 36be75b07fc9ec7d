"""What a data set is, in a few numbers: enough to see that another session reads another one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fingerprint:
    """Checksums (CRC-32) of what a data set consists of; the path does not count.

    Attributes:
        images: how many, before mirroring.
        mirrored: whether the set is doubled.
        names, sizes: of the files, in order.
        contents: of the files' own CRCs in a zip; None for a folder, whose files are not read.
        labels, angles: of the numbers as handed out.
    """

    images: int
    mirrored: bool
    names: int
    sizes: int
    contents: int | None
    labels: int
    angles: int

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Fingerprint:
        """From the values of `dataclasses.asdict`. Raises TypeError for other keys."""
        return cls(**values)

    def differences(self, other: Fingerprint) -> list[str]:
        """What another data set has different, in words; empty for the same one."""
        found = []
        if self.images != other.images:
            found.append(f"images {self.images} -> {other.images}")
        if self.mirrored != other.mirrored:
            found.append(f"training.mirror {self.mirrored} -> {other.mirrored}".lower())
        if self.images == other.images and self.names != other.names:
            found.append("the names of images")
        both = self.contents is not None and other.contents is not None
        changed = self.contents != other.contents if both else self.sizes != other.sizes
        if self.images == other.images and changed:
            found.append("the contents of images")
        if self.labels != other.labels:
            found.append("the labels")
        if self.angles != other.angles:
            found.append("the camera angles")
        return found


def fingerprint(
    names: Sequence[str],
    sizes: Sequence[int],
    crcs: Sequence[int | None],
    mirrored: bool,
    labels: np.ndarray,
    angles: np.ndarray,
) -> Fingerprint:
    """Take the fingerprint of N images.

    Args:
        names, sizes, crcs: N each; sizes in bytes, CRCs None where there are none.
        mirrored: whether the set is doubled.
        labels: float32 [N, K]. angles: float32 [N, 3] in radians.
    """
    known = all(crc is not None for crc in crcs)
    return Fingerprint(
        images=len(names),
        mirrored=mirrored,
        names=zlib.crc32("\n".join(names).encode("utf-8", "surrogateescape")),
        sizes=zlib.crc32(" ".join(map(str, sizes)).encode()),
        contents=zlib.crc32(" ".join(map(str, crcs)).encode()) if known else None,
        labels=zlib.crc32(np.ascontiguousarray(labels, dtype="<f4").tobytes()),
        angles=zlib.crc32(np.ascontiguousarray(angles, dtype="<f4").tobytes()),
    )
