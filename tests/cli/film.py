"""Read videos back with ffmpeg itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image


def read_frames(path: Path) -> list[np.ndarray]:
    """All frames [H, W, 3] of a video."""
    folder = path.parent / f"{path.stem}-frames"
    folder.mkdir()
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    subprocess.run([*ffmpeg, str(folder / "%03d.png")], check=True)
    return [np.asarray(Image.open(frame).convert("RGB")) for frame in sorted(folder.iterdir())]
