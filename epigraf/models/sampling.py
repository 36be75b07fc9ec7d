"""From seeds to styles: truncation, interpolation in w and in z, mixing; fields of objects.

N objects, L styles of an object (num_ws). Everything here is deterministic: a seed means the same
object on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from epigraf.models.backbone import NoiseMode
from epigraf.models.decoder import TriPlaneField
from epigraf.models.generator import Generator
from epigraf.rendering.seeds import labels_from_classes, labels_from_seeds, latents_from_seeds

CLASS_MEAN_SAMPLES = 256
"""How many z average to the mean style of a class (the official number)."""


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
    z = latents_from_seeds(seeds, generator.z_dim)
    return styles_from_latents(generator, z, labels_for(generator, seeds, class_index), truncation)


@torch.no_grad()
def styles_from_latents(
    generator: Generator, z: Tensor, c: Tensor, truncation: Truncation = Truncation()
) -> Tensor:
    """Styles ws [N, num_ws, w_dim] of latents z [N, z_dim] and labels c [N, c_dim] (blends of
    classes too: the mean that truncation pulls towards is then the same blend)."""
    device = next(generator.parameters()).device
    z, c = z.to(device), c.to(device)
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
    used = [int(i) for i in c.any(dim=0).nonzero()[:, 0]]
    means = torch.stack([_class_mean(generator, i) for i in used])
    mean = torch.einsum("nk,klw->nlw", c[:, used], means)
    end = truncation.cutoff if truncation.cutoff is not None else ws.shape[1]
    head = mean[:, :end] + truncation.psi * (ws[:, :end] - mean[:, :end])
    return torch.cat([head, ws[:, end:]], dim=1)


def _class_mean(generator: Generator, index: int) -> Tensor:
    """Mean style [num_ws, w_dim] of 256 objects of one class."""
    device = next(generator.parameters()).device
    z = _class_latents(generator.z_dim).to(device)
    c = labels_from_classes([index] * CLASS_MEAN_SAMPLES, generator.c_dim).to(device)
    return generator.mapping(z, c).mean(dim=0)


@cache  # the same for all classes and calls
def _class_latents(z_dim: int) -> Tensor:
    """[256, z_dim]."""
    return latents_from_seeds(range(CLASS_MEAN_SAMPLES), z_dim)


def ease(x: Tensor) -> Tensor:
    """Smoothstep, 3 x^2 - 2 x^3: motion that rests a little at both ends of [0, 1]."""
    return x * x * (3 - 2 * x)


def slerp(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """From a [.., Z] at x = 0 to b [.., Z] at x = 1 (x broadcasts, [.., 1]) along the great circle:
    (sin((1 - x) o) a + sin(x o) b) / sin o, o the angle between them (Shoemake 1985); a straight
    line where they are parallel or opposite.
    """
    start, end, x = a.double(), b.double(), x.double()
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=-1)[..., None]
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    flat = sine < 1e-6
    safe = torch.where(flat, 1, sine)
    left = torch.where(flat, 1 - x, torch.sin((1 - x) * angle) / safe)
    right = torch.where(flat, x, torch.sin(x * angle) / safe)
    return (left * start + right * end).to(a.dtype)


def interpolate_styles(ws: Tensor, x: Tensor) -> Tensor:
    """Linear in w: styles [T, num_ws, w_dim] at the places x [T] in [0, N - 1] of the polyline
    through ws [N, num_ws, w_dim]."""
    left, share = _between(x, len(ws))
    share = share[:, None, None].to(ws)
    return ws[left] * (1 - share) + ws[(left + 1).clamp_max(len(ws) - 1)] * share


def interpolate_latents(
    generator: Generator, z: Tensor, c: Tensor, x: Tensor, truncation: Truncation
) -> Tensor:
    """Spherical in z: styles [T, num_ws, w_dim] at the places x [T] in [0, N - 1] of the arcs
    through latents z [N, z_dim]; labels c [N, c_dim] are blended linearly."""
    left, share = _between(x, len(z))
    right = (left + 1).clamp_max(len(z) - 1)
    share = share[:, None].to(z)
    blend = c[left] * (1 - share) + c[right] * share
    return styles_from_latents(generator, slerp(z[left], z[right], share), blend, truncation)


def _between(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The index [T] on the left of each place, and how far [T] it is to the next one."""
    if bool(((x < 0) | (x > count - 1)).any()):
        raise ValueError(f"interpolate: places must lie in [0, {count - 1}]")
    left = x.floor().long().clamp_max(max(count - 2, 0))
    return left, x - left


def mix_styles(coarse: Tensor, fine: Tensor, layers: range) -> Tensor:
    """Styles `coarse` [L, w_dim] with `layers` of them taken from `fine` [L, w_dim]."""
    if layers.start < 0 or layers.stop > len(coarse):
        raise ValueError(f"mix_styles: layers must lie in 0..{len(coarse) - 1}, got {layers}")
    mixed = coarse.clone()
    mixed[layers.start : layers.stop] = fine[layers.start : layers.stop]
    return mixed


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
