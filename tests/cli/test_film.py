"""Films on disk, read back with ffmpeg itself and with Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from epigraf.cli.film import check_film_name, save_animation, save_film, save_video
from epigraf.errors import EpigrafError
from tests.cli.film import read_frames


def flat(value: int, height: int = 2, width: int = 3) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_video_keeps_frames_and_makes_odd_sides_even(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    grey = [40, 120, 200]
    save_video((flat(value, 33, 48) for value in grey), path, fps=10)
    frames = read_frames(path)
    assert [frame.shape for frame in frames] == [(34, 48, 3)] * 3
    for value, frame in zip(grey, frames, strict=True):
        assert abs(float(frame[:30].mean()) - value) < 4  # lossy


def test_video_that_cannot_be_encoded(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(EpigrafError, match="no frame"):
        save_video([], path, fps=10)
    with pytest.raises(EpigrafError, match="ffmpeg failed: "):
        save_video([flat(0, 8, 8)], path, fps=0)

    def interrupted() -> Iterator[np.ndarray]:
        yield flat(0, 8, 8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_video(interrupted(), path, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_animation(tmp_path: Path) -> None:
    save_animation([flat(0, 8, 8), flat(255, 8, 8)], tmp_path / "a.webp", fps=5)
    with Image.open(tmp_path / "a.webp") as picture:
        assert (picture.n_frames, picture.size) == (2, (8, 8))
