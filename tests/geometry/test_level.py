"""The automatic level: its physical meaning under every activation, and empty volumes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epigraf.config import ClampMode, Config, GeneratorConfig
from epigraf.errors import EpigrafError
from epigraf.geometry.density import Bounds, Lattice, Volume
from epigraf.geometry.level import activate, automatic_level, raw_density, segment_length
from epigraf.rendering.options import RenderOptions, activate_density


@given(
    st.floats(1e-3, 1e4),
    st.floats(0.1, 100),
    st.floats(-10, 10),
    st.sampled_from(list(ClampMode)),
)
def test_raw_density_inverts_the_activation(
    sigma: float, gain: float, shift: float, clamp: ClampMode
) -> None:
    generator = GeneratorConfig(density_gain=gain, density_shift=shift, clamp_mode=clamp)
    assert float(activate(raw_density(sigma, generator), generator)) == pytest.approx(sigma, 1e-6)


@pytest.mark.parametrize("clamp", list(ClampMode))
def test_activation_is_the_renderers(clamp: ClampMode) -> None:
    generator = GeneratorConfig(density_gain=20, density_shift=-3, clamp_mode=clamp)
    options = RenderOptions(2, 0, 0.5, 1.5, None, clamp, -3.0, 20.0)
    raw = torch.linspace(-40, 40, 33, dtype=torch.float64)
    np.testing.assert_allclose(
        activate(raw.numpy(), generator), activate_density(raw, options).numpy(), atol=1e-12
    )


def _volume(largest: float) -> Volume:
    values = np.full((3, 3, 3), -50, np.float32)
    values[1, 1, 1] = largest
    return Volume(values, Lattice(3, Bounds.cube(1.0)))


def _config(radius: float | None = None, **generator: float) -> Config:
    dataset = {"object_radius": radius}
    return Config.from_dict({"dataset": dataset, "model": {"generator": generator}})


@pytest.mark.parametrize("settings", [{}, {"density_gain": 20.0, "density_shift": -3.0}])
def test_a_sixteenth_of_the_segment_is_half_opaque_at_the_level(settings: dict) -> None:
    cfg = _config(0.26, **settings)
    level = automatic_level(_volume(500.0), cfg)
    sigma = float(activate(level, cfg.model.generator))
    assert 1 - math.exp(-sigma * 0.52 / 16) == pytest.approx(0.5)


def test_segment_is_the_ball_or_near_to_far() -> None:
    assert segment_length(_config(0.26)) == pytest.approx(0.52)
    assert segment_length(_config()) == pytest.approx(0.24)


def test_a_translucent_volume_gets_half_its_peak() -> None:
    cfg = _config(0.26)
    level = automatic_level(_volume(10.0), cfg)
    assert float(activate(level, cfg.model.generator)) == pytest.approx(5.0, rel=1e-3)


def test_densities_outside_the_object_ball_do_not_count() -> None:
    volume = _volume(10.0)
    volume.values[0, 0, 0] = 1000.0  # a corner, outside the ball
    assert automatic_level(volume, _config(0.26)) == automatic_level(_volume(10.0), _config(0.26))


def test_an_empty_volume_is_a_users_error() -> None:
    with pytest.raises(EpigrafError, match="the volume is empty: its largest raw density -5"):
        automatic_level(_volume(-5.0), _config(0.26))
