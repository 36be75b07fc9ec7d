"""Counter-based random numbers: published answers, statistics, and native against plain torch."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.ops import available, philox_normal, philox_uniform, use_reference
from epigraf.ops.random import philox_rounds

ONES = 0xFFFFFFFF
# kat_vectors of Random123 (Salmon et al.), philox4x32 with 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
N = 200_000


def like(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> torch.Tensor:
    return torch.empty(0, dtype=dtype, device=device)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_published_answers(
    counter: tuple[int, ...], key: int, answer: tuple[int, ...], device: torch.device
) -> None:
    words = philox_rounds([torch.tensor([x], device=device) for x in counter], key)
    assert tuple(word.item() for word in words) == answer


def test_published_answer_through_the_op(backend: str, device: torch.device) -> None:
    """Block 0 of stream 0 of seed 0 is the first of the published answers."""
    numbers = philox_uniform(0, 0, (4,), like(torch.float64, device))
    assert [int(x * 2**24) for x in numbers] == [word >> 8 for word in KNOWN_ANSWERS[0][2]]


@pytest.mark.parametrize("shape", [(0,), (1,), (31,), (33,), (), (2, 0, 3), (3, 5, 7), (4099,)])
@pytest.mark.parametrize("offset", [0, 1, 6, 2**34 - 5, 2**62])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_is_the_reference(
    native: None, device: torch.device, dtype: torch.dtype, offset: int, shape: tuple[int, ...]
) -> None:
    seed, stream = 2**64 - 12345, 2**32 - 7
    ours = [f(seed, stream, shape, like(dtype, device), offset) for f in BOTH]
    with use_reference():
        theirs = [f(seed, stream, shape, like(dtype, device), offset) for f in BOTH]
    assert ours[0].shape == shape
    assert torch.equal(ours[0], theirs[0])
    # sin and cos of a rounded angle up to 2 pi: an error of 2 pi eps, times a radius below 5.8
    bound = 40 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=bound)


BOTH = (philox_uniform, philox_normal)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**32 - 1),
    start=st.integers(0, 2**40),
    cut=st.integers(0, 70),
)
def test_a_cut_row_is_the_row(seed: int, stream: int, start: int, cut: int) -> None:
    """Numbers depend on their index alone, however the calls are cut."""
    for function in BOTH:
        whole = function(seed, stream, (70,), like(), start)
        parts = [
            function(seed, stream, (cut,), like(), start),
            function(seed, stream, (70 - cut,), like(), start + cut),
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_float_and_double_are_the_same_numbers(backend: str, device: torch.device) -> None:
    single = philox_uniform(3, 1, (1000,), like(torch.float32, device))
    double = philox_uniform(3, 1, (1000,), like(torch.float64, device))
    assert torch.equal(single.double(), double)
    single = philox_normal(3, 1, (1000,), like(torch.float32, device))
    double = philox_normal(3, 1, (1000,), like(torch.float64, device))
    torch.testing.assert_close(single.double(), double, rtol=0, atol=5e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bit_equal_for_any_number_of_threads(native: None, threads: int) -> None:
    first = [f(9, 2, (100_003,), like(), 5) for f in BOTH]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        second = [f(9, 2, (100_003,), like(), 5) for f in BOTH]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_moments_of_uniform_numbers(backend: str) -> None:
    """Each moment within 5 standard errors: a good generator fails once in 1.7 million times."""
    x = philox_uniform(1, 0, (N,), like(torch.float64))
    assert 0 <= x.min() < 1e-3
    assert 0.999 < x.max() < 1
    for k in (1, 2, 3, 4):
        error = math.sqrt((1 / (2 * k + 1) - 1 / (k + 1) ** 2) / N)
        assert abs(x.pow(k).mean() - 1 / (k + 1)) < 5 * error
    counts = torch.histc(x, 100, 0, 1)
    chi_squared = ((counts - N / 100).square() / (N / 100)).sum()
    assert abs(chi_squared - 99) < 5 * math.sqrt(2 * 99)


def test_moments_of_normal_numbers(backend: str) -> None:
    """E x^k = 0, 1, 0, 3 with the variances E x^2k - (E x^k)^2 = 1, 2, 15, 96."""
    x = philox_normal(1, 0, (N,), like(torch.float64))
    for k, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(x.pow(k).mean() - mean) < 5 * math.sqrt(variance / N)
    assert x.abs().max() < 5.77
    inside = (x.abs() < 1).double().mean()
    assert abs(inside - math.erf(math.sqrt(0.5))) < 5 * math.sqrt(0.217 / N)


@pytest.mark.parametrize("function", BOTH)
def test_streams_seeds_and_neighbours_are_independent(function, backend: str) -> None:
    """Correlations within 5 / sqrt(N), their standard error being 1 / sqrt(N)."""
    rows = [
        function(7, 0, (N,), like(torch.float64)),
        function(7, 0, (N,), like(torch.float64), N),
        function(7, 1, (N,), like(torch.float64)),
        function(7, 2**31, (N,), like(torch.float64)),
        function(8, 0, (N,), like(torch.float64)),
        function(7 + 2**32, 0, (N,), like(torch.float64)),
    ]
    rows += [rows[0].roll(lag) for lag in (1, 2, 3, 4)]
    correlation = torch.corrcoef(torch.stack(rows)) - torch.eye(len(rows)).double()
    assert correlation.abs().max() < 5 / math.sqrt(N)


def test_a_pair_of_normal_numbers_is_independent_in_its_squares() -> None:
    """Sine and cosine share a radius; a wrong one shows in the squares, not in the product."""
    squares = philox_normal(5, 0, (N, 2), like(torch.float64)).square()
    assert torch.corrcoef(squares.T)[0, 1].abs() < 5 / math.sqrt(N)


def test_like_gives_dtype_and_device_only(backend: str, device: torch.device) -> None:
    strided = torch.full((6, 4), math.nan, dtype=torch.float64, device=device)[::2, ::3]
    numbers = philox_uniform(1, 2, (5, 3), strided.requires_grad_())
    assert numbers.dtype == torch.float64
    assert numbers.device == strided.device
    assert numbers.is_contiguous()
    assert not numbers.requires_grad
    assert numbers.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, (3,), like()), "seed must be in [0, 2^64), got -1"),
        ((2**64, 0, (3,), like()), f"seed must be in [0, 2^64), got {2**64}"),
        ((0, 2**32, (3,), like()), f"stream must be in [0, 2^32), got {2**32}"),
        ((0, 0, (3,), like(), -4), "offset must be in [0, 2^63), got -4"),
        ((0, 0, (3, -1), like()), "shape must not be negative, got [3, -1]"),
        (
            (0, 0, (5,), like(), 2**63 - 4),
            f"the numbers must end below 2^63, got offset {2**63 - 4} and shape [5]",
        ),
    ],
)
def test_wrong_values(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'philox_uniform: {message}')}$"):
        philox_uniform(*arguments)
    with pytest.raises(ValueError, match=f"^{re.escape(f'philox_normal: {message}')}$"):
        philox_normal(*arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_wrong_dtypes(dtype: torch.dtype) -> None:
    message = f"^philox_uniform: like must be float32 or float64, got {dtype}$"
    with pytest.raises(TypeError, match=message):
        philox_uniform(0, 0, (3,), like(dtype))


def test_the_core_is_used(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epigraf.ops.random._philox_reference", None)
    assert available()
    assert philox_uniform(0, 0, (3,), like()).shape == (3,)
