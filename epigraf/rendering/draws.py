"""Every random number of the project comes from a `Draws`, so that it can be passed in.

A forward pass asks for its numbers by name and in a fixed order: the camera noise and dropout of
the mapping network, the spatial noise of each convolution (shallow to deep), the stratified
jitter, the coarse density noise, the importance `u`, the final density noise and the background
jitter. `RandomDraws` draws them, the four along rays as one seed; `ReplayDraws` hands out recorded
ones: the same list of numbers gives the same picture, bit for bit.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, ...]


@runtime_checkable
class Draws(Protocol):
    """A source of random numbers; `name` says what a number is for (it is only for messages)."""

    def uniform(self, name: str, shape: Shape, like: Tensor) -> Tensor:
        """U(0, 1) of `shape` with the dtype and device of `like`."""
        ...

    def normal(self, name: str, shape: Shape, like: Tensor) -> Tensor:
        """N(0, 1) of `shape` with the dtype and device of `like`."""
        ...

    def ray_seed(self) -> Tensor | None:
        """A seed for all random numbers along rays, int64 [1] where numbers are drawn, which are
        then computed where they are used; None where they are asked for one by one."""
        ...

    def beta(self, name: str, alpha: float, beta: float, shape: Shape) -> Tensor:
        """Beta(alpha, beta) of `shape`, float64 on the CPU."""
        ...

    def random(self, name: str, shape: Shape) -> Tensor:
        """U(0, 1) of `shape`, float64 on the CPU (scales of patches, coins)."""
        ...

    def choice(self, name: str, options: Sequence[float], shape: Shape) -> Tensor:
        """Entries of `options`, uniformly with replacement, float64 on the CPU."""
        ...

    def keep(self, name: str, p_drop: float, shape: Shape, like: Tensor) -> Tensor:
        """A 0/1 mask that is 0 with probability `p_drop` (the caller scales by 1/(1-p))."""
        ...

    def permutation(self, name: str, n: int) -> Tensor:
        """A random permutation of 0..n-1, int64 on the CPU."""
        ...

    def integers(self, name: str, high: int, shape: Shape) -> Tensor:
        """Uniform integers 0..high-1 of `shape`, int64 on the CPU."""
        ...


class RandomDraws:
    """Fresh random numbers from two generators of its own (torch and NumPy).

    Args:
        seed: any non-negative integer; None takes one from the operating system.
        device: where tensors are drawn ("cpu" draws are the same on every machine).
    """

    def __init__(self, seed: int | None = None, device: torch.device | str = "cpu") -> None:
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self.seed = seed
        self._torch = torch.Generator(device=device)
        self._torch.manual_seed(seed)

    @cached_property
    def _numpy(self) -> np.random.Generator:
        """Made where it is needed: it costs more than all else about a rendering's numbers."""
        return np.random.Generator(np.random.PCG64(self.seed))

    def uniform(self, name: str, shape: Shape, like: Tensor) -> Tensor:
        x = torch.rand(shape, generator=self._torch, dtype=like.dtype, device=self._torch.device)
        return x.to(like.device)

    def normal(self, name: str, shape: Shape, like: Tensor) -> Tensor:
        x = torch.randn(shape, generator=self._torch, dtype=like.dtype, device=self._torch.device)
        return x.to(like.device)

    def ray_seed(self) -> Tensor | None:
        device = self._torch.device
        return torch.randint(2**63 - 1, (1,), generator=self._torch, device=device)

    def beta(self, name: str, alpha: float, beta: float, shape: Shape) -> Tensor:
        return torch.from_numpy(np.asarray(self._numpy.beta(alpha, beta, size=shape)))

    def random(self, name: str, shape: Shape) -> Tensor:
        return torch.from_numpy(np.asarray(self._numpy.random(size=shape)))

    def choice(self, name: str, options: Sequence[float], shape: Shape) -> Tensor:
        values = np.asarray(options, dtype=np.float64)
        return torch.from_numpy(values[self._numpy.integers(len(values), size=shape)])

    def keep(self, name: str, p_drop: float, shape: Shape, like: Tensor) -> Tensor:
        return (self.uniform(name, shape, like) >= p_drop).to(like.dtype)

    def permutation(self, name: str, n: int) -> Tensor:
        return torch.from_numpy(self._numpy.permutation(n))

    def integers(self, name: str, high: int, shape: Shape) -> Tensor:
        return torch.from_numpy(np.asarray(self._numpy.integers(high, size=shape)))

    def get_state(self) -> dict[str, Any]:
        """The state of both generators as JSON-ready values."""
        torch_state = self._torch.get_state().cpu().numpy().tobytes()
        return {
            "seed": self.seed,
            "torch": base64.b64encode(torch_state).decode("ascii"),
            "numpy": self._numpy.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `get_state` was taken."""
        raw = np.frombuffer(base64.b64decode(state["torch"]), dtype=np.uint8)
        self.seed = int(state["seed"])
        self._torch.set_state(torch.from_numpy(raw.copy()))
        self._numpy.bit_generator.state = state["numpy"]


class ReplayDraws:
    """Hands out recorded numbers in the order in which they were recorded.

    Args:
        recorded: (name, tensor) pairs in call order. A tensor serves a request when it has as many
            elements; it is reshaped to the requested shape.

    Raises:
        ValueError: when a request has no recorded number left or one of another size.
    """

    def __init__(self, recorded: Iterable[tuple[str, Tensor]]) -> None:
        self._recorded = list(recorded)
        self._next = 0

    @property
    def remaining(self) -> int:
        """How many recorded tensors have not been asked for yet."""
        return len(self._recorded) - self._next

    def finish(self) -> None:
        """Complain about recorded tensors that nobody asked for."""
        if self.remaining:
            name = self._recorded[self._next][0]
            raise ValueError(f"replay: {self.remaining} recorded draws left over, next is {name}")

    def _pop(self, name: str, shape: Shape) -> Tensor:
        if self._next >= len(self._recorded):
            raise ValueError(f"replay: nothing recorded for {name!r} of shape {list(shape)}")
        recorded_name, value = self._recorded[self._next]
        self._next += 1
        if value.numel() != math.prod(shape):
            raise ValueError(
                f"replay: {name!r} needs shape {list(shape)}, "
                f"the recorded {recorded_name} has {list(value.shape)}"
            )
        return value.reshape(shape)

    def uniform(self, name: str, shape: Shape, like: Tensor) -> Tensor:
        return self._pop(name, shape).to(like)

    def normal(self, name: str, shape: Shape, like: Tensor) -> Tensor:
        return self._pop(name, shape).to(like)

    def ray_seed(self) -> Tensor | None:
        return None

    def beta(self, name: str, alpha: float, beta: float, shape: Shape) -> Tensor:
        return self._pop(name, shape).double().cpu()

    def random(self, name: str, shape: Shape) -> Tensor:
        return self._pop(name, shape).double().cpu()

    def choice(self, name: str, options: Sequence[float], shape: Shape) -> Tensor:
        return self._pop(name, shape).double().cpu()

    def keep(self, name: str, p_drop: float, shape: Shape, like: Tensor) -> Tensor:
        return self._pop(name, shape).to(like)

    def permutation(self, name: str, n: int) -> Tensor:
        return self._pop(name, (n,)).long().cpu()

    def integers(self, name: str, high: int, shape: Shape) -> Tensor:
        return self._pop(name, shape).long().cpu()
