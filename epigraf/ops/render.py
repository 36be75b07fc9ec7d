"""The fused field renderer: from planes and rays to pixels in one pass.

Legend: B batch, R rays, S coarse and F fine samples per ray, N = S + F, C plane channels, H W plane
size. Source: EpiGRAF (arXiv:2206.10535, section 3.1); NeRF (arXiv:2003.08934, section 5). Formulas:
docs/math/render.md.

It goes ray by ray: stratified depths, look-up, decoder, weights, finer depths where the weights
are, look-up and decoder there, merge by depth, composite. In inference nothing per sample reaches
memory; in training the decoder's four outputs and the depth of each sample do, and the backward
pass computes the rest again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._render_checks import check_render
from epigraf.ops._render_native import OUTPUTS, present, project_native, render_native
from epigraf.ops._render_tensors import (
    COARSE_NOISE,
    FINAL_NOISE,
    IMPORTANCE,
    JITTER,
    FieldTensors,
    March,
    RaySeeds,
    RayTensors,
    RenderedRays,
)
from epigraf.ops.composite import Composite, composite
from epigraf.ops.decoder import decode
from epigraf.ops.importance import importance_t, merge_samples
from epigraf.ops.occupancy import OccupancyGrid, may_absorb
from epigraf.ops.triplane import channels_last, sample_triplane

__all__ = [
    "COARSE_NOISE", "FINAL_NOISE", "IMPORTANCE", "JITTER", "FieldTensors", "March", "RaySeeds",
    "RayTensors", "RenderedRays", "field_at", "project_planes", "projects", "render",
    "render_reference", "why_not",
]  # fmt: skip

MAX_LAYERS = 8
_SAMPLES_A_PIXEL = 3  # from where on projecting the planes pays


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
    if reason := _native.reason():
        return reason
    if planes.dtype not in _native.DTYPES:
        return f"the core has no code for {planes.dtype}"
    if planes.device.type not in ("cpu", "cuda"):
        return f"the fused renderer has no code for {planes.device.type}"
    if len(field.weights) > MAX_LAYERS:
        return f"the decoder has more than {MAX_LAYERS} layers"
    if field.weights[-1].shape[0] != OUTPUTS:
        return f"the decoder has {field.weights[-1].shape[0]} outputs, not {OUTPUTS}"
    if rays_need_grad:
        return "it has no gradient with respect to rays"
    return _why_not_on_gpu(field, samples) if planes.device.type == "cuda" else ""


def _why_not_on_gpu(field: FieldTensors, samples: tuple[int, int]) -> str:
    """Two layers, and a ray and the decoder in the shared memory of one block."""
    if not _native.core().cuda_compiled():
        return "epigraf._C was built without CUDA"
    if len(field.weights) != 2:
        return (
            f"on a GPU the decoder must have two layers, not {len(field.weights)} "
            "(the kernel never holds a whole hidden layer: docs/math/render.md)"
        )
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


def projects(field: FieldTensors) -> bool:
    """Whether `project_planes` can do anything for `render` on this field, here and now."""
    two = len(field.weights) == 2
    return two and field.planes.device.type == "cpu" and not why_not(field)


@torch.no_grad()
def project_planes(field: FieldTensors) -> FieldTensors:
    """The field with its planes behind the decoder's first layer beside it (render 8).

    Once for many renderings without gradients; needs H (rounded up) numbers a pixel. The field must
    not change afterwards. Unchanged where `projects` says that it serves nothing.
    """
    if not projects(field):
        return field
    params = [x.contiguous() for x in (*field.weights, *field.biases)]
    return replace(field, projected=project_native(field.planes.movedim(2, 4), params))


def render(
    field: FieldTensors, rays: RayTensors, march: March, grid: OccupancyGrid | None = None
) -> RenderedRays:
    """March rays through a tri-plane field (render 1-9).

    grid: the cells that may absorb light, or None. Where no gradient is wanted, samples in other
    cells are taken as empty and the field is not asked for them (occupancy 9); samples outside the
    grid are asked for, and the last of a ray that stands for all behind it.

    Differentiable in planes, weights and biases; under ``create_graph=True`` the gradient runs
    through the composable ops (which is said once). Goes through torch.compile as one op. Two runs
    with the same number of threads agree bit for bit; the forward pass does with any number. On a
    GPU the forward pass does, gradients are sums in any order. A value that is not finite reaches
    only the rays that read it.

    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype, RuntimeError where
    `why_not` gives a reason.
    """
    check_render(field, rays)
    moving = any(isinstance(x, Tensor) and x.requires_grad for x in rays.tensors())
    if reason := why_not(field, moving, (rays.even.numel(), rays.num_fine)):
        raise RuntimeError(f"render: {reason}")
    params = [x.contiguous() for x in (*field.weights, *field.biases)]
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (field.planes, *params))
    project = not recorded and (field.projected is not None or _projects(field, rays))
    grid = None if recorded else grid
    planes = field.planes.movedim(2, 4) if project else _dense(field.planes)
    seeds, fine = rays.seeds, rays.num_fine
    noise = seeds is not None and seeds.noise
    outputs = render_native(
        planes,
        params,
        [*_contiguous(rays), *_known(field, grid, rays.near)],
        None if seeds is None else seeds.seed,
        [
            fine, *((0, 0) if seeds is None else (seeds.first, seeds.total)), rays.row_length,
            0 if grid is None else grid.resolution,
        ],
        [
            field.slope, field.cube_scale, field.prior_strength, field.prior_slope,
            march.shift, march.gain, march.noise_std, 0.0 if recorded else march.early_stop_eps,
            march.background, 1.0 if grid is None else grid.half_edge,
        ],
        [
            march.relu, march.finite_interval, march.last_back, project, recorded,
            seeds is not None and seeds.jitter, seeds is not None and seeds.num_fine > 0,
            noise and fine > 0, noise,
        ],
    )  # fmt: skip
    return RenderedRays(*outputs[:OUTPUTS])


def _known(field: FieldTensors, grid: OccupancyGrid | None, like: Tensor) -> list[Tensor]:
    """Words of the grid and projected planes, empty for None."""
    words = like.new_empty(0, dtype=torch.int32) if grid is None else grid.words.contiguous()
    return [words, like.new_empty(0) if field.projected is None else field.projected]


def _dense(planes: Tensor) -> Tensor:
    """[B, 3, H, W, C] with channel stride 1 and no gaps, so that a gradient can have its layout."""
    pixels = channels_last(planes)
    extent = 1 + sum((n - 1) * step for n, step in zip(pixels.shape, pixels.stride(), strict=True))
    return pixels if extent == pixels.numel() else pixels.contiguous()


def _contiguous(rays: RayTensors) -> list[Tensor]:
    """Rays as the core takes them, empty for None; draws that are the same for all rays stay one
    row."""
    nothing = rays.near.new_empty(0)
    tensors = [nothing if x is None else x.contiguous() for x in rays.tensors()]
    if rays.u is not None and rays.u.stride() == (0, 0, 1):
        tensors[8] = rays.u
    return tensors


def composed_again(
    planes: Tensor,
    params: Sequence[Tensor],
    rays: Sequence[Tensor],
    seed: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    flags: Sequence[bool],
) -> RenderedRays:
    """`render_reference` of the arguments of the native op, planes [B, 3, C, H, W]."""
    layers = len(params) // 2
    slope, cube_scale, strength, prior_slope = numbers[:4]
    weights, biases = params[:layers], params[layers:]
    field = FieldTensors(planes, weights, biases, slope, cube_scale, strength, prior_slope)
    march = March(
        *numbers[4:7], relu=flags[0], finite_interval=flags[1], last_back=flags[2],
        background=numbers[8],
    )  # fmt: skip
    seeds = None
    if seed is not None:
        seeds = RaySeeds(seed, sizes[2], sizes[1], flags[5], sizes[0] if flags[6] else 0, flags[8])
    origins, directions, near, far, last_delta, even = rays[:6]
    jitter, coarse_noise, u, final_noise = map(present, rays[6:10])
    given = RayTensors(
        origins, directions, near, far, last_delta, even,
        jitter, u, coarse_noise, final_noise, seeds,
    )  # fmt: skip
    return render_reference(field, given, march)


def render_reference(
    field: FieldTensors, rays: RayTensors, march: March, grid: OccupancyGrid | None = None
) -> RenderedRays:
    """`render` by the composable ops: any device, differentiable any number of times in everything
    but the places of the fine samples. With a grid it asks the field everywhere, and empties."""
    rays = rays.drawn()
    even = rays.even
    if rays.jitter is not None:  # (render 1)
        middle = 0.5 * (even[:-1] + even[1:])
        lower, upper = torch.cat([even[:1], middle]), torch.cat([middle, even[-1:]])
        even = torch.addcmul(lower, upper - lower, rays.jitter)
    t = rays.near[..., None] + (rays.far - rays.near)[..., None] * even
    last = _last_counts(rays, march)
    colors, raw = _field_along(field, rays, t, (grid, last))
    if rays.u is not None and rays.num_fine > 0:
        with torch.no_grad():
            coarse = _integrate((colors, raw, t), rays, march, rays.coarse_noise)
            t_fine = importance_t(t, coarse.weights, rays.u)
        fine = _field_along(field, rays, t_fine, (grid, False))
        colors, raw, t = merge_samples((*fine, t_fine), (colors, raw, t))
    final = (march.last_back, march.early_stop_eps)
    result = _integrate((colors, raw, t), rays, march, rays.final_noise, *final)
    features = result.features
    if march.background != 0:  # (render 10)
        features = features + (march.background * (1 - result.opacity))[..., None]
    return RenderedRays(features, result.depth, result.opacity, result.transmittance)


def _last_counts(rays: RayTensors, march: March) -> Tensor | bool:
    """Whether the last sample of a ray counts wherever it lies, [B, R] (occupancy 9)."""
    if march.last_back or march.finite_interval:
        return march.last_back
    return rays.last_delta > 0


def _field_along(
    field: FieldTensors,
    rays: RayTensors,
    t: Tensor,
    known: tuple[OccupancyGrid | None, Tensor | bool],
) -> tuple[Tensor, Tensor]:
    """Colours [B, R, S, 3] and raw densities [B, R, S] at depths t [B, R, S]; with a grid nothing
    where it says so, but for the last sample of rays where that counts."""
    points = torch.addcmul(rays.origins[:, :, None], rays.directions[:, :, None], t[..., None])
    colors, raw = field_at(field, points.flatten(1, 2))
    colors, raw = colors.view(*t.shape, 3), raw.view(t.shape)
    grid, last = known
    if grid is not None:
        kept = may_absorb(grid, points)
        kept[..., -1] |= last
        raw = raw.masked_fill(~kept, -torch.inf)
    return colors, raw


def _integrate(
    samples: tuple[Tensor, Tensor, Tensor],
    rays: RayTensors,
    march: March,
    noise: Tensor | None,
    last_back: bool = False,
    early_stop_eps: float = 0.0,
) -> Composite:
    """Composites colours, raw densities and depths (render 2, 3)."""
    colors, raw, t = samples
    raw = raw if noise is None else raw + march.noise_std * noise
    sigma = (F.relu if march.relu else F.softplus)(raw + march.shift) * march.gain
    last = (rays.far - t[..., -1]).clamp_min(0) if march.finite_interval else rays.last_delta
    return composite(colors, sigma, t, last, last_back=last_back, early_stop_eps=early_stop_eps)


def _projects(field: FieldTensors, rays: RayTensors) -> bool:
    """Whether it pays to apply the decoder's first layer to the planes instead of to the samples
    (render 8): where there are several samples to a pixel."""
    batch, count = rays.near.shape
    samples = batch * count * (rays.even.numel() + rays.num_fine)
    pixels = 3 * batch * field.planes.shape[3] * field.planes.shape[4]
    on_cpu = field.planes.device.type == "cpu"
    return on_cpu and len(field.weights) == 2 and samples > _SAMPLES_A_PIXEL * pixels
