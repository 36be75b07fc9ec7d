"""The second derivative of native ops: the composable path under ``create_graph=True``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def composable_grads(
    reference: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    grad_outputs: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Differentiable gradients of an op's `inputs`, through its plain-torch reference.

    A native backward pass is a kernel without a derivative of its own. Where autograd records it
    (``create_graph=True``) the op's `backward` calls this instead: the reference is evaluated again
    on the saved inputs, and torch differentiates it as often as it is asked to.

    inputs: the tensors `reference` takes, still attached to the graph; needed: which of them want
    a gradient; grad_outputs: one per output of `reference`, None for zero.
    Returns one gradient per input, None where it is not needed.
    """
    with torch.enable_grad():
        outputs = reference(*inputs)
    pairs = [(o, g) for o, g in zip(outputs, grad_outputs, strict=True) if g is not None]
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    grads = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(grads) if need else None for need in needed]
