"""Raw densities as MRC2014 volumes, written slab by slab: memory does not grow with the volume.

The file's data are indexed [z, y, x], as the format wants. Lengths are world units, where the
format nominally has angstrom.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import mrcfile
import numpy as np
from mrcfile.mrcmemmap import MrcMemmap

from epigraf.errors import DataError
from epigraf.geometry.density import DensityField, Lattice, Progress
from epigraf.geometry.surface import Sampler

SLAB_BYTES = 64 << 20


def save_volume(
    field: DensityField,
    lattice: Lattice,
    path: Path,
    *,
    plan: str = "",
    facts: dict[str, str] | None = None,
    progress: Progress | None = None,
    max_points: int = 65536,
) -> tuple[float, float]:
    """Evaluate a field on a lattice into a float32 MRC (mode 2), voxel size and origin in its
    header, and return the lowest and highest density.

    Until it is complete it lies in `.NAME.partial` beside `path`, with the number of slabs done:
    the same `plan` goes on from there.

    Args:
        field: points_world [1, P, 3] -> raw densities [1, P].
        lattice: where.
        path: ends in .mrc.
        plan: fingerprint of everything that the densities depend on.
        facts: notes for the header's labels (80 characters each, at most 9).
        progress: told after every slab.
        max_points: densities evaluated at a time.

    Raises:
        DataError: another suffix, or the file cannot be written. ValueError: NaN.
    """
    if path.suffix.lower() != ".mrc":
        raise DataError(f"volume: cannot write {path.name}; use .mrc")
    n = lattice.resolution
    folder = path.with_name(f".{path.name}.partial")
    thickness = max(1, SLAB_BYTES // (4 * n * n))
    sampler = Sampler(field, lattice, max_points)
    try:
        done, low, high, total = _begin(folder, plan, lattice, facts or {})
        for start in range(done, n, thickness):
            stop = min(start + thickness, n)
            with mrcfile.mmap(folder / "volume", mode="r+") as file:  # mapped anew: memory is freed
                for z in range(start, stop):
                    values = _layer(sampler, z)
                    _data(file)[z] = values
                    low, high = min(low, float(values.min())), max(high, float(values.max()))
                    total += float(values.sum(dtype=np.float64))
                _set_statistics(file, low, high, total / (n * n * stop))
            (folder / "done").write_text(f"{stop} {low!r} {high!r} {total!r}")
            if progress is not None:
                progress(stop, n)
        (folder / "volume").replace(path)
        shutil.rmtree(folder)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    return low, high


def _layer(sampler: Sampler, z: int) -> np.ndarray:
    """Densities [y, x] of a layer."""
    n = sampler.lattice.resolution
    index = np.empty((n, n, 3), np.int64)
    steps = np.arange(n)
    index[..., 0], index[..., 1], index[..., 2] = steps[None], steps[:, None], z
    return sampler(index.reshape(-1, 3)).reshape(n, n)


def _begin(
    folder: Path, plan: str, lattice: Lattice, facts: dict[str, str]
) -> tuple[int, float, float, float]:
    """Layers done, lowest, highest and sum of their densities, of an interrupted run of this plan;
    or a new file, whose whole space is claimed now (a full disk must not surprise the mapping)."""
    mark, done = folder / "plan", folder / "done"
    if mark.exists() and done.exists() and mark.read_text() == plan:
        count, *numbers = done.read_text().split()
        low, high, total = map(float, numbers)
        return int(count), low, high, total
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.write_text(plan)
    n, volume = lattice.resolution, folder / "volume"
    with mrcfile.new_mmap(volume, (n, n, n), mrc_mode=2, overwrite=True) as file:
        file.voxel_size = tuple(float(s) for s in lattice.spacing)
        if file.header is not None:  # it is there from `new` on
            file.header.origin = lattice.bounds.low
        for name, value in list(facts.items())[:9]:
            file.add_label(f"{name}: {value}"[:80])
    try:
        with volume.open("rb+") as claimed:
            os.posix_fallocate(claimed.fileno(), 0, volume.stat().st_size)
    except OSError:
        shutil.rmtree(folder)
        raise
    return 0, np.inf, -np.inf, 0.0


def _data(file: MrcMemmap) -> np.ndarray:
    if file.data is None:
        raise ValueError("volume: the file has no data")
    return file.data


def _set_statistics(file: MrcMemmap, low: float, high: float, mean: float) -> None:
    if file.header is not None:
        file.header.dmin, file.header.dmax, file.header.dmean = low, high, mean
        file.header.rms = -1  # "not computed" in MRC2014
