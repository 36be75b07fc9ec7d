"""The opponent of the fused renderer: the formulation of the official code, in plain torch.

`grid_sample` on NCHW planes, the mean of the three, two linear layers, a cumulative product, sort
and gather, all of it on whole tensors, twice. Written from the paper and its supplement.
Legend: B batch, R rays, S samples per ray, P = R S points, C plane channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops import FieldTensors


def field(tensors: FieldTensors, points: Tensor) -> Tensor:
    """(r, g, b, raw density) [B, P, 4] at points [B, P, 3]."""
    batch, _, channels, height, width = tensors.planes.shape
    x, y, z = (points / tensors.cube_scale).unbind(-1)
    grid = torch.stack([torch.stack(pair, -1) for pair in ((x, y), (x, z), (y, z))], 1)
    planes = tensors.planes.reshape(batch * 3, channels, height, width)
    read = F.grid_sample(planes, grid.flatten(0, 1)[:, None], align_corners=True)
    features = read.view(batch, 3, channels, -1).mean(1).transpose(1, 2)
    for weight, bias in zip(tensors.weights[:-1], tensors.biases[:-1], strict=True):
        features = F.leaky_relu(F.linear(features, weight, bias), tensors.slope)
    return F.linear(features, tensors.weights[-1], tensors.biases[-1])


def march(values: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [B, R, 3] and weights [B, R, S] from values [B, R, S, 4] at t [B, R, S]."""
    delta = torch.cat([t[..., 1:] - t[..., :-1], torch.full_like(t[..., :1], 1e10)], -1)
    alpha = 1 - torch.exp(-delta * F.softplus(values[..., 3]))
    light = torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], -1).cumprod(-1)
    weights = alpha * light[..., :-1]
    return (weights[..., None] * values[..., :3]).sum(-2), weights


def importance(t: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Depths [B, R, F] of draws u [B, R, F]."""
    bins = 0.5 * (t[..., 1:] + t[..., :-1])
    pdf = weights[..., 1:-1] + 2e-5
    cdf = torch.cumsum(pdf / pdf.sum(-1, keepdim=True), -1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], -1)
    above = torch.searchsorted(cdf, u)
    below, above = (above - 1).clamp_min(0), above.clamp_max(cdf.shape[-1] - 1)
    low, high = cdf.gather(-1, below), cdf.gather(-1, above)
    width = torch.where(high - low < 1e-5, torch.ones_like(low), high - low)
    start = bins.gather(-1, below)
    return start + (u - low) / width * (bins.gather(-1, above) - start)


def render(
    tensors: FieldTensors, origins: Tensor, directions: Tensor, t: Tensor, u: Tensor
) -> Tensor:
    """Colours [B, R, 3] of rays [B, R, 3], from depths t [B, R, S] and draws u [B, R, F]."""
    batch, rays, _ = t.shape

    def evaluate(depths: Tensor) -> Tensor:
        points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
        return field(tensors, points.view(batch, -1, 3)).view(batch, rays, -1, 4)

    coarse = evaluate(t)
    with torch.no_grad():
        fine_t = importance(t, march(coarse, t)[1], u)
    values = torch.cat([coarse, evaluate(fine_t)], 2)
    t, order = torch.cat([t, fine_t], 2).sort(2)
    return march(values.gather(2, order[..., None].expand_as(values)), t)[0]
