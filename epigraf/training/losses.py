"""The adversarial objective: tensors in, tensors out. Nothing here knows a network or a config.

Legend: B batch, C channels, H W image size, L number of style vectors (num_ws), D style width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.rendering.draws import Draws


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss softplus(-D(fake)), per sample.

    Args:
        fake_logits: [B] discriminator scores of generated images.
    Returns:
        [B], >= 0. Goodfellow et al. 2014, the heuristic objective of section 3.
    """
    return F.softplus(-fake_logits)


def discriminator_fake_loss(fake_logits: Tensor) -> Tensor:
    """Discriminator loss on generated images, softplus(D(fake)): [B] -> [B], >= 0."""
    return F.softplus(fake_logits)


def discriminator_real_loss(real_logits: Tensor) -> Tensor:
    """Discriminator loss on real images, softplus(-D(real)): [B] -> [B], >= 0."""
    return F.softplus(-real_logits)


def relativistic_loss(logits: Tensor, opponents: Tensor) -> Tensor:
    """Pairwise loss softplus(-(D(mine) - D(other))) of the R3GAN objective.

    The discriminator passes reals and then fakes, the generator fakes and then reals: a fake has to
    beat the real image that it is paired with, so that no part of the data can be left out.

    Args:
        logits: [B] scores of the side that is to score higher.
        opponents: [B] scores of the others.
    Returns:
        [B], >= 0. Huang et al. 2024 (arXiv:2501.05441), with the logistic f; docs/levers.md (1, 2).
    """
    return F.softplus(opponents - logits)


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Squared gradient norm of the scores at images: R1 at real ones (Mescheder et al. 2018,
    equation 9), R2 at fakes.

    The loss term is gamma / 2 times this. Differentiable once more (for the discriminator).

    Args:
        logits: [B] scores of `images`, still attached to the graph.
        images: [B, C, H, W] what was differentiated (the patches before blur and augmentation),
            with requires_grad set.
    Returns:
        [B], >= 0.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """Length of the Jacobian-vector product J_w^T y (Karras et al. 2020, equation 4).

    Args:
        images: [B, C, H, W] generated from `ws`, still attached to the graph.
        ws: [B, L, D] style vectors.
        noise: [B, C, H, W] standard normal; divided here by sqrt(H W).
    Returns:
        [B]: sqrt(mean over L of the squared norm over D). Differentiable once more.
    """
    direction = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, mean: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Squared deviation of path lengths from their moving average.

    Args:
        lengths: [B] from `path_lengths`.
        mean: scalar, the moving average so far (0 at the start).
        decay: weight of the new batch in the moving average, 0..1.
    Returns:
        (penalty [B], the new moving average, detached).
    """
    new_mean = mean.lerp(lengths.mean(), decay)
    return (lengths - new_mean).square(), new_mean.detach()


def blur_matrix(size: int, sigma: float) -> Tensor:
    """Matrix [size, size] (float32) of a zero-padded 1-D blur with weights 2^-(i/sigma)^2.

    The weights reach floor(3 sigma) to each side and are normalised before the border cuts them.
    """
    reach = math.floor(3 * sigma)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32).div(sigma).square().neg().exp2()
    taps = taps / taps.sum()
    offset = torch.arange(size)[None, :] - torch.arange(size)[:, None]
    weights = taps[(offset + reach).clamp(0, 2 * reach)]
    return torch.where(offset.abs() <= reach, weights, torch.zeros(()))


def blur(images: Tensor, sigma: float) -> Tensor:
    """Separable blur of images, the identity when floor(3 sigma) is 0.

    Two small matrix products: quick on a CPU for any sigma and differentiable any number of times.

    Args:
        images: [B, C, H, W].
        sigma: pixels, >= 0.
    """
    if math.floor(3 * sigma) < 1:
        return images
    rows = blur_matrix(images.shape[2], sigma).to(images)
    columns = rows if images.shape[3] == images.shape[2] else blur_matrix(images.shape[3], sigma)
    return rows @ images @ columns.to(images).mT


def spoof_angles(angles: Tensor, probability: float, *, draws: Draws) -> Tensor:
    """Camera angles to condition the generator on: some swapped with another sample's.

    A random subset (each sample with `probability`) is rolled by one within itself, so that the
    generator cannot rely on its condition being the render camera (Chan et al. 2022, section 4.4).

    Args:
        angles: [B, 3] render angles.
        probability: 0..1.
    Returns:
        [B, 3], a new tensor.
    """
    chosen = draws.uniform("spoof", (angles.shape[0],), angles) < probability
    spoofed = angles.clone()
    spoofed[chosen] = angles[chosen].roll(1, dims=0)
    return spoofed
