"""What changes while training, as pure functions of the number of images seen.

`kimg` is a thousand images. Sources: EpiGRAF (Skorokhodov et al. 2022), section 3.2 (patch scales);
Karras et al. 2020, ADA (adaptive p) and StyleGAN2 (lazy regularisation); EG3D (Chan et al. 2022)
for blur, density noise and the conditioning swaps.
"""

from __future__ import annotations

from dataclasses import dataclass

from epigraf.config import Config, OptimConfig, PatchConfig, PatchDistribution

SPOOF_FADE_KIMG = 1000.0  # the swaps of camera conditions fade from 1 to their final probability


def ramp(start: float, end: float, images_seen: float, over_kimg: float) -> float:
    """Linear from `start` at 0 to `end` at `over_kimg` thousand images, constant afterwards."""
    if over_kimg <= 0:
        return end
    done = min(images_seen / (over_kimg * 1000), 1.0)
    return start + (end - start) * done


def patch_beta(patch: PatchConfig, images_seen: float) -> float:
    """Second parameter of the Beta law of patch scales; small values mean whole images."""
    return ramp(patch.beta_val_start, patch.beta_val_end, images_seen, patch.anneal_kimg)


def patch_min_scale(patch: PatchConfig, target: float, images_seen: float) -> float:
    """Smallest patch scale (fraction of the image side) that may be drawn now.

    Constant at `target` for the Beta law, annealed from `max_scale` to it for the uniform laws.
    """
    if patch.distribution is PatchDistribution.BETA:
        return target
    return ramp(patch.max_scale, target, images_seen, patch.anneal_kimg)


def density_noise_std(initial: float, growth_kimg: float, images_seen: float) -> float:
    """Standard deviation of the noise added to raw densities in training; fades to 0."""
    return ramp(initial, 0.0, images_seen, growth_kimg)


def spoof_probability(final: float, images_seen: float) -> float:
    """Share of samples whose generator condition may be another's camera: 1 -> `final`."""
    return ramp(1.0, final, images_seen, SPOOF_FADE_KIMG)


def blur_sigma(initial: float, fade_kimg: float, images_seen: float) -> float:
    """Blur (pixels) of everything that the discriminator sees; fades to 0."""
    return ramp(initial, 0.0, images_seen, fade_kimg)


def ema_beta(batch_size: int, half_life_kimg: float, images_seen: int) -> float:
    """Decay of the weight average for one step, 0..1.

    The half-life is capped at 5 % of `images_seen` (before this step), so that the average starts
    as a copy and lengthens as training proceeds.
    """
    half_life = min(half_life_kimg * 1000, images_seen * 0.05)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


def lazy_optimiser(optim: OptimConfig, interval: int | None) -> tuple[float, tuple[float, float]]:
    """Adam's (lr, betas) when a regulariser adds one step in every `interval`.

    c = interval / (interval + 1): lr c, betas ^ c (Karras et al. 2020, StyleGAN2, appendix B).
    None means no lazy regulariser. Betas are floats: torch refuses integers.
    """
    c = 1.0 if interval is None else interval / (interval + 1)
    return optim.lr * c, (float(optim.betas[0] ** c), float(optim.betas[1] ** c))


def adapted_probability(
    p: float, mean_sign: float, target: float, images: int, speed_kimg: float
) -> float:
    """ADA: move p towards the overfitting target.

    Args:
        p: probability of augmentations so far.
        mean_sign: mean of sign(D(real)) since the last change, -1..1.
        target: the wanted mean sign.
        images: how many images the change stands for.
        speed_kimg: thousand images that take p from 0 to 1.
    """
    direction = (mean_sign > target) - (mean_sign < target)
    return min(max(p + direction * images / (speed_kimg * 1000), 0.0), 1.0)


@dataclass(frozen=True)
class Schedule:
    """The values in force during one step (see the functions of the same names)."""

    patch_beta: float
    patch_min_scale: float
    density_noise_std: float
    blur_sigma: float
    spoof_probability: float


def schedule_at(cfg: Config, images_seen: int, *, first_step: bool = False) -> Schedule:
    """Everything scheduled, for a step that begins after `images_seen` images.

    The official code sets patch scales and density noise *after* each step, so that its first
    iteration has no density noise and starting patch scales. `first_step` keeps this for the first
    step of a run only: the official code repeats it after each resume, ours does not, because a
    resumed run must equal one that was never stopped.
    """
    patch, generator, loss = (
        cfg.training.patch,
        cfg.model.generator,
        cfg.model.loss_kwargs,
    )
    seen = 0 if first_step else images_seen
    noise = density_noise_std(
        generator.nerf_noise_std_init, generator.nerf_noise_kimg_growth, images_seen
    )
    return Schedule(
        patch_beta=patch_beta(patch, seen),
        patch_min_scale=patch_min_scale(patch, cfg.patch_min_scale, seen),
        density_noise_std=0.0 if first_step else noise,
        blur_sigma=blur_sigma(loss.blur_init_sigma, loss.blur_fade_kimg, images_seen),
        spoof_probability=spoof_probability(generator.camera_cond_spoof_p, images_seen),
    )
