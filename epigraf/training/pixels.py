"""The pixels of posed views as rays and what they saw.

V views, S side of a picture, N rays. Colours in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.config import Config
from epigraf.data.views import PosedViews
from epigraf.rendering.camera import cam2world, clamp_pitch
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.rays import Rays, patch_rays, ray_segment

_NEAR_OBJECT = 0.75  # share of rays that look at the object and its surroundings
_MARGIN = 5  # pixels around the object that count as its surroundings


class Pixels:
    """The pixels of views, on a device.

    Args:
        views: pictures and poses.
        cfg: of the model: its camera and its object's ball.
        background: colour [3] in [0, 1] behind the object.
        centers: border pixels lie half a pixel inside the frame; False: on its edge.
        device: of the rays.
    """

    def __init__(
        self,
        views: PosedViews,
        cfg: Config,
        background: tuple[float, float, float],
        centers: bool,
        device: torch.device | str,
    ) -> None:
        camera, self.side = cfg.dataset.camera, views.side
        fov = pixel_center_fov(camera.fov, self.side) if centers else camera.fov
        matrices = cam2world(clamp_pitch(views.angles), camera.radius, camera.target).to(device)
        self.background = torch.tensor(background).to(device) * 2 - 1
        self._matrices, self._fov, self._views = matrices, fov, views
        self._device = device
        eye = torch.eye(4, device=device)[None]
        self._directions = patch_rays(eye, self.side, self.side, fov).directions[0]  # [S S, 3]
        self._hit = self._hits(cfg)
        self._close = _surroundings(views, background)

    def _hits(self, cfg: Config) -> Tensor:
        """Numbers [M] of the pixels of a picture that may see the object."""
        camera = cfg.dataset.camera
        origin = self._directions.new_tensor([0.0, 0.0, camera.radius])
        rays = Rays(origin.expand_as(self._directions)[None], self._directions[None])
        hit = ray_segment(rays, camera.ray_start, camera.ray_end, cfg.dataset.object_radius).hit
        if hit is None or any(camera.target):
            return torch.arange(self.side**2)
        return hit[0].nonzero()[:, 0].cpu()

    def random(self, count: int, draws: RandomDraws) -> tuple[Rays, Tensor, Tensor]:
        """Rays [1, N, 3], their colours [N, 3] times opacity, and opacities [N, 1]."""
        view, place, where = draws.random("pixels", (3, count))
        number = (view * len(self._views)).long()
        pixel = self._hit[(place * len(self._hit)).long()]
        if len(self._close):
            near = self._close[(place * len(self._close)).long()]
            chosen = where < _NEAR_OBJECT
            number = torch.where(chosen, near // self.side**2, number)
            pixel = torch.where(chosen, near % self.side**2, pixel)
        return self._at(number, pixel)

    def _at(self, number: Tensor, pixel: Tensor) -> tuple[Rays, Tensor, Tensor]:
        """Rays, colours and opacities of pixels [N] of views number [N]."""
        views = self._views
        color = views.colors.flatten(2)[number, :, pixel].to(self._device).float() / 127.5
        alpha = color.new_ones(len(number), 1)
        if views.alpha is not None:
            alpha = views.alpha.flatten(1)[number, pixel].to(self._device)[:, None]
        return self._rays(number, pixel), color - alpha, alpha

    def _rays(self, number: Tensor, pixel: Tensor) -> Rays:
        matrices = self._matrices[number.to(self._device)]
        direction = self._directions[pixel.to(self._device), None, :]
        turned = (matrices[:, :3, :3] * direction).sum(-1)
        return Rays(matrices[None, :, :3, 3].contiguous(), turned[None])

    def all(self, count: int) -> Iterator[Rays]:
        """The rays of all pixels, view by view and row by row, `count` at a time."""
        pixels = self.side**2
        for part in torch.arange(len(self._views) * pixels).split(count):
            yield self._rays(part // pixels, part % pixels)

    def behind(self, draws: RandomDraws) -> Tensor:
        """A colour [3] to put behind: any, where opacities are known; it teaches them."""
        if self._views.alpha is None:
            return self.background
        return draws.uniform("background", (3,), self.background) * 2 - 1


def _surroundings(views: PosedViews, background: tuple[float, float, float]) -> Tensor:
    """Numbers [M] (view S S + pixel) of the pixels in and around the object."""
    seen = views.alpha
    if seen is None:
        colour = torch.tensor(background)[:, None, None]
        seen = ((views.colors.float() / 255 - colour).abs().amax(dim=1) > 0.05).float()
    wide = F.max_pool2d(seen[:, None], 2 * _MARGIN + 1, stride=1, padding=_MARGIN)
    return (wide.flatten() > 0).nonzero()[:, 0]


def pixel_center_fov(fov: float, side: int) -> float:
    """The full angle in degrees between the centres of the first and last of `side` pixels of a
    picture whose edges are `fov` degrees apart: tan(f' / 2) = (1 - 1 / side) tan(fov / 2)."""
    return 2 * math.degrees(math.atan((1 - 1 / side) * math.tan(math.radians(fov) / 2)))


def over(views: PosedViews, background: Tensor) -> Tensor:
    """Pictures [V, 3, S, S] in [0, 1] over a colour [3]."""
    colors = views.colors.float() / 255
    if views.alpha is None:
        return colors
    return colors + (1 - views.alpha[:, None]) * background[:, None, None]
