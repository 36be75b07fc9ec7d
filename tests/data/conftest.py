"""Builders of small data sets with known contents."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SetBuilder = Callable[..., Path]


def png(side: int = 8, seed: int = 0, size: tuple[int, int] | None = None) -> bytes:
    """A random RGB PNG."""
    width, height = size or (side, side)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_set(path: Path, files: dict[str, bytes], index: Any = None) -> Path:
    """A zip (or a folder, for names without .zip) with these files and a dataset.json."""
    entries = dict(files)
    if index is not None:
        entries["dataset.json"] = index if isinstance(index, bytes) else json.dumps(index).encode()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        return path
    for name, data in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture(params=["set.zip", "set"])
def set_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where to write a set: once as a zip, once as a folder."""
    return tmp_path / request.param
