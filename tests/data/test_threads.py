"""A pool does not finish what nobody waits for any more."""

from __future__ import annotations

import time

import pytest

from epigraf.data.threads import worker_threads


def test_an_interruption_drops_what_has_not_begun() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.02)

    with pytest.raises(KeyboardInterrupt), worker_threads(2) as pool:  # noqa: PT012
        for number in range(1000):
            pool.submit(work, number)
        raise KeyboardInterrupt
    assert len(begun) < 100


def test_results_come_in_order() -> None:
    with worker_threads(2) as pool:
        assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))
