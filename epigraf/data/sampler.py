"""The endless order in which a training set is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np


class SamplerState(TypedDict):
    """JSON-able position of an `InfiniteSampler`; arrays as hexadecimal little-endian uint32."""

    position: int
    order: str
    keys: str
    key_position: int


class InfiniteSampler:
    """Shuffled indices without end (spec §12, the "infinite window sampler").

    One random permutation is walked over and over; after each visit the item just read is swapped
    with one read at most `window * n` steps before, so later passes differ while every item still
    comes about once a pass. The order is that of the official sampler for the same seed.

    Args:
        n: number of items, >= 1.
        seed: of `numpy.random.RandomState`.
        window: share of the permutation that swaps reach back, 0 (fixed order) to 1.
    """

    def __init__(self, n: int, seed: int = 0, window: float = 0.5) -> None:
        if n < 1:
            raise ValueError(f"sampler: n must be at least 1, got {n}")
        if not 0 <= window <= 1:
            raise ValueError(f"sampler: window must be in [0, 1], got {window}")
        self._random = np.random.RandomState(seed)
        self._order = np.arange(n)
        self._random.shuffle(self._order)
        self._reach = int(np.rint(n * window))
        self.position = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self.next_index()

    def next_index(self) -> int:
        """The next index in [0, n)."""
        here = self.position % len(self._order)
        index = int(self._order[here])
        if self._reach >= 2:
            there = (here - self._random.randint(self._reach)) % len(self._order)
            self._order[[here, there]] = self._order[[there, here]]
        self.position += 1
        return index

    def next_batch(self, batch_size: int) -> list[int]:
        """The next `batch_size` indices."""
        return [self.next_index() for _ in range(batch_size)]

    def state_dict(self) -> SamplerState:
        """Everything needed to go on bit-exactly; plain JSON types."""
        _, keys, key_position, _, _ = self._random.get_state(legacy=True)
        return SamplerState(
            position=self.position,
            order=self._order.astype("<u4").tobytes().hex(),
            keys=np.asarray(keys).astype("<u4").tobytes().hex(),
            key_position=int(key_position),
        )

    def load_state_dict(self, state: SamplerState) -> None:
        """Continue where `state` was taken.

        Raises:
            ValueError: the state belongs to a set of another size.
        """
        order = np.frombuffer(bytes.fromhex(state["order"]), dtype="<u4").astype(np.int64)
        if len(order) != len(self._order):
            raise ValueError(
                f"sampler: state is of {len(order)} items, the data set has {len(self._order)}"
            )
        keys = np.frombuffer(bytes.fromhex(state["keys"]), dtype="<u4").astype(np.uint32)
        self._order = order
        self._random.set_state(("MT19937", keys, state["key_position"], 0, 0.0))
        self.position = state["position"]
