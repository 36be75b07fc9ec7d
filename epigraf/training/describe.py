"""What a configuration amounts to: the derived values that a run prints before it starts."""

from __future__ import annotations

import torch

from epigraf.config import AugmentMode, Config, LossName
from epigraf.data.images import ImageDataset
from epigraf.models.discriminator import Discriminator
from epigraf.models.generator import Generator
from epigraf.ops._native import backend_line
from epigraf.training.schedules import lazy_optimiser


def describe(
    cfg: Config, dataset: ImageDataset, device: torch.device | str = "cpu", processes: int = 1
) -> list[str]:
    """Lines `name  value` about a run: data, networks, rendering, objective, length, backend.

    Args:
        cfg: a configuration resolved against `dataset` (see `resolve_config`).
        dataset: the training set.
        device: where the run would train.
        processes: how many share each batch.
    """
    rows = [
        ("config", cfg.name),
        ("data", _data(cfg, dataset)),
        ("networks", _networks(cfg)),
        ("rendering", _rendering(cfg)),
        ("R1 gamma", _gamma(cfg)),
        ("optimiser", _optimiser(cfg)),
        ("batch", _batch(cfg, processes)),
        ("patches", _patches(cfg)),
        ("augment", _augment(cfg)),
        ("length", _length(cfg)),
        ("device", _device(device, processes)),
        ("backend", backend_line(device)),
        ("renderer", _renderer(cfg, device)),
    ]
    return [f"{name:<10} {value}" for name, value in rows]


def _data(cfg: Config, dataset: ImageDataset) -> str:
    side = cfg.dataset.resolution
    text = f"{dataset.name}: {len(dataset)} images of {side}x{side}"
    text += " (with mirrored ones)" if dataset.mirror else ""
    text += f", {cfg.c_dim} labels" if cfg.c_dim else ", no labels"
    return text + f", cameras {cfg.dataset.camera.dist.value}"


def _networks(cfg: Config) -> str:
    with torch.device("meta"):
        generator, discriminator = Generator(cfg), Discriminator(cfg)
    g, d = (sum(p.numel() for p in n.parameters()) / 1e6 for n in (generator, discriminator))
    return f"G {g:.2f} M parameters ({generator.num_ws} styles), D {d:.2f} M"


def _renderer(cfg: Config, device: torch.device | str) -> str:
    with torch.device("meta"):
        generator = Generator(cfg)
    return generator.renderer(device)


def _rendering(cfg: Config) -> str:
    coarse, fine, side = (
        cfg.model.generator.num_ray_steps,
        cfg.num_fine_steps,
        cfg.train_resolution,
    )
    # with an importance pass the field is evaluated at the coarse and at the fine samples
    points = side * side * (coarse + fine) / 1000
    views = cfg.training.patches_per_latent
    shared = f", {views} patches of each object" if views > 1 else ""
    return (
        f"{side}x{side} rays, {coarse}+{fine} samples a ray, {points:.0f} k field evaluations "
        f"an image{shared}"
    )


def _gamma(cfg: Config) -> str:
    origins = {
        "auto": "auto: 0.0002 * resolution^2 / batch_size",
        "auto-patch": "auto-patch: 0.0002 * patch^2 / batch_size",
    }
    origin = origins.get(str(cfg.training.gamma), "as configured")
    paired = cfg.training.loss is LossName.R3GAN
    often = f"{cfg.gamma:g} ({origin}), every {cfg.training.r1_interval} steps"
    return f"{often}; R3GAN: pairs, R1 and R2" if paired else often


def _optimiser(cfg: Config) -> str:
    model = cfg.model
    interval = model.loss_kwargs.pl_interval if model.loss_kwargs.pl_weight > 0 else None
    g = lazy_optimiser(model.generator.optim, interval)
    d = lazy_optimiser(model.discriminator.optim, cfg.lazy_r1_interval)
    return (
        f"Adam, G lr {g[0]:.4g} betas ({g[1][0]:g}, {g[1][1]:.5g}), "
        f"D lr {d[0]:.4g} betas ({d[1][0]:g}, {d[1][1]:.5g}), "
        f"EMA half-life {cfg.ema_kimg:g} kimg"
    )


def _batch(cfg: Config, processes: int) -> str:
    split = cfg.split(processes)
    text = f"{split.batch} images a step"
    text += f" = {processes} processes x {split.per_process}" if processes > 1 else ""
    return text + f", {split.per_pass} a pass, {split.passes} to a step"


def _device(device: torch.device | str, processes: int) -> str:
    kind, count = torch.device(device).type, torch.get_num_threads()
    threads = f"{count} thread{'s' * (count > 1)}"
    if processes == 1:
        return f"{device}, {threads}"
    if kind == "cuda":
        return f"{processes} processes with a GPU each (NCCL), {threads} each"
    return f"no GPU here: {processes} processes on the CPU (gloo), {threads} each"


def _patches(cfg: Config) -> str:
    patch = cfg.training.patch
    if not patch.enabled:
        return "whole images"
    return (
        f"{patch.resolution}x{patch.resolution}, scales {cfg.patch_min_scale:g} to "
        f"{patch.max_scale:g} ({patch.distribution.value} law, annealed over "
        f"{patch.anneal_kimg:g} kimg)"
    )


def _augment(cfg: Config) -> str:
    augment = cfg.training.augment
    if augment.mode is AugmentMode.NOAUG:
        return "none"
    if augment.mode is AugmentMode.FIXED:
        return f"fixed, p = {augment.p:g}"
    return f"adaptive, target {augment.target:g}, speed {augment.speed_kimg:g} kimg"


def _length(cfg: Config) -> str:
    training = cfg.training
    limit = f" or {training.minutes:g} minutes" if training.minutes else ""
    return (
        f"{training.kimg:g} kimg{limit}, a tick is {training.tick:g} kimg, snapshots every "
        f"{training.snap} ticks and {training.snap_minutes:g} minutes"
    )
