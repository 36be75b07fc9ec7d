"""How much is rendered at a time, and what happens when memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch

RAYS = 262_144
_SIGNS = ("out of memory", "not enough memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the allocator's, Python's, torch's or CUDA's."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)
    )


class RayBudget:
    """The rays that a tile may have; `halve` after each failed allocation.

    Args:
        rays: to begin with.
        say: receives a line whenever the budget shrinks.
    """

    def __init__(
        self,
        rays: int = RAYS,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.rays, self._say = rays, say

    def halve(self, error: BaseException) -> None:
        """Go on with half as many rays.

        Raises:
            BaseException: `error` itself, where it has another cause or a tile is one ray already.
        """
        if not is_out_of_memory(error) or self.rays <= 1:
            raise error
        self.rays //= 2
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if self._say is not None:
            self._say(f"out of memory: going on with tiles of {self.rays} rays")
