"""Scores of a tiny generator: protocol, caching, card, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from epigraf.config import Config
from epigraf.data.images import ImageDataset
from epigraf.errors import DataError
from epigraf.metrics.evaluate import Evaluator, Protocol, dataset_digest, evaluate_generator, fakes
from epigraf.models.generator import Generator
from epigraf.rendering.draws import RandomDraws

QUICK = Protocol(batch=4, kid_subsets=5, kid_size=8)
NUM_IMAGES = 12


def _write_images(folder: Path, *, poses: bool) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    index: dict[str, dict] = {"labels": {}}
    for i in range(NUM_IMAGES):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        index["labels"][f"{i:02d}.png"] = i % 3
        if poses:
            index.setdefault("camera_angles", {})[f"{i:02d}.png"] = [0.1 * i + 0.1, 1.5, 0.0]
    (folder / "dataset.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def posed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_images(tmp_path_factory.mktemp("data") / "posed", poses=True)


def _config(dist: str = "custom", *, labels: bool = False, conditioned: bool = False) -> Config:
    generator = {
        "z_dim": 8,
        "w_dim": 8,
        "cmax": 8,
        "num_ray_steps": 4,
        "num_fine_steps": 0,
        "camera_cond": conditioned,
        "tri_plane": {"res": 8, "feat_dim": 4, "mlp": {"hid_dim": 8}},
    }
    camera = {"dist": dist, "horizontal_stddev": 0.2, "vertical_stddev": 0.1}
    return Config.from_dict(
        {
            "dataset": {"resolution": 16, "c_dim": 3, "camera": camera},
            "model": {"generator": generator},
            "training": {"use_labels": labels, "patch": {"enabled": False}},
        }
    )


def _generator(cfg: Config) -> Generator:
    torch.manual_seed(0)
    return Generator(cfg).eval()


def _dataset(path: Path, *, labels: bool = False) -> ImageDataset:
    return ImageDataset(path, 16, mirror=True, use_labels=labels)


class CountingFeatures:
    """The mean colour, and how many images were asked for."""

    name, fingerprint = "mean", "none"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.float().mean((2, 3))


def test_scores_have_names_values_and_a_card(posed: Path) -> None:
    generator, dataset = _generator(_config()), _dataset(posed)
    result = evaluate_generator(generator, dataset, 9, draws=RandomDraws(0), protocol=QUICK)
    scores = ("fd", "kd", "precision", "recall", "diversity")
    assert list(result.values) == [f"{score}_rc64" for score in scores]
    assert all(np.isfinite(v) for v in result.values.values())
    card = json.loads(result.to_json())["card"]
    assert (card["num_reals"], card["num_fakes"], card["resolution"]) == (NUM_IMAGES, 9, 16)
    assert (card["poses"], card["features"], card["truncation"]) == ("custom", "rc64", 1.0)
    assert card["reals_mirrored"] is False
    again = evaluate_generator(generator, dataset, 9, draws=RandomDraws(0), protocol=QUICK)
    assert again.values == result.values


def test_reals_are_computed_once_and_not_mirrored(posed: Path) -> None:
    features = CountingFeatures()
    evaluator = Evaluator(features, QUICK)
    generator = _generator(_config())
    first = evaluator(generator, _dataset(posed), 8)
    assert features.seen == NUM_IMAGES + 8
    assert evaluator(generator, _dataset(posed), 8) == first  # equal latents every time
    assert features.seen == NUM_IMAGES + 16


def test_a_perfect_generator_scores_zero(posed: Path) -> None:
    evaluator = Evaluator(CountingFeatures(), QUICK)
    reals = evaluator.reals(_dataset(posed))
    scores = evaluator._scores(reals, reals.features, RandomDraws(0))
    assert scores["fd_mean"] == pytest.approx(0, abs=1e-3)
    assert (scores["precision_mean"], scores["recall_mean"]) == (1.0, 1.0)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_fakes_are_pictures_under_the_poses_of_the_items(
    posed: Path, labels: bool, conditioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = _generator(_config(labels=labels, conditioned=conditioned))
    dataset = _dataset(posed, labels=labels)
    seen: list[tuple[Tensor, Tensor | None]] = []
    forward = generator.forward

    def spy(z: Tensor, c: Tensor, angles: Tensor, condition: Tensor | None, **rest: object):
        seen.append((angles, condition))
        return forward(z, c, angles, condition, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(generator, "forward", spy)
    made = list(fakes(generator, dataset, 10, QUICK, draws=RandomDraws(0)))
    pictures, classes = (torch.cat(parts) for parts in zip(*made, strict=True))
    assert pictures.shape == (10, 3, 16, 16)
    assert pictures.dtype == torch.uint8
    assert classes.shape == (10,)
    assert (classes.unique().numel() > 1) == labels
    known = {tuple(a.tolist()) for a in dataset.all_angles()}
    for angles, condition in seen:
        assert {tuple(a.tolist()) for a in angles} <= known
        assert (condition is not None) == conditioned


def test_a_prior_needs_no_poses(tmp_path: Path) -> None:
    dataset = _dataset(_write_images(tmp_path / "plain", poses=False))
    generator = _generator(_config("gaussian"))
    result = evaluate_generator(generator, dataset, 8, draws=RandomDraws(0), protocol=QUICK)
    assert result.card["poses"] == "gaussian"
    with pytest.raises(DataError, match="dataset plain has no camera_angles"):
        Evaluator(protocol=QUICK)(_generator(_config()), dataset, 8)


def test_what_does_not_fit_is_refused(posed: Path) -> None:
    evaluator = Evaluator(protocol=QUICK)
    with pytest.raises(DataError, match="at least 8 reals and 8 fakes are needed, got 12 and 7"):
        evaluator(_generator(_config()), _dataset(posed), 7)
    with pytest.raises(DataError, match="at least 8 reals and 8 fakes are needed, got 1 and 8"):
        evaluator(_generator(_config()), ImageDataset(posed, 16, max_size=1), 8)
    with pytest.raises(DataError, match="the model has 3 classes, dataset posed has 0"):
        evaluator(_generator(_config(labels=True)), _dataset(posed), 8)
    with pytest.raises(DataError, match="renders 16 pixels, the images of posed were read with 8"):
        evaluator(_generator(_config()), ImageDataset(posed, 8), 8)


def test_digest_depends_on_pixels_names_and_size(posed: Path) -> None:
    digest = dataset_digest(_dataset(posed))
    assert digest == dataset_digest(_dataset(posed, labels=True))
    assert digest != dataset_digest(ImageDataset(posed, 8))
    assert digest != dataset_digest(ImageDataset(posed, 16, max_size=11))
