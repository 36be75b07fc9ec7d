"""What follows a convolution, in one pass: scale, noise, bias, leaky ReLU, gain and clamp.

Source: StyleGAN2 (Karras et al. 2020), figure 2d and appendix B. Formulas: docs/math/activation.md.
Legend: B batch, C channels, H W, P = H W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from epigraf.ops import _native
from epigraf.ops._autograd import wanted
from epigraf.ops._checks import check_floating, check_like, check_shape
from epigraf.ops._memory import HALVES, dense, is_channels_last, order, storage, wide

# Numbers of a run of pixels, whose sums are kept apart: a share of a core's cache, a block's work.
_RUN = {"cpu": 32768, "cuda": 8192}


@dataclass(frozen=True)
class Curve:
    """y(u) = clamp(gain * leaky_relu(u)): slope below 0, gain, and +-clamp (None: off)."""

    slope: float = 1.0
    gain: float = 1.0
    clamp: float | None = None

    @property
    def numbers(self) -> tuple[float, float, float]:
        """As the core takes them."""
        return self.slope, self.gain, math.nan if self.clamp is None else self.clamp


def activation(
    x: Tensor,
    bias: Tensor | None,
    curve: Curve,
    *,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """clamp(gain * leaky_relu(x * scale + bias + strength * noise)) (activation 1, 2).

    x: [B, C, H, W], channels-last memory or not. bias: [C]. scale: [B, C], not 0 where its gradient
        is wanted. noise: [B, 1, H, W] or [H, W], with strength, one number []. All of the dtype of
        x, or float32 with x of 16 bits.
    overwrite: the result may take the memory of `x`, which nobody needs any more. Where there is
        nothing to do it is `x` itself.
    Returns [B, C, H, W] in the dtype and memory order of x. float32, float64, float16 and bfloat16
    run natively (16 bits in float32's arithmetic, rounded once), other dtypes in plain torch.
    Differentiable any number of times in x, bias, scale and strength, from the result alone; where
    noise wants a gradient, through plain torch. Nothing goes back where it is clamped. NaN stays
    NaN. Two runs agree bit for bit, with any number of threads.
    Raises ValueError for a wrong shape, device or number, TypeError for a wrong dtype.
    """
    _check(x, bias, curve, (scale, noise, strength))
    if bias is None and scale is None and noise is None and curve.slope == curve.gain == 1:
        return _clamped(x, curve.clamp)
    dtype = wide(x.dtype)
    bias = x.new_zeros(x.shape[1], dtype=dtype) if bias is None else bias.to(dtype)
    others = (None if t is None else t.to(dtype).contiguous() for t in (scale, noise, strength))
    params = _Params(bias.contiguous(), *others)
    if _wants_grad(noise) or not _native.runs_native(bias):
        return _activation_reference(x, params, curve)
    x = dense(x)
    return _Activation.apply(x, *params, curve, overwrite and _may_overwrite(x))


class _Params(NamedTuple):
    """What is added and multiplied, in the dtype of the arithmetic."""

    bias: Tensor
    scale: Tensor | None = None
    noise: Tensor | None = None
    strength: Tensor | None = None


def _activation_reference(x: Tensor, params: _Params, curve: Curve) -> Tensor:
    """`activation` in plain torch: any dtype and device, differentiable at any order."""
    if x.dtype in HALVES:
        return _activation_reference(x.float(), params, curve).to(x.dtype)
    bias, scale, noise, strength = params
    u = x if scale is None else x * scale[:, :, None, None]
    u = u + bias[:, None, None]
    if noise is not None and strength is not None:
        u = u + noise * strength
    y = u if curve.slope == 1 else F.leaky_relu(u, curve.slope)
    y = y if curve.gain == 1 else y * curve.gain
    return y if curve.clamp is None else y.clamp(-curve.clamp, curve.clamp)


class _Activation(Function):
    """The native op; keeps its output, and of its inputs the small ones."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        noise: Tensor | None,
        strength: Tensor | None,
        curve: Curve,
        overwrite: bool,
    ) -> Tensor:
        if overwrite:
            ctx.mark_dirty(x)
        y = x if overwrite else torch.empty_like(x)
        _native.core().activation_forward(
            _native.launch(bias),
            storage(x.dtype),
            _call(x, noise, curve),
            x.data_ptr(),
            _native.addresses(bias, scale, noise, strength),
            y.data_ptr(),
        )
        ctx.save_for_backward(y, bias, scale, noise, strength)
        ctx.curve = curve
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        y, *saved = ctx.saved_tensors
        params = _Params(*saved)
        needs = wanted(ctx, [True, *(t is not None for t in params)])
        run = _differentiable if torch.is_grad_enabled() else _native_backward
        grad_x, totals = run(grad_y, y, params, ctx.curve, any(needs[1:]))
        grads = (None,) * 4 if totals is None else _of_params(totals, params, needs[1:])
        return grad_x, *grads, None, None


class _Slopes(Function):
    """grad_u = grad_y * dy/du (activation 3): linear in grad_y and its own adjoint."""

    @staticmethod
    def forward(ctx: Any, grad_y: Tensor, y: Tensor, bias: Tensor, curve: Curve) -> Tensor:
        ctx.save_for_backward(y, bias)
        ctx.curve = curve
        return _native_backward(grad_y, y, _Params(bias), curve, False)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, bias = ctx.saved_tensors
        return _Slopes.apply(grad, y, bias, ctx.curve), None, None, None


class _Totals(NamedTuple):
    """Sums over pixels, [B, C] each: of grad_u, of grad_u * noise and of grad_u * u."""

    grad: Tensor
    by_noise: Tensor | None
    by_input: Tensor | None


def _native_backward(
    grad_y: Tensor, y: Tensor, params: _Params, curve: Curve, sums: bool
) -> tuple[Tensor, _Totals | None]:
    """One pass for the gradient of x and, run by run, the sums."""
    bias, scale, noise, _ = params
    grad_y, grad_x = grad_y.contiguous(memory_format=order(y)), torch.empty_like(y)
    kinds = 1 + (noise is not None) + (scale is not None)
    runs = -(-y.shape[2:].numel() // _run(y))
    parts = bias.new_empty(len(y), runs, kinds, y.shape[1]) if sums else None
    _native.core().activation_backward(
        _native.launch(bias),
        storage(y.dtype),
        _call(y, noise, curve),
        _native.addresses(grad_y, y, scale, noise),
        _native.addresses(grad_x, parts),
    )
    if parts is None:
        return grad_x, None
    rows = parts.sum(1).unbind(1)
    by_noise, by_input = (None if t is None else rows[i] for t, i in ((noise, 1), (scale, -1)))
    return grad_x, _Totals(rows[0], by_noise, by_input)


def _differentiable(
    grad_y: Tensor, y: Tensor, params: _Params, curve: Curve, sums: bool
) -> tuple[Tensor, _Totals | None]:
    """The same, to be differentiated again (activation 6): y leads back to all inputs."""
    bias, scale, noise, _ = params
    grad_u = _Slopes.apply(grad_y, y.detach(), bias, curve)
    grad_x = grad_u if scale is None else (grad_u * scale[:, :, None, None]).to(y.dtype)
    if not sums:
        return grad_x, None
    summed = grad_u.to(bias.dtype)
    by_noise = None if noise is None else (summed * noise).sum((2, 3))
    by_input = None
    if scale is not None:
        product = grad_y.to(bias.dtype) * y.to(bias.dtype)
        if curve.clamp is not None:
            clamp = float(torch.tensor(curve.clamp, dtype=y.dtype))
            product = torch.where(y.detach().abs() < clamp, product, 0)
        by_input = product.sum((2, 3))
    return grad_x, _Totals(summed.sum((2, 3)), by_noise, by_input)


def _of_params(totals: _Totals, params: _Params, needs: list[bool]) -> tuple[Tensor | None, ...]:
    """Gradients of bias, scale, noise (none) and strength from the sums (activation 4, 5)."""
    bias, scale, _, strength = params
    grad_scale = grad_strength = None
    if needs[1] and scale is not None and totals.by_input is not None:
        by_x = totals.by_input - bias * totals.grad
        if strength is not None and totals.by_noise is not None:
            by_x = by_x - strength * totals.by_noise
        grad_scale = by_x / scale
    if needs[3] and totals.by_noise is not None:
        grad_strength = totals.by_noise.sum()
    return totals.grad.sum(0) if needs[0] else None, grad_scale, None, grad_strength


def _call(x: Tensor, noise: Tensor | None, curve: Curve) -> Any:
    """Sizes and numbers as the core takes them."""
    pixels = x.shape[2:].numel()
    stride = pixels if noise is not None and noise.ndim == 4 else 0
    sizes = (len(x), x.shape[1], pixels, stride, _run(x))
    return _native.core().ActivationCall(sizes, is_channels_last(x), curve.numbers)


def _run(x: Tensor) -> int:
    """Pixels of a run."""
    return max(1, _RUN[x.device.type] // max(1, x.shape[1]))


def _may_overwrite(x: Tensor) -> bool:
    """Whether autograd lets the op write into x at no cost: it clones the gradients of views."""
    if not torch.is_grad_enabled():
        return True
    return not x._is_view() and not (x.is_leaf and x.requires_grad)


def _wants_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()


def _clamped(x: Tensor, clamp: float | None) -> Tensor:
    """x itself where no number is beyond the clamp; on a GPU asking would cost a wait."""
    if clamp is None:
        return x
    if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling():
        flat = x.detach()
        if flat.is_contiguous(memory_format=torch.channels_last):
            flat = flat.permute(0, 2, 3, 1)
        low, high = flat.aminmax()
        if float(low) > -clamp and float(high) < clamp:
            return x
    return x.clamp(-clamp, clamp)


def _check(x: Tensor, bias: Tensor | None, curve: Curve, others: tuple[Tensor | None, ...]) -> None:
    op = "activation"
    check_floating(op, "x", x)
    if x.ndim != 4:
        raise ValueError(f"{op}: x must have shape [B, C, H, W], got {list(x.shape)}")
    if not (math.isfinite(curve.slope) and curve.slope >= 0):
        raise ValueError(f"{op}: slope must be finite and >= 0, got {curve.slope}")
    for name, number in (("gain", curve.gain), ("clamp", curve.clamp)):
        if number is not None and not (math.isfinite(number) and number > 0):
            raise ValueError(f"{op}: {name} must be finite and > 0, got {number}")
    scale, noise, strength = others
    batch, channels, *size = x.shape
    if (noise is None) != (strength is None):
        raise ValueError(f"{op}: noise and strength come together, got only one of them")
    noise_legend, noise_shape = "[B, 1, H, W]", (batch, 1, *size)
    if noise is not None and noise.ndim == 2:
        noise_legend, noise_shape = "[H, W]", tuple(size)
    for name, tensor, legend, shape in (
        ("bias", bias, "[C]", (channels,)),
        ("scale", scale, "[B, C]", (batch, channels)),
        ("noise", noise, noise_legend, noise_shape),
        ("strength", strength, "[]", ()),
    ):
        if tensor is None:
            continue
        check_shape(op, name, tensor, legend, shape)
        like = x
        if x.dtype in HALVES and tensor.dtype == torch.float32:
            like = x.new_empty(0, dtype=torch.float32)
        check_like(op, name, tensor, "x", like)
