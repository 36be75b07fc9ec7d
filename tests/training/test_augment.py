"""Augmentations: the official fixture, worked examples of each transform, derivatives."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from epigraf.config import AugmentProbs
from epigraf.rendering.draws import RandomDraws, ReplayDraws
from epigraf.training.augment import AugmentPipe
from epigraf.training.transforms import Strengths
from epigraf.training.wavelets import SYM6
from tests.parity.case import load_case
from tests.parity.kinds.augment import check
from tests.parity.report import Report

GOLDEN = Path(__file__).parents[1] / "golden" / "g_augment.json"
NONE = dict.fromkeys(AugmentProbs.model_fields, 0.0)
OPEN, SHUT = 0.0, 0.999


def only(**probs: float) -> AugmentPipe:
    return AugmentPipe(AugmentProbs(**{**NONE, **probs}))


def replay(*values: float | list[float]) -> ReplayDraws:
    return ReplayDraws([(str(i), torch.tensor(value)) for i, value in enumerate(values)])


def images(side: int = 12, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.rand(batch, 3, side, side, generator=generator, dtype=torch.float64) * 2 - 1


def test_official_fixture_is_reproduced() -> None:
    lines: list[str] = []
    report = Report(write=lines.append)
    check(load_case(GOLDEN), report)
    assert report.failed == 0, "\n".join(lines)


def test_probability_zero_changes_nothing_but_draws_as_much() -> None:
    x, everything = images(16, 4), dict.fromkeys(AugmentProbs.model_fields, 1.0)
    pipe = AugmentPipe(AugmentProbs(**everything))
    one, two = RandomDraws(0), RandomDraws(0)
    assert torch.equal(pipe(x, 0.0, draws=one), x)
    assert not torch.allclose(pipe(x, 1.0, draws=two), x)
    assert one.get_state() == two.get_state()


@pytest.mark.parametrize("name", sorted(NONE))
def test_a_shut_gate_is_the_identity(name: str) -> None:
    x = images(24, 3)

    class Shut(RandomDraws):
        def uniform(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
            if not name.endswith(".gate"):
                return super().uniform(name, shape, like)
            return torch.full(shape, SHUT, dtype=like.dtype)

    assert torch.allclose(only(**{name: 1.0})(x, 0.9, draws=Shut(0)), x, atol=1e-10)


def gentle(side: int) -> Tensor:
    """Smooth, because the filter is asymmetric: flips and turns shift by a tenth of a pixel."""
    ticks = torch.arange(side, dtype=torch.float64)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([torch.sin(0.3 * x - 0.2 * y), torch.cos(0.2 * x * y / side), 0.05 * x])[
        None
    ]


def test_flip_reverses_columns() -> None:
    x = gentle(16)
    ours = only(xflip=1)(x, 1.0, draws=replay(0.6, OPEN))
    assert (ours - x.flip(3))[..., 3:-3, 3:-3].abs().max() < 0.05


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns(turns: int) -> None:
    x = gentle(17)
    ours = only(rotate90=1)(x, 1.0, draws=replay(turns / 4 + 0.1, OPEN))
    assert (ours - torch.rot90(x, turns, (2, 3)))[..., 3:-3, 3:-3].abs().max() < 0.05


def test_whole_pixel_shifts_reflect_at_the_border() -> None:
    """xint 0.125 of 16 pixels: u = (1, 0.25) is (+2, -1) pixels."""
    x = images(16)
    ours = only(xint=1)(x, 1.0, draws=replay([1.0, 0.25], OPEN))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    assert torch.allclose(ours, padded[:, :, 3:19, 0:16], atol=1e-10)


def smooth(x: Tensor, y: Tensor) -> Tensor:
    return torch.sin(0.35 * x + 0.2) * torch.cos(0.25 * y - 0.4)


@pytest.mark.parametrize(
    ("probs", "draws", "inverse"),
    [
        ({"scale": 1}, (1.0, OPEN), [[2**-0.2, 0, 0], [0, 2**-0.2, 0]]),
        ({"aniso": 1}, (-1.0, OPEN), [[2**0.2, 0, 0], [0, 2**-0.2, 0]]),
        ({"xfrac": 1}, ([0.5, -1.0], OPEN), [[1, 0, -2.0], [0, 1, 4.0]]),
        (
            {"rotate": 1},
            (0.5 + 0.1, OPEN, 0.3, SHUT),
            [
                [math.cos(0.2 * math.pi), -math.sin(0.2 * math.pi), 0],
                [math.sin(0.2 * math.pi), math.cos(0.2 * math.pi), 0],
            ],
        ),
    ],
)
def test_general_transforms_resample_a_smooth_image(
    probs: dict[str, float], draws: tuple[float | list[float], ...], inverse: list[list[float]]
) -> None:
    """The result at a pixel is the smooth function at the inverse map of that pixel."""
    ticks = torch.arange(32, dtype=torch.float64) - 15.5
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    ours = only(**probs)(smooth(x, y).expand(1, 3, 32, 32), 0.99, draws=replay(*draws))
    (a, b, c), (d, e, f) = inverse
    expected = smooth(a * x + b * y + c, d * x + e * y + f)
    assert (ours[0, 1] - expected)[8:-8, 8:-8].abs().max() < 0.02


def test_shrinking_does_not_alias() -> None:
    board = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).double() * 2 - 1
    ours = only(scale=1)(board.expand(1, 3, 32, 32), 1.0, draws=replay(-4.0, OPEN))
    assert ours[0, 0, 12:20, 12:20].abs().max() < 0.1


def colour_of(pipe: AugmentPipe, *draws: float, colour: tuple[float, float, float]) -> list[float]:
    x = torch.tensor(colour, dtype=torch.float64)[None, :, None, None].expand(1, 3, 4, 4)
    return pipe(x, 1.0, draws=replay(*draws))[0, :, 2, 1].tolist()


@pytest.mark.parametrize(
    ("probs", "draws", "expected"),
    [
        ({"brightness": 1}, (0.5, OPEN), (0.3, 0.6, -0.2)),
        ({"contrast": 1}, (2.0, OPEN), (0.4, 1.0, -0.6)),
        # I - 2 v v^T: less twice the mean (0.4/3)
        ({"lumaflip": 1}, (0.7, OPEN), (0.2 - 0.8 / 3, 0.5 - 0.8 / 3, -0.3 - 0.8 / 3)),
        # a third of a turn about (1, 1, 1) moves red to green to blue
        ({"hue": 1}, (0.5 + 1 / 3, OPEN), (-0.3, 0.2, 0.5)),
        # distances from grey (0.4/3) double
        ({"saturation": 1}, (1.0, OPEN), (0.8 / 3, 2.6 / 3, -2.2 / 3)),
    ],
)
def test_colours_by_hand(
    probs: dict[str, float], draws: tuple[float, ...], expected: tuple[float, float, float]
) -> None:
    scaled = tuple(e - 0.0 for e in expected)
    ours = colour_of(only(**probs), *draws, colour=(0.2, 0.5, -0.3))
    assert ours == pytest.approx(scaled, abs=1e-6)


def test_band_gains_have_unit_expected_power() -> None:
    """Amplify the lowest band of a constant by 2: gain 2 / sqrt((10 * 4 + 3) / 13)."""
    pipe = only(imgfilter=1)
    shut = [value for _ in range(3) for value in (1.0, 1.5)]
    draws = ReplayDraws([(str(i), torch.tensor([v])) for i, v in enumerate([1.0, OPEN, *shut])])
    ours = pipe(torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64), 1.0, draws=draws)
    gain = 2 / math.sqrt(43 / 13)
    assert torch.allclose(ours, torch.full_like(ours, 0.5 * gain**2), atol=1e-6)


def test_noise_and_cutout_by_hand() -> None:
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    white = torch.randn(1, 3, 4, 4)
    draws = ReplayDraws([("", torch.tensor([-2.0])), ("", torch.tensor([OPEN])), ("", white)])
    assert torch.allclose(only(noise=1)(x, 1.0, draws=draws), white.double() * 0.2)
    # the square of half the side about (x, y) = (0, 0.5) hides columns 0 and rows 1, 2
    ours = only(cutout=1)(x + 1, 1.0, draws=replay(OPEN, [0.0, 0.5]))
    hidden = torch.zeros(4, 4)
    hidden[1:3, 0:1] = 1
    assert torch.equal(ours[0, 0] == 0, hidden.bool())


def test_strengths_are_honoured() -> None:
    pipe = AugmentPipe(AugmentProbs(**{**NONE, "brightness": 1}), Strengths(brightness_std=0.5))
    assert colour_of(pipe, 1.0, OPEN, colour=(0, 0, 0)) == pytest.approx([0.5] * 3)


def test_first_and_second_derivatives() -> None:
    pipe = AugmentPipe(AugmentProbs(xflip=1, imgfilter=1, noise=1, cutout=1))
    x = images(5, 2).requires_grad_()

    def augmented(values: Tensor) -> Tensor:
        return pipe(values, 0.8, draws=RandomDraws(4))

    def bent(values: Tensor) -> Tensor:  # its second derivative is not zero
        return augmented(values).square()[:, :, ::2, ::3]

    assert torch.autograd.gradcheck(augmented, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(bent, x, fast_mode=True)


def test_two_runs_are_bit_equal() -> None:
    pipe, x = AugmentPipe(AugmentProbs()), images(32, 4).float()
    assert torch.equal(pipe(x, 0.7, draws=RandomDraws(1)), pipe(x, 0.7, draws=RandomDraws(1)))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"images must be \[B, 3, H, W\], got \[2, 4, 8, 8\]"):
        AugmentPipe(AugmentProbs())(torch.zeros(2, 4, 8, 8), 0.5, draws=RandomDraws(0))
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1.5"):
        AugmentPipe(AugmentProbs())(torch.zeros(2, 3, 8, 8), 1.5, draws=RandomDraws(0))


def _convolved(x: Tensor, taps: Tensor) -> Tensor:
    """x [..., N] correlated with taps along the last axis, without padding."""
    return x.unfold(-1, len(taps), 1) @ taps


def _zoomed(image: Tensor, zoom: float) -> Tensor:
    """One axis of the official resampling [N] at a scale `zoom`, step by step: reflect (as far as
    the corners reach and 6 pixels more, at most N - 1), double, read, halve."""
    n, taps = len(image), torch.tensor(SYM6, dtype=torch.float64)
    centre = (n - 1) / 2
    reach = min(max(math.ceil(centre / zoom + 6 - centre), 0), n - 1)
    wide = torch.nn.functional.pad(image[None], (reach, reach), mode="reflect")[0]
    fine = torch.zeros(2 * len(wide), dtype=torch.float64)
    fine[::2] = wide
    fine = _convolved(torch.nn.functional.pad(fine, (6, 5)), 2 * taps.flip(0))
    read = torch.zeros(2 * (n + 6), dtype=torch.float64)
    for i in range(len(read)):  # pixel p is row 2 p of a doubled axis, and so is their middle
        at = (i + 1 - len(read) / 2) / zoom + len(fine) / 2 - 1
        for k in (math.floor(at), math.floor(at) + 1):
            if 0 <= k < len(fine):
                read[i] += (1 - abs(at - k)) * fine[k]
    return _convolved(read, taps)[1:][::2][:n]


@pytest.mark.parametrize("zoom", [0.3, 0.5, 1.0, 1.6])
def test_margins_are_the_official_ones(zoom: float) -> None:
    """Images that shrink show what lies beyond the reflected margin: nothing."""
    line = images(20)[0, 0, 0]
    picture = (line[:, None] * line)[None, None].expand(1, 3, -1, -1)
    pipe = only(scale=1.0)
    ours = pipe(picture, 1.0, draws=replay(math.log2(zoom) / 0.2, OPEN))[0, 0]
    expected = _zoomed(line, zoom)
    torch.testing.assert_close(ours, expected[:, None] * expected, rtol=0, atol=1e-6)
