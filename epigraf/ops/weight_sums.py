"""Gradients of weights that are used several times, each weight's in one product.

R1 uses every weight of the discriminator twice, forwards and in the derivative, and autograd adds
the two gradients up: it makes both, the size of the weight each, and reads and writes them again.
Legend: as the ops that take part, `epigraf.models.convolution` and `epigraf.ops.linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class _Uses:
    """Of one weight: what its gradient is made of, and how."""

    weight: Tensor
    total: Callable[..., Tensor]
    tensors: list[Tensor] = field(default_factory=list)


_COLLECTED: ContextVar[dict[Hashable, _Uses] | None] = ContextVar("collected", default=None)


@contextmanager
def summed_weight_gradients() -> Iterator[None]:
    """Within it, ``backward()`` keeps what the gradients of weights are made of; at its end they
    are found, each weight's in one product, and put into (or added to) ``weight.grad``.

    For leaves and gradients that are not differentiated again, in the thread of the caller (on a
    CPU); all others go their usual way. Not for ``torch.autograd.grad`` of weights, which would
    miss them. After an error there are none.
    """
    uses: dict[Hashable, _Uses] = {}
    token = _COLLECTED.set(uses)
    try:
        yield
    finally:
        _COLLECTED.reset(token)
    with torch.no_grad():
        for of in uses.values():
            total = of.total(*of.tensors)
            of.tensors.clear()
            of.weight.grad = total if of.weight.grad is None else of.weight.grad.add_(total)


def collects(
    weight: Tensor, how: Hashable, total: Callable[..., Tensor], left: Tensor, right: Tensor
) -> bool:
    """Whether the gradient of a use is found later, by total(left, right, left of another use ...).

    how: uses of a weight are summed up where it and the shapes are equal.
    """
    collected = _COLLECTED.get()
    if (
        collected is None
        or torch.is_grad_enabled()
        or not (weight.is_leaf and weight.requires_grad)
    ):
        return False
    if not (weight.dtype == left.dtype == right.dtype):
        return False
    key = id(weight), how, left.shape, right.shape
    collected.setdefault(key, _Uses(weight, total)).tensors.extend((left.detach(), right.detach()))
    return True
