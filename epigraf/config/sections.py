"""The sections of the configuration, each with its defaults and ranges."""

from __future__ import annotations

import math
from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from epigraf.config.conventions import ColorActivation, HiddenActivation, Projection, Quadrature
from epigraf.config.render import Compositor, DecoderEngine, RenderBackend, RenderSampler


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


class Precision(Enum):
    """Numbers of the discriminator's four largest blocks; all else is float32.

    FP16 is official on CUDA.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


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


class LossName(Enum):
    """The adversarial objective: StyleGAN2's, or R3GAN's (Huang et al. 2024)."""

    NONSATURATING = "nonsaturating"
    R3GAN = "r3gan"


class Section(BaseModel):
    """Frozen, strict, finite: the base of every section."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class CameraConfig(Section):
    """Angles in radians, `fov` in degrees (full angle), distances in world units along a ray."""

    fov: float = Field(default=12.0, gt=0, lt=180)
    ray_start: float = Field(default=0.88, gt=0)
    ray_end: float = Field(default=1.12, gt=0)
    radius: float = Field(default=1.0, gt=0)
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)  # ours: looked at, and orbited
    dist: CameraDist = CameraDist.CUSTOM
    horizontal_mean: float = 0.0
    horizontal_stddev: float = Field(default=math.pi, ge=0)
    vertical_mean: float = math.pi / 2
    vertical_stddev: float = Field(default=math.pi / 2, ge=0)

    @model_validator(mode="after")
    def _near_before_far(self) -> CameraConfig:
        if self.ray_end <= self.ray_start:
            raise ValueError(f"ray_end {self.ray_end} must be beyond ray_start {self.ray_start}")
        return self


class DatasetConfig(Section):
    """What is learned: its size, its cameras and the cube that holds the scene."""

    name: str = "dataset"
    path: str | None = None
    resolution: int = Field(default=256, ge=4)
    c_dim: int = Field(default=0, ge=0)
    camera: CameraConfig = CameraConfig()
    cube_scale: float = Field(default=0.2, gt=0)
    white_back: bool = False
    last_back: bool = False
    black_back: bool = False  # ours: -1 behind what rays do not absorb, as white_back is 1
    object_radius: float | None = Field(
        default=None, gt=0
    )  # ours: rays are sampled inside this ball


class OptimConfig(Section):
    """Adam, eps 1e-8."""

    lr: float = Field(default=0.0025, gt=0)
    betas: tuple[float, float] = (0.0, 0.99)
    grad_clip: float | None = Field(default=None, gt=0)


class MlpConfig(Section):
    """`n_layers` counts all layers of the decoder."""

    n_layers: int = Field(default=2, ge=2)
    hid_dim: int = Field(default=64, ge=1)
    hidden_activation: HiddenActivation = HiddenActivation.LRELU  # ours
    color_activation: ColorActivation = ColorActivation.LINEAR  # ours


class TriPlaneConfig(Section):
    """Resolution and width of the three planes, and the decoder behind them."""

    res: int = Field(default=512, ge=4)
    feat_dim: int = Field(default=32, ge=1)
    has_view_cond: bool = False
    posenc_period_len: float = Field(default=0.0, ge=0)
    fixed: bool = False  # ours: the planes themselves are learned (`epigraf fit`), of one object
    projection: Projection = Projection.EPIGRAF  # ours
    mlp: MlpConfig = MlpConfig()


class BackgroundConfig(Section):
    """The background model; `type` null renders none."""

    type: BackgroundType | None = None
    output_channels: Literal[4] = 4
    coord_dim: Literal[4] = 4
    num_blocks: int = Field(default=2, ge=1)
    cbase: int = Field(default=32768, ge=1)
    cmax: int = Field(default=128, ge=1)
    posenc_period_len: float = Field(default=64.0, gt=0)
    num_steps: int = Field(default=8, ge=2)
    start: float = Field(default=1.0, gt=0)


class GeneratorConfig(Section):
    """Mapping network, tri-plane backbone, decoder, ray march."""

    z_dim: int = Field(default=512, ge=1)
    w_dim: int = Field(default=512, ge=1)
    map_depth: int = Field(default=2, ge=1)
    map_lr_multiplier: float = Field(default=0.01, gt=0)
    fmaps: float = Field(default=1.0, gt=0)
    cbase: int = Field(default=32768, ge=1)
    cmax: int = Field(default=512, ge=1)
    use_noise: bool = True
    optim: OptimConfig = OptimConfig()
    ema_multiplier: float = Field(default=0.3125, gt=0)
    camera_cond: bool = False
    camera_cond_drop_p: float = Field(default=0.0, ge=0, lt=1)
    camera_cond_noise_std: float = Field(default=0.0, ge=0)
    camera_cond_spoof_p: float = Field(default=0.5, ge=0, le=1)
    num_ray_steps: int = Field(default=48, ge=2)
    num_fine_steps: int | None = Field(
        default=None, ge=0
    )  # ours: null = num_ray_steps, 0 = coarse only
    test_ray_steps: int | None = Field(
        default=None, ge=2
    )  # ours: at inference; null = num_ray_steps
    test_fine_steps: int | None = Field(
        default=None, ge=0
    )  # ours: at inference; null = as in training
    clamp_mode: ClampMode = ClampMode.SOFTPLUS
    density_shift: float = 0.0
    density_gain: float = Field(
        default=1.0, gt=0
    )  # ours: sigma = gain * clamp(raw + noise + shift)
    last_interval: LastInterval = LastInterval.AUTO  # ours
    quadrature: Quadrature = Quadrature.POINTS  # ours
    density_prior_radius: float | None = Field(default=None, gt=0)  # ours: start from a ball
    density_prior_strength: float = Field(
        default=6.0, ge=0
    )  # ours: raw += strength * (1 - |x| / radius)
    nerf_noise_std_init: float = Field(default=1.0, ge=0)
    nerf_noise_kimg_growth: float = Field(default=5000, ge=0)
    tri_plane: TriPlaneConfig = TriPlaneConfig()
    bg_model: BackgroundConfig = BackgroundConfig()


class DiscriminatorConfig(Section):
    """The patch discriminator."""

    fmaps: float = Field(default=0.5, gt=0)
    cbase: int = Field(default=32768, ge=1)
    cmax: int = Field(default=512, ge=1)
    mbstd_group_size: int = Field(default=4, ge=1)
    num_additional_start_blocks: int | None = Field(
        default=None, ge=0
    )  # null = log2(resolution / patch)
    camera_cond: bool = False
    camera_cond_drop_p: float = Field(default=0.0, ge=0, lt=1)
    camera_cond_noise_std: float = Field(default=0.0, ge=0)
    camera_cond_raw: bool = False
    hyper_mod: bool = True
    optim: OptimConfig = OptimConfig(lr=0.002)
    # Ours, for short runs; the defaults are the official network.
    map_lr_multiplier: float = Field(default=0.01, gt=0)
    patch_multiplier: float = Field(
        default=1000.0, gt=1
    )  # the highest frequency of the patch embedding
    patch_const_dim: int = Field(default=256, ge=0)  # its table of round(multiplier * x); 0 = none
    normalize_cond: bool = False  # label, patch and camera weigh the same
    hyper_mod_cond: bool = False  # label and camera modulate as well, not the patch alone
    hyper_mod_identity: bool = False  # begin without modulation instead of a random one
    camera_multiplier: float = Field(
        default=64.0, gt=1
    )  # the highest frequency of the camera embedding
    camera_cond_yaw_only: bool = False  # D is not told the pitch: it is a guess


class LossConfig(Section):
    """Regularisers of the generator and the blur of the first kimg."""

    pl_weight: float = Field(default=0.0, ge=0)
    pl_interval: int = Field(default=4, ge=1)
    pl_batch_shrink: int = Field(default=2, ge=1)
    pl_decay: float = Field(default=0.01, gt=0, le=1)
    blur_init_sigma: float = Field(default=10.0, ge=0)
    blur_fade_kimg: float = Field(default=200, ge=0)


class ModelConfig(Section):
    """The two networks and the loss."""

    name: str = "epigraf"
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss_kwargs: LossConfig = LossConfig()


class PatchConfig(Section):
    """Patch scales are fractions of the image side."""

    enabled: bool = True
    patch_params_cond: bool = True
    distribution: PatchDistribution = PatchDistribution.BETA
    resolution: int = Field(default=64, ge=4)
    min_scale_trg: float | None = Field(
        default=None, gt=0, le=1
    )  # null = resolution / dataset.resolution
    max_scale: float = Field(default=1.0, gt=0, le=1)
    anneal_kimg: float = Field(default=10000, ge=0)
    alpha: float = Field(default=1.0, gt=0)
    beta_val_start: float = Field(default=0.001, gt=0)
    beta_val_end: float = Field(default=0.8, gt=0)
    discrete_support: tuple[float, ...] = (0.25, 1.0)


class AugmentProbs(Section):
    """Multipliers of the augmentation probability p (Karras et al. 2020, appendix B)."""

    xflip: float = Field(default=0.0, ge=0)
    rotate90: float = Field(default=1.0, ge=0)
    xint: float = Field(default=1.0, ge=0)
    scale: float = Field(default=1.0, ge=0)
    rotate: float = Field(default=1.0, ge=0)
    xfrac: float = Field(default=1.0, ge=0)
    aniso: float = Field(default=1.0, ge=0)
    brightness: float = Field(default=1.0, ge=0)
    contrast: float = Field(default=1.0, ge=0)
    lumaflip: float = Field(default=1.0, ge=0)
    hue: float = Field(default=1.0, ge=0)
    saturation: float = Field(default=1.0, ge=0)
    imgfilter: float = Field(default=0.0, ge=0)
    noise: float = Field(default=0.0, ge=0)
    cutout: float = Field(default=0.0, ge=0)


class AugmentConfig(Section):
    """Augmentation of what the discriminator sees."""

    mode: AugmentMode = AugmentMode.ADA
    p: float = Field(default=0.2, ge=0, le=1)  # the probability of mode `fixed`
    target: float = 0.6
    interval: int = Field(default=4, ge=1)
    speed_kimg: float = Field(default=500, gt=0)
    probs: AugmentProbs = AugmentProbs()


class TrainingConfig(Section):
    """One run. `tick` and everything named `kimg` in thousands of images."""

    batch_size: int = Field(default=64, ge=1)
    batch_gpu: int | None = Field(default=None, ge=1)
    gamma: Annotated[float, Field(ge=0)] | Literal["auto", "auto-patch"] = "auto"
    r1_interval: int = Field(default=16, ge=1)
    loss: LossName = LossName.NONSATURATING  # ours
    patches_per_latent: int = Field(default=1, ge=1)  # ours: patches of one set of planes
    reuse_fakes: bool = False  # ours: the D step takes the fakes of the G step
    occupancy_fakes: bool = False  # ours: fakes that D alone sees leave empty space out
    use_labels: bool = False
    group_labels: bool = False  # ours: each minibatch-stddev group is of one class
    mirror: bool = True
    kimg: float = Field(default=50000, gt=0)
    minutes: float | None = Field(default=None, gt=0)  # ours: stop after this much wall time
    tick: float = Field(default=4, gt=0)
    image_snap: int = Field(default=100, ge=1)
    snap: int = Field(default=250, ge=1)
    snap_minutes: float = Field(default=10, gt=0)  # ours: at least one snapshot in so many minutes
    val_freq: int = Field(default=100, ge=1)
    keep_last: int = Field(default=3, ge=1)
    metric_samples: int = Field(default=2048, ge=0)  # 0 = no metric while training
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    precision: Precision = Precision.FP32  # ours; see there
    compile: bool = False  # ours: torch.compile of the generator's backbone
    patch: PatchConfig = PatchConfig()
    augment: AugmentConfig = AugmentConfig()


class RenderConfig(Section):
    """How the same images are computed: never what they are, up to rounding, early_stop_eps and
    alpha_thre."""

    backend: RenderBackend = RenderBackend.FUSED
    # ours: in inference rays end where less than this share of their light is left; 0 = never,
    # null = 0.001 with an occupancy grid
    early_stop_eps: float | None = Field(default=None, ge=0, lt=1)
    # ours: null = occupancy for videos, else dense; never while training
    sampler: RenderSampler | None = None
    # ours: cells of the occupancy grid along an edge, a multiple of 32 (null = two a pixel of the
    # planes, at most 128), and the opacity that a cell must be able to add to be looked at
    grid_resolution: int | None = Field(default=None, ge=32, le=512, multiple_of=32)
    alpha_thre: float = Field(default=0.02, ge=0, lt=1)
    compositor: Compositor = Compositor.NATIVE  # ours


class DecoderConfig(Section):
    """Ours: how the decoder is evaluated."""

    engine: DecoderEngine = DecoderEngine.NATIVE
