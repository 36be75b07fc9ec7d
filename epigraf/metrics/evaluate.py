"""Score a generator against a data set. N reals, M fakes, D features.

Protocol, after the official one: reals are all images of the set, not mirrored; fakes come from
random latents, the label of a random item, and either its angles or the sampled prior, which
condition the mapping network too where it is conditioned; spatial noise is random; pictures are
quantised to uint8. Every result carries a card that says what it was measured on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from epigraf.config import CameraDist
from epigraf.data.images import ImageDataset
from epigraf.errors import DataError
from epigraf.metrics.diversity import class_diversity
from epigraf.metrics.features import FeatureExtractor, RandomConv64, to_uint8
from epigraf.metrics.fid import Gaussian, fit_gaussian, frechet_distance
from epigraf.metrics.kid import draw_subsets, kid
from epigraf.metrics.precision_recall import precision_recall
from epigraf.models.generator import Generator
from epigraf.rendering.camera import sample_camera_angles
from epigraf.rendering.draws import Draws, RandomDraws


@dataclass(frozen=True)
class Protocol:
    """How scores are measured.

    max_reals: use a fixed random subset of the reals (None: all); truncation: psi of the fakes;
    batch: fakes rendered at a time; kid_subsets of kid_size samples; neighbours: k of precision and
    recall (0: leave them out).
    """

    max_reals: int | None = None
    truncation: float = 1.0
    batch: int = 16
    kid_subsets: int = 100
    kid_size: int = 1000
    neighbours: int = 3


QUICK = Protocol(max_reals=4096, kid_subsets=20, kid_size=500)
"""For scores while training: the same formulas on fewer samples."""


@dataclass(frozen=True)
class MetricResult:
    """`values`: score by name, e.g. `fd_rc64`; `card`: what it was measured on (JSON-ready)."""

    values: dict[str, float]
    card: dict[str, object]
    seconds: float = field(compare=False)

    def to_json(self) -> str:
        """One JSON object with scores, card and seconds."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True)
class _Reals:
    features: np.ndarray
    gaussian: Gaussian
    diversity: float


class Evaluator:
    """Scores generators; the features of the reals of each data set are computed once.

    Callable as `evaluator(generator, dataset, num_samples)` for the training loop: the scores by
    name, drawn from the same seed each time so that snapshots are compared on equal latents.
    """

    def __init__(
        self,
        features: FeatureExtractor | None = None,
        protocol: Protocol = QUICK,
        seed: int = 0,
    ) -> None:
        self.features = features or RandomConv64()
        self.protocol = protocol
        self.seed = seed
        self._reals: dict[str, _Reals] = {}

    def __call__(
        self, generator: Generator, dataset: ImageDataset, num_samples: int
    ) -> dict[str, float]:
        draws = RandomDraws(self.seed)
        return self.evaluate(generator, dataset, num_samples, draws=draws).values

    def evaluate(
        self, generator: Generator, dataset: ImageDataset, num_samples: int, *, draws: Draws
    ) -> MetricResult:
        """Render `num_samples` fakes and score them.

        Raises:
            DataError: the generator wants the data set's angles and it has none, or labels of
                another width, or there are fewer than 8 samples.
        """
        began = time.monotonic()
        num_reals = len(_real_items(dataset, self.protocol))
        _check(generator, dataset, num_samples, num_reals)
        reals = self.reals(dataset)
        made = fakes(generator, dataset, num_samples, self.protocol, draws=draws)
        pairs = [(self.features(images).cpu(), classes) for images, classes in made]
        fake, classes = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        values = self._scores(reals, fake.numpy(), draws)
        diversity = class_diversity(fake, classes) / reals.diversity
        values[f"diversity_{self.features.name}"] = diversity
        card = self._card(generator, dataset, len(reals.features), num_samples)
        return MetricResult(values, card, time.monotonic() - began)

    def reals(self, dataset: ImageDataset) -> _Reals:
        """Features of the reals, cached by the data set's digest."""
        key = dataset_digest(dataset) + f":{self.protocol.max_reals}"
        if key not in self._reals:
            items = _real_items(dataset, self.protocol)
            features = torch.cat([self.features(x).cpu() for x in _real_images(dataset, items)])
            classes = _classes(torch.stack([dataset.label(int(i)) for i in items]))
            array = features.numpy()
            diversity = class_diversity(features, classes)
            self._reals[key] = _Reals(array, fit_gaussian(array), diversity)
        return self._reals[key]

    def _scores(self, reals: _Reals, fake: np.ndarray, draws: Draws) -> dict[str, float]:
        name, protocol = self.features.name, self.protocol
        size = min(protocol.kid_size, len(fake), len(reals.features))
        subsets = draw_subsets(
            len(reals.features), len(fake), count=protocol.kid_subsets, size=size, draws=draws
        )
        scores = {
            f"fd_{name}": frechet_distance(reals.gaussian, fit_gaussian(fake)),
            f"kd_{name}": kid(reals.features, fake, subsets),
        }
        if protocol.neighbours:
            pair = precision_recall(
                torch.from_numpy(reals.features),
                torch.from_numpy(fake),
                neighbours=protocol.neighbours,
                dtype=torch.float32,
            )
            scores |= {f"precision_{name}": pair.precision, f"recall_{name}": pair.recall}
        return scores

    def _card(
        self, generator: Generator, dataset: ImageDataset, num_reals: int, num_fakes: int
    ) -> dict[str, object]:
        return {
            "features": self.features.name,
            "features_fingerprint": self.features.fingerprint,
            "dataset": dataset.name,
            "dataset_digest": dataset_digest(dataset),
            "resolution": generator.img_resolution,
            "num_reals": num_reals,
            "num_fakes": num_fakes,
            "reals_mirrored": False,
            "fakes_mirrored": dataset.mirror,
            "poses": generator.cfg.dataset.camera.dist.value,
            "labels": "of random items" if generator.c_dim else "none",
            "noise": "random",
            **asdict(self.protocol),
        }


def evaluate_generator(
    generator: Generator,
    dataset: ImageDataset,
    num_samples: int,
    *,
    draws: Draws,
    features: FeatureExtractor | None = None,
    protocol: Protocol | None = None,
) -> MetricResult:
    """Score a generator (in eval mode) once; see Evaluator for repeated scores."""
    evaluator = Evaluator(features, protocol or Protocol())
    return evaluator.evaluate(generator, dataset, num_samples, draws=draws)


def dataset_digest(dataset: ImageDataset) -> str:
    """Twelve hex digits of the names, the resolution and a spread of up to 64 images."""
    digest = hashlib.sha256(json.dumps([dataset.resolution, dataset.names]).encode())
    count = len(dataset.names)
    for item in sorted({i * count // 64 for i in range(64)}):
        digest.update(dataset.image(item).numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def fakes(
    generator: Generator,
    dataset: ImageDataset,
    num_samples: int,
    protocol: Protocol,
    *,
    draws: Draws,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Generated images uint8 [B, 3, R, R] and their classes [B], `num_samples` in all."""
    camera = generator.cfg.dataset.camera
    conditioned = generator.cfg.model.generator.camera_cond
    angles_of_items = dataset.all_angles()
    like = next(generator.parameters())
    for start in range(0, num_samples, protocol.batch):
        n = min(protocol.batch, num_samples - start)
        z = draws.normal("metric_z", (n, generator.z_dim), like)
        items = draws.integers("metric_item", len(dataset), (n,))
        labels = torch.stack([dataset.label(int(i)) for i in items]).to(like.device)
        if camera.dist is CameraDist.CUSTOM:
            angles = angles_of_items[items]
        else:
            angles = sample_camera_angles(camera, n, draws=draws)
        angles = angles.to(like)
        image = generator(
            z,
            labels if generator.c_dim else None,
            angles,
            angles if conditioned else None,
            truncation_psi=protocol.truncation,
            draws=draws,
        ).image
        yield to_uint8(image).cpu(), _classes(labels).cpu()


def _classes(labels: Tensor) -> Tensor:
    """Class indices [N] of labels [N, c_dim]; all the same without labels."""
    return labels.argmax(dim=1) if labels.shape[1] else torch.zeros(len(labels), dtype=torch.long)


def _real_items(dataset: ImageDataset, protocol: Protocol) -> np.ndarray:
    """Which items count as reals: those without their mirrored copies."""
    items = np.arange(len(dataset.names))
    if protocol.max_reals is not None and protocol.max_reals < len(items):
        items = np.sort(np.random.RandomState(0).permutation(items)[: protocol.max_reals])
    return items


def _real_images(dataset: ImageDataset, items: np.ndarray) -> Iterator[Tensor]:
    """The images of items, uint8 [B, 3, R, R]."""
    for start in range(0, len(items), 128):
        yield torch.stack([dataset.image(int(i)) for i in items[start : start + 128]])


def _check(generator: Generator, dataset: ImageDataset, num_fakes: int, num_reals: int) -> None:
    if min(num_fakes, num_reals) < 8:
        raise DataError(
            f"metrics: at least 8 reals and 8 fakes are needed, got {num_reals} and {num_fakes}"
        )
    if generator.cfg.dataset.camera.dist is CameraDist.CUSTOM and not dataset.has_angles:
        raise DataError(
            f"metrics: dataset {dataset.name} has no camera_angles, and the model takes its "
            "cameras from the data set (camera.dist custom)"
        )
    if generator.c_dim and dataset.label_dim != generator.c_dim:
        raise DataError(
            f"metrics: the model has {generator.c_dim} classes, dataset {dataset.name} has "
            f"{dataset.label_dim}; give the data set it was trained on"
        )
    if dataset.resolution != generator.img_resolution:
        raise DataError(
            f"metrics: the model renders {generator.img_resolution} pixels, the images of "
            f"{dataset.name} were read with {dataset.resolution}"
        )
