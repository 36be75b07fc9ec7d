"""The whole configuration: its sections together, what follows from them, what must fit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError, model_validator

from epigraf.config.batch import BatchSplit, split_batch
from epigraf.config.conventions import HiddenActivation, Quadrature
from epigraf.config.render import RenderSampler
from epigraf.config.sections import (
    Compositor,
    DatasetConfig,
    DecoderConfig,
    DecoderEngine,
    LossName,
    ModelConfig,
    PatchDistribution,
    RenderConfig,
    Section,
    TrainingConfig,
)
from epigraf.config.sentinels import SentinelsConfig
from epigraf.config.text import apply_override, explain
from epigraf.errors import ConfigError


class Config(Section):
    """The whole configuration."""

    name: str = "custom"
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    render: RenderConfig = RenderConfig()
    decoder: DecoderConfig = DecoderConfig()
    sentinels: SentinelsConfig = SentinelsConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        _check_powers_of_two(self)
        _check_patches(self)
        _split(self, 1)
        if self.training.group_labels and not self.training.use_labels:
            raise ValueError("training.group_labels needs training.use_labels=true")
        _check_engines(self)
        if self.dataset.white_back and self.dataset.black_back:
            raise ValueError("dataset.white_back and dataset.black_back exclude each other")
        camera, ball = self.dataset.camera, self.dataset.object_radius
        if ball and ball + math.hypot(*camera.target) >= camera.radius:
            raise ValueError(
                "dataset.object_radius must be smaller than dataset.camera.radius less the length "
                "of dataset.camera.target"
            )
        return self

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Build a configuration from nested plain values.

        Raises:
            ConfigError: an unknown key (with the nearest known one) or a value out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls)) from None

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for YAML or JSON; `from_dict` gives the same Config back."""
        return self.model_dump(mode="json")

    def with_overrides(self, overrides: Iterable[str]) -> Config:
        """A copy with `a.b=c` assignments applied (values are parsed as YAML)."""
        values = self.to_dict()
        for override in overrides:
            apply_override(values, override, Config)
        return Config.from_dict(values)

    @property
    def gamma(self) -> float:
        """The R1 weight in force.

        `auto` is the official 0.0002 * resolution^2 / batch_size; `auto-patch` takes the side of
        what D sees for the resolution (docs/levers.md derives it).
        """
        sides = {"auto": self.dataset.resolution, "auto-patch": self.train_resolution}
        given = self.training.gamma
        if isinstance(given, str):
            return 0.0002 * sides[given] ** 2 / self.training.batch_size
        return given

    @property
    def lazy_r1_interval(self) -> int | None:
        """Steps from one gradient penalty to the next, where it has a phase of its own.

        None without a penalty, and where the R3GAN loss takes it into every step.
        """
        interval = self.training.r1_interval
        joint = self.training.loss is LossName.R3GAN and interval == 1
        return None if joint or self.gamma == 0 else interval

    @property
    def patch_min_scale(self) -> float:
        """The smallest patch scale that training reaches."""
        trg = self.training.patch.min_scale_trg
        return trg if trg is not None else self.train_resolution / self.dataset.resolution

    @property
    def train_resolution(self) -> int:
        """Side in pixels of what the discriminator sees."""
        patch = self.training.patch
        return patch.resolution if patch.enabled else self.dataset.resolution

    @property
    def num_start_blocks(self) -> int:
        """Discriminator blocks that do not downsample."""
        given = self.model.discriminator.num_additional_start_blocks
        if given is not None:
            return given
        return round(math.log2(self.dataset.resolution / self.train_resolution))

    @property
    def c_dim(self) -> int:
        """Width of the labels that the networks see (0 without `training.use_labels`)."""
        return self.dataset.c_dim if self.training.use_labels else 0

    @property
    def batch_gpu(self) -> int:
        """Images of one forward pass; smaller than the batch means gradient accumulation."""
        return self.training.batch_gpu or self.training.batch_size

    def split(self, processes: int = 1) -> BatchSplit:
        """How `processes` share the batch of a step.

        Raises:
            ConfigError: they cannot; says which number to change.
        """
        try:
            return _split(self, processes)
        except ValueError as error:
            raise ConfigError(f"config: {error}") from None

    @property
    def num_fine_steps(self) -> int:
        """Importance samples per ray in training."""
        g = self.model.generator
        return g.num_ray_steps if g.num_fine_steps is None else g.num_fine_steps

    @property
    def ema_kimg(self) -> float:
        """Half-life of the weight average in kimg."""
        return self.training.batch_size * self.model.generator.ema_multiplier


def _check_engines(cfg: Config) -> None:
    g = cfg.model.generator
    if cfg.decoder.engine is DecoderEngine.TINYCUDANN:
        if cfg.model.loss_kwargs.pl_weight > 0:
            raise ValueError(
                "decoder.engine=tinycudann has no second derivatives, which "
                "model.loss_kwargs.pl_weight > 0 needs; use decoder.engine=native"
            )
        if g.tri_plane.mlp.hidden_activation is not HiddenActivation.LRELU:
            raise ValueError(
                "decoder.engine=tinycudann computes leaky ReLUs, not "
                f"mlp.hidden_activation={g.tri_plane.mlp.hidden_activation.value}; "
                "use decoder.engine=native"
            )
    _check_fakes(cfg)
    if cfg.training.compile and cfg.model.loss_kwargs.pl_weight > 0:
        raise ValueError(
            "training.compile cannot differentiate twice, as model.loss_kwargs.pl_weight > 0 "
            "needs; set one of them to false or 0"
        )
    if cfg.render.compositor is Compositor.NERFACC and g.quadrature is Quadrature.MIDPOINTS:
        raise ValueError(
            "render.compositor=nerfacc does not know model.generator.quadrature=midpoints; "
            "use render.compositor=native"
        )


def _check_fakes(cfg: Config) -> None:
    if not cfg.training.occupancy_fakes:
        return
    if cfg.training.reuse_fakes:
        raise ValueError(
            "training.occupancy_fakes has no fakes to render with training.reuse_fakes=true: "
            "D takes those of G; set one of them to false"
        )
    if cfg.render.sampler is RenderSampler.NERFACC:
        raise ValueError(
            "training.occupancy_fakes keeps the samples of G's fakes, render.sampler=nerfacc has "
            "its own; use render.sampler=occupancy or training.occupancy_fakes=false"
        )


def _split(cfg: Config, processes: int) -> BatchSplit:
    training, group = cfg.training, cfg.model.discriminator.mbstd_group_size
    views = training.patches_per_latent
    return split_batch(training.batch_size, training.batch_gpu, group, processes, views)


def _is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def _check_powers_of_two(cfg: Config) -> None:
    sizes = {
        "dataset.resolution": cfg.dataset.resolution,
        "model.generator.tri_plane.res": cfg.model.generator.tri_plane.res,
        "training.patch.resolution": cfg.training.patch.resolution,
    }
    for key, size in sizes.items():
        if not _is_power_of_two(size):
            raise ValueError(f"{key} must be a power of two, got {size}")


def _check_patches(cfg: Config) -> None:
    patch = cfg.training.patch
    if not patch.enabled:
        return
    if patch.resolution > cfg.dataset.resolution:
        raise ValueError(
            f"training.patch.resolution {patch.resolution} must not exceed "
            f"dataset.resolution {cfg.dataset.resolution}"
        )
    if cfg.patch_min_scale > patch.max_scale:
        raise ValueError(
            f"training.patch.min_scale_trg {cfg.patch_min_scale:g} must not exceed "
            f"training.patch.max_scale {patch.max_scale:g}"
        )
    first = patch.max_scale if patch.anneal_kimg > 0 else cfg.patch_min_scale
    fits = any(first <= scale <= patch.max_scale for scale in patch.discrete_support)
    if patch.distribution is PatchDistribution.DISCRETE_UNIFORM and not fits:
        raise ValueError(
            f"training.patch.discrete_support {list(patch.discrete_support)} has no scale in "
            f"{first:g}..{patch.max_scale:g}, where training begins"
        )
