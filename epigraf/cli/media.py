"""Pictures and videos on disk: grids, strips, mp4, animated WebP; every file appears at once.

N pictures, T frames, H W pixels; arrays are uint8 [.., H, W, 3].
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from epigraf.errors import EpigrafError

WHITE = 255


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


def grid(pictures: Sequence[np.ndarray], columns: int, gap: int = 0) -> np.ndarray:
    """N equal pictures [H, W, 3], row by row, as one; missing cells and gaps are white."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    sheet = np.full(shape, WHITE, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def squarest(count: int) -> int:
    """Columns of a grid of `count` pictures: as square as can be, never higher than wide."""
    return next(c for c in range(1, count + 1) if c * c >= count)


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write [H, W, 3] as the image format that the ending names."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise EpigrafError(f"{path}: unknown image format {path.suffix!r}; use .png")
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary)


def save_video(frames: Iterable[np.ndarray], path: Path, fps: int) -> None:
    """Write frames [H, W, 3] as H.264 (yuv420p: plays in every browser) through imageio-ffmpeg.

    Odd sides gain one white row or column, which yuv420p needs.
    """
    import imageio.v2 as imageio

    with atomic(path) as temporary:
        writer = imageio.get_writer(
            temporary,
            format="FFMPEG",  # pyright: ignore[reportArgumentType]
            mode="I",
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=1,
            output_params=["-crf", "17", "-movflags", "+faststart"],
        )
        with writer:
            for frame in frames:
                writer.append_data(_even(frame))


def save_animation(frames: Sequence[np.ndarray], path: Path, fps: int) -> None:
    """Write frames [H, W, 3] as an endless animated WebP."""
    pictures = [Image.fromarray(frame) for frame in frames]
    with atomic(path) as temporary:
        pictures[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / fps),
            loop=0,
            quality=85,
        )


def _even(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    if height % 2 == 0 and width % 2 == 0:
        return frame
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    return np.pad(frame, pad, constant_values=WHITE)


def depth_picture(depth: np.ndarray, opacity: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth [H, W] (the weighted sum along rays, not normalised) as grey [H, W, 3].

    Near is bright; where the ray stays empty it is white.
    """
    mean = depth / np.maximum(opacity, 1e-4)
    grey = 230 - 200 * np.clip((mean - near) / (far - near), 0, 1)
    mixed = opacity * grey + (1 - opacity) * WHITE
    return np.repeat(np.clip(mixed, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
