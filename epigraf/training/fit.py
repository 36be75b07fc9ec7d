"""One object from posed pictures: planes and a decoder, by gradient through the renderer.

V views, S side of a picture, N rays. Colours in [-1, 1]. Source: NeRF (Mildenhall et al. 2020) for
the objective, EG3D (Chan et al. 2022) for the field.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.config import BackgroundType, Config
from epigraf.data.views import PosedViews
from epigraf.errors import CheckpointError, ConfigError
from epigraf.models.decoder import TriPlaneField
from epigraf.models.generator import Generator, View
from epigraf.models.loading import load_weights, read_snapshot, write_snapshot
from epigraf.models.planes import FixedPlanes
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import render_rays
from epigraf.training.pixels import Pixels, over

_WHOLE = 16384  # rays of a pass without gradients
_LAST_RATE = 0.1  # of the learning rate, at the end


@dataclass(frozen=True)
class FitOptions:
    """How a field is fitted.

    background: colour [3] in [0, 1] behind the object, in opaque pictures and of the model. rays:
    of a step. lr: Adam's rate of the planes; the decoder's is a fifth. total_variation: weight of
    the planes' squared differences between neighbours. sparsity: weight of log(1 + 2 sigma^2) at
    random places. pixel_centers: pictures whose border pixels lie half a pixel inside the frame
    (all real and rendered ones); False: on its edge, as this package renders. seed: of everything.
    """

    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rays: int = 2048
    lr: float = 0.2
    total_variation: float = 0.02
    sparsity: float = 0.0
    pixel_centers: bool = True
    seed: int = 0


def fit_config(cfg: Config, views: PosedViews, options: FitOptions) -> Config:
    """The configuration of the model of these views: its pictures' size and its background.

    Raises:
        ConfigError: it is not one for a fit.
    """
    if not cfg.model.generator.tri_plane.fixed:
        raise ConfigError("fit: needs model.generator.tri_plane.fixed=true, as the preset `fit`")
    if cfg.c_dim or cfg.model.generator.camera_cond:
        raise ConfigError("fit: one object has no labels and no camera conditioning")
    side = max(1 << (views.side.bit_length() - 1), 4)
    white, black = (options.background == (x, x, x) for x in (1.0, 0.0))
    kind = "null" if white or black else BackgroundType.PLANE.value
    return cfg.with_overrides(
        [
            f"dataset.resolution={side}",
            f"dataset.white_back={str(white).lower()}",
            f"dataset.black_back={str(black).lower()}",
            f"model.generator.bg_model.type={kind}",
        ]
    )


class Fit:
    """A field on its way from nothing to the views; `step` until content, then `save`.

    Args:
        views: to fit.
        cfg: from `fit_config`.
        options: see FitOptions.
        device: where the work is done.

    Attributes:
        generator: the model so far. steps: how many have been made.
    """

    def __init__(
        self,
        views: PosedViews,
        cfg: Config,
        options: FitOptions = FitOptions(),
        device: torch.device | str = "cpu",
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.generator = Generator(cfg).to(device)
        self.cfg, self.options, self.steps = cfg, options, 0
        self._device, self._pictures = device, _pixels(views, cfg, options, device)
        backbone = self.generator.backbone
        assert isinstance(backbone, FixedPlanes)
        self._planes = backbone.values
        if cfg.model.generator.bg_model.type is BackgroundType.PLANE:
            colour = torch.tensor(options.background).to(self._planes)[:, None, None] * 2 - 1
            self._planes.data[:, self.generator.plane_channels :] = colour
        groups = [
            {"params": [self._planes], "lr": options.lr},
            {"params": list(self.generator.decoder.parameters()), "lr": options.lr / 5},
        ]
        self._rates = [group["lr"] for group in groups]
        self._adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-10)

    def step(self, share: float) -> float:
        """One step of Adam on random rays.

        Args:
            share: of the whole fit that is done, in [0, 1]; the learning rate falls with it.

        Returns:
            The mean squared error of colours in [0, 1].
        """
        draws = RandomDraws(self.options.seed + (self.steps << 20))
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * _LAST_RATE ** min(max(share, 0.0), 1.0)
        rays, target, alpha = self._pictures.random(self.options.rays, draws)
        behind = self._pictures.behind(draws)
        self.generator.train()
        seen, opacity = self._render(rays, draws)
        error = seen + (1 - opacity) * behind - (target + (1 - alpha) * behind)
        loss = error.square().mean() + self._priors(draws)
        self._adam.zero_grad()
        loss.backward()
        self._keep_background()
        self._adam.step()
        self.steps += 1
        return float(error.detach().square().mean()) / 4

    def _keep_background(self) -> None:
        """The background's planes are given, not learned."""
        if self._planes.grad is not None:
            self._planes.grad[:, self.generator.plane_channels :] = 0

    def _priors(self, draws: RandomDraws) -> Tensor:
        """What is likely of any object: smooth planes, and most of space empty."""
        planes = self._planes[:, : self.generator.plane_channels]
        total = self._planes.new_zeros(())
        if self.options.total_variation > 0:
            down, across = planes.diff(dim=2), planes.diff(dim=3)
            variation = (down * down).mean() + (across * across).mean()
            total = total + self.options.total_variation * variation
        if self.options.sparsity > 0:
            places = draws.uniform("sparsity", (1, self.options.rays, 3), planes) * 2 - 1
            raw = self._field().density_raw(places * self.cfg.dataset.cube_scale)
            g = self.cfg.model.generator
            sigma = g.density_gain * F.softplus(raw + g.density_shift)
            total = total + self.options.sparsity * (2 * sigma.square()).log1p().mean()
        return total

    def _field(self) -> TriPlaneField:
        return self.generator.field(self._planes)

    def _render(self, rays: Rays, draws: RandomDraws) -> tuple[Tensor, Tensor]:
        """Colours [N, 3] of rays [1, N, 3] before the background, and opacities [N, 1]."""
        seen = render_rays(self._field(), rays, self._march(), draws=draws)
        return seen.features[0], seen.opacity[0, :, None]

    def _march(self) -> RenderOptions:
        """As the model's own, before any background."""
        own = self.generator.render_options(View(deterministic=not self.generator.training))
        return replace(own, white_back=False, black_back=False)

    @torch.no_grad()
    def pictures(self, views: PosedViews) -> Tensor:
        """The field as seen by the cameras of views: [V, 3, S, S] in [0, 1], not clamped."""
        pictures = _pixels(views, self.cfg, self.options, self._device)
        behind = pictures.background
        self.generator.eval()
        rows = []
        for rays in pictures.all(_WHOLE):
            seen, opacity = self._render(rays, RandomDraws(0))
            rows.append((seen + (1 - opacity) * behind).cpu())
        whole = torch.cat(rows).unflatten(0, (len(views), views.side, views.side))
        return whole.permute(0, 3, 1, 2) / 2 + 0.5

    def psnr(self, views: PosedViews) -> list[float]:
        """Peak signal-to-noise ratio in dB of each view, over the background."""
        truth = over(views, torch.tensor(self.options.background))
        error = (self.pictures(views).clamp(0, 1) - truth).square().mean(dim=(1, 2, 3))
        return [decibels(float(e)) for e in error]

    def save(self, path: Path) -> None:
        """Write the model, with what `resume` needs.

        Raises:
            CheckpointError, OSError: it cannot be written.
        """
        state = self._adam.state_dict()["state"]
        moments = {f"{i}/{k}": torch.as_tensor(v) for i, s in state.items() for k, v in s.items()}
        pixels = self.steps * self.options.rays
        header = {
            "config": self.cfg.to_dict(),
            "counters": {
                "images_seen": pixels // self._pictures.side**2,
                "fit_steps": self.steps,
            },
        }
        groups = {"G_ema": dict(self.generator.state_dict()), "fit_adam": moments}
        write_snapshot(path, header, groups)

    def resume(self, path: Path) -> None:
        """Go on from a file of `save`.

        Raises:
            CheckpointError: it is none, or one of another architecture.
        """
        snapshot = read_snapshot(path)
        steps = snapshot.header["counters"].get("fit_steps")
        if steps is None:
            raise CheckpointError(f"snapshot {path}: not written by a fit, cannot go on from it")
        load_weights(self.generator, snapshot, "G_ema")
        own = self._adam.state_dict()
        own["state"] = {}
        for name, value in snapshot.tensors("fit_adam").items():
            number, key = name.split("/")
            own["state"].setdefault(int(number), {})[key] = value
        self._adam.load_state_dict(own)
        self.steps = int(steps)


def decibels(error: float) -> float:
    """PSNR of a mean squared error of colours in [0, 1]; at most 100 dB."""
    return -10 * math.log10(max(error, 1e-10))


def run_fit(
    fit: Fit,
    steps: int | None,
    minutes: float | None,
    on_step: Callable[[float, float], None] = lambda share, error: None,
) -> None:
    """Step until `steps` in all have been made, or `minutes` have passed, whichever is first.

    Args:
        on_step: told the share that is done, in [0, 1], and the step's squared error.
    """
    begun, first = time.monotonic(), fit.steps
    share = 0.0
    while share < 1:
        error = fit.step(share)
        shares = []
        if steps is not None:
            shares.append((fit.steps - first) / max(steps - first, 1))
        if minutes is not None:
            shares.append((time.monotonic() - begun) / (60 * minutes))
        share = min(max(shares, default=1.0), 1.0)
        on_step(share, error)


def _pixels(
    views: PosedViews, cfg: Config, options: FitOptions, device: torch.device | str
) -> Pixels:
    return Pixels(views, cfg, options.background, options.pixel_centers, device)
