"""Gradients of weights that are used several times, each weight's in one product.

R1 uses every weight of the discriminator twice, forwards and in the derivative, and autograd adds
the two gradients up: it makes both, the size of the weight each, and reads and writes them again.
Takes part: what is made of `epigraf.ops.bilinear`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class _Uses:
    """Of one weight: what its gradient is made of, and how."""

    weight: Tensor
    total: Callable[..., Tensor]
    tensors: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def add(self, *tensors: Tensor) -> None:
        self.tensors += [t.detach() for t in tensors]
        self.versions += [t._version for t in tensors]

    def finish(self) -> None:
        """Their sum, in the memory order of the weight, as optimisers take it, into its `grad`."""
        if [t._version for t in self.tensors] != self.versions:
            raise RuntimeError(
                "summed_weight_gradients: a tensor that a gradient is made of was changed in place "
                "before the end of the block; leave it right after backward()"
            )
        weight, total = self.weight, self.total(*self.tensors)
        self.tensors.clear()
        if weight.grad is not None:
            weight.grad += total
        elif total.stride() == weight.stride():
            weight.grad = total
        else:
            weight.grad = torch.empty_like(weight).copy_(total)


_COLLECTED: ContextVar[dict[Hashable, _Uses] | None] = ContextVar("collected", default=None)


@contextmanager
def summed_weight_gradients() -> Iterator[None]:
    """Within it, ``backward()`` keeps what the gradients of weights are made of; at its end they
    are found, each weight's in one product, and put into (or added to) ``weight.grad``.

    For one call of ``backward()`` and nothing else. Takes leaves without hooks and gradients that
    are not differentiated again, in the thread of the caller (on a CPU); all others go their usual
    way. Not for ``torch.autograd.grad`` of weights, which would miss them. After an error what was
    kept is forgotten. Raises RuntimeError where something kept was changed in place.
    """
    uses: dict[Hashable, _Uses] = {}
    token = _COLLECTED.set(uses)
    try:
        yield
    finally:
        _COLLECTED.reset(token)
    with torch.no_grad():
        for of in uses.values():
            of.finish()


def collects(
    ctx: Any, how: Hashable, total: Callable[..., Tensor], left: Tensor, right: Tensor
) -> bool:
    """Whether the gradient of a use is found later, by total(left, right, left of another use ...).

    ctx: of the autograd function, whose second tensor is the weight. how: uses of a weight are
    summed up where it and the shapes are equal.
    """
    collected = _COLLECTED.get()
    if collected is None or torch.is_grad_enabled():
        return False
    # Not the saved tensor, which may be a copy (checkpoints, saved_tensors_hooks).
    weight = getattr(ctx.next_functions[1][0], "variable", None)
    if weight is None or weight._backward_hooks or weight._post_accumulate_grad_hooks:
        return False
    if not (weight.dtype == left.dtype == right.dtype):
        return False
    key = id(weight), how, left.shape, right.shape
    collected.setdefault(key, _Uses(weight, total)).add(left, right)
    return True
