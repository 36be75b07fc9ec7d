"""The tri-plane field against look-ups and layers written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from epigraf.config import GeneratorConfig
from epigraf.models.decoder import TriPlaneDecoder, TriPlaneField

SCALE = 0.4


def config(**changes) -> GeneratorConfig:
    mlp = {"n_layers": changes.pop("n_layers", 2), "hid_dim": changes.pop("hid_dim", 7)}
    return GeneratorConfig.model_validate({"tri_plane": {"feat_dim": 5, "mlp": mlp, **changes}})


def _read(plane: np.ndarray, u: float, v: float) -> np.ndarray:
    """Bilinear read of plane [F, H, W] at u (width), v (height) in [-1, 1], zeros outside."""
    features, height, width = plane.shape
    x, y = (u + 1) / 2 * (width - 1), (v + 1) / 2 * (height - 1)
    out = np.zeros(features)
    for yi in (math.floor(y), math.floor(y) + 1):
        for xi in (math.floor(x), math.floor(x) + 1):
            if 0 <= xi < width and 0 <= yi < height:
                out += plane[:, yi, xi] * (1 - abs(x - xi)) * (1 - abs(y - yi))
    return out


def _encode(values, multiplier: float, cos: bool, raw: bool) -> list:
    octaves = math.ceil(math.log2(multiplier))
    out = []
    for value in values:
        x = value * multiplier
        frequencies = [2**k * math.pi / 2**octaves for k in range(octaves)]
        out += [value] if raw else []
        out += [math.sin(f * x) for f in frequencies]
        out += [math.cos(f * x) for f in frequencies] if cos else []
    return out


def _linear(x, layer) -> np.ndarray:
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    return weight @ np.asarray(x) / math.sqrt(weight.shape[1]) + bias


def _lrelu(x: np.ndarray, slope: float, gain: float) -> np.ndarray:
    return np.where(x > 0, x, slope * x) * gain


def _point(planes, decoder, cfg, point, direction) -> tuple[np.ndarray, float]:
    q = point / SCALE
    f = cfg.tri_plane.feat_dim
    x = np.mean(
        [
            _read(planes[k * f : (k + 1) * f], q[a], q[b])
            for k, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)])
        ],
        axis=0,
    )
    if cfg.tri_plane.posenc_period_len:
        x = np.concatenate([x, _encode(q, cfg.tri_plane.posenc_period_len, True, False)])
    for layer in decoder.layers[:-1]:
        x = _lrelu(_linear(x, layer), 0.2, math.sqrt(2))
    x = _linear(x, decoder.layers[-1])
    if not cfg.tri_plane.has_view_cond:
        return x[:3], x[3]
    hidden = np.concatenate([_lrelu(x[:-1], 0.1, 1), _encode(direction, 8, False, True)])
    first, second = decoder.color_layers
    return _linear(_lrelu(_linear(hidden, first), 0.2, math.sqrt(2)), second), x[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_layers": 4, "hid_dim": 3},
        {"posenc_period_len": 10.0},
        {"has_view_cond": True},
        {"has_view_cond": True, "posenc_period_len": 4.0, "n_layers": 3},
    ],
)
def test_field_is_the_loop_over_points(changes: dict) -> None:
    torch.manual_seed(0)
    cfg = config(**changes)
    decoder = TriPlaneDecoder(cfg)
    with torch.no_grad():
        for layer in [*decoder.layers, *(decoder.color_layers or [])]:
            layer.bias.normal_()
    planes = torch.randn(2, 15, 6, 8)
    points = torch.empty(2, 12, 3).uniform_(-1.3 * SCALE, 1.3 * SCALE)
    directions = torch.nn.functional.normalize(torch.randn(2, 4, 3), dim=-1)
    field = TriPlaneField(planes, decoder, SCALE)
    with torch.no_grad():
        sample, density = field(points, directions), field.density_raw(points)
    torch.testing.assert_close(density, sample.densities)
    for b in range(2):
        for p in range(12):
            direction = directions[b, p // 3].double().numpy()  # three samples a ray
            point = points[b, p].double().numpy()
            colour, raw = _point(planes[b].double().numpy(), decoder, cfg, point, direction)
            np.testing.assert_allclose(sample.colors[b, p].numpy(), colour, atol=2e-5)
            np.testing.assert_allclose(sample.densities[b, p].numpy(), raw, atol=2e-5)


def test_the_number_of_layers_counts_all() -> None:
    decoder = TriPlaneDecoder(config(n_layers=3, hid_dim=9))
    assert [tuple(layer.weight.shape) for layer in decoder.layers] == [(9, 5), (9, 9), (4, 9)]
    view = TriPlaneDecoder(config(has_view_cond=True, hid_dim=9))
    assert [tuple(layer.weight.shape) for layer in view.layers] == [(9, 5), (10, 9)]
    # The direction's encoding: raw value and log2(8) sines for each of three coordinates.
    assert [tuple(layer.weight.shape) for layer in view.color_layers] == [(32, 9 + 12), (3, 32)]


def test_a_view_conditioned_decoder_needs_directions() -> None:
    field = TriPlaneField(
        torch.zeros(1, 15, 4, 4), TriPlaneDecoder(config(has_view_cond=True)), 1.0
    )
    with pytest.raises(ValueError, match="needs directions"):
        field(torch.zeros(1, 2, 3))
    assert field.density_raw(torch.zeros(1, 2, 3)).shape == (1, 2)
