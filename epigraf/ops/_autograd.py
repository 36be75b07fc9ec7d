"""What native ops share of autograd: the composable path of second derivatives under
``create_graph=True``, and which gradients a backward pass needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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


def wanted(ctx: Any, present: Sequence[bool]) -> list[bool]:
    """For each of the first inputs, whether this backward pass leads on to it.

    present: whether the input was a tensor. ``ctx.needs_input_grad`` only says which inputs require
    gradients at all: R1, which asks for the gradient of the image alone, would pay for that of
    every weight as well.
    """
    nodes = iter(ctx.next_functions)  # of tensors only
    leads_on = [is_tensor and _will_run(next(nodes)[0]) for is_tensor in present]
    return [n and on for n, on in zip(ctx.needs_input_grad, leads_on, strict=False)]


def _will_run(node: Any) -> bool:
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except (AttributeError, RuntimeError):  # a torch without it; a leaf that autograd.grad asks for
        return True
