"""The endless shuffled order."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epigraf.data.sampler import InfiniteSampler


@given(
    n=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
    before=st.integers(0, 500),
    after=st.integers(1, 100),
)
@settings(max_examples=50, deadline=None)
def test_a_restored_sampler_continues_exactly(n: int, seed: int, before: int, after: int) -> None:
    sampler = InfiniteSampler(n, seed)
    sampler.next_batch(before)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = sampler.next_batch(after)
    other = InfiniteSampler(n, seed=1)
    other.next_batch(3)
    other.load_state_dict(state)
    assert other.next_batch(after) == expected
    assert other.position == before + after


def test_first_pass_is_a_permutation_and_later_ones_differ() -> None:
    sampler = InfiniteSampler(100, seed=3, window=0.0)
    first = sampler.next_batch(100)
    assert sorted(first) == list(range(100))
    assert sampler.next_batch(100) == first  # no window: the same order again
    sampler = InfiniteSampler(100, seed=3)
    assert sampler.next_batch(100) != sampler.next_batch(100)


def test_every_item_comes_about_equally_often() -> None:
    counts = Counter(InfiniteSampler(50, seed=0).next_batch(50 * 40))
    assert set(counts) == set(range(50))
    assert max(counts.values()) <= 60
    assert min(counts.values()) >= 20


def test_iteration_and_batches_agree() -> None:
    iterator = iter(InfiniteSampler(10, seed=5))
    assert [next(iterator) for _ in range(25)] == InfiniteSampler(10, seed=5).next_batch(25)


def test_foreign_states_and_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="state is of 5 items, the data set has 6"):
        InfiniteSampler(6).load_state_dict(InfiniteSampler(5).state_dict())
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        InfiniteSampler(0)
    with pytest.raises(ValueError, match=r"window must be in \[0, 1\]"):
        InfiniteSampler(3, window=2)
