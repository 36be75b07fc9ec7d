"""The renderer once more, in float64 and from the written formulas, to check the runner with.

Nothing of the package is used here but what the official fixtures prove by themselves (the
convolutional backbone hands in its planes). Official tensor names, official order of draws.
Legend: B batch, N rays, S samples per ray.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


class Recorder:
    """Draws float32 numbers, hands them out as float64 and keeps them under official names."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, function: str, shape: tuple[int, ...]) -> Tensor:
        """`function` as in ``perturb_points.rand_like``; its second part says the law."""
        law = torch.randn if "randn" in function else torch.rand
        return self.keep(function, law(shape, generator=self.generator))

    def keep(self, function: str, value: Tensor) -> Tensor:
        """Record a number that was drawn elsewhere."""
        self.tensors[f"draw/{len(self.tensors):03d}.{function}"] = value
        return value.double()


def linear(w: Weights, name: str, x: Tensor, lrelu: bool = False, m: float = 1.0) -> Tensor:
    """x W^T m / sqrt(in) + b m, then leaky ReLU times sqrt(2)."""
    weight = w[f"{name}.weight"]
    y = x @ weight.T * (m / math.sqrt(weight.shape[1])) + w[f"{name}.bias"] * m
    return torch.where(y < 0, 0.2 * y, y) * math.sqrt(2) if lrelu else y


def unit_mean_square(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def encode(x: Tensor, top: float, cos: bool = True, raw: bool = False) -> Tensor:
    """Per scalar: [raw, sines, cosines]; scalars one after another."""
    count = math.ceil(math.log2(top))
    parts = []
    for k in range(x.shape[-1]):
        scalar = x[..., k]
        phases = [scalar * top * 2**i * math.pi / 2**count for i in range(count)]
        parts += [scalar] if raw else []
        parts += [p.sin() for p in phases]
        parts += [p.cos() for p in phases] if cos else []
    return torch.stack(parts, dim=-1)


def camera_turns(angles: Tensor) -> Tensor:
    return angles[:, :2].sign() * (angles[:, :2].abs() % (2 * math.pi)) / (2 * math.pi)


def mapping(w: Weights, z: Tensor, condition: Tensor | None, depth: int) -> Tensor:
    """[B, w_dim] of z [B, Z] and all conditions [B, K]."""
    x = unit_mean_square(z)
    if condition is not None:
        x = torch.cat([x, unit_mean_square(linear(w, "mapping.embed", condition))], dim=1)
    for i in range(depth):
        x = linear(w, f"mapping.fc{i}", x, lrelu=True, m=0.01)
    return x


def camera_rays(
    angles: Tensor, fov: Tensor, scales: Tensor, offsets: Tensor, side: int, radius: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """World origins and directions [B, N, 3], camera directions, matrices [B, 4, 4]."""
    yaw, pitch = angles[:, 0], angles[:, 1].clamp(1e-5, math.pi - 1e-5)
    unit = [pitch.sin() * yaw.cos(), pitch.cos(), pitch.sin() * yaw.sin()]
    origin = radius * torch.stack(unit, dim=1)
    forward = F.normalize(-origin, dim=1)
    left = F.normalize(torch.linalg.cross(torch.tensor([[0.0, 1, 0]]).double(), forward), dim=1)
    up = torch.linalg.cross(forward, left)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(angles), 1, 1)
    c2w[:, :3] = torch.stack([-left, up, -forward, origin], dim=2)
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    rows = []
    for y in -line:
        for x in line:
            px = (x + 1) * scales[:, 0] - 1 + 2 * offsets[:, 0]
            py = (y + 1) * scales[:, 1] - 1 + 2 * offsets[:, 1]
            pz = -1 / torch.tan(torch.deg2rad(fov) / 2)
            rows.append(F.normalize(torch.stack([px, py, pz], dim=1), dim=1))
    camera = torch.stack(rows, dim=1)
    world = torch.einsum("bij,bnj->bni", c2w[:, :3, :3], camera)
    return origin[:, None].expand_as(world), world, camera, c2w


def bilinear(image: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Read image [C, H, W] at u (width), v (height) [P] in [-1, 1], corners aligned: [P, C]."""
    _, height, width = image.shape
    x, y = (u + 1) / 2 * (width - 1), (v + 1) / 2 * (height - 1)
    total = torch.zeros(len(u), len(image), dtype=image.dtype)
    for i in (x.floor(), x.floor() + 1):
        for j in (y.floor(), y.floor() + 1):
            inside = (i >= 0) & (i < width) & (j >= 0) & (j < height)
            share = (1 - (x - i).abs()) * (1 - (y - j).abs()) * inside
            rows, columns = j.clamp(0, height - 1).long(), i.clamp(0, width - 1).long()
            total = total + share[:, None] * image[:, rows, columns].T
    return total


def field(w: Weights, cfg: dict[str, Any], planes: Tensor, points: Tensor, rays: Tensor) -> Tensor:
    """(r, g, b, sigma) [B, P, 4] at points [B, P, 3] in the cube's units, rays [B, P, 3]."""
    count, mlp = cfg["feat_dim"], "synthesis.tri_plane_mlp"
    found = []
    for b in range(len(points)):
        reads = [
            bilinear(planes[b, k * count : (k + 1) * count], points[b, :, i], points[b, :, j])
            for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2)))
        ]
        found.append(sum(reads) / 3)
    x = torch.stack([torch.as_tensor(f) for f in found])
    if cfg["posenc_period_len"] > 0:
        x = torch.cat([x, encode(points, cfg["posenc_period_len"])], dim=-1)
    last = cfg["mlp"]["n_layers"] - 1
    for i in range(last + 1):
        x = linear(w, f"{mlp}.model.{i}", x, lrelu=i < last)
    if not cfg["has_view_cond"]:
        return x
    hidden = torch.where(x[..., :-1] < 0, 0.1 * x[..., :-1], x[..., :-1])
    hidden = torch.cat([hidden, encode(rays, 8, cos=False, raw=True)], dim=-1)
    hidden = linear(w, f"{mlp}.color_network.0", hidden, lrelu=True)
    return torch.cat([linear(w, f"{mlp}.color_network.1", hidden), x[..., -1:]], dim=-1)


def integrate(
    rgb_sigma: Tensor, z: Tensor, last: float, clamp: str, last_back: bool = False
) -> dict[str, Tensor]:
    """Weights, sums and transmittance along rays; rgb_sigma [B, N, S, 4], z [B, N, S]."""
    raw = rgb_sigma[..., 3]
    sigma = torch.log1p(raw.exp()) if clamp == "softplus" else raw.clamp_min(0)
    delta = torch.cat([z.diff(dim=-1), torch.full_like(z[..., :1], last)], dim=-1)
    alpha = 1 - torch.exp(-delta * sigma)
    through = [torch.ones_like(z[..., 0])]
    for k in range(z.shape[-1] - 1):
        through.append(through[-1] * (1 - alpha[..., k] + 1e-10))
    weights = alpha * torch.stack(through, dim=-1)
    opacity = weights.sum(-1)
    if last_back:
        weights[..., -1] += 1 - opacity
    feats = (weights[..., None] * rgb_sigma[..., :3]).sum(-2)
    depth = (weights * z).sum(-1)
    names = {"weights": weights, "opacity": opacity, "feats": feats, "depth": depth}
    return names | {"transmittance": through[-1]}


def importance(z: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Invert the distribution of one ray at a time: all [rays, S]."""
    bins, pdf = (z[:, 1:] + z[:, :-1]) / 2, weights[:, 1:-1] + 2e-5
    cdf = F.pad((pdf / pdf.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    above = (cdf[:, None, :] < u[:, :, None]).sum(-1)
    low, high = (above - 1).clamp_min(0), above.clamp_max(bins.shape[1] - 1)
    width = cdf.gather(1, high) - cdf.gather(1, low)
    width = torch.where(width < 1e-5, torch.ones_like(width), width)
    first = bins.gather(1, low)
    return first + (u - cdf.gather(1, low)) / width * (bins.gather(1, high) - first)


def jittered(z: Tensor, u: Tensor) -> Tensor:
    """Samples z [S] moved within their strata by u [..., S]."""
    middle = (z[1:] + z[:-1]) / 2
    lower, upper = torch.cat([z[:1], middle]), torch.cat([middle, z[-1:]])
    return lower + (upper - lower) * u


def outside_points(origins: Tensor, rays: Tensor, s: Tensor) -> Tensor:
    """NeRF++: [B, N, K, 4] for inverse radii s [B, N, K]; |o + t d| = 1/s, seen on the sphere.

    The point at distance 1/s moves on a circle towards the sphere: it is where the ray leaves,
    rotated within the plane of origin and ray.
    """
    t = -(origins * rays).sum(-1, keepdim=True)
    middle = origins + t * rays
    m = middle.norm(dim=-1, keepdim=True)
    leave = middle + (1 - m**2).sqrt() * rays
    axis = F.normalize(torch.linalg.cross(origins, leave), dim=-1)
    angle = (torch.asin(m) - torch.asin(m * s))[..., None]
    leave, axis = leave[:, :, None], axis[:, :, None].expand(*s.shape, 3)
    across = torch.linalg.cross(axis, leave.expand_as(axis))
    turned = leave * angle.cos() + across * angle.sin()  # the axis is orthogonal to `leave`
    return torch.cat([F.normalize(turned, dim=-1), s[..., None]], dim=-1)


def background_field(w: Weights, cfg: dict[str, Any], points: Tensor, ws: Tensor) -> Tensor:
    """(r, g, b, sigma) [B, P, 4] of the inverse-sphere network under its own ws [B, 2 n, W]."""
    x, out = encode(points, cfg["posenc_period_len"]), torch.zeros((), dtype=torch.float64)
    used = 0
    for index in range(cfg["num_blocks"]):
        block = f"synthesis.bg_model.blocks.{index}"
        for name in ("conv1",) if index == 0 else ("conv0", "conv1"):
            style = linear(w, f"{block}.{name}.affine", ws[:, used])
            kernel = w[f"{block}.{name}.weight"][None] * style[:, None]
            kernel = kernel / (kernel.square().sum(-1, keepdim=True) + 1e-8).sqrt()
            y = x @ kernel.mT + w[f"{block}.{name}.bias"]
            x, used = torch.where(y < 0, 0.2 * y, y) * math.sqrt(2), used + 1
        style = linear(w, f"{block}.to_out.affine", ws[:, used]) / math.sqrt(x.shape[-1])
        kernel = w[f"{block}.to_out.weight"][None] * style[:, None]
        out = out + x @ kernel.mT + w[f"{block}.to_out.bias"]
    return out
