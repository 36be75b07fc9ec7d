"""Picture grids of a run: real images, and the same objects seen from several sides.

Legend: N objects (rows), V views (columns), H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image as PILImage
from torch import Tensor

from epigraf.config import CameraDist, Config
from epigraf.data.images import ImageDataset
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, View
from epigraf.models.loading import write_atomically
from epigraf.rendering.camera import sample_camera_angles
from epigraf.rendering.draws import RandomDraws

GRID_SEED = 0
CPU_RAYS = 160_000  # a grid costs a few seconds on two cores
GPU_RAYS = 4_000_000


@dataclass(frozen=True)
class Preview:
    """Latents z [N, Z], labels [N, K] and views [V, 3] (radians), fixed for the whole run."""

    z: Tensor
    labels: Tensor
    views: Tensor


def grid_shape(resolution: int, max_rays: int) -> tuple[int, int]:
    """(rows, columns) of a grid of about `max_rays` rays: at most 6 x 6, at least 2 x 3."""
    cells = max_rays // resolution**2
    columns = min(max(math.isqrt(cells), 3), 6)
    return min(max(cells // columns, 2), 6), columns


def plan_preview(cfg: Config, dataset: ImageDataset, device: torch.device) -> Preview:
    """Latents, labels and views for the grids of a run.

    The views are spread evenly over the yaws that training renders, at its median pitch.
    """
    rays = GPU_RAYS if device.type == "cuda" else CPU_RAYS
    rows, columns = grid_shape(cfg.dataset.resolution, rays)
    draws = RandomDraws(GRID_SEED)
    z = draws.normal("z", (rows, cfg.model.generator.z_dim), torch.empty(0))
    items = draws.integers("item", len(dataset), (rows,)).tolist()
    labels = torch.stack([dataset.label(i) for i in items])
    views = _spread(_some_cameras(cfg, dataset, draws), columns)
    return Preview(z.to(device), labels.to(device), views.to(device))


def _some_cameras(cfg: Config, dataset: ImageDataset, draws: RandomDraws) -> Tensor:
    """A few hundred angles [M, 3] as training renders them."""
    if cfg.dataset.camera.dist is not CameraDist.CUSTOM:
        return sample_camera_angles(cfg.dataset.camera, 512, draws=draws)
    items = draws.integers("camera", len(dataset), (512,)).tolist()
    return torch.stack([dataset.angles(i) for i in items])


def _spread(angles: Tensor, columns: int) -> Tensor:
    """Views [columns, 3] at evenly spaced quantiles of yaw and the median pitch."""
    yaw = torch.quantile(angles[:, 0], (torch.arange(columns) + 0.5) / columns)
    pitch = angles[:, 1].median().expand(columns)
    return torch.stack([yaw, pitch, torch.zeros(columns)], dim=1)


@torch.no_grad()
def render_preview(generator: Generator, preview: Preview) -> Tensor:
    """Grid uint8 [H, W, 3]: one row an object, seen from each view. Deterministic.

    Args:
        generator: in eval mode.
        preview: from `plan_preview`.
    """
    draws = RandomDraws(GRID_SEED)
    ws = generator.mapping(preview.z, preview.labels)
    planes = generator.planes(ws, NoiseMode.CONST, draws=draws)
    view, columns = View(deterministic=True), []
    for angles in preview.views:
        image = generator.synthesis(
            ws, angles.expand(len(ws), 3), view,
            noise_mode=NoiseMode.CONST, draws=draws, planes=planes,
        ).image  # fmt: skip
        columns.append(image.cpu())
    return _tile(torch.stack(columns, dim=1))


def real_grid(dataset: ImageDataset, columns: int = 8, rows: int = 6) -> Tensor:
    """Grid uint8 [H, W, 3] of random real images."""
    count = min(columns * rows, len(dataset))
    columns = min(columns, count)
    items = RandomDraws(GRID_SEED).permutation("item", len(dataset))[: count // columns * columns]
    images = dataset.batch(items.tolist()).images
    return _tile(images.unflatten(0, (-1, columns)))


def _tile(images: Tensor) -> Tensor:
    """[N, V, 3, H, W] in [-1, 1] -> uint8 [N H, V W, 3]."""
    pixels = (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    n, v, c, h, w = pixels.shape
    return pixels.permute(0, 3, 1, 4, 2).reshape(n * h, v * w, c)


def save_grid(path: Path, grid: Tensor) -> None:
    """Write uint8 [H, W, 3] as a PNG, atomically."""
    picture = PILImage.fromarray(grid.numpy())
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
