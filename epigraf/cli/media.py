"""Pictures and texts on disk: sheets, PNG, JPEG, WebP; every file appears at once.

N pictures, H W pixels; arrays are uint8 [.., H, W, 3], or 4 with alpha.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from epigraf.errors import EpigrafError

WHITE = 255
QUALITY = 85


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A name in the same folder with the same ending to write to; it becomes `path` at the end.

    When the body fails nothing is left behind and an older file stays as it was. Missing folders
    are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Raise EpigrafError where no file `path` can be made: before the work, not after it."""
    if path.is_dir():
        raise EpigrafError(f"{path}: this is a folder, not a file")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise EpigrafError(f"{path}: {nearest} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise EpigrafError(f"{path}: {reason} in {nearest}; choose another --out") from None


def write_text(text: str, path: Path) -> None:
    """Write a text file (UTF-8)."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def grid(pictures: Sequence[np.ndarray | None], columns: int, gap: int = 0) -> np.ndarray:
    """N equal pictures [H, W, C], row by row, as one; missing cells, those that are None, and gaps
    are white (clear, where pictures have alpha)."""
    height, width, channels = next(picture for picture in pictures if picture is not None).shape
    rows = -(-len(pictures) // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    sheet = np.full(shape, WHITE, dtype=np.uint8)
    sheet[..., 3:] = 0
    for i, picture in enumerate(pictures):
        if picture is not None:
            top, left = i // columns * (height + gap), i % columns * (width + gap)
            sheet[top : top + height, left : left + width] = picture
    return sheet


def front_sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The first of N >= 2 equal pictures [H, W, C] large, the others small in a row beneath it."""
    height, width, _ = pictures[0].shape
    small = [
        (width * (i + 1) // (len(pictures) - 1) - width * i // (len(pictures) - 1))
        for i in range(len(pictures) - 1)
    ]
    rows = max(round(height / (len(pictures) - 1)), 1)
    thumbs = [
        np.asarray(Image.fromarray(p).resize((w, rows), Image.Resampling.LANCZOS))
        for p, w in zip(pictures[1:], small, strict=True)
    ]
    return np.concatenate([pictures[0], np.concatenate(thumbs, axis=1)], axis=0)


def squarest(count: int) -> int:
    """Columns of a grid of `count` pictures: as square as can be, never higher than wide."""
    return next(c for c in range(1, count + 1) if c * c >= count)


PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Endings of pictures and Pillow's names of their formats."""


def check_picture_name(path: Path, quality: int | None = None) -> None:
    """Raise EpigrafError unless the ending of `path` is that of an image format, with a quality."""
    kind = PICTURES.get(path.suffix.lower())
    if kind is None:
        raise EpigrafError(
            f"{path}: unknown image format {path.suffix!r}; pictures end in {', '.join(PICTURES)}"
        )
    if kind == "PNG" and quality is not None:
        raise EpigrafError("--quality is for lossy files; a .png keeps every bit")


def save_picture(picture: np.ndarray, path: Path, quality: int | None = None) -> None:
    """Write [H, W, 3] (or 4 with alpha, which a JPEG cannot hold) as the format that the ending
    names; `quality` 1..100 (None: 85) is that of the lossy ones."""
    check_picture_name(path, quality)
    kind = PICTURES[path.suffix.lower()]
    settings = {} if kind == "PNG" else {"quality": quality or QUALITY}
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, format=kind, **settings)
