"""Tri-plane look-up: the mean of three bilinear reads (EpiGRAF, arXiv:2206.10535, section 3.1).

Legend: B batch, P points, F channels, H height, W width. Formulas: docs/math/triplane.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._autograd import composable_grads
from epigraf.ops._checks import check_floating, check_like, check_shape
from epigraf.ops._memory import HALVES, storage

# The coordinates (width, height) that each of the three planes reads: (x, y), (x, z), (y, z).
_WIDTH_AXES, _HEIGHT_AXES = (0, 0, 1), (1, 2, 2)
PIXELS_PER_POINT = 32  # of planes that are read in place though their channels lie apart


def sample_triplane(planes: Tensor, points: Tensor) -> Tensor:
    """Features of points: the mean of bilinear reads of the planes (x, y), (x, z) and (y, z).

    The first coordinate of a pair runs along the width, the second along the height; -1 and 1 are
    the centres of the first and last pixel (align_corners); outside the planes are zeros
    (triplane 1-3). A point with a coordinate that is not finite gets NaN features.

    planes: [B, 3, F, H, W], H and W at least 1, any strides; float32, float64, float16 or bfloat16.
        Channels-last memory is read in place, and so is any other where the points are few
        (`reads_in_place`); else it is converted once.
    points: [B, P, 3] in plane coordinates, [-1, 1] inside; of the dtype of planes, or float32 with
        planes of 16 bits (whose own 16 bits would place a point no better than to a pixel).
    Returns [B, P, F] in the dtype of planes. With 16 bits the arithmetic is float32's and rounded
    once, and so is the sum that the gradient of the planes is.
    Differentiable in planes and points; the second derivative runs through plain torch. On a CPU
    two runs, with any number of threads, agree bit for bit, gradients included.
    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype.
    """
    _check(planes, points)
    if planes.dtype in HALVES:
        points = points.float()
    if not _native.runs_native(points):
        return _triplane_reference(planes, points)
    in_place = reads_in_place(planes, points.shape[1])
    pixels = planes.movedim(2, 4) if in_place else channels_last(planes)
    return _Triplane.apply(pixels, points.contiguous())


def _triplane_reference(planes: Tensor, points: Tensor) -> Tensor:
    """`sample_triplane` in plain torch: any dtype and device, differentiable at any order."""
    if planes.dtype in HALVES:
        return _triplane_reference(planes.float(), points.float()).to(planes.dtype)
    batch, _, channels, height, width = planes.shape
    pixels = planes.movedim(2, 4).reshape(batch * 3 * height * width, channels)
    column = _pixel_position(points[..., _WIDTH_AXES].transpose(1, 2), width)  # [B, 3, P]
    row = _pixel_position(points[..., _HEIGHT_AXES].transpose(1, 2), height)
    x0, y0 = column.detach().floor(), row.detach().floor()
    x, y = column - x0, row - y0
    plane = torch.arange(batch * 3, device=points.device).view(batch, 3, 1) * (height * width)
    total = points.new_zeros(())
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        xi, yi = x0 + dx, y0 + dy
        inside = (xi >= 0) & (xi <= width - 1) & (yi >= 0) & (yi <= height - 1)
        pixel = torch.where(inside, yi, 0).long() * width + torch.where(inside, xi, 0).long()
        tap = pixels[(plane + pixel).flatten()].view(*pixel.shape, channels)
        tap = torch.where(inside.unsqueeze(-1), tap, 0)
        weight = (x if dx else 1 - x) * (y if dy else 1 - y)
        total = total + weight.unsqueeze(-1) * tap
    return total.mean(dim=1)


def _pixel_position(coordinate: Tensor, size: int) -> Tensor:
    """(triplane 1): a coordinate in [-1, 1] as a position in pixels."""
    return (coordinate + 1) / 2 * (size - 1)


class _Triplane(torch.autograd.Function):
    """The native op on planes [B, 3, H, W, F] of any strides, and contiguous points."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, points: Tensor) -> Tensor:
        features = planes.new_empty(*points.shape[:2], planes.shape[-1])
        _native.core().triplane_forward(
            _native.launch(points),
            storage(planes.dtype),
            _shape(planes, points),
            _native.addresses(planes, points),
            features.data_ptr(),
        )
        # The gradient of the planes needs their layout only, that of the points their values.
        ctx.save_for_backward(planes if ctx.needs_input_grad[1] else None, points)
        ctx.layout = planes.shape, planes.stride(), planes.dtype
        return features

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        planes, points = ctx.saved_tensors
        (grad_features,) = grad_outputs
        sizes, strides, dtype = ctx.layout
        if torch.is_grad_enabled():
            return _second_order(ctx, grad_features)
        grad_features = grad_features.contiguous()
        need_planes, need_points = ctx.needs_input_grad
        grad_planes = zeros_strided(sizes, strides, points) if need_planes else None
        grad_points = torch.empty_like(points) if need_points else None
        layout = planes if grad_planes is None else grad_planes
        if planes is not None and planes.stride() != layout.stride():
            planes = planes.contiguous()  # both are read and written with the same strides
        _native.core().triplane_backward(
            _native.launch(points),
            storage(dtype),
            _shape(layout, points),
            _native.addresses(planes, points, grad_features),
            _native.addresses(grad_planes, grad_points),
        )
        return None if grad_planes is None else grad_planes.to(dtype), grad_points


def _second_order(ctx: Any, grad_features: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients that can be differentiated again."""
    planes, points = ctx.saved_tensors
    if planes is None:  # the read is linear in the planes: their values do not enter
        planes = grad_features.new_zeros(ctx.layout[0]).requires_grad_()

    def reference(planes: Tensor, points: Tensor) -> tuple[Tensor]:
        return (_triplane_reference(planes.movedim(4, 2), points),)

    grads = composable_grads(reference, (planes, points), ctx.needs_input_grad, (grad_features,))
    return grads[0], grads[1]


def reads_in_place(planes: Tensor, points: int) -> bool:
    """Whether `points` points a batch element are too few to pay for channels-last planes.

    A read of scattered channels takes longer than one of a line; a copy touches every pixel. Both
    grow with the channels, so the number of pixels to a point decides (docs/math/triplane.md).
    """
    dense = 0 not in planes.stride() and planes.stride(2) != 1
    return dense and points * PIXELS_PER_POINT <= 3 * planes.shape[3] * planes.shape[4]


def channels_last(planes: Tensor) -> Tensor:
    """[B, 3, F, H, W] -> [B, 3, H, W, F] with channel stride 1; a copy only if it must be."""
    pixels = planes.movedim(2, 4)
    dense = pixels.stride(4) == 1 and 0 not in pixels.stride()
    return pixels if dense or pixels.numel() == 0 else pixels.contiguous()


def zeros_strided(sizes: torch.Size, strides: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros with these strides (channels contiguous), so that a gradient matches its tensor."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    count = sizes.numel()
    if extent != count or count == 0:  # a slice of something larger: a dense gradient will do
        return like.new_zeros(sizes)
    return like.new_zeros(count).as_strided(sizes, strides)


def _shape(planes: Tensor, points: Tensor) -> Any:
    """Sizes and strides of planes [B, 3, H, W, F] as the core takes them."""
    batch, _, height, width, channels = planes.shape
    sizes = (batch, points.shape[1], channels, height, width)
    return _native.core().TriplaneShape(sizes, planes.stride()[:4], planes.stride(4))


def _check(planes: Tensor, points: Tensor) -> None:
    op = "sample_triplane"
    check_floating(op, "planes", planes)
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"{op}: planes must have shape [B, 3, F, H, W], got {list(planes.shape)}")
    if 0 in planes.shape[3:]:
        raise ValueError(f"{op}: planes must have at least one pixel, got {list(planes.shape)}")
    if points.ndim != 3:
        raise ValueError(f"{op}: points must have shape [B, P, 3], got {list(points.shape)}")
    check_shape(op, "points", points, "[B, P, 3]", (planes.shape[0], points.shape[1], 3))
    like = planes
    if planes.dtype in HALVES and points.dtype == torch.float32:
        like = planes.new_empty(0, dtype=torch.float32)
    check_like(op, "points", points, "planes", like)
