"""The objective against worked values, finite differences and brute force."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from epigraf.rendering.draws import RandomDraws, ReplayDraws
from epigraf.training import losses


def test_adversarial_losses_at_worked_values() -> None:
    logits = torch.tensor([0.0, math.log(3.0)])
    # softplus(0) = log 2; softplus(log 3) = log 4; softplus(-log 3) = log(4/3)
    rising = torch.tensor([math.log(2.0), math.log(4.0)])
    falling = torch.tensor([math.log(2.0), math.log(4 / 3)])
    torch.testing.assert_close(losses.discriminator_fake_loss(logits), rising)
    torch.testing.assert_close(losses.discriminator_real_loss(logits), falling)
    torch.testing.assert_close(losses.generator_loss(logits), falling)


def test_r1_of_a_quadratic() -> None:
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    # D(x) = a sum x^2, so |grad|^2 = 4 a^2 sum x^2 and its derivative by a is 8 a sum x^2
    penalty = losses.gradient_penalty((a * x.square()).sum(dim=(1, 2, 3)), x)
    squares = x.detach().square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(penalty, 9.0 * squares)
    (gradient,) = torch.autograd.grad(penalty.sum(), a)
    torch.testing.assert_close(gradient, 12.0 * squares.sum())


def test_path_lengths_of_a_linear_map() -> None:
    torch.manual_seed(0)
    ws = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(5, 12, dtype=torch.float64)
    images = (ws @ matrix).sum(dim=1).reshape(2, 3, 2, 2)
    noise = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    # every style vector has the same gradient: matrix @ noise / sqrt(2 * 2)
    expected = (noise.reshape(2, 12) @ matrix.T / 2).square().sum(dim=1).sqrt()
    torch.testing.assert_close(losses.path_lengths(images, ws, noise), expected)


def test_path_length_penalty_moves_the_mean_first() -> None:
    penalty, mean = losses.path_length_penalty(
        torch.tensor([1.0, 3.0]), torch.tensor(0.0), decay=0.5
    )
    # mean: 0 -> 0.5 * 2 = 1; deviations 0 and 2
    assert float(mean) == 1.0
    torch.testing.assert_close(penalty, torch.tensor([0.0, 4.0]))


@pytest.mark.parametrize(("size", "sigma"), [(9, 1.0), (16, 5.0), (8, 0.4), (5, 10.0)])
def test_blur_is_the_zero_padded_convolution(size: int, sigma: float) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, size, size + 2)
    reach = math.floor(3 * sigma)
    taps = torch.tensor([2.0 ** -((i / sigma) ** 2) for i in range(-reach, reach + 1)])
    taps = (taps / taps.sum()).reshape(1, 1, 1, -1)
    flat = images.reshape(6, 1, size, size + 2)
    expected = F.conv2d(flat, taps, padding=(0, reach))
    expected = F.conv2d(expected, taps.mT, padding=(reach, 0)).reshape(images.shape)
    torch.testing.assert_close(losses.blur(images, sigma), expected, atol=1e-6, rtol=1e-5)


def test_small_blur_is_the_identity() -> None:
    images = torch.randn(1, 3, 4, 4)
    assert losses.blur(images, 0.33) is images


@given(st.integers(1, 8), st.floats(0, 1), st.integers(0, 1000))
def test_spoofing_rolls_within_the_chosen(batch: int, probability: float, seed: int) -> None:
    angles = torch.arange(batch * 3.0).reshape(batch, 3)
    coins = RandomDraws(seed).uniform("coins", (batch,), angles)
    spoofed = losses.spoof_angles(angles, probability, draws=ReplayDraws([("coins", coins)]))
    chosen = [i for i in range(batch) if float(coins[i]) < probability]
    for i in range(batch):
        source = chosen[chosen.index(i) - 1] if i in chosen else i
        assert torch.equal(spoofed[i], angles[source])


def test_spoofing_leaves_the_argument_alone() -> None:
    angles = torch.arange(12.0).reshape(4, 3)
    losses.spoof_angles(angles, 1.0, draws=RandomDraws(0))
    assert torch.equal(angles, torch.arange(12.0).reshape(4, 3))
