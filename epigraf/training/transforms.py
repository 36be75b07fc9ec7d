"""The random transforms of the augmentation pipeline: numbers drawn, gated, turned into matrices.

T. Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020,
appendix B. `AugmentPipe` (augment.py) executes what is decided here.

Legend: B batch, H W pixels. Plane coordinates are pixels from the image centre, x to the right,
y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from epigraf.config import AugmentProbs
from epigraf.rendering.draws import Draws

BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # expected spectrum of natural images, per band


@dataclass(frozen=True)
class Strengths:
    """How far each transform goes (defaults of the paper; standard deviations in octaves where
    the parameter is a factor).

    Attributes:
        xint_max: integer shift, fraction of the side. xfrac_std: sub-pixel shift, likewise.
        scale_std, aniso_std, contrast_std, saturation_std: log2 of a factor.
        rotate_max, hue_max: 1 = the full circle. brightness_std, noise_std: image units.
        bands: which of the four frequency bands are amplified (0 or 1). band_std: log2 of a factor.
        cutout_size: side of the blanked square, fraction of the image.
    """

    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    band_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5


DEFAULT_STRENGTHS = Strengths()


@dataclass(frozen=True)
class Transforms:
    """One batch's draws, turned into matrices and gains. `like` gives B, H, W, dtype, device."""

    probs: AugmentProbs
    strengths: Strengths
    p: float
    draws: Draws
    like: Tensor

    @property
    def batch(self) -> int:
        return self.like.shape[0]

    def _uniform(self, name: str, *shape: int) -> Tensor:
        return self.draws.uniform(f"augment.{name}", (self.batch, *shape), self.like)

    def _normal(self, name: str, *shape: int) -> Tensor:
        return self.draws.normal(f"augment.{name}", (self.batch, *shape), self.like)

    def _gated(self, name: str, value: Tensor, neutral: float, probability: float) -> Tensor:
        """`value` where the gate opens, `neutral` elsewhere. One gate per image."""
        gate = self._uniform(f"{name}.gate", *([1] * (value.ndim - 1)))
        return torch.where(gate < probability, value, torch.full_like(value, neutral))

    def plane(self) -> Tensor | None:
        """The inverse plane map [B, 3, 3] (output -> input); None if no multiplier is set."""
        steps = [*self._blits(), *self._general()]
        if not steps:
            return None
        total = steps[0]
        for step in steps[1:]:
            total = total @ step
        return total

    def _blits(self) -> list[Tensor]:
        """Inverse maps of the flips, quarter turns and whole-pixel shifts."""
        probs, steps = self.probs, []
        if probs.xflip > 0:
            flip = (self._uniform("xflip") * 2).floor()
            flip = self._gated("xflip", flip, 0.0, probs.xflip * self.p)
            steps.append(_scaling(1 - 2 * flip, torch.ones_like(flip)))
        if probs.rotate90 > 0:
            turns = (self._uniform("rotate90") * 4).floor()
            turns = self._gated("rotate90", turns, 0.0, probs.rotate90 * self.p)
            steps.append(_rotation(turns * (math.pi / 2)))
        if probs.xint > 0:
            shift = (self._uniform("xint", 2) * 2 - 1) * self.strengths.xint_max
            shift = self._gated("xint", shift, 0.0, probs.xint * self.p)
            steps.append(_translation((-shift * self._size()).round()))
        return steps

    def _general(self) -> list[Tensor]:
        """Inverse maps of scaling, rotation, stretching and sub-pixel shifts. Two rotations, each
        with half the log-probability, surround the stretch so that its axes are random."""
        probs, how, steps = self.probs, self.strengths, []
        rotate_p = 1 - math.sqrt(min(max(1 - probs.rotate * self.p, 0.0), 1.0))
        if probs.scale > 0:
            scale = torch.exp2(self._normal("scale") * how.scale_std)
            scale = self._gated("scale", scale, 1.0, probs.scale * self.p)
            steps.append(_scaling(1 / scale, 1 / scale))
        if probs.rotate > 0:
            steps.append(self._turn("rotate_before", rotate_p))
        if probs.aniso > 0:
            stretch = torch.exp2(self._normal("aniso") * how.aniso_std)
            stretch = self._gated("aniso", stretch, 1.0, probs.aniso * self.p)
            steps.append(_scaling(1 / stretch, stretch))
        if probs.rotate > 0:
            steps.append(self._turn("rotate_after", rotate_p))
        if probs.xfrac > 0:
            shift = self._normal("xfrac", 2) * how.xfrac_std
            shift = self._gated("xfrac", shift, 0.0, probs.xfrac * self.p)
            steps.append(_translation(-shift * self._size()))
        return steps

    def _turn(self, name: str, probability: float) -> Tensor:
        angle = (self._uniform(name) * 2 - 1) * (math.pi * self.strengths.rotate_max)
        return _rotation(self._gated(name, angle, 0.0, probability))

    def _size(self) -> Tensor:
        height, width = self.like.shape[2:]
        return self.like.new_tensor([width, height])

    def colour(self) -> Tensor | None:
        """The map of RGB space [B, 4, 4]; None if no multiplier is set."""
        probs, how = self.probs, self.strengths
        steps: list[Tensor] = []
        if probs.brightness > 0:
            offset = self._normal("brightness") * how.brightness_std
            offset = self._gated("brightness", offset, 0.0, probs.brightness * self.p)
            steps.append(_colour_map(self._eye(), offset[:, None].expand(-1, 3)))
        if probs.contrast > 0:
            factor = torch.exp2(self._normal("contrast") * how.contrast_std)
            factor = self._gated("contrast", factor, 1.0, probs.contrast * self.p)
            steps.append(_colour_map(self._eye() * factor[:, None, None]))
        if probs.lumaflip > 0:
            flip = (self._uniform("lumaflip", 1, 1) * 2).floor()
            flip = self._gated("lumaflip", flip, 0.0, probs.lumaflip * self.p)
            steps.append(_colour_map(self._eye() - 2 * flip * self._grey()))
        if probs.hue > 0:
            angle = (self._uniform("hue") * 2 - 1) * (math.pi * how.hue_max)
            angle = self._gated("hue", angle, 0.0, probs.hue * self.p)
            steps.append(_colour_map(_turn_about_grey(angle)))
        if probs.saturation > 0:
            factor = torch.exp2(self._normal("saturation", 1, 1) * how.saturation_std)
            factor = self._gated("saturation", factor, 1.0, probs.saturation * self.p)
            steps.append(_colour_map(self._grey() + (self._eye() - self._grey()) * factor))
        if not steps:
            return None
        total = steps[0]
        for step in steps[1:]:
            total = step @ total
        return total

    def _eye(self) -> Tensor:
        return torch.eye(3, dtype=self.like.dtype, device=self.like.device)

    def _grey(self) -> Tensor:
        """Projection [3, 3] onto the luma axis (1, 1, 1)/sqrt(3)."""
        return torch.full_like(self._eye(), 1 / 3)

    def band_gains(self) -> Tensor | None:
        """Gains [B, 4] of the frequency bands, of unit expected power; None without multiplier."""
        if self.probs.imgfilter <= 0:
            return None
        power = self.like.new_tensor(BAND_POWER)
        gains = self.like.new_ones(self.batch, 4)
        for band, switch in enumerate(self.strengths.bands):
            factor = torch.exp2(self._normal(f"imgfilter{band}") * self.strengths.band_std)
            probability = self.probs.imgfilter * self.p * switch
            factor = self._gated(f"imgfilter{band}", factor, 1.0, probability)
            chosen = torch.ones_like(gains)
            chosen[:, band] = factor
            chosen = chosen / (power * chosen.square()).sum(dim=1, keepdim=True).sqrt()
            gains = gains * chosen
        return gains

    def noise(self, images: Tensor) -> Tensor:
        """Add white noise of half-normal strength."""
        if self.probs.noise <= 0:
            return images
        sigma = self._normal("noise_sigma", 1, 1, 1).abs() * self.strengths.noise_std
        sigma = self._gated("noise_sigma", sigma, 0.0, self.probs.noise * self.p)
        return images + self._normal("noise", *images.shape[1:]) * sigma

    def cutout(self, images: Tensor) -> Tensor:
        """Blank (zero) a square at a random place."""
        if self.probs.cutout <= 0:
            return images
        side = self.like.new_full((self.batch, 2, 1, 1, 1), self.strengths.cutout_size)
        side = self._gated("cutout", side, 0.0, self.probs.cutout * self.p)
        centre = self._uniform("cutout_centre", 2, 1, 1, 1)
        height, width = images.shape[2:]
        like = self.like
        x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) / width
        y = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) / height
        keep_x = (x.view(1, 1, 1, -1) - centre[:, 0]).abs() >= side[:, 0] / 2
        keep_y = (y.view(1, 1, -1, 1) - centre[:, 1]).abs() >= side[:, 1] / 2
        return images * (keep_x | keep_y).to(images.dtype)


def _stack(rows: list[list[Tensor]]) -> Tensor:
    """[B, n, n] from n rows of n tensors [B]."""
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _stack([[x, zero, zero], [zero, y, zero], [zero, zero, one]])


def _rotation(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = angle.cos(), angle.sin()
    return _stack([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])


def _translation(shift: Tensor) -> Tensor:
    zero, one = torch.zeros_like(shift[:, 0]), torch.ones_like(shift[:, 0])
    return _stack([[one, zero, shift[:, 0]], [zero, one, shift[:, 1]], [zero, zero, one]])


def _colour_map(linear: Tensor, offset: Tensor | None = None) -> Tensor:
    """[B or 1, 4, 4] from a linear part [(B,) 3, 3] and an offset [B, 3]."""
    linear = linear if linear.ndim == 3 else linear[None]
    batch = linear.shape[0] if offset is None else offset.shape[0]
    total = torch.eye(4, dtype=linear.dtype, device=linear.device).repeat(batch, 1, 1)
    total[:, :3, :3] = linear
    if offset is not None:
        total[:, :3, 3] = offset
    return total


def _turn_about_grey(angle: Tensor) -> Tensor:
    """Rotation [B, 3, 3] of RGB space about (1, 1, 1) (Rodrigues)."""
    cos, sin = angle.cos(), angle.sin() / math.sqrt(3.0)
    diagonal = cos + (1 - cos) / 3
    plus, minus = (1 - cos) / 3 + sin, (1 - cos) / 3 - sin
    return _stack([[diagonal, minus, plus], [plus, diagonal, minus], [minus, plus, diagonal]])
