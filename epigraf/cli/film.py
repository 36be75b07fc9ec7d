"""Films on disk: mp4, animated WebP and GIF; every file appears at once, or not at all.

T frames, H W pixels; arrays are uint8 [H, W, 3].
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from epigraf.cli.media import QUALITY, WHITE, atomic
from epigraf.errors import EpigrafError

_PALETTE_FRAMES = 16


def save_video(
    frames: Iterable[np.ndarray], path: Path, fps: int, quality: int | None = None
) -> None:
    """Write frames [H, W, 3] of one size as H.264 (yuv420p: plays in every browser).

    Frames are encoded as they come. Odd sides gain a white row or column, which yuv420p needs. The
    encoder is the ffmpeg of the package imageio-ffmpeg; its constant rate factor is
    51 - 0.4 quality.

    Raises:
        EpigrafError: no frame, or what ffmpeg says when it fails (no space left, ...).
    """
    padded = map(_even, frames)
    first = next(padded, None)
    if first is None:
        raise EpigrafError(f"video {path}: there is no frame to write")
    with atomic(path) as temporary, tempfile.TemporaryFile() as log:
        command = _ffmpeg_command(first.shape, temporary, fps, quality or QUALITY)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as ffmpeg:
            _feed(ffmpeg, chain([first], padded))
        if ffmpeg.returncode != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = lines[0] if lines else f"exit code {ffmpeg.returncode}"
            raise EpigrafError(f"video {path}: ffmpeg failed: {reason}")


def _ffmpeg_command(shape: tuple[int, ...], path: Path, fps: int, quality: int) -> list[str]:
    """Raw RGB frames of `shape` [H, W, 3] on stdin, H.264 into `path`."""
    from imageio_ffmpeg import get_ffmpeg_exe

    height, width, _ = shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"
    crf = f"{51 - 0.4 * quality:.1f}"
    target = f"-an -c:v libx264 -pix_fmt yuv420p -crf {crf} -movflags +faststart"
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


def save_animation(
    frames: Sequence[np.ndarray], path: Path, fps: int, quality: int | None = None
) -> None:
    """Write frames [H, W, 3] as an endless animated WebP, or a GIF (whose 256 colours are chosen
    from all frames, and whose clock ticks in hundredths of a second)."""
    pictures = [Image.fromarray(frame) for frame in frames]
    if not pictures:
        raise EpigrafError(f"video {path}: there is no frame to write")
    gif = path.suffix.lower() == ".gif"
    settings: dict[str, Any] = {"quality": quality or QUALITY}
    if gif:
        pictures, settings = _in_one_palette(pictures), {"disposal": 1, "optimize": False}
    with atomic(path) as temporary:
        pictures[0].save(
            temporary,
            format="GIF" if gif else "WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=max(round(1000 / fps), 20 if gif else 1),
            loop=0,
            **settings,
        )


def _in_one_palette(pictures: list[Image.Image]) -> list[Image.Image]:
    """The pictures in the same 256 colours, so that still parts do not flicker."""
    some = pictures[:: -(-len(pictures) // _PALETTE_FRAMES)]
    sheet = Image.new("RGB", (some[0].width, some[0].height * len(some)))
    for i, picture in enumerate(some):
        sheet.paste(picture, (0, i * picture.height))
    colours = sheet.quantize(255, Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours[: 3 * 255] + 3 * [WHITE])  # a white ground stays white
    return [p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures]


FILMS = (".mp4", ".webp", ".gif")
"""Endings of films."""


def check_film_name(path: Path, quality: int | None = None) -> None:
    """Raise EpigrafError unless the ending of `path` is that of a film, with a quality."""
    if path.suffix.lower() not in FILMS:
        raise EpigrafError(f"--out {path}: films end in {', '.join(FILMS)}")
    if path.suffix.lower() == ".gif" and quality is not None:
        raise EpigrafError("--quality is for .mp4 and .webp; a .gif has its 256 colours")


def save_film(
    frames: Iterable[np.ndarray], path: Path, fps: int, quality: int | None = None
) -> None:
    """Write frames [H, W, 3] as the format that the ending of `path` names."""
    if path.suffix.lower() == ".mp4":
        save_video(frames, path, fps, quality)
    else:
        save_animation(list(frames), path, fps, quality)


def _even(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    if height % 2 == 0 and width % 2 == 0:
        return frame
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    return np.pad(frame, pad, constant_values=WHITE)
