"""Feature extractors: images to vectors that distances are measured between.

N images, D features. Images are uint8 [N, 3, H, W] in [0, 255]. Scores of different extractors
cannot be compared: every score is named after its extractor, and its fingerprint is kept.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.errors import DataError

_BLOCK = 128


class FeatureExtractor(Protocol):
    """Any map from uint8 images [N, 3, H, W] to features [N, D]; `fingerprint` identifies it."""

    name: str
    fingerprint: str

    def __call__(self, images: Tensor) -> Tensor: ...


class RandomConv64:
    """`rc64`: statistics of fixed random filters on images of 64 x 64. NOT Inception features.

    It needs no download and no training: three layers of random zero-mean 3 x 3 filters (seed 64)
    with leaky ReLU and 2 x 2 pooling. D = 288: the mean magnitude of each of the 16 + 32 + 64
    channels (texture: blur, noise), the magnitudes of 8 deep channels in 4 x 4 tiles (layout), all
    of these as logarithms, and the mean colour in 4 x 4 tiles. Distances on it grow with blur,
    noise, loss of colour, shuffled tiles and collapse; it knows nothing of semantics.
    """

    name = "rc64"
    resolution = 64
    channels = (3, 16, 32, 64)
    grid_channels = 8
    grid = 4
    floor = 0.02  # added to magnitudes in [-1, 1] units before the logarithm
    typical = 0.1  # magnitude that becomes 0, so that features are centred

    def __init__(self) -> None:
        generator = np.random.RandomState(64)
        self._filters = [
            _zero_mean_filters(generator, fan_in, fan_out)
            for fan_in, fan_out in zip(self.channels[:-1], self.channels[1:], strict=True)
        ]
        content = b"".join(f.numpy().tobytes() for f in self._filters)
        self.fingerprint = hashlib.sha256(b"rc64 v1" + content).hexdigest()[:12]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features [N, 288] float32 of images [N, 3, H, W] uint8; other sizes are resampled."""
        _check_images(images)
        blocks = [self._features(block) for block in images.split(_BLOCK)]
        return torch.cat(blocks) if blocks else torch.zeros(0, 288)

    def _features(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1
        if x.shape[-1] != self.resolution or x.shape[-2] != self.resolution:
            size = (self.resolution, self.resolution)
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        colors = F.adaptive_avg_pool2d(x, self.grid).flatten(1)
        magnitudes, deep = [], x
        for number, filters in enumerate(self._filters):
            deep = F.avg_pool2d(deep, 2) if number else deep
            deep = F.leaky_relu(F.conv2d(deep, filters.to(x.device), padding=1), 0.2) * 2**0.5
            magnitudes.append(deep.abs().mean((2, 3)))
        tiles = F.adaptive_avg_pool2d(deep[:, : self.grid_channels].abs(), self.grid).flatten(1)
        logs = torch.log((torch.cat([*magnitudes, tiles], dim=1) + self.floor) / self.typical)
        return torch.cat([logs, colors], dim=1)


class TorchScriptFeatures:
    """A network of the user's: a TorchScript file that maps images [N, 3, H, W] with values 0..255
    to features [N, D], as the Inception file that the field uses (which resizes by itself).

    Its scores are called after the file's name. uint8 goes in first and float32 where the network
    refuses it. `return_features` is passed where the network's forward has such an argument.

    Raises:
        DataError: no such file, not TorchScript, or it does not return [N, D].
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise DataError(f"features: no such file: {path}")
        self.name = path.stem
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        self.device = torch.device(device)
        self._path = path
        try:
            self._network = torch.jit.load(str(path), map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            message = f"features: {path} is not a TorchScript file: {_reason(error)}"
            raise DataError(message) from None
        names = {argument.name for argument in self._network.forward.schema.arguments}
        self._wants_flag = "return_features" in names
        self._dtype = torch.uint8

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features [N, D] float32 of images [N, 3, H, W] uint8."""
        _check_images(images)
        return torch.cat([self._features(block) for block in images.split(_BLOCK)])

    def _features(self, images: Tensor) -> Tensor:
        try:
            features = self._forward(images.to(self.device, self._dtype))
        except RuntimeError as error:
            if self._dtype is torch.float32:
                raise DataError(f"features: {self._path} fails: {_reason(error)}") from None
            self._dtype = torch.float32
            return self._features(images)
        if not isinstance(features, Tensor) or features.shape[:1] != images.shape[:1]:
            raise DataError(f"features: {self._path} must map [N, 3, H, W] to [N, D]")
        return features.float().flatten(1).cpu()

    def _forward(self, images: Tensor) -> Tensor:
        if self._wants_flag:
            return self._network(images, return_features=True)
        return self._network(images)


def _reason(error: Exception) -> str:
    """The last line of a TorchScript error, which says what happened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def load_features(name_or_path: str) -> FeatureExtractor:
    """`rc64`, or the path of a TorchScript file."""
    if name_or_path == RandomConv64.name:
        return RandomConv64()
    return TorchScriptFeatures(name_or_path)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as the official metrics quantise them: x * 127.5 + 128, cut to [0, 255]."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def _zero_mean_filters(generator: np.random.RandomState, fan_in: int, fan_out: int) -> Tensor:
    """Filters [fan_out, fan_in, 3, 3] of norm 1 that ignore constant inputs."""
    filters = generator.randn(fan_out, fan_in, 3, 3)
    filters -= filters.mean(axis=(2, 3), keepdims=True)
    filters /= np.sqrt((filters**2).sum(axis=(1, 2, 3), keepdims=True))
    return torch.from_numpy(filters.astype(np.float32))


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(
            f"features: images must be uint8 [N, 3, H, W], got {images.dtype} {list(images.shape)}"
        )
