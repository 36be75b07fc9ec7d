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


def moving(count: int = 6, side: int = 48) -> list[np.ndarray]:
    """A soft blob that wanders over a slope: what films of objects are like."""
    y, x = np.mgrid[:side, :side] / side
    frames = []
    for i in range(count):
        blob = np.exp(-30 * ((x - 0.3 - 0.05 * i) ** 2 + (y - 0.5) ** 2))
        frame = np.stack([250 - 200 * blob, 240 - 60 * blob, 200 + 40 * x - 100 * blob], axis=-1)
        frames.append(frame.astype(np.uint8))
    return frames


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio in decibels."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_mp4_is_close_to_its_frames_and_quality_says_how_close(tmp_path: Path) -> None:
    sizes, ratios = [], []
    for quality in (20, 85):
        path = tmp_path / f"q{quality}.mp4"
        save_film(iter(moving()), path, 10, quality)
        ratios.append(min(psnr(a, b) for a, b in zip(moving(), read_frames(path), strict=True)))
        sizes.append(path.stat().st_size)
    assert ratios[1] > 38  # 4:2:0 chroma and crf 17
    assert ratios[0] < ratios[1] - 3
    assert sizes[0] < sizes[1]


def test_gif_has_one_palette_a_white_ground_and_its_speed(tmp_path: Path) -> None:
    frames = moving()
    for frame in frames:
        frame[:8] = 255
    save_film(frames, tmp_path / "a.gif", 10)
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.n_frames, film.size, film.info["duration"]) == (6, (48, 48), 100)
        assert film.info["loop"] == 0
        for i, frame in enumerate(frames):
            film.seek(i)
            got = np.asarray(film.convert("RGB"))
            assert (got[:8] == 255).all()
            assert psnr(got[8:], frame[8:]) > 28


def test_film_names(tmp_path: Path) -> None:
    check_film_name(Path("a.MP4"), 50)
    with pytest.raises(EpigrafError, match=r"films end in \.mp4, \.webp, \.gif"):
        check_film_name(Path("a.avi"))
    with pytest.raises(EpigrafError, match="its 256 colours"):
        check_film_name(Path("a.gif"), 50)
    with pytest.raises(EpigrafError, match="no frame"):
        save_film([], tmp_path / "a.webp", 10)
