"""Schedules against recorded values and hand-worked ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epigraf.config import Config, OptimConfig, PatchConfig, PatchDistribution
from epigraf.training import schedules

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "g_schedules.json"


@pytest.mark.parametrize("row", json.loads(GOLDEN.read_text(encoding="utf-8")))
def test_official_defaults(row: dict[str, float]) -> None:
    images = row["kimg"] * 1000
    beta = PatchConfig()
    uniform = PatchConfig(distribution=PatchDistribution.UNIFORM)
    assert schedules.patch_beta(beta, images) == pytest.approx(row["beta"])
    for resolution in (256, 512):
        ours = schedules.patch_min_scale(uniform, 64 / resolution, images)
        assert ours == pytest.approx(row[f"uniform_min_scale_{resolution}"])
    assert schedules.density_noise_std(1, 5000, images) == pytest.approx(row["nerf_noise_std"])
    assert schedules.spoof_probability(0.5, images) == pytest.approx(row["gpc_spoof_p"])
    assert schedules.blur_sigma(10, 200, images) == pytest.approx(row["blur_sigma"], abs=1e-12)


@given(st.floats(0, 1e9), st.floats(0, 1e5))
def test_ramp_stays_between_its_ends(images: float, over: float) -> None:
    assert 1.0 <= schedules.ramp(1.0, 3.0, images, over) <= 3.0
    assert schedules.ramp(1.0, 3.0, over * 1000, over) == pytest.approx(3.0)


def test_ema_copies_first_and_has_its_half_life_later() -> None:
    assert schedules.ema_beta(64, 20, 0) == 0.0
    # 20 kimg are 312.5 steps of 64; so many decays halve a weight
    assert schedules.ema_beta(64, 20, 10_000_000) ** 312.5 == pytest.approx(0.5)
    # at 1000 images the half-life is 50 images: less than one step of 100
    assert schedules.ema_beta(100, 20, 1000) == pytest.approx(0.25)


def test_lazy_optimiser_is_the_published_correction() -> None:
    lr, betas = schedules.lazy_optimiser(OptimConfig(lr=0.002, betas=(0.0, 0.99)), 16)
    assert lr == pytest.approx(0.0018823529411764706)
    assert betas == (0.0, pytest.approx(0.9905854573074332))
    assert isinstance(betas[0], float)
    assert schedules.lazy_optimiser(OptimConfig(), None) == (0.0025, (0.0, 0.99))


def test_augmentation_moves_towards_the_target_and_stays_a_probability() -> None:
    # 256 images of 500 kimg are 0.000512
    assert schedules.adapted_probability(0.1, 0.9, 0.6, 256, 500) == pytest.approx(0.100512)
    assert schedules.adapted_probability(0.1, 0.1, 0.6, 256, 500) == pytest.approx(0.099488)
    assert schedules.adapted_probability(0.1, 0.6, 0.6, 256, 500) == 0.1
    assert schedules.adapted_probability(0.0, -1.0, 0.6, 256, 500) == 0.0
    assert schedules.adapted_probability(0.9999, 1.0, 0.6, 256, 500) == 1.0


def test_the_first_step_of_a_run_has_no_density_noise() -> None:
    first = schedules.schedule_at(Config(), 1_000_000, first_step=True)
    later = schedules.schedule_at(Config(), 1_000_000)
    assert (first.density_noise_std, first.patch_beta) == (0.0, 0.001)
    assert (later.density_noise_std, later.patch_beta) == (0.8, pytest.approx(0.0809))


def test_zero_lengths_mean_the_end_value() -> None:
    assert schedules.blur_sigma(10, 0, 0) == 0.0
    assert schedules.density_noise_std(1.0, 0, 0) == 0.0
