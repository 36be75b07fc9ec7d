"""From seeds to pictures: truncated styles, views of an object, latent interpolation.

N objects, V views of one object, H W pixels. Everything here is deterministic: a seed means the
same object on every machine, spatial noise is the constant one and rays are not jittered. Memory
does not grow with the number of views: one object and one view are worked on at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from epigraf.config import RenderSampler
from epigraf.models.backbone import NoiseMode
from epigraf.models.decoder import TriPlaneField
from epigraf.models.generator import Generator, Image, View
from epigraf.models.occupancy import sampler_for, scene_field
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.seeds import labels_from_classes, labels_from_seeds, latents_from_seeds
from epigraf.rendering.trajectories import CameraPath

CLASS_MEAN_SAMPLES = 256
"""How many z average to the mean style of a class (the official number)."""


CPU_RAYS, GPU_RAYS = 2048, 65536
"""Rays of one pass; on a CPU their samples then stay in the cache (a quarter faster than 8192)."""


@dataclass(frozen=True)
class Truncation:
    """w = mean + psi (w - mean) for the first `cutoff` styles (None: all of them).

    The mean is `w_avg`, or with labels the mean style of the object's own class (spec section 15),
    so that psi 0 is the mean object of its class and not of everything.
    """

    psi: float = 1.0
    cutoff: int | None = None


def labels_for(generator: Generator, seeds: Sequence[int], class_index: int | None) -> Tensor:
    """One-hot labels [N, c_dim]: class `class_index` for all, or one drawn by each seed.

    Raises:
        ValueError: the model has no classes or not so many.
    """
    if class_index is None:
        return labels_from_seeds(seeds, generator.c_dim)
    return labels_from_classes([class_index] * len(seeds), generator.c_dim)


@torch.no_grad()
def styles_from_seeds(
    generator: Generator,
    seeds: Sequence[int],
    truncation: Truncation = Truncation(),
    class_index: int | None = None,
) -> Tensor:
    """Styles ws [N, num_ws, w_dim] of the objects that the seeds name.

    A model with generator pose conditioning is asked for its mean camera pose, so that an object
    does not change while it is turned.

    Raises:
        ValueError: a class that the model does not have.
    """
    device = next(generator.parameters()).device
    z = latents_from_seeds(seeds, generator.z_dim).to(device)
    c = labels_for(generator, seeds, class_index).to(device)
    if generator.c_dim == 0:
        return generator.mapping(
            z, c, truncation_psi=truncation.psi, truncation_cutoff=truncation.cutoff
        )
    return _towards_class_mean(generator, z, c, truncation)


def _towards_class_mean(
    generator: Generator, z: Tensor, c: Tensor, truncation: Truncation
) -> Tensor:
    ws = generator.mapping(z, c)
    if truncation.psi == 1.0:
        return ws
    means = torch.stack([_class_mean(generator, int(i)) for i in c.argmax(dim=1)])
    end = truncation.cutoff if truncation.cutoff is not None else ws.shape[1]
    head = means[:, :end] + truncation.psi * (ws[:, :end] - means[:, :end])
    return torch.cat([head, ws[:, end:]], dim=1)


def _class_mean(generator: Generator, index: int) -> Tensor:
    """Mean style [num_ws, w_dim] of 256 objects of one class."""
    device = next(generator.parameters()).device
    z = latents_from_seeds(range(CLASS_MEAN_SAMPLES), generator.z_dim).to(device)
    c = labels_from_classes([index] * CLASS_MEAN_SAMPLES, generator.c_dim).to(device)
    return generator.mapping(z, c).mean(dim=0)


def interpolate_styles(ws: Tensor, steps: int) -> Tensor:
    """A loop through styles ws [N, num_ws, w_dim]: `steps` frames from each to the next and from
    the last back to the first, so [N * steps, num_ws, w_dim]. Linear in w, eased in time
    (smoothstep), so that the motion rests a little at every object.
    """
    if steps < 1:
        raise ValueError(f"interpolate_styles: steps must be at least 1, got {steps}")
    x = torch.arange(steps, dtype=ws.dtype, device=ws.device) / steps
    x = (x * x * (3 - 2 * x))[None, :, None, None]
    mixed = ws[:, None] * (1 - x) + ws.roll(-1, dims=0)[:, None] * x
    return mixed.flatten(0, 1)


@torch.no_grad()
def render_views(
    generator: Generator,
    ws: Tensor,
    cameras: CameraPath,
    resolution: int | None = None,
    sampler: RenderSampler | None = None,
) -> Iterator[Image]:
    """Render one picture a camera, each [1, 3, H, W] with its depth and opacity.

    Args:
        generator: in eval mode.
        ws: [1, num_ws, w_dim], one object seen from all cameras (its planes are computed once), or
            [V, num_ws, w_dim], a style for each camera.
        cameras: V cameras.
        resolution: side in pixels; None is the resolution of the dataset.
        sampler: None is the configuration's, or dense. Where an occupancy grid would cost more
            than it saves there is none (`sampler_for`).

    Raises:
        ValueError: neither one style nor one for each camera.
    """
    if ws.shape[0] not in (1, len(cameras)):
        raise ValueError(
            f"render_views: ws must hold 1 or {len(cameras)} styles, got {ws.shape[0]}"
        )
    draws, rays = RandomDraws(0), CPU_RAYS if ws.device.type == "cpu" else GPU_RAYS
    side = resolution or generator.img_resolution
    seen = side**2 * (len(cameras) if ws.shape[0] == 1 else 1)
    sampler = sampler_for(generator, sampler or generator.cfg.render.sampler, seen)
    planes: Tensor | None = None
    field: TriPlaneField | None = None
    for i in range(len(cameras)):
        style = ws[min(i, ws.shape[0] - 1)][None]
        if planes is None or ws.shape[0] > 1:
            planes = generator.planes(style, NoiseMode.CONST, draws=draws)
            field = scene_field(generator, planes, sampler)
        angles = cameras.angles[i : i + 1].to(device=ws.device, dtype=ws.dtype)
        fov = float(cameras.fov[i])
        view = View(fov=fov, resolution=resolution, deterministic=True, max_rays=rays, scene=field)
        yield generator.synthesis(
            style, angles, view, noise_mode=NoiseMode.CONST, draws=draws, planes=planes
        )


@torch.no_grad()
def object_field(generator: Generator, ws: Tensor) -> TriPlaneField:
    """The radiance field of one object, styles ws [1, num_ws, w_dim], with the constant noise."""
    planes = generator.planes(ws, NoiseMode.CONST)
    return generator.field(planes)


def to_bytes(image: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3]: x 127.5 + 128, cut to 0..255 and
    rounded towards zero, the conversion that the metrics use. Values beyond [-1, 1] are cut.
    """
    x = (image.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return x.permute(0, 2, 3, 1).contiguous().cpu()
