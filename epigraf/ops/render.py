"""The fused field renderer: from planes and rays to pixels in one pass.

Legend: B batch, R rays, S coarse and F fine samples per ray, N = S + F, C plane channels, H W plane
size. Source: EpiGRAF (arXiv:2206.10535, section 3.1); NeRF (arXiv:2003.08934, section 5). Formulas:
docs/math/render.md.

It goes ray by ray: stratified depths, look-up, decoder, weights, finer depths where the weights
are, look-up and decoder there, merge by depth, composite. In inference nothing per sample reaches
memory; in training the decoder's four outputs and the depth of each sample do, and the backward
pass computes the rest again. The composable path (`epigraf.rendering.renderer`) is its reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._autograd import composable_grads
from epigraf.ops._checks import check_floating, check_like, check_shape
from epigraf.ops.decoder import decode
from epigraf.ops.triplane import channels_last, sample_triplane, zeros_strided

MAX_LAYERS = 8
_OUTPUTS = 4
_SAVED = _OUTPUTS + 1
_SAMPLES_A_PIXEL = 3


@dataclass(frozen=True)
class FieldTensors:
    """A tri-plane field, taken apart.

    planes: [B, 3, C, H, W], as for `sample_triplane`. weights: one [O, I] per layer of the decoder,
    the first with I = C, the last with O = 4 (colours, raw density); biases: [O] each; slope: of
    the leaky ReLU between layers. Points are divided by cube_scale to find their place on the
    planes. prior_strength - prior_slope |x| joins the raw density at x (0, 0: nothing).
    """

    planes: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    slope: float
    cube_scale: float
    prior_strength: float = 0.0
    prior_slope: float = 0.0


@dataclass(frozen=True)
class RayTensors:
    """Rays and their random numbers.

    origins, directions (unit length): [B, R, 3]; near, far: [B, R], what is sampled; last_delta:
    [B, R], length of the interval behind the last sample (not read where the march is finite).
    even: [S], from 0 to 1; jitter: [B, R, S] in [0, 1) or None (samples at `even`). u: [B, R, F] in
    [0, 1], draws of the fine samples. coarse_noise [B, R, S] and final_noise [B, R, N] or None:
    added to raw densities, times noise_std; the second in the order of depth. row_length: of the
    picture whose rows the rays are, or 0; only the speed depends on it.
    """

    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    last_delta: Tensor
    even: Tensor
    jitter: Tensor | None = None
    u: Tensor | None = None
    coarse_noise: Tensor | None = None
    final_noise: Tensor | None = None
    row_length: int = 0

    @property
    def num_fine(self) -> int:
        """F."""
        return 0 if self.u is None else self.u.shape[-1]


@dataclass(frozen=True)
class March:
    """How densities become weights: sigma = gain * clamp(raw + noise_std * noise + shift), clamp a
    softplus or a ReLU; the last interval ends at `far` if finite; last_back adds 1 - sum w to the
    last weight of the final pass."""

    shift: float = 0.0
    gain: float = 1.0
    noise_std: float = 0.0
    relu: bool = False
    finite_interval: bool = False
    last_back: bool = False


class RenderedRays(NamedTuple):
    """features [B, R, 3], and [B, R] each: depth (weighted sum of t), opacity (before last_back),
    transmittance (in front of the last sample)."""

    features: Tensor
    depth: Tensor
    opacity: Tensor
    transmittance: Tensor


Composed = Callable[[FieldTensors], RenderedRays]


def field_at(field: FieldTensors, points: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [B, P, 3] and raw densities [B, P] at points [B, P, 3]: look-up, decoder, prior."""
    features = sample_triplane(field.planes, points / field.cube_scale)
    colors, raw = decode(features, field.weights, field.biases, field.slope)
    if field.prior_strength != 0:
        raw = raw + (field.prior_strength - points.norm(dim=-1) * field.prior_slope)
    return colors, raw


def why_not(
    field: FieldTensors, rays_need_grad: bool = False, samples: tuple[int, int] = (0, 0)
) -> str:
    """Why `render` cannot run on these tensors here and now; empty where it can.

    samples: S and F; a GPU has room for so many only.
    """
    planes = field.planes
    if not _native.available():
        return _native.reason()
    if _native.needs_reference(planes):
        return _native.reason() or f"the core has no code for {planes.dtype}"
    if planes.device.type not in ("cpu", "cuda"):
        return f"the fused renderer has no code for {planes.device.type}"
    if len(field.weights) > MAX_LAYERS:
        return f"the decoder has more than {MAX_LAYERS} layers"
    if field.weights[-1].shape[0] != _OUTPUTS:
        return f"the decoder has {field.weights[-1].shape[0]} outputs, not {_OUTPUTS}"
    if rays_need_grad:
        return "it has no gradient with respect to rays"
    return _why_not_on_gpu(field, samples) if planes.device.type == "cuda" else ""


def _why_not_on_gpu(field: FieldTensors, samples: tuple[int, int]) -> str:
    """Two layers, and a ray and the decoder in the shared memory of one block."""
    if not _native.core().cuda_compiled():
        return "epigraf._C was built without CUDA"
    if len(field.weights) != 2:
        return f"on a GPU the decoder must have two layers, not {len(field.weights)}"
    hidden, channels = field.weights[0].shape
    double = field.planes.dtype == torch.float64
    needed = _native.core().render_shared_bytes(channels, hidden, *samples, double)
    room = torch.cuda.get_device_properties(field.planes.device).shared_memory_per_block_optin
    if needed > room:
        coarse, fine = samples
        return (
            f"{channels} channels, {hidden} hidden units and {coarse} + {fine} samples need "
            f"{needed} bytes of shared memory, the GPU has {room}"
        )
    return ""


def render(field: FieldTensors, rays: RayTensors, march: March, composed: Composed) -> RenderedRays:
    """March rays through a tri-plane field (render 1-7).

    composed: the same rendering by composable ops, of a field with the same decoder sizes; it gives
    second derivatives (under ``create_graph=True``, which is said once).

    Differentiable in planes, weights and biases. Two runs with the same number of threads agree bit
    for bit; the forward pass does with any number. On a GPU the forward pass does, gradients are
    sums in any order. A value that is not finite reaches only the rays
    that read it.

    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype, RuntimeError where
    `why_not` gives a reason.
    """
    _check(field, rays)
    need_grad = any(isinstance(x, Tensor) and x.requires_grad for x in vars(rays).values())
    if reason := why_not(field, need_grad, (rays.even.numel(), rays.num_fine)):
        raise RuntimeError(f"render: {reason}")
    params = [x.contiguous() for x in (*field.weights, *field.biases)]
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (field.planes, *params))
    project = not recorded and projects(field, rays)
    planes = field.planes.movedim(2, 4) if project else channels_last(field.planes)
    call = _Call(field, _contiguous(rays), march, composed, project)
    return RenderedRays(*_Render.apply(call, planes, *params))


class _Call(NamedTuple):
    """What an application of `_Render` knows beside its differentiable inputs."""

    field: FieldTensors
    rays: RayTensors
    march: March
    composed: Composed
    project: bool


def projects(field: FieldTensors, rays: RayTensors) -> bool:
    """Whether it pays to apply the decoder's first layer to the planes instead of to the samples
    (render 8): where there are several samples to a pixel."""
    batch, count = rays.near.shape
    samples = batch * count * (rays.even.numel() + rays.num_fine)
    pixels = 3 * batch * field.planes.shape[3] * field.planes.shape[4]
    on_cpu = field.planes.device.type == "cpu"
    return on_cpu and len(field.weights) == 2 and samples > _SAMPLES_A_PIXEL * pixels


def _contiguous(rays: RayTensors) -> RayTensors:
    """Rays as the core takes them; draws that are the same for all rays stay one row."""
    tensors: dict[str, Any] = {
        k: x.contiguous() if isinstance(x, Tensor) else x for k, x in vars(rays).items()
    }
    if rays.u is not None and rays.u.stride() == (0, 0, 1):
        tensors["u"] = rays.u
    return RayTensors(**tensors)


class _Render(torch.autograd.Function):
    """The native op on planes [B, 3, H, W, C] with channel stride 1 and contiguous parameters."""

    @staticmethod
    def forward(ctx: Any, call: _Call, planes: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        rays = call.rays
        batch, count = rays.near.shape
        outputs = [planes.new_empty(batch, count, 3)]
        outputs += [planes.new_empty(batch, count) for _ in range(3)]
        saved = None
        if any(ctx.needs_input_grad):
            saved = planes.new_empty(batch, count, _SAVED, rays.even.numel() + rays.num_fine)
        _native.core().render_forward(
            _native.launch(planes),
            _shape(call, planes, params),
            planes.data_ptr(),
            _native.addresses(*params),
            _native.addresses(*_ray_tensors(rays)),
            _native.addresses(*outputs, saved),
        )
        if saved is not None:
            ctx.save_for_backward(planes, saved, *params)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        planes, saved, *params = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_second_order(ctx.call, (planes, *params), needed, grad_outputs)
        grad_planes = zeros_strided(planes.shape, planes.stride(), planes) if needed[0] else None
        if grad_planes is not None and grad_planes.stride() != planes.stride():
            planes = planes.contiguous()  # both are read and written with the same strides
        grad_params = [torch.zeros_like(x) for x in params]
        grads = [None if g is None else g.contiguous() for g in grad_outputs]
        _native.core().render_backward(
            _native.launch(planes),
            _shape(ctx.call, planes, params),
            planes.data_ptr(),
            _native.addresses(*params),
            _native.addresses(*_ray_tensors(ctx.call.rays)),
            _native.addresses(saved, *grads),
            _native.addresses(grad_planes)[0],
            _native.addresses(*grad_params),
        )
        wanted = [g if need else None for g, need in zip(grad_params, needed[1:], strict=True)]
        return None, grad_planes, *wanted


def _second_order(
    call: _Call,
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    grad_outputs: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, by the composable path."""
    warnings.warn(
        "render: create_graph=True takes the composable path in the backward pass; "
        "render.backend=ops saves the fused forward pass",
        stacklevel=2,
    )

    def composed(planes: Tensor, *params: Tensor) -> RenderedRays:
        layers = len(params) // 2
        planes = planes.movedim(4, 2)
        return call.composed(
            replace(call.field, planes=planes, weights=params[:layers], biases=params[layers:])
        )

    return composable_grads(composed, inputs, needed, grad_outputs)


def _ray_tensors(rays: RayTensors) -> tuple[Tensor | None, ...]:
    """In the core's order."""
    return (
        rays.origins, rays.directions, rays.near, rays.far, rays.last_delta, rays.even,
        rays.jitter, rays.coarse_noise, rays.u, rays.final_noise,
    )  # fmt: skip


def _shape(call: _Call, planes: Tensor, params: Sequence[Tensor]) -> Any:
    """Sizes and numbers as the core takes them."""
    field, rays, march = call.field, call.rays, call.march
    batch, _, height, width, channels = planes.shape
    return _native.core().RenderShape(
        rays=(batch, rays.near.shape[1], rays.even.numel(), rays.num_fine),
        planes=(channels, height, width),
        strides=planes.stride(),
        widths=[channels, *(len(w) for w in params[: len(params) // 2])],
        numbers=(
            field.slope, field.cube_scale, field.prior_strength, field.prior_slope,
            march.shift, march.gain, march.noise_std,
        ),
        flags=(march.relu, march.finite_interval, march.last_back, call.project),
        u_stride=0 if rays.u is None else rays.u.stride(1),
        row_length=rays.row_length,
        seed=0,
        place=(0, 0),
        seeded=(False, False, False, False),
    )  # fmt: skip


def _check(field: FieldTensors, rays: RayTensors) -> None:
    op, planes = "render", field.planes
    check_floating(op, "planes", planes)
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"{op}: planes must have shape [B, 3, C, H, W], got {list(planes.shape)}")
    if 0 in planes.shape[3:]:
        raise ValueError(f"{op}: planes must have at least one pixel, got {list(planes.shape)}")
    if rays.near.ndim != 2 or len(rays.near) != len(planes):
        raise ValueError(
            f"{op}: near must have shape [B, R] with B = {len(planes)}, got {list(rays.near.shape)}"
        )
    if rays.even.ndim != 1 or rays.even.numel() < 2:
        raise ValueError(f"{op}: even must have at least 2 elements, got {list(rays.even.shape)}")
    _check_rays(op, rays, planes)
    _check_decoder(op, field)


def _check_rays(op: str, rays: RayTensors, planes: Tensor) -> None:
    batch, count = rays.near.shape
    coarse = rays.even.numel()
    if rays.u is not None and rays.u.ndim != 3:
        raise ValueError(f"{op}: u must have shape [B, R, F], got {list(rays.u.shape)}")
    fine = rays.num_fine
    if fine > 0 and coarse < 3:
        raise ValueError(f"{op}: fine samples need at least 3 coarse ones, got {coarse}")
    sizes = {
        "origins": ("[B, R, 3]", (batch, count, 3)),
        "directions": ("[B, R, 3]", (batch, count, 3)),
        "near": ("[B, R]", (batch, count)),
        "far": ("[B, R]", (batch, count)),
        "last_delta": ("[B, R]", (batch, count)),
        "even": ("[S]", (coarse,)),
        "jitter": ("[B, R, S]", (batch, count, coarse)),
        "u": ("[B, R, F]", (batch, count, fine)),
        "coarse_noise": ("[B, R, S]", (batch, count, coarse)),
        "final_noise": ("[B, R, N]", (batch, count, coarse + fine)),
    }
    for name, (legend, size) in sizes.items():
        tensor = getattr(rays, name)
        if tensor is not None:
            check_shape(op, name, tensor, legend, size)
            check_like(op, name, tensor, "planes", planes)


def _check_decoder(op: str, field: FieldTensors) -> None:
    if not field.weights or len(field.weights) != len(field.biases):
        raise ValueError(
            f"{op}: weights and biases must be as many and at least one, "
            f"got {len(field.weights)} and {len(field.biases)}"
        )
    width = field.planes.shape[2]
    for i, (weight, bias) in enumerate(zip(field.weights, field.biases, strict=True)):
        if weight.ndim != 2:
            raise ValueError(f"{op}: weights[{i}] must be a matrix, got {list(weight.shape)}")
        check_shape(op, f"weights[{i}]", weight, "[O, I]", (weight.shape[0], width))
        check_shape(op, f"biases[{i}]", bias, "[O]", weight.shape[:1])
        for name, tensor in ((f"weights[{i}]", weight), (f"biases[{i}]", bias)):
            check_like(op, name, tensor, "planes", field.planes)
        width = weight.shape[0]
