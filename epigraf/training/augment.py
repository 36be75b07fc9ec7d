"""Adaptive discriminator augmentation: the pipeline of transforms (not the control of p).

T. Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020,
appendix B. A chain of random transforms, each applied with probability `p * multiplier`, is
collected into one affine map of the plane and one of RGB space, which are executed once: the plane
one between a 2x upsampling and a 2x downsampling with the orthogonal sym6 filter, so that nothing
aliases and the identity changes nothing. Linear in the image, hence differentiable twice (R1).

Legend: B batch, C = 3 channels, H W pixels. Plane coordinates are pixels from the image centre,
x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from epigraf.config import AugmentProbs
from epigraf.rendering.draws import Draws
from epigraf.training.transforms import DEFAULT_STRENGTHS, Strengths, Transforms
from epigraf.training.wavelets import (
    MARGIN,
    band_matrices,
    downsampling_matrix,
    reflected,
    upsampling_matrix,
)

_MatrixKey = tuple[Callable[[int], Tensor], int, torch.dtype, torch.device]


class AugmentPipe(nn.Module):
    """Augments a batch; each image draws its own transforms.

    Args:
        probs: multiplier of p for each transform; a transform with multiplier 0 draws nothing.
        strengths: how far each transform goes.
    """

    def __init__(self, probs: AugmentProbs, strengths: Strengths = DEFAULT_STRENGTHS) -> None:
        super().__init__()
        self.probs = probs
        self.strengths = strengths
        self._matrices: dict[_MatrixKey, Tensor] = {}

    def forward(self, images: Tensor, p: float, *, draws: Draws) -> Tensor:
        """Augment images [B, 3, H, W] (nominally in [-1, 1]).

        Args:
            p: overall probability, 0..1. With 0 the images come back unchanged (all numbers are
                drawn all the same, so that the order of draws does not depend on p).
            draws: asked, for every transform with a multiplier, for its value and then its gate,
                in the order geometry, colour, bands, noise, cutout.

        Returns:
            [B, 3, H, W], differentiable (twice) in `images`.

        Raises:
            ValueError: wrong shape or p outside [0, 1].
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"augment: images must be [B, 3, H, W], got {list(images.shape)}")
        if not 0 <= p <= 1:
            raise ValueError(f"augment: p must be in [0, 1], got {p}")
        drawn = Transforms(self.probs, self.strengths, p, draws, images)
        plane, colour = drawn.plane(), drawn.colour()
        if plane is not None and p > 0:
            images = self._warp(images, plane)
        if colour is not None and p > 0:
            flat = images.flatten(2)
            images = (colour[:, :3, :3] @ flat + colour[:, :3, 3:]).view_as(images)
        gains = drawn.band_gains()
        if gains is not None and p > 0:
            images = self._filter(images, gains)
        return drawn.cutout(drawn.noise(images))

    def _matrix(self, build: Callable[[int], Tensor], size: int, like: Tensor) -> Tensor:
        """A constant matrix of `wavelets`, made once per size, dtype and device."""
        key = (build, size, like.dtype, like.device)
        if key not in self._matrices:
            self._matrices[key] = build(size).to(like)
        return self._matrices[key]

    def _warp(self, images: Tensor, plane: Tensor) -> Tensor:
        """Resample images [B, 3, H, W] at the inverse map `plane` [B, 3, 3] (output -> input)."""
        height, width = images.shape[2:]
        left, top, right, bottom = _margins(plane, height, width)
        columns = self._upsampling(width, left, right, images)
        rows = self._upsampling(height, top, bottom, images)
        fine = rows @ images @ columns.mT
        x, y = _warped_positions(plane, height, width)
        grid = torch.stack(
            [
                (2 * (2 * (x + left)) + 1) / fine.shape[3] - 1,
                (2 * (2 * (y + top)) + 1) / fine.shape[2] - 1,
            ],
            dim=-1,
        )
        warped = _GridSample.apply(fine, grid.to(images.dtype))
        down_rows = self._matrix(downsampling_matrix, height, images)
        return down_rows @ warped @ self._matrix(downsampling_matrix, width, images).mT

    def _upsampling(self, size: int, before: int, after: int, like: Tensor) -> Tensor:
        """[2M, N] doubles an axis of N pixels that is reflected by `before` and `after` pixels
        (M = before + N + after)."""
        extended = before + size + after
        matrix = self._matrix(upsampling_matrix, 3 * size - 2, like)[: 2 * extended, :extended]
        source = reflected(torch.arange(-before, size + after, device=like.device), size)
        folded = like.new_zeros(2 * extended, size)
        return folded.index_add_(1, source, matrix)

    def _filter(self, images: Tensor, gains: Tensor) -> Tensor:
        """Amplify frequency bands by gains [B, 4], along both axes."""
        height, width = images.shape[2:]
        rows = torch.einsum("bk,khi->bhi", gains, self._matrix(band_matrices, height, images))
        columns = torch.einsum("bk,kwi->bwi", gains, self._matrix(band_matrices, width, images))
        return rows[:, None] @ images @ columns[:, None].mT


def _warped_positions(plane: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the fine output pixels come from: pixels (x, y) [B, H', W'] of the image, H' = 2(H + 2
    MARGIN)."""
    fine_x = torch.arange(2 * (width + 2 * MARGIN), dtype=plane.dtype, device=plane.device)
    fine_y = torch.arange(2 * (height + 2 * MARGIN), dtype=plane.dtype, device=plane.device)
    x = (fine_x / 2 - MARGIN - (width - 1) / 2)[None, None, :]
    y = (fine_y / 2 - MARGIN - (height - 1) / 2)[None, :, None]
    m = plane[:, :, :, None, None]
    source_x = m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2] + (width - 1) / 2
    source_y = m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2] + (height - 1) / 2
    return source_x, source_y


def _margins(plane: Tensor, height: int, width: int) -> list[int]:
    """By how many pixels images are reflected at (left, top, right, bottom), at most N - 1.

    As far as the corners of any image of the batch come from, and a filter's length more. What
    lies beyond is zero: with strong transforms that shows in the outermost pixels, as in the
    official pipeline.
    """
    reach = plane.new_tensor([(width - 1) / 2, (height - 1) / 2])
    signs = plane.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    corners = (signs * reach) @ plane[:, :2, :2].mT + plane[:, None, :2, 2]  # [B, 4, xy]
    far = torch.cat([-corners, corners], dim=-1).amax(dim=(0, 1))
    margins = (far + (2 * MARGIN - reach).repeat(2)).clamp_min(0)
    return margins.minimum((2 * reach).repeat(2)).ceil().int().tolist()


class _GridSample(torch.autograd.Function):
    """Bilinear sampling with zeros outside; linear in the image, so its derivative's derivative
    is itself (torch has no second derivative of grid_sample)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = image.shape  # pyright: ignore[reportAttributeAccessIssue]
        return nn.functional.grid_sample(image, grid, align_corners=False)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        shape: torch.Size = ctx.shape  # pyright: ignore[reportAttributeAccessIssue]
        return _GridScatter.apply(grads[0], grid, shape), None


class _GridScatter(torch.autograd.Function):
    """The transpose of `_GridSample`: image gradients from output gradients."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor, grid: Tensor, shape: torch.Size
    ) -> Tensor:
        ctx.save_for_backward(grid)
        blank = grad.new_zeros(1).expand(shape)  # only its shape is read
        return torch.ops.aten.grid_sampler_2d_backward(
            grad.contiguous(), blank, grid, 0, 0, False, [True, False]
        )[0]

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grads: Tensor
    ) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        return _GridSample.apply(grads[0], grid), None, None
