"""The configuration: frozen, typed and strict.

Keys that the official EpiGRAF configuration has keep their official names and defaults (spec: the
`configs/` tree of the official release); the others are ours and are marked so. YAML presets hold
only their differences from these defaults. An unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from epigraf.errors import ConfigError


class CameraDist(Enum):
    """Where camera angles come from; `CUSTOM` takes them from the dataset."""

    CUSTOM = "custom"
    UNIFORM = "uniform"
    NORMAL = "normal"
    GAUSSIAN = "gaussian"
    HYBRID = "hybrid"
    TRUNCATED_GAUSSIAN = "truncated_gaussian"
    SPHERICAL_UNIFORM = "spherical_uniform"


class ClampMode(Enum):
    """How raw densities become non-negative."""

    SOFTPLUS = "softplus"
    RELU = "relu"


class LastInterval(Enum):
    """Length of the interval behind the last sample of a ray.

    AUTO is the official rule (1e10 without a background model, 1e-3 with one); INFINITE is always
    1e10; FINITE is what is left of the ray's segment.
    """

    AUTO = "auto"
    INFINITE = "infinite"
    FINITE = "finite"


class BackgroundType(Enum):
    """Background models: an inverse-sphere radiance field (NeRF++) or a plane image."""

    SPHERE = "sphere"
    PLANE = "plane"


class PatchDistribution(Enum):
    """Distribution of patch scales."""

    BETA = "beta"
    UNIFORM = "uniform"
    DISCRETE_UNIFORM = "discrete_uniform"


class AugmentMode(Enum):
    """Adaptive (ADA), none, or a fixed probability."""

    ADA = "ada"
    NOAUG = "noaug"
    FIXED = "fixed"


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class CameraConfig(_Section):
    """Angles in radians, `fov` in degrees (full angle), distances in world units along a ray."""

    fov: float = Field(12.0, gt=0, lt=180)
    ray_start: float = Field(0.88, gt=0)
    ray_end: float = Field(1.12, gt=0)
    radius: float = Field(1.0, gt=0)
    dist: CameraDist = CameraDist.CUSTOM
    horizontal_mean: float = 0.0
    horizontal_stddev: float = Field(math.pi, ge=0)
    vertical_mean: float = math.pi / 2
    vertical_stddev: float = Field(math.pi / 2, ge=0)

    @model_validator(mode="after")
    def _near_before_far(self) -> CameraConfig:
        if self.ray_end <= self.ray_start:
            raise ValueError(f"ray_end {self.ray_end} must be beyond ray_start {self.ray_start}")
        return self


class DatasetConfig(_Section):
    """What is learned: its size, its cameras and the cube that holds the scene."""

    name: str = "dataset"
    path: str | None = None
    resolution: int = Field(256, ge=4)
    c_dim: int = Field(0, ge=0)
    camera: CameraConfig = CameraConfig()
    cube_scale: float = Field(0.2, gt=0)
    white_back: bool = False
    last_back: bool = False
    object_radius: float | None = Field(None, gt=0)  # ours: rays are sampled inside this ball


class OptimConfig(_Section):
    """Adam, eps 1e-8."""

    lr: float = Field(0.0025, gt=0)
    betas: tuple[float, float] = (0.0, 0.99)
    grad_clip: float | None = Field(None, gt=0)


class MlpConfig(_Section):
    """`n_layers` counts all layers of the decoder."""

    n_layers: int = Field(2, ge=2)
    hid_dim: int = Field(64, ge=1)


class TriPlaneConfig(_Section):
    """Resolution and width of the three planes, and the decoder behind them."""

    res: int = Field(512, ge=4)
    feat_dim: int = Field(32, ge=1)
    has_view_cond: bool = False
    posenc_period_len: float = Field(0.0, ge=0)
    mlp: MlpConfig = MlpConfig()


class BackgroundConfig(_Section):
    """The background model; `type` null renders none."""

    type: BackgroundType | None = None
    output_channels: Literal[4] = 4
    coord_dim: Literal[4] = 4
    num_blocks: int = Field(2, ge=1)
    cbase: int = Field(32768, ge=1)
    cmax: int = Field(128, ge=1)
    posenc_period_len: float = Field(64.0, gt=0)
    num_steps: int = Field(8, ge=2)
    start: float = Field(1.0, gt=0)


class GeneratorConfig(_Section):
    """Mapping network, tri-plane backbone, decoder, ray march."""

    z_dim: int = Field(512, ge=1)
    w_dim: int = Field(512, ge=1)
    map_depth: int = Field(2, ge=1)
    map_lr_multiplier: float = Field(0.01, gt=0)
    fmaps: float = Field(1.0, gt=0)
    cbase: int = Field(32768, ge=1)
    cmax: int = Field(512, ge=1)
    use_noise: bool = True
    optim: OptimConfig = OptimConfig()
    ema_multiplier: float = Field(0.3125, gt=0)
    camera_cond: bool = False
    camera_cond_drop_p: float = Field(0.0, ge=0, lt=1)
    camera_cond_noise_std: float = Field(0.0, ge=0)
    camera_cond_spoof_p: float = Field(0.5, ge=0, le=1)
    num_ray_steps: int = Field(48, ge=2)
    num_fine_steps: int | None = Field(None, ge=0)  # ours: null = num_ray_steps, 0 = coarse only
    test_ray_steps: int | None = Field(None, ge=2)  # ours: at inference; null = num_ray_steps
    test_fine_steps: int | None = Field(None, ge=0)  # ours: at inference; null = as in training
    clamp_mode: ClampMode = ClampMode.SOFTPLUS
    density_shift: float = 0.0
    density_gain: float = Field(1.0, gt=0)  # ours: sigma = gain * clamp(raw + noise + shift)
    last_interval: LastInterval = LastInterval.AUTO  # ours
    density_prior_radius: float | None = Field(None, gt=0)  # ours: a ball to start from, null = none
    density_prior_strength: float = Field(6.0, ge=0)  # ours: raw += strength * (1 - |x| / radius)
    nerf_noise_std_init: float = Field(1.0, ge=0)
    nerf_noise_kimg_growth: float = Field(5000, ge=0)
    tri_plane: TriPlaneConfig = TriPlaneConfig()
    bg_model: BackgroundConfig = BackgroundConfig()


class DiscriminatorConfig(_Section):
    """The patch discriminator."""

    fmaps: float = Field(0.5, gt=0)
    cbase: int = Field(32768, ge=1)
    cmax: int = Field(512, ge=1)
    mbstd_group_size: int = Field(4, ge=1)
    num_additional_start_blocks: int | None = Field(None, ge=0)  # null = log2(resolution / patch)
    camera_cond: bool = False
    camera_cond_drop_p: float = Field(0.0, ge=0, lt=1)
    camera_cond_noise_std: float = Field(0.0, ge=0)
    camera_cond_raw: bool = False
    hyper_mod: bool = True
    optim: OptimConfig = OptimConfig(lr=0.002)
    # Ours, for short runs; the defaults are the official network.
    map_lr_multiplier: float = Field(0.01, gt=0)
    patch_multiplier: float = Field(1000.0, gt=1)  # the highest frequency of the patch embedding
    patch_const_dim: int = Field(256, ge=0)  # its table of round(multiplier * x); 0 = none
    normalize_cond: bool = False  # label, patch and camera weigh the same
    hyper_mod_cond: bool = False  # label and camera modulate as well, not the patch alone
    hyper_mod_identity: bool = False  # begin without modulation instead of a random one
    camera_multiplier: float = Field(64.0, gt=1)  # the highest frequency of the camera embedding


class LossConfig(_Section):
    """Regularisers of the generator and the blur of the first kimg."""

    pl_weight: float = Field(0.0, ge=0)
    pl_interval: int = Field(4, ge=1)
    pl_batch_shrink: int = Field(2, ge=1)
    pl_decay: float = Field(0.01, gt=0, le=1)
    blur_init_sigma: float = Field(10.0, ge=0)
    blur_fade_kimg: float = Field(200, ge=0)


class ModelConfig(_Section):
    """The two networks and the loss."""

    name: str = "epigraf"
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss_kwargs: LossConfig = LossConfig()


class PatchConfig(_Section):
    """Patch scales are fractions of the image side."""

    enabled: bool = True
    patch_params_cond: bool = True
    distribution: PatchDistribution = PatchDistribution.BETA
    resolution: int = Field(64, ge=4)
    min_scale_trg: float | None = Field(None, gt=0, le=1)  # null = resolution / dataset.resolution
    max_scale: float = Field(1.0, gt=0, le=1)
    anneal_kimg: float = Field(10000, ge=0)
    alpha: float = Field(1.0, gt=0)
    beta_val_start: float = Field(0.001, gt=0)
    beta_val_end: float = Field(0.8, gt=0)
    discrete_support: tuple[float, ...] = (0.25, 1.0)


class AugmentProbs(_Section):
    """Multipliers of the augmentation probability p (Karras et al. 2020, appendix B)."""

    xflip: float = Field(0.0, ge=0)
    rotate90: float = Field(1.0, ge=0)
    xint: float = Field(1.0, ge=0)
    scale: float = Field(1.0, ge=0)
    rotate: float = Field(1.0, ge=0)
    xfrac: float = Field(1.0, ge=0)
    aniso: float = Field(1.0, ge=0)
    brightness: float = Field(1.0, ge=0)
    contrast: float = Field(1.0, ge=0)
    lumaflip: float = Field(1.0, ge=0)
    hue: float = Field(1.0, ge=0)
    saturation: float = Field(1.0, ge=0)
    imgfilter: float = Field(0.0, ge=0)
    noise: float = Field(0.0, ge=0)
    cutout: float = Field(0.0, ge=0)


class AugmentConfig(_Section):
    """Augmentation of what the discriminator sees."""

    mode: AugmentMode = AugmentMode.ADA
    p: float = Field(0.2, ge=0, le=1)  # the probability of mode `fixed`
    target: float = 0.6
    interval: int = Field(4, ge=1)
    speed_kimg: float = Field(500, gt=0)
    probs: AugmentProbs = AugmentProbs()


class TrainingConfig(_Section):
    """One run. `tick` and everything named `kimg` in thousands of images."""

    batch_size: int = Field(64, ge=1)
    batch_gpu: int | None = Field(None, ge=1)
    gamma: float | Literal["auto"] = "auto"
    r1_interval: int = Field(16, ge=1)
    reuse_fakes: bool = False  # ours: the D step takes the fakes of the G step
    use_labels: bool = False
    mirror: bool = True
    kimg: float = Field(50000, gt=0)
    minutes: float | None = Field(None, gt=0)  # ours: stop after this much wall time
    tick: float = Field(4, gt=0)
    image_snap: int = Field(100, ge=1)
    snap: int = Field(250, ge=1)
    snap_minutes: float = Field(10, gt=0)  # ours: at least one snapshot in so many minutes
    val_freq: int = Field(100, ge=1)
    keep_last: int = Field(3, ge=1)
    metric_samples: int = Field(2048, ge=0)  # 0 = no metric while training
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    patch: PatchConfig = PatchConfig()
    augment: AugmentConfig = AugmentConfig()


class Config(_Section):
    """The whole configuration."""

    name: str = "custom"
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        _check_powers_of_two(self)
        _check_patches(self)
        _check_batch(self)
        if self.dataset.object_radius and self.dataset.object_radius >= self.dataset.camera.radius:
            raise ValueError("dataset.object_radius must be smaller than dataset.camera.radius")
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
            raise ConfigError(_explain(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for YAML or JSON; `from_dict` gives the same Config back."""
        return self.model_dump(mode="json")

    def with_overrides(self, overrides: Iterable[str]) -> Config:
        """A copy with `a.b=c` assignments applied (values are parsed as YAML)."""
        values = self.to_dict()
        for override in overrides:
            _apply_override(values, override)
        return Config.from_dict(values)

    @property
    def gamma(self) -> float:
        """The R1 weight in force: `auto` is 0.0002 * resolution^2 / batch_size."""
        if self.training.gamma == "auto":
            return 0.0002 * self.dataset.resolution**2 / self.training.batch_size
        return self.training.gamma

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

    @property
    def num_fine_steps(self) -> int:
        """Importance samples per ray in training."""
        g = self.model.generator
        return g.num_ray_steps if g.num_fine_steps is None else g.num_fine_steps

    @property
    def ema_kimg(self) -> float:
        """Half-life of the weight average in kimg."""
        return self.training.batch_size * self.model.generator.ema_multiplier


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


def _check_batch(cfg: Config) -> None:
    total, part = cfg.training.batch_size, cfg.batch_gpu
    group = cfg.model.discriminator.mbstd_group_size
    if total % part:
        raise ValueError(f"training.batch_gpu {part} must divide training.batch_size {total}")
    if part % min(group, part):
        raise ValueError(
            f"images per pass ({part}) must be a multiple of "
            f"model.discriminator.mbstd_group_size {group}"
        )


def _field_names(path: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = Config
    for part in path:
        field = section.model_fields.get(str(part))
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        section = kind
    return list(section.model_fields)


def _all_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _all_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def nearest_key(key: str) -> str | None:
    """The known dotted key that a mistyped one most likely means, or None.

    The right name in the wrong section wins (`model.training.gamma` means `training.gamma`).
    """
    known = _all_keys()
    same_leaf = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    close = difflib.get_close_matches(
        key, same_leaf or known, n=1, cutoff=0.0 if same_leaf else 0.6
    )
    return close[0] if close else None


def _unknown_key(key: str) -> str:
    hint = nearest_key(key)
    return f"unknown key {key!r}" + (f"; did you mean {hint!r}?" if hint else "")


def _explain(error: ValidationError) -> str:
    """One line for the first problem, and how many more there are."""
    problems = error.errors()
    first = problems[0]
    unknown = first["type"] == "extra_forbidden"
    loc = first["loc"] if unknown else _strip_union(first["loc"])
    key = ".".join(str(part) for part in loc)
    if unknown:
        text = _unknown_key(key)
    else:
        message = first["msg"].removeprefix("Value error, ")
        text = f"{key}: {message}" if key else message
        if key and not isinstance(first["input"], (dict, list)):
            text += f", got {first['input']!r}"
    more = len(problems) - 1
    return f"config: {text}" + (f" (and {more} more)" if more else "")


def _strip_union(loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without pydantic's trailing names of union members (`training.gamma.float`)."""
    while loc and str(loc[-1]) not in _field_names(loc[:-1]) and _field_names(loc[:-2]):
        loc = loc[:-1]
    return loc


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, sep, text = override.partition("=")
    key = key.strip()
    if not sep or not key:
        raise ConfigError(f"config: an override reads KEY=VALUE, got {override!r}")
    node, parts = values, key.split(".")
    for part in parts[:-1]:
        if not isinstance(node.get(part), dict):
            raise ConfigError(f"config: {_unknown_key(key)}")
        node = node[part]
    if parts[-1] not in node:
        raise ConfigError(f"config: {_unknown_key(key)}")
    if isinstance(node[parts[-1]], dict):
        raise ConfigError(f"config: {key} is a section; set one of its keys, e.g. {key}.NAME=VALUE")
    try:
        node[parts[-1]] = _yaml_scalar(text)
    except yaml.YAMLError:
        raise ConfigError(f"config: cannot read the value of {override!r}") from None


def _yaml_scalar(text: str) -> Any:
    """A YAML value; also reads 1e-3, which YAML 1.1 takes for a string."""
    value = yaml.safe_load(text) if text.strip() else None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def preset_folders() -> list[Path]:
    """Where presets are looked for: the installed package data, or `configs/` of a source tree."""
    installed = Path(str(resources.files("epigraf"))) / "configs"
    tree = Path(__file__).resolve().parent.parent
    source = [tree / "configs"] if (tree / "pyproject.toml").is_file() else []
    return [folder for folder in (*source, installed) if folder.is_dir()]


def list_presets() -> dict[str, Path]:
    """Name -> YAML file of every preset."""
    found: dict[str, Path] = {}
    for folder in preset_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load_config(name: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Load a preset by name or a YAML file by path and apply `a.b=c` overrides.

    Raises:
        ConfigError: no such preset or file, not YAML, unknown key, value out of range.
    """
    path = _find_config(str(name))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(f"config: {path} is not valid YAML: {line}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config: {path} must hold a mapping, got {type(values).__name__}")
    values.setdefault("name", path.stem)
    return Config.from_dict(values).with_overrides(overrides)


def _find_config(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"config: no such file: {name}")
        return path
    presets = list_presets()
    if name not in presets:
        close = difflib.get_close_matches(name, presets, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"config: no preset {name!r}{hint} (presets: {', '.join(presets) or 'none found'})"
        )
    return presets[name]
