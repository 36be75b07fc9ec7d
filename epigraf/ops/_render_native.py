"""The fused renderer as torch ops: ``torch.ops.epigraf.render`` and its backward pass.

They take tensors and plain numbers only, so that torch.compile can look over their shapes and
autograd knows their gradient. `epigraf.ops.render` is their only caller. Legend: as there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._autograd import composable_grads

OUTPUTS = 4
RAYS = 10  # tensors of rays; behind them what is known of the scene
_SAVED = OUTPUTS + 1


@torch.library.custom_op("epigraf::render", mutates_args=())
def render_native(
    planes: Tensor,
    params: Sequence[Tensor],
    rays: Sequence[Tensor],
    seed: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    flags: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """features, depth, opacity, transmittance, and what the backward pass needs.

    planes: [B, 3, H, W, C], dense with channel stride 1, or in any strides where they are
    projected; params: weights, then biases; rays: in the core's order, then the words of an
    occupancy grid and projected planes, empty where there is none (a list with None in it has no
    structure for autograd); sizes: F, first and total (of a seed's rays), row_length, cells along
    an edge of the grid; numbers: slope, cube_scale, prior_strength, prior_slope, shift, gain,
    noise_std, early_stop_eps, background, half edge of the grid; flags: relu, finite_interval,
    last_back, project, whether there will be a backward pass, and the seeded of jitter, u,
    coarse_noise, final_noise.
    """
    outputs = _empty_outputs(planes, rays, sizes, flags)
    _native.core().render_forward(
        _native.launch(planes),
        _shape(planes, params, rays, seed, (sizes, numbers, flags)),
        planes.data_ptr(),
        _native.addresses(*params),
        _native.addresses(*map(present, rays[:RAYS])),
        _native.addresses(*map(present, rays[RAYS:])),
        _native.addresses(*outputs[:OUTPUTS], outputs[OUTPUTS] if flags[4] else None),
    )
    return outputs


def _empty_outputs(
    planes: Tensor, rays: Sequence[Tensor], sizes: Sequence[int], flags: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, count = rays[2].shape
    samples = rays[5].shape[0] + sizes[0]
    one = [planes.new_empty(batch, count) for _ in range(3)]
    saved = planes.new_empty((batch, count, _SAVED, samples) if flags[4] else (0,))
    return planes.new_empty(batch, count, 3), one[0], one[1], one[2], saved


@render_native.register_fake
def _(
    planes: Tensor,
    params: Sequence[Tensor],
    rays: Sequence[Tensor],
    seed: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    flags: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _empty_outputs(planes, rays, sizes, flags)


@torch.library.custom_op("epigraf::render_backward", mutates_args=())
def _render_backward(
    planes: Tensor,
    params: Sequence[Tensor],
    rays: Sequence[Tensor],
    seed: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    flags: Sequence[bool],
    saved: Tensor,
    grads: Sequence[Tensor | None],
    need_planes: bool,
) -> list[Tensor]:
    """Gradients of planes (empty where not needed), weights and biases."""
    grad_planes = torch.zeros_like(planes) if need_planes else planes.new_empty(0)
    grad_params = [torch.zeros_like(x) for x in params]
    dense = [None if g is None else g.contiguous() for g in grads]
    _native.core().render_backward(
        _native.launch(planes),
        _shape(planes, params, rays, seed, (sizes, numbers, flags)),
        planes.data_ptr(),
        _native.addresses(*params),
        _native.addresses(*map(present, rays[:RAYS])),
        _native.addresses(saved, *dense),
        grad_planes.data_ptr() if need_planes else 0,
        _native.addresses(*grad_params),
    )
    return [grad_planes, *grad_params]


@_render_backward.register_fake
def _(
    planes: Tensor,
    params: Sequence[Tensor],
    rays: Sequence[Tensor],
    seed: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    flags: Sequence[bool],
    saved: Tensor,
    grads: Sequence[Tensor | None],
    need_planes: bool,
) -> list[Tensor]:
    grad_planes = torch.zeros_like(planes) if need_planes else planes.new_empty(0)
    return [grad_planes, *(torch.zeros_like(x) for x in params)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    planes, params, rays, seed, *numbers = inputs
    ctx.save_for_backward(planes, output[OUTPUTS], seed, *params, *rays)
    ctx.count, ctx.numbers = len(params), numbers
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    planes, saved, seed, *rest = ctx.saved_tensors
    params, rays = rest[: ctx.count], rest[ctx.count :]
    need_planes, need_params = ctx.needs_input_grad[:2]
    nothing = [None] * len(rays), None, None, None, None  # rays, seed, sizes, numbers, flags
    if torch.is_grad_enabled():
        needed = (need_planes, *need_params)
        first, *others = _second_order((planes, *params), rays, seed, ctx.numbers, needed, grads)
        return first, others, *nothing
    first, *others = _render_backward(
        planes, params, rays, seed, *ctx.numbers, saved, list(grads[:OUTPUTS]), need_planes
    )
    wanted = [g if need else None for g, need in zip(others, need_params, strict=True)]
    return first if need_planes else None, wanted, *nothing


render_native.register_autograd(_backward, setup_context=_setup_context)


def _second_order(
    inputs: Sequence[Tensor],
    rays: Sequence[Tensor],
    seed: Tensor | None,
    numbers: Sequence[Any],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, by the composable ops."""
    from epigraf.ops.render import composed_again  # the two know each other

    warnings.warn(
        "render: create_graph=True takes the composable path in the backward pass; "
        "render.backend=ops saves the fused forward pass",
        stacklevel=2,
    )

    def composed(planes: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        return composed_again(planes.movedim(4, 2), params, rays, seed, *numbers)

    return composable_grads(composed, inputs, needed, grads[:OUTPUTS])


def present(tensor: Tensor) -> Tensor | None:
    """None for an empty tensor."""
    return tensor if tensor.numel() else None


def _strides(planes: Tensor) -> tuple[int, ...]:
    """Those of planes [B, 3, H, W, C], the first one the numbers of a batch element: torch gives a
    dimension of size one any stride it likes, and the core adds up gradients by elements."""
    first, *others = planes.stride()
    return (first if len(planes) != 1 else planes.numel(), *others)


def _shape(
    planes: Tensor,
    params: Sequence[Tensor],
    rays: Sequence[Tensor],
    seed: Tensor | None,
    call: tuple[Sequence[int], Sequence[float], Sequence[bool]],
) -> Any:
    """Sizes and numbers as the core takes them."""
    sizes, numbers, flags = call
    fine, first, total, row_length, cells = sizes
    batch, _, height, width, channels = planes.shape
    u = rays[8]
    return _native.core().RenderShape(
        rays=(batch, rays[2].shape[1], rays[5].numel(), fine),
        planes=(channels, height, width),
        strides=_strides(planes),
        widths=[channels, *(len(w) for w in params[: len(params) // 2])],
        numbers=tuple(numbers[:9]),
        flags=tuple(flags[:4]),
        u_stride=u.stride(1) if u.ndim == 3 else 0,
        row_length=row_length,
        seed=0 if seed is None else seed.data_ptr(),
        place=(first, total),
        seeded=tuple(flags[5:]),
        cells=cells,
        half_edge=numbers[9],
    )


def project_native(planes: Tensor, params: Sequence[Tensor]) -> Tensor:
    """[B, n] planes [B, 3, H, W, C] (any strides) behind the first layer; see render_projected_size
    in the core for n."""
    nothing = planes.new_empty(0)
    rays = [nothing, nothing, planes.new_empty(len(planes), 0), nothing, nothing, nothing, nothing]
    call = ([0] * 5, [0.0] * 9 + [1.0], [False] * 9)
    shape = _shape(planes, params, [*rays, nothing, nothing], None, call)
    size = _native.core().render_projected_size(shape, planes.dtype == torch.float64)
    projected = planes.new_empty(len(planes), size)
    _native.core().render_project(
        _native.launch(planes),
        shape,
        planes.data_ptr(),
        _native.addresses(*params),
        projected.data_ptr(),
    )
    return projected
