"""Seeds to pictures, on a very small model of three classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from epigraf.config import Config
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator
from epigraf.models.sampling import (
    Truncation,
    interpolate_latents,
    interpolate_styles,
    labels_for,
    mix_styles,
    object_field,
    slerp,
    styles_from_latents,
    styles_from_seeds,
    to_bytes,
)

CLASSES = 3


def small(c_dim: int = CLASSES) -> Generator:
    torch.manual_seed(0)
    values = {
        "dataset": {"resolution": 8, "c_dim": c_dim, "white_back": True},
        "model": {
            "generator": {
                "z_dim": 8,
                "w_dim": 12,
                "map_lr_multiplier": 1.0,
                "cmax": 8,
                "num_ray_steps": 4,
                "tri_plane": {"res": 8, "feat_dim": 4, "mlp": {"hid_dim": 8}},
            }
        },
        "training": {"use_labels": c_dim > 0, "patch": {"enabled": False}},
    }
    generator = Generator(Config.from_dict(values)).eval().requires_grad_(False)
    generator.mapping.w_avg.copy_(torch.linspace(-1, 1, 12))
    return generator


def latent(seed: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()


def test_styles_without_truncation_are_the_mapping_of_the_seed() -> None:
    generator = small()
    ws = styles_from_seeds(generator, [5, 9])
    for row, seed in zip(ws, (5, 9), strict=True):
        index = np.random.RandomState(seed).choice(CLASSES)
        label = torch.eye(CLASSES)[index][None]
        assert torch.allclose(row[None], generator.mapping(latent(seed), label), atol=1e-6)


def test_truncation_pulls_towards_the_mean_of_the_class() -> None:
    generator = small()
    label = torch.eye(CLASSES)[2]
    z = torch.cat([latent(seed) for seed in range(256)])
    mean = generator.mapping(z, label.expand(256, -1)).mean(dim=0)
    full = styles_from_seeds(generator, [1, 4], class_index=2)
    for psi in (0.0, 0.7, -1.0):
        ws = styles_from_seeds(generator, [1, 4], Truncation(psi), class_index=2)
        assert torch.allclose(ws, mean + psi * (full - mean), atol=1e-5)
    cut = styles_from_seeds(generator, [1, 4], Truncation(0.0, cutoff=2), class_index=2)
    assert torch.allclose(cut[:, :2], mean[:2].expand(2, -1, -1), atol=1e-5)
    assert torch.equal(cut[:, 2:], full[:, 2:])


def test_truncation_without_classes_pulls_towards_w_avg() -> None:
    generator = small(c_dim=0)
    full = styles_from_seeds(generator, [3])
    ws = styles_from_seeds(generator, [3], Truncation(0.25))
    average = torch.linspace(-1, 1, 12)
    assert torch.allclose(ws, average + 0.25 * (full - average), atol=1e-6)


def test_classes_that_are_not_there() -> None:
    assert labels_for(small(), [7, 8], 1).tolist() == [[0, 1, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"class must be in \[0, 3\)"):
        labels_for(small(), [0], 3)
    with pytest.raises(ValueError, match="no classes"):
        labels_for(small(c_dim=0), [0], 0)


def test_slerp_is_the_formula() -> None:
    a, b = np.array([3.0, 0.0, 0.0]), np.array([1.0, 2.0, 2.0])
    angle = math.acos(float(a @ b) / 9)
    for x in (0.0, 0.25, 1.0):
        expected = (math.sin((1 - x) * angle) * a + math.sin(x * angle) * b) / math.sin(angle)
        got = slerp(torch.tensor(a), torch.tensor(b), torch.tensor([x], dtype=torch.float64))
        assert got.tolist() == pytest.approx(expected.tolist())
        assert float(got.norm()) == pytest.approx(3)  # both have this length: so has every point


def test_slerp_between_parallel_vectors_is_straight() -> None:
    a = torch.tensor([1.0, 2.0])
    for b in (2 * a, -a, a):
        assert slerp(a, b, torch.tensor([0.25])).tolist() == pytest.approx(
            (0.75 * a + 0.25 * b).tolist()
        )


def test_styles_between_places_by_hand() -> None:
    ws = torch.tensor([0.0, 1.0, 4.0]).reshape(3, 1, 1)
    x = torch.tensor([0.0, 0.25, 1.0, 1.5, 2.0], dtype=torch.float64)
    assert interpolate_styles(ws, x).flatten().tolist() == [0, 0.25, 1, 2.5, 4]
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\]"):
        interpolate_styles(ws, torch.tensor([2.5]))


def test_latents_between_seeds_start_and_end_at_them() -> None:
    generator = small()
    z = torch.cat([latent(seed) for seed in (1, 4)])
    c = labels_for(generator, [1, 4], None)
    x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    ws = interpolate_latents(generator, z, c, x, Truncation(0.7))
    ends = styles_from_seeds(generator, [1, 4], Truncation(0.7))
    assert torch.allclose(ws[[0, 2]], ends, atol=1e-5)
    middle = slerp(z[0], z[1], torch.tensor([0.5]))[None]
    expected = styles_from_latents(generator, middle, c.mean(0)[None], Truncation(0.7))
    assert torch.allclose(ws[1:2], expected, atol=1e-5)


def test_a_blend_of_classes_is_pulled_towards_the_blend_of_their_means() -> None:
    generator = small()
    blend = torch.tensor([[0.25, 0.0, 0.75]])
    z = torch.cat([latent(seed) for seed in range(256)])
    means = [generator.mapping(z, c.expand(256, -1)).mean(0) for c in torch.eye(3)]
    ws = styles_from_latents(generator, latent(7), blend, Truncation(0.0))
    assert torch.allclose(ws[0], 0.25 * means[0] + 0.75 * means[2], atol=1e-5)


def test_mixing_replaces_layers() -> None:
    mixed = mix_styles(torch.zeros(4, 2), torch.ones(4, 2), range(1, 3))
    assert mixed[:, 0].tolist() == [0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"layers must lie in 0\.\.3"):
        mix_styles(torch.zeros(4, 2), torch.ones(4, 2), range(2, 5))


def test_the_field_of_an_object_is_what_is_rendered() -> None:
    generator = small()
    ws = styles_from_seeds(generator, [0])
    points = torch.rand(1, 5, 3) * 0.2 - 0.1
    field = object_field(generator, ws)
    planes = generator.planes(ws, NoiseMode.CONST)
    expected = generator.field(planes).density_raw(points)
    assert torch.equal(field.density_raw(points), expected)


def test_bytes_worked_examples() -> None:
    values = [-2.0, -1.0, -0.5, 0.0, 1.0, 9.0]
    image = torch.tensor(values).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    expected = [min(max(math.floor(v * 127.5 + 128), 0), 255) for v in values]
    assert expected == [0, 0, 64, 128, 255, 255]
    assert to_bytes(image)[0, 0, :, 1].tolist() == expected
