"""Training images with labels and camera angles, from a zip or a folder.

Shapes: B batch, N items (twice the images when mirrored), R side in pixels, K label width.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from epigraf.data.archive import Archive
from epigraf.data.decode import DEFAULT_PIXELS, Fit, Pixels, decode_image
from epigraf.data.fingerprint import Fingerprint, fingerprint
from epigraf.data.index import Index, read_index
from epigraf.data.problems import Problem, raise_if_any
from epigraf.data.sampler import InfiniteSampler, SamplerState
from epigraf.data.threads import worker_threads
from epigraf.errors import DataError

__all__ = [
    "Batch",
    "ImageDataset",
    "InfiniteSampler",
    "SamplerState",
    "decode_all",
    "settle_resolution",
]

DECODE_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Batch:
    """images [B, 3, R, R] in [-1, 1]; labels [B, K]; angles [B, 3] (yaw, pitch, roll) radians."""

    images: Tensor
    labels: Tensor
    angles: Tensor


class ImageDataset:
    """A data set, checked as a whole before the first item is handed out (spec §12).

    Images are sorted by name. With `mirror` the set is doubled: item N/2 + i is image i reversed
    along x, with its yaw negated (pitch and roll untouched).

    Args:
        path: zip or folder, with an optional `dataset.json` (see `epigraf.data.index`).
        resolution: wanted side in pixels; None keeps the files' own, which must then agree.
        mirror: double the set by flipping.
        use_labels: hand out labels; False gives K = 0.
        max_size: keep a random subset of this many images (before mirroring).
        seed: of the subset (`numpy.random.RandomState`).
        pixels: transparency, resizing and memory policy.

    Attributes:
        name, resolution, label_dim (K), has_angles, names (of the images, before mirroring, after
        max_size), raw_index (their positions in the sorted archive), mirror.

    Raises:
        DataError: with the first few problems by file name and the number of the others.
    """

    def __init__(
        self,
        path: str | Path,
        resolution: int | None = None,
        mirror: bool = False,
        use_labels: bool = False,
        max_size: int | None = None,
        seed: int = 0,
        pixels: Pixels = DEFAULT_PIXELS,
    ) -> None:
        self._archive = Archive(path)
        self.name = self._archive.name
        self.mirror = mirror
        index, problems = read_index(self._archive)
        self._require_images()
        self.raw_index = _subset(len(self._archive.images), max_size, seed)
        self.names = [self._archive.images[i] for i in self.raw_index]
        self.resolution, self._pixels = settle_resolution(
            self._archive, self.names, resolution, pixels
        )
        self._cache, damaged = decode_all(
            self._archive, self.names, self.resolution, self._pixels, keep=self._fits()
        )
        raise_if_any(str(path), [*self._archive.problems, *problems, *damaged])
        self._labels = self._pick_labels(index, use_labels)
        self.has_angles = index.angles is not None
        self._angles = torch.zeros(len(self.names), 3)
        if index.angles is not None:
            self._angles = torch.from_numpy(index.angles[self.raw_index])

    def fingerprint(self) -> Fingerprint:
        """What this data set is, without its path."""
        archive = self._archive
        return fingerprint(
            names=self.names,
            sizes=[archive.size(name) for name in self.names],
            crcs=[archive.crc(name) for name in self.names],
            mirrored=self.mirror,
            labels=self._labels.numpy(),
            angles=self._angles.numpy(),
        )

    def _require_images(self) -> None:
        if not self._archive.images:
            raise_if_any(str(self._archive.path), self._archive.problems)
            raise DataError(f"dataset {self._archive.path}: no image in it that Pillow can read")

    def _fits(self) -> bool:
        return len(self.names) * 3 * self.resolution**2 <= self._pixels.cache_bytes

    def _pick_labels(self, index: Index, use_labels: bool) -> Tensor:
        if not use_labels:
            return torch.zeros(len(self.names), 0)
        if index.labels is None:
            raise DataError(
                f"dataset {self._archive.path}: has no labels in dataset.json: "
                f"add them, or train with training.use_labels=false"
            )
        return torch.from_numpy(index.labels[self.raw_index])

    def __len__(self) -> int:
        return len(self.names) * (2 if self.mirror else 1)

    @property
    def label_dim(self) -> int:
        """K, the width of the labels (0 without them)."""
        return self._labels.shape[1]

    @property
    def mean_camera_pose(self) -> Tensor:
        """Mean (yaw, pitch, roll) [3] over all items, mirrored ones included."""
        return self.all_angles().double().mean(dim=0).float()

    def all_angles(self) -> Tensor:
        """Angles of every item [N, 3] in radians (zeros without poses)."""
        if not self.mirror:
            return self._angles.clone()
        return torch.cat([self._angles, _flip_yaw(self._angles)])

    def _locate(self, item: int) -> tuple[int, bool]:
        if not 0 <= item < len(self):
            raise IndexError(f"dataset: item {item} is not in 0..{len(self) - 1}")
        return item % len(self.names), item >= len(self.names)

    def image(self, item: int) -> Tensor:
        """Pixels of an item, uint8 [3, R, R]."""
        number, flipped = self._locate(item)
        if self._cache is not None:
            pixels = self._cache[number]
        else:
            data = self._archive.read(self.names[number])
            pixels = decode_image(data, self.resolution, self._pixels)
        return torch.from_numpy(pixels[:, :, ::-1].copy() if flipped else pixels.copy())

    def label(self, item: int) -> Tensor:
        """One-hot or vector label of an item, float32 [K]."""
        return self._labels[self._locate(item)[0]]

    def alike(self, item: int) -> Tensor:
        """All items with the label of this one, itself included, ascending, int64 [n]."""
        return self._members[int(self._classes[self._locate(item)[0]])]

    @cached_property
    def _classes(self) -> Tensor:
        """Number [len(names)] of each image's label among the different ones."""
        if self.label_dim == 0:
            return torch.zeros(len(self.names), dtype=torch.long)
        return torch.unique(self._labels, dim=0, return_inverse=True)[1]

    @cached_property
    def _members(self) -> list[Tensor]:
        classes = self._classes.repeat(2 if self.mirror else 1)
        return [(classes == k).nonzero()[:, 0] for k in range(int(classes.max()) + 1)]

    def angles(self, item: int) -> Tensor:
        """(yaw, pitch, roll) of an item in radians, float32 [3]; zeros without poses."""
        number, flipped = self._locate(item)
        return _flip_yaw(self._angles[number]) if flipped else self._angles[number].clone()

    def batch(self, items: Iterable[int]) -> Batch:
        """Items as tensors: images float32 in [-1, 1] (x / 127.5 - 1), labels, angles."""
        chosen = list(items)
        images = torch.stack([self.image(item) for item in chosen])
        return Batch(
            images=images.to(torch.float32) / 127.5 - 1,
            labels=torch.stack([self.label(item) for item in chosen]),
            angles=torch.stack([self.angles(item) for item in chosen]),
        )


def _subset(count: int, max_size: int | None, seed: int) -> list[int]:
    """Sorted positions of a random subset (all of them when it is not smaller)."""
    if max_size is not None and max_size < 1:
        raise DataError(f"dataset: max_size must be at least 1, got {max_size}")
    order = np.arange(count)
    if max_size is not None and max_size < count:
        np.random.RandomState(seed).shuffle(order)
        order = np.sort(order[:max_size])
    return [int(i) for i in order]


def _flip_yaw(angles: Tensor) -> Tensor:
    yaw, rest = angles[..., :1], angles[..., 1:]
    return torch.cat([0.0 - yaw, rest], dim=-1)


def settle_resolution(
    archive: Archive, names: Sequence[str], resolution: int | None, pixels: Pixels
) -> tuple[int, Pixels]:
    """The side to decode to, and how: without a wish, all images must have the commonest side.

    Raises:
        DataError: no wish, and none of the first images can be read.
    """
    if resolution is not None:
        return resolution, pixels
    sides: Counter[int] = Counter()
    trouble: list[Problem] = []
    for name in names[:16]:
        try:
            sides[decode_image(archive.read(name), None).shape[1]] += 1
        except DataError as error:
            trouble.append(Problem(name, str(error)))
    if not sides:
        raise_if_any(str(archive.path), trouble)
    return sides.most_common(1)[0][0], replace(pixels, fit=Fit.EXACT)


def decode_all(
    archive: Archive, names: Sequence[str], resolution: int, pixels: Pixels, keep: bool
) -> tuple[np.ndarray | None, list[Problem]]:
    """Decode every image once, in a few threads.

    Returns:
        uint8 [len(names), 3, R, R] if `keep` (damaged images are black), else None; and what is
        wrong, by file name, in order.
    """
    store = None
    if keep:
        store = np.zeros((len(names), 3, resolution, resolution), dtype=np.uint8)

    def decode(number: int) -> Problem | None:
        try:
            image = decode_image(archive.read(names[number]), resolution, pixels)
        except DataError as error:
            return Problem(names[number], str(error))
        if store is not None:
            store[number] = image
        return None

    with worker_threads(DECODE_THREADS) as pool:
        found = list(pool.map(decode, range(len(names))))
    return store, [problem for problem in found if problem is not None]
