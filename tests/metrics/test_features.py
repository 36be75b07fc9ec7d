"""The offline features order known damages; a user's network is read, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from epigraf.errors import DataError
from epigraf.metrics.features import (
    FeatureExtractor,
    RandomConv64,
    TorchScriptFeatures,
    load_features,
    to_uint8,
)
from epigraf.metrics.fid import fid
from epigraf.metrics.kid import draw_subsets, kid
from epigraf.rendering.draws import RandomDraws


def _pictures(n: int, seed: int) -> np.ndarray:
    """Coloured, shaded discs on a gradient, float [n, 3, 64, 64] in [0, 255]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 63.0
    pictures = []
    for _ in range(n):
        back, front = generator.uniform(40, 215, (2, 3, 1, 1))
        cx, cy, radius = generator.uniform(0.3, 0.7), generator.uniform(0.3, 0.7), 0.2
        stripes = 25 * np.sin(x * generator.uniform(20, 60))
        disc = ((x - cx) ** 2 + (y - cy) ** 2 < radius**2)[None]
        pictures.append(np.where(disc, front + stripes, back * (0.7 + 0.3 * y)))
    return np.stack(pictures).clip(0, 255)


def _uint8(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures.round().clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def extractor() -> RandomConv64:
    return RandomConv64()


@pytest.fixture(scope="module")
def reals(extractor: RandomConv64) -> np.ndarray:
    return extractor(_uint8(_pictures(80, 0))).numpy()


def _damages() -> dict[str, list[np.ndarray]]:
    """Each list starts undamaged and gets worse."""
    clean = _pictures(80, 1)
    noise = np.random.default_rng(2).normal(size=clean.shape)
    grey = clean.mean(1, keepdims=True)
    return {
        "blur": [clean, *(gaussian_filter(clean, (0, 0, s, s)) for s in (0.8, 2.0))],
        "noise": [clean + s * noise for s in (0, 15, 40)],
        "collapse": [clean[np.arange(80) % n] for n in (80, 16, 3)],
        "saturation": [grey + s * (clean - grey) for s in (1, 0.5, 0.1)],
    }


@pytest.mark.parametrize("name", ["blur", "noise", "collapse", "saturation"])
def test_distances_grow_with_the_damage(
    extractor: RandomConv64, reals: np.ndarray, name: str
) -> None:
    features = [extractor(_uint8(p)).numpy() for p in _damages()[name]]
    subsets = draw_subsets(80, 80, count=10, size=60, draws=RandomDraws(0))
    frechet = [fid(reals, f) for f in features]
    kernel = [kid(reals, f, subsets) for f in features]
    assert frechet == sorted(frechet)
    assert kernel[1:] == sorted(kernel[1:])
    assert kernel[-1] > 2 * abs(kernel[0])


def test_rc64_is_fixed_and_resamples(extractor: RandomConv64) -> None:
    assert extractor.fingerprint == RandomConv64().fingerprint
    assert extractor.name == "rc64"
    image = torch.full((2, 3, 128, 128), 255, dtype=torch.uint8)
    features = extractor(image)
    assert features.shape == (2, 288)
    torch.testing.assert_close(features[:, -48:], torch.ones(2, 48))  # the mean colour, white
    small = extractor(torch.full((2, 3, 64, 64), 255, dtype=torch.uint8))
    torch.testing.assert_close(features, small)
    assert extractor(image[:0]).shape == (0, 288)


def test_images_must_be_uint8(extractor: FeatureExtractor) -> None:
    message = r"images must be uint8 \[N, 3, H, W\], got torch.float32 \[1, 3, 4, 4\]"
    with pytest.raises(ValueError, match=message):
        extractor(torch.zeros(1, 3, 4, 4))


def test_to_uint8_truncates_like_the_official_metrics() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 191, 255, 255]


class _FloatMean(torch.nn.Module):
    """Refuses uint8 (no mean of integers) and knows the Inception file's flag."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        mean = images.mean(dim=(2, 3))
        return mean if return_features else mean.sum(dim=1)


class _Picky(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().reshape(-1, 7)


class _Scalar(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean()


def _script(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def test_a_torchscript_file_of_the_users(tmp_path: Path) -> None:
    path = _script(_FloatMean(), tmp_path / "mean.pt")
    features = load_features(str(path))
    assert features.name == "mean"
    assert len(features.fingerprint) == 12
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    torch.testing.assert_close(features(images), images.float().mean(dim=(2, 3)))


def test_networks_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    assert isinstance(load_features("rc64"), RandomConv64)
    with pytest.raises(DataError, match="features: no such file"):
        TorchScriptFeatures(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("not a network")
    with pytest.raises(DataError, match=r"text.pt is not a TorchScript file"):
        TorchScriptFeatures(tmp_path / "text.pt")
    picky = TorchScriptFeatures(_script(_Picky(), tmp_path / "picky.pt"))
    with pytest.raises(DataError, match=r"picky.pt fails: .*invalid for input of size"):
        picky(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    scalar = TorchScriptFeatures(_script(_Scalar(), tmp_path / "scalar.pt"))
    with pytest.raises(DataError, match=r"must map \[N, 3, H, W\] to \[N, D\]"):
        scalar(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
