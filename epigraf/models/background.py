"""Backgrounds: a radiance field on the inverted sphere (NeRF++), or a flat picture.

Legend: B batch, R rays, K background samples per ray, P = R K points, C channels, I O features.
Source: NeRF++ (Zhang et al. 2020), section 4; INR-GAN (Skorokhodov et al. 2021) for the network.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epigraf.config import BackgroundConfig, ClampMode
from epigraf.models.layers import (
    LRELU_SLOPE,
    Activation,
    FullyConnected,
    ScalarEncoder,
    demodulation,
)
from epigraf.ops.composite import Composite, composite
from epigraf.rendering.draws import Draws
from epigraf.rendering.patches import PatchParams, extract_patches
from epigraf.rendering.rays import Rays, RaySegment, ray_chunks, stratified_t
from epigraf.rendering.renderer import INFINITE_DELTA
from epigraf.rendering.trace import Trace


def inverse_sphere_points(rays: Rays, inverse_radius: Tensor) -> Tensor:
    """Points [B, R, K, 4] beyond the unit sphere as (x', y', z', s), s the inverse radius.

    (x', y', z') is where the ray, at distance 1/s from the origin, is seen on the unit sphere: the
    exit point of the ray turned by asin|m| - asin(|m| s) about o x exit, m the ray's point closest
    to the origin. Needs |m| < 1 (larger values count as 1); a ray through the origin has one
    direction only and is not turned. ``inverse_radius`` [B, R, K] in [0, 1].
    """
    origins, directions = rays
    closest_t = -(origins * directions).sum(-1, keepdim=True)
    closest = origins + closest_t * directions
    offset = closest.norm(dim=-1, keepdim=True).clamp_max(1)
    exit_point = closest + (1 - offset.square()).sqrt() * directions
    axis = F.normalize(torch.linalg.cross(origins, exit_point), dim=-1)
    angle = torch.asin(offset) - torch.asin((offset * inverse_radius).clamp(-1, 1))
    points = _rotate(exit_point[:, :, None], axis[:, :, None], angle[..., None])
    return torch.cat([F.normalize(points, dim=-1), inverse_radius[..., None]], dim=-1)


def _rotate(points: Tensor, axis: Tensor, angle: Tensor) -> Tensor:
    """Rodrigues' rotation of points [..., 3] about unit axes [..., 3] by angles [..., 1]."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    along = axis * (axis * points).sum(-1, keepdim=True)
    turned = torch.linalg.cross(axis.expand_as(points), points)
    return points * cos + turned * sin + along * (1 - cos)


class _ModulatedLinear(nn.Module):
    """Style-modulated and demodulated linear layer with leaky ReLU: StyleGAN2's layer, k = 1."""

    def __init__(self, in_features: int, out_features: int, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_features, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, P, I] under w [B, w_dim] to [B, P, O]."""
        styles, gain = self.affine(w), Activation.LRELU.gain
        weight = (
            self.weight * styles[:, None] * (demodulation(self.weight, styles) * gain)[..., None]
        )
        bias = (self.bias * gain).expand(len(x), 1, -1)
        return F.leaky_relu(torch.baddbmm(bias, x, weight.transpose(1, 2)), LRELU_SLOPE)


class _OutputLinear(nn.Module):
    """Style-modulated linear output without demodulation."""

    def __init__(self, in_features: int, out_features: int, w_dim: int) -> None:
        super().__init__()
        self.weight_gain = 1 / math.sqrt(in_features)
        self.affine = FullyConnected(w_dim, in_features, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, P, I] under w [B, w_dim] to [B, P, O]."""
        weight = self.weight * (self.affine(w) * self.weight_gain)[:, None]
        return torch.baddbmm(self.bias.expand(len(x), 1, -1), x, weight.transpose(1, 2))


class _Block(nn.Module):
    """One (the first) or two modulated layers, and an output."""

    def __init__(
        self, in_features: int, width: int, out_features: int, w_dim: int, first: bool
    ) -> None:
        super().__init__()
        self.num_layers = 1 if first else 2
        if not first:
            self.conv0 = _ModulatedLinear(in_features, width, w_dim)
        self.conv1 = _ModulatedLinear(in_features if first else width, width, w_dim)
        self.to_out = _OutputLinear(width, out_features, w_dim)

    def forward(self, x: Tensor, ws: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, P, I] under the first num_layers + 1 of ws [B, L, w_dim]: features, output."""
        if self.num_layers == 2:
            x = self.conv0(x, ws[:, 0])
        x = self.conv1(x, ws[:, self.num_layers - 1])
        return x, self.to_out(x, ws[:, self.num_layers])


class SphereBackground(nn.Module):
    """The background as a radiance field of (direction, inverse radius), integrated along rays.

    Args:
        cfg: its size and the number of samples per ray.
        w_dim: width of w.
        clamp_mode: as in the foreground; neither density noise nor shift nor gain act here.
        white_back: what passes the last sample is white.

    ``num_ws`` latents are needed; the output of a block shares one with the next block.
    """

    def __init__(
        self, cfg: BackgroundConfig, w_dim: int, clamp_mode: ClampMode, white_back: bool
    ) -> None:
        super().__init__()
        self.num_steps, self.start = cfg.num_steps, cfg.start
        self.clamp_mode, self.white_back = clamp_mode, white_back
        self.encoder = ScalarEncoder(cfg.coord_dim, cfg.posenc_period_len)
        blocks, width = [], self.encoder.dim
        for index in range(cfg.num_blocks):
            channels = min(cfg.cbase // 2 ** (index + 2), cfg.cmax)
            blocks.append(_Block(width, channels, cfg.output_channels, w_dim, first=index == 0))
            width = channels
        self.blocks = nn.ModuleList(blocks)
        self.num_ws = 2 * cfg.num_blocks

    def inverse_radii(self, rays: Rays, jitter: bool, draws: Draws) -> Tensor:
        """Inverse radii [B, R, K] from ``start`` down to 0, moved within their strata if
        ``jitter``."""
        like = rays.directions
        batch, count = like.shape[:2]
        zero = like.new_zeros(()).expand(batch, count)
        u = (
            draws.uniform("background_jitter", (batch, count, self.num_steps), like)
            if jitter
            else None
        )
        s = stratified_t(RaySegment(zero + self.start, zero, None), self.num_steps, u)
        return s.expand(batch, count, self.num_steps)

    def field(self, points: Tensor, ws: Tensor) -> Tensor:
        """(r, g, b, raw density) [B, P, 4] at inverse-sphere points [B, P, 4] under ws.

        ws are [B, num_ws, w_dim].
        """
        x, out, first = self.encoder(points), points.new_zeros(()), 0
        for block in self.blocks:
            assert isinstance(block, _Block)
            x, new = block(x, ws[:, first:])
            out, first = out + new, first + block.num_layers
        return out

    def integrate(self, rgb_sigma: Tensor, inverse_radius: Tensor) -> tuple[Tensor, Composite]:
        """Colours [B, R, 3] of (r, g, b, raw density) [B, R, K, 4] at inverse radii [B, R, K].

        Along -s, which grows outwards; the last sample closes the ray. Also the composite itself.
        """
        clamp = F.softplus if self.clamp_mode is ClampMode.SOFTPLUS else F.relu
        sigma = clamp(rgb_sigma[..., 3])
        result = composite(rgb_sigma[..., :3], sigma, -inverse_radius, INFINITE_DELTA)
        white = 1 - result.opacity if self.white_back else torch.zeros_like(result.opacity)
        return result.features + white[..., None], result

    def forward(
        self,
        ws: Tensor,
        rays: Rays,
        *,
        jitter: bool,
        draws: Draws,
        max_rays: int | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Background colours [B, R, 3] along rays; ``max_rays`` bounds the rays of one pass."""
        s = self.inverse_radii(rays, jitter, draws)
        count = s.shape[1]
        if trace is not None or max_rays is None or count <= max_rays:
            return self._render(ws, rays, s, trace)
        parts = [
            self._render(ws, Rays(rays.origins[:, p], rays.directions[:, p]), s[:, p], None)
            for p in ray_chunks(count, max_rays)
        ]
        return torch.cat(parts, dim=1)

    def _render(self, ws: Tensor, rays: Rays, s: Tensor, trace: Trace | None) -> Tensor:
        points = inverse_sphere_points(rays, s).flatten(1, 2)
        raw = self.field(points, ws)
        rgb_sigma = raw.unflatten(1, s.shape[1:])
        features, result = self.integrate(rgb_sigma, s)
        if trace is not None:
            trace["bg_points"], trace["bg_z_raw"], trace["bg_mlp_out"] = points, s, raw
            trace["bg_rgb_sigma"], trace["bg_z"] = rgb_sigma, -s[..., None]
            trace["bg_weights"], trace["bg_rendered_feats"] = result.weights[..., None], features
            trace["bg_depth"] = result.depth[..., None]
            trace["bg_final_transmittance"] = result.transmittance
        return features


def plane_background(
    image: Tensor, image_resolution: int, resolution: int, patch: PatchParams | None
) -> Tensor:
    """Background colours [B, R, 3] of a flat picture [B, 3, H, W] behind the scene.

    It is resized (bilinear, aligned corners) to the image's resolution, of which the patch is cut,
    or to the resolution asked for where there is no patch.
    """
    size = image_resolution if patch is not None else resolution
    if image.shape[-1] != size:
        image = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=True)
    if patch is not None:
        image = extract_patches(image, patch, resolution)
    return image.flatten(2).transpose(1, 2)
