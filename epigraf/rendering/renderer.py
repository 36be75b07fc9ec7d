"""Volume rendering of any field: stratified samples, importance samples, compositing.

A field is a callable that maps points to colours and raw densities; the renderer knows nothing else
about it. Legend: B batch, R rays, S samples per ray, P points, F fine samples per ray.
t is the distance along a unit ray in world units. Source: NeRF (Mildenhall et al. 2020), eq. 3 and
section 5.2; pi-GAN and EpiGRAF for the integrator's conventions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from epigraf.config import ClampMode, Compositor, LastInterval, RenderBackend, RenderSampler
from epigraf.ops import use_reference
from epigraf.ops.composite import Composite, composite
from epigraf.ops.importance import importance_t, merge_samples
from epigraf.ops.nerfacc import composite_nerfacc
from epigraf.ops.render import FieldTensors, March, RayTensors, RenderedRays, field_at, why_not
from epigraf.ops.render import render as render_fused
from epigraf.rendering import occupancy
from epigraf.rendering.draws import Draws
from epigraf.rendering.noise import RayNoise, draw_noise
from epigraf.rendering.options import RenderOptions, activate_density
from epigraf.rendering.packed import march_packed
from epigraf.rendering.quadrature import integrate_midpoints
from epigraf.rendering.rays import Rays, RaySegment, ray_chunks, ray_segment, stratified_t
from epigraf.rendering.trace import Trace, trace_final, trace_importance

INFINITE_DELTA = 1e10
CLOSED_DELTA = 1e-3  # last interval in front of a background model
_FUSED_RAYS = 262_144


class FieldSample(NamedTuple):
    """Colours [B, P, 3] (linear, unbounded) and raw densities [B, P] (before shift and clamp)."""

    colors: Tensor
    densities: Tensor


class Field(Protocol):
    """Maps points_world [B, P, 3] and unit ray directions [B, R, 3] to a FieldSample.

    P is a multiple of R and the samples of a ray are neighbours (P = R S, or one direction a
    point).
    """

    def __call__(self, points_world: Tensor, directions: Tensor) -> FieldSample: ...


@runtime_checkable
class TriPlanes(Protocol):
    """A field that the fused renderer may be able to read."""

    def tensors(self) -> FieldTensors | None:
        """The field taken apart; None where it is more than planes and a decoder."""
        ...


class TensorField:
    """The field that FieldTensors are."""

    def __init__(self, tensors: FieldTensors) -> None:
        self._tensors = tensors

    def tensors(self) -> FieldTensors:
        """What it was made of."""
        return self._tensors

    def __call__(self, points_world: Tensor, directions: Tensor) -> FieldSample:
        """Colours and raw densities at points_world [B, P, 3]; the directions are not read."""
        return FieldSample(*field_at(self._tensors, points_world))


class Rendered(NamedTuple):
    """What rays saw: features [B, R, 3], depth, opacity and final transmittance, each [B, R].

    depth is the weighted sum of t, not normalised by the opacity; opacity is the sum of the weights
    before ``last_back``; transmittance is what a background shows through: the one in front of the
    last sample (official rule), or behind it where the last interval is FINITE or with midpoints.
    """

    features: Tensor
    depth: Tensor
    opacity: Tensor
    transmittance: Tensor


def render_rays(
    field: Field, rays: Rays, options: RenderOptions, *, draws: Draws, trace: Trace | None = None
) -> Rendered:
    """March rays through a field.

    Rays that miss the object's ball contribute nothing (opacity 0, transmittance 1). ``trace``, if
    given, receives the intermediate tensors (and switches chunking off).
    """
    noise = draw_noise(rays.directions, options, draws)
    fused = trace is None and not fused_reason(field, rays, options)
    count, chunk = rays.directions.shape[1], options.max_rays
    if fused and chunk is not None:  # it needs no memory, but Ctrl-C must get a word in
        chunk = max(chunk, _FUSED_RAYS)
    march = _march_fused if fused else _march
    if options.backend is RenderBackend.REFERENCE:
        march = _march_reference
    if trace is not None or chunk is None or count <= chunk:
        return march(field, rays, options, noise, trace)
    parts = [
        march(field, Rays(rays.origins[:, s], rays.directions[:, s]), options, noise.rays(s))
        for s in ray_chunks(count, max(chunk, 1))
    ]
    return Rendered(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))


def _march_reference(
    field: Field,
    rays: Rays,
    options: RenderOptions,
    noise: RayNoise,
    trace: Trace | None = None,
) -> Rendered:
    """Plain torch, but for the random numbers: the core draws the same ones, far sooner."""
    noise = noise.drawn(rays.directions[..., 0], options)
    with use_reference():
        return _march(field, rays, options, noise, trace)


def _march(
    field: Field,
    rays: Rays,
    options: RenderOptions,
    noise: RayNoise,
    trace: Trace | None = None,
) -> Rendered:
    rendered = _rendered(_march_samples(field, rays, options, noise, trace), options)
    if trace is not None:
        trace["final_rendered_feats"] = rendered.features
    return rendered


def _march_samples(
    field: Field, rays: Rays, options: RenderOptions, noise: RayNoise, trace: Trace | None
) -> Composite:
    segment = ray_segment(rays, options.near, options.far, options.object_radius)
    grid = occupancy.grid_of(field)
    if options.sampler is RenderSampler.NERFACC and grid is not None and trace is None:
        return march_packed(
            field, grid, rays, segment, options.num_coarse + options.num_fine,
            lambda raw: activate_density(raw, options),
            occupancy.early_stop(field, options.early_stop_eps),
        )  # fmt: skip
    noise = noise.drawn(segment.near, options)
    t = stratified_t(segment, options.num_coarse, noise.jitter)
    last = occupancy.last_counts(segment, options)
    colors, raw = _evaluate(field, rays, t, trace, ("coarse", last))
    if options.num_fine > 0:
        with torch.no_grad():
            coarse = integrate_samples(colors, raw, t, segment, options, noise.coarse_density)
            t_fine = importance_t(t, coarse.weights, _present(noise.importance_u))
        trace_importance(trace, t, coarse.weights, t_fine)
        fine = _evaluate(field, rays, t_fine, trace, ("fine", False))
        colors, raw, t = merge_samples((*fine, t_fine), (colors, raw, t))
    result = integrate_samples(
        colors,
        raw,
        t,
        segment,
        options,
        noise.final_density,
        last_back=options.last_back,
        early_stop_eps=occupancy.early_stop(field, options.early_stop_eps),
    )
    trace_final(trace, colors, raw, t, result)
    return result


def fused_reason(field: Field, rays: Rays, options: RenderOptions) -> str:
    """Why the fused renderer does not run on this field here and now; empty where it does."""
    if options.backend is not RenderBackend.FUSED:
        return f"render.backend={options.backend.value}"
    if options.compositor is not Compositor.NATIVE:
        return f"render.compositor={options.compositor.value}"
    if options.sampler is RenderSampler.NERFACC:
        return f"render.sampler={options.sampler.value}"
    tensors = field.tensors() if isinstance(field, TriPlanes) else None
    if tensors is None:
        return (
            "the field is more than planes and a native decoder (posenc, view conditioning, "
            "softplus, sigmoid, decoder.engine)"
        )
    if options.midpoints:
        return "model.generator.quadrature=midpoints"
    moving = rays.origins.requires_grad or rays.directions.requires_grad
    return why_not(tensors, moving, (options.num_coarse, options.num_fine))


def _march_fused(
    field: Field,
    rays: Rays,
    options: RenderOptions,
    noise: RayNoise,
    _: Trace | None = None,
) -> Rendered:
    tensors = field.tensors() if isinstance(field, TriPlanes) else None
    if tensors is None:
        raise TypeError("render_rays: the fused renderer cannot read this field")
    segment = ray_segment(rays, options.near, options.far, options.object_radius)
    like = segment.near
    finite = options.last_interval is LastInterval.FINITE  # then the last interval is not read
    last = 0.0 if finite else _last_delta(segment.far[..., None], segment, options)
    ray_tensors = RayTensors(
        origins=rays.origins,
        directions=rays.directions,
        near=segment.near,
        far=segment.far,
        last_delta=last if isinstance(last, Tensor) else like.new_full(like.shape, last),
        even=torch.linspace(0, 1, options.num_coarse, dtype=like.dtype, device=like.device),
        jitter=noise.jitter,
        u=noise.importance_u,
        coarse_noise=noise.coarse_density,
        final_noise=noise.final_density,
        seeds=noise.seeds,
        row_length=options.row_length,
    )
    march = _march_of(options, occupancy.early_stop(field, options.early_stop_eps))
    result = render_fused(tensors, ray_tensors, march, occupancy.grid_of(field))
    return Rendered(result.features, result.depth, result.opacity, _behind(result, options))


def _march_of(options: RenderOptions, early_stop_eps: float) -> March:
    return March(
        shift=options.density_shift,
        gain=options.density_gain,
        noise_std=options.density_noise_std,
        relu=options.clamp_mode is ClampMode.RELU,
        finite_interval=options.last_interval is LastInterval.FINITE,
        last_back=options.last_back,
        early_stop_eps=early_stop_eps,
        background=_flat_background(options),
    )


def _flat_background(options: RenderOptions) -> float:
    """What every channel shows behind what the rays have not absorbed: white, black, or nothing."""
    if options.white_back or options.black_back:
        return 1.0 if options.white_back else -1.0
    return 0.0


def _rendered(result: Composite, options: RenderOptions) -> Rendered:
    """White or black behind what the rays have not absorbed, and what a background shows
    through."""
    features, level = result.features, _flat_background(options)
    if level != 0:
        features = features + (level * (1 - result.opacity))[..., None]
    return Rendered(features, result.depth, result.opacity, _behind(result, options))


def _behind(result: Composite | RenderedRays, options: RenderOptions) -> Tensor:
    finite = options.midpoints or options.last_interval is LastInterval.FINITE
    return 1 - result.opacity if finite else result.transmittance


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("render_rays: importance sampling needs its random numbers")
    return value


def _evaluate(
    field: Field, rays: Rays, t: Tensor, trace: Trace | None, name_last: tuple[str, Tensor | bool]
) -> tuple[Tensor, Tensor]:
    """Colours [B, R, S, 3] and raw densities [B, R, S] at depths t [B, R, S]; name_last: of the
    pass, in the trace, and whether its last samples count in empty cells too."""
    batch, count, samples = t.shape
    points = torch.addcmul(rays.origins[:, :, None], rays.directions[:, :, None], t[..., None])
    grid, (name, last) = occupancy.grid_of(field), name_last
    if grid is not None and trace is None:
        kept = occupancy.kept_samples(grid, points, last)
        return occupancy.ask_where_kept(field, points, rays.directions, kept)
    sample = field(points.view(batch, count * samples, 3), rays.directions)
    if trace is not None:
        trace[f"{name}_points"] = points
        trace[f"{name}_z"] = t[..., None]
        trace[f"{name}_mlp_out"] = torch.cat([sample.colors, sample.densities[..., None]], dim=-1)
    colors = sample.colors.view(*t.shape, sample.colors.shape[-1])
    return colors, sample.densities.view(t.shape)


def integrate_samples(
    colors: Tensor,
    raw: Tensor,
    t: Tensor,
    segment: RaySegment,
    options: RenderOptions,
    noise: Tensor | None,
    *,
    last_back: bool = False,
    early_stop_eps: float = 0.0,
) -> Composite:
    """Composite colours [B, R, S, 3] and raw densities [B, R, S] at increasing t [B, R, S].

    ``noise`` [B, R, S] (or None) is scaled by the options' density_noise_std; the segment says
    where the last interval ends. ``last_back`` and ``early_stop_eps`` of the options are for the
    final pass only, so they are passed in.
    """
    if options.midpoints:
        if noise is not None:
            raw = raw + options.density_noise_std * noise
        return integrate_midpoints(
            colors, raw, t, lambda raw: activate_density(raw, options),
            last_back=last_back, early_stop_eps=early_stop_eps,
        )  # fmt: skip
    sigma = activate_density(raw, options, noise)
    last = _last_delta(t, segment, options)
    run = composite_nerfacc if options.compositor is Compositor.NERFACC else composite
    return run(colors, sigma, t, last, last_back=last_back, early_stop_eps=early_stop_eps)


def _last_delta(t: Tensor, segment: RaySegment, options: RenderOptions) -> float | Tensor:
    """Length of the interval behind the last sample; nothing behind a ray that misses the
    object."""
    if options.last_interval is LastInterval.FINITE:
        return (segment.far - t[..., -1]).clamp_min(0)
    closed = options.last_interval is LastInterval.AUTO and options.has_background
    delta = CLOSED_DELTA if closed else INFINITE_DELTA
    return delta if segment.hit is None else torch.where(segment.hit, t.new_full((), delta), 0)
