"""A posed procedural training set, made in seconds from a seed: the embedded default.

Six kinds of toys (`toys.py`), each seen from all sides and from above by the renderer's own camera
(spec §5: fov 30 degrees, radius 1, rays 0.75..1.25), with class labels and true depth. The pixels
are where the renderer's rays are, so poses are exact; make the set at the resolution at which it
is used.

Legend: V views of an object, R side in pixels.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from epigraf.data.archive import INDEX_NAME, Archive
from epigraf.data.threads import worker_threads
from epigraf.data.toys import TOYS, make_toy
from epigraf.data.tracing import FOV_DEGREES, RADIUS, Views, render_views
from epigraf.errors import DataError

RAY_START, RAY_END = 0.75, 1.25
HEIGHTS = (-0.1, 0.6)  # of the cameras at distance 1: 6 degrees below the horizon to 37 above
DEPTH_UNIT = 1 / 32768  # world units; depth files hold unsigned 16-bit multiples, 0 = background
DEPTH_NAME = "depth.npz"
LARGEST = 1024  # pixels a side
THREADS = min(4, os.cpu_count() or 1)
EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed time stamps: the same seed gives the same bytes


@dataclass(frozen=True)
class SyntheticSet:
    """What `make_synthetic` wrote."""

    path: Path
    num_images: int
    classes: tuple[str, ...]


def make_synthetic(
    out: str | Path,
    num_objects: int = 120,
    views: int = 12,
    resolution: int = 64,
    seed: int = 0,
) -> SyntheticSet:
    """Write a procedural data set.

    Cameras are those of `camera_band`. Object i has class i mod 6; its files are
    `<class>/<object>/<view>.png` and `depth.npz` (see `read_depth`), the index is `dataset.json`
    with `camera_angles`, `labels`, `classes` and `camera`.

    Args:
        out: a `.zip` file to write (must not exist), or a folder (created; must be empty).
        num_objects: objects, >= 1.
        views: pictures of each, >= 1.
        resolution: R, 8..1024 pixels.
        seed: of shapes, colours and cameras; the same seed writes the same bytes.

    Raises:
        DataError: a number out of range, or `out` is in the way.
    """
    _check_numbers(num_objects, views, resolution)
    out = Path(out).expanduser()
    seeds = [_object_seed(seed, number) for number in range(num_objects)]

    def draw(number: int) -> tuple[np.ndarray, Views]:
        angles = camera_band(views, np.random.default_rng([seeds[number], 1]))
        kind = list(TOYS)[number % len(TOYS)]
        return angles, render_views(make_toy(kind, seeds[number]), angles, resolution)

    index = _empty_index()
    with _Writer(out) as writer, worker_threads(THREADS) as pool:
        for number, (angles, drawn) in enumerate(pool.map(draw, range(num_objects))):
            _write_object(writer, index, number, angles, drawn)
        writer.write(INDEX_NAME, json.dumps(index, indent=1).encode())
    return SyntheticSet(out, num_objects * views, tuple(TOYS))


def camera_band(count: int, generator: np.random.Generator) -> np.ndarray:
    """(yaw, pitch, roll) [count, 3] from all sides and from above, roll 0, six decimals.

    Yaw is uniform; cos pitch, the height of the camera, is uniform in `HEIGHTS`: from a little
    below the horizon to well above it, where kinds differ most.
    """
    yaw = generator.uniform(-math.pi, math.pi, size=count)
    pitch = np.arccos(generator.uniform(*HEIGHTS, size=count))
    angles = np.stack([yaw, pitch, np.zeros(count)], axis=1)
    return np.trunc(angles * 1e6) / 1e6


def read_depth(path: str | Path, folder: str) -> np.ndarray:
    """True depth of one object of a procedural set.

    Args:
        path: the zip or folder.
        folder: `<class>/<object>`, as in the names of its images.

    Returns:
        float32 [V, R, R], distance from the camera along the unit ray; 0 = background.
    """
    with Archive(path) as archive:
        content = np.load(io.BytesIO(archive.read(f"{folder}/{DEPTH_NAME}")))
        return content["depth"].astype(np.float32) * np.float32(content["unit"])


def _check_numbers(num_objects: int, views: int, resolution: int) -> None:
    if num_objects < 1 or views < 1:
        raise DataError(f"synth: objects and views must be >= 1, got {num_objects} and {views}")
    if not 8 <= resolution <= LARGEST:
        raise DataError(f"synth: resolution must be in 8..{LARGEST}, got {resolution}")


def _object_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _empty_index() -> dict:
    camera = {"fov": FOV_DEGREES, "radius": RADIUS, "ray_start": RAY_START, "ray_end": RAY_END}
    return {"camera": camera, "classes": list(TOYS), "camera_angles": {}, "labels": {}}


def _write_object(
    writer: _Writer, index: dict, number: int, angles: np.ndarray, drawn: Views
) -> None:
    label = number % len(TOYS)
    folder = f"{label:02d}_{list(TOYS)[label]}/{number:05d}"
    for view, image in enumerate(drawn.images):
        name = f"{folder}/{view:03d}.png"
        writer.write(name, _png(image))
        index["camera_angles"][name] = [float(value) for value in angles[view]]
        index["labels"][name] = label
    depth = np.rint(drawn.depth / DEPTH_UNIT).astype(np.uint16)
    writer.write(f"{folder}/{DEPTH_NAME}", _npz({"depth": depth, "unit": np.float64(DEPTH_UNIT)}))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray | np.float64]) -> bytes:
    """A compressed npz without the time of day in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            _add(archive, f"{name}.npy", content.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes, method: int) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system = 3  # Unix, on every machine
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data, compress_type=method)


class _Writer:
    """Writes entries to a zip (complete or not at all) or below a folder."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._partial = out.with_name(out.name + ".partial")
        self._zip: zipfile.ZipFile | None = None

    def __enter__(self) -> _Writer:
        try:
            if self._out.suffix.lower() == ".zip":
                if self._out.exists():
                    raise DataError(f"synth: {self._out} exists; remove it or choose another name")
                self._out.parent.mkdir(parents=True, exist_ok=True)
                self._zip = zipfile.ZipFile(self._partial, "w")
                return self
            if self._out.exists() and (not self._out.is_dir() or any(self._out.iterdir())):
                raise DataError(f"synth: {self._out} exists and is not an empty folder")
            self._out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"synth: cannot write {self._out}: {error.strerror}") from error
        return self

    def write(self, name: str, data: bytes) -> None:
        """Add one entry."""
        if self._zip is not None:
            _add(self._zip, name, data, zipfile.ZIP_STORED)
            return
        target = self._out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._zip is None:
            return
        try:
            self._zip.close()
            if kind is None:
                os.replace(self._partial, self._out)
        finally:
            self._partial.unlink(missing_ok=True)
