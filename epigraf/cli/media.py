"""Pictures and videos on disk: grids, strips, mp4, animated WebP; every file appears at once.

N pictures, T frames, H W pixels; arrays are uint8 [.., H, W, 3].
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
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


def check_target(path: Path) -> None:
    """Raise EpigrafError where no file `path` can be made: before the work, not after it."""
    if path.is_dir():
        raise EpigrafError(f"{path}: this is a folder, not a file")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise EpigrafError(f"{path}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise EpigrafError(f"{path}: permission denied in {nearest}; choose another --out")


def write_text(text: str, path: Path) -> None:
    """Write a text file (UTF-8)."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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


def check_picture_name(path: Path) -> None:
    """Raise EpigrafError unless the ending of `path` is that of an image format."""
    if path.suffix.lower() not in Image.registered_extensions():
        raise EpigrafError(f"{path}: unknown image format {path.suffix!r}; use .png")


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write [H, W, 3] as the image format that the ending names."""
    check_picture_name(path)
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary)


def save_video(frames: Iterable[np.ndarray], path: Path, fps: int) -> None:
    """Write frames [H, W, 3] of one size as H.264 (yuv420p: plays in every browser).

    Frames are encoded as they come. Odd sides gain a white row or column, which yuv420p needs. The
    encoder is the ffmpeg of the package imageio-ffmpeg.

    Raises:
        EpigrafError: no frame, or what ffmpeg says when it fails (no space left, ...).
    """
    padded = map(_even, frames)
    first = next(padded, None)
    if first is None:
        raise EpigrafError(f"video {path}: there is no frame to write")
    with atomic(path) as temporary, tempfile.TemporaryFile() as log:
        command = _ffmpeg_command(first.shape, temporary, fps)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as ffmpeg:
            _feed(ffmpeg, chain([first], padded))
        if ffmpeg.returncode != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = lines[0] if lines else f"exit code {ffmpeg.returncode}"
            raise EpigrafError(f"video {path}: ffmpeg failed: {reason}")


def _ffmpeg_command(shape: tuple[int, ...], path: Path, fps: int) -> list[str]:
    """Raw RGB frames of `shape` [H, W, 3] on stdin, H.264 at high quality into `path`."""
    from imageio_ffmpeg import get_ffmpeg_exe

    height, width, _ = shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"
    target = "-an -c:v libx264 -pix_fmt yuv420p -crf 17 -movflags +faststart"
    return [get_ffmpeg_exe(), "-v", "error", "-y", *source.split(), *target.split(), str(path)]


def _feed(process: subprocess.Popen[bytes], frames: Iterable[np.ndarray]) -> None:
    """Write all frames to the process and close its input; when it ends early, so do we."""
    pipe = process.stdin
    if pipe is None:
        raise ValueError("save_video: the encoder has no input")
    try:
        for frame in frames:
            pipe.write(frame.tobytes())
    except BrokenPipeError:
        pass  # the process says why in its exit code and log
    except BaseException:
        process.kill()
        raise
    finally:
        with suppress(BrokenPipeError):
            pipe.close()


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
