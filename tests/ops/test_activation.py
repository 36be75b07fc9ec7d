"""What follows a convolution, against the formulas in plain torch, in values and derivatives."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from epigraf.ops import Curve, activation, available, use_reference

LRELU = Curve(0.2, math.sqrt(2), 1.7)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@dataclass
class Layer:
    """Inputs of one call; `tensors` are those with a gradient."""

    x: Tensor
    bias: Tensor
    curve: Curve = LRELU
    scale: Tensor | None = None
    noise: Tensor | None = None
    strength: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        all_of_them = (self.x, self.bias, self.scale, self.strength)
        return [t.detach().requires_grad_() for t in all_of_them if t is not None]

    def call(self, x: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
        given = iter(rest)
        scale = None if self.scale is None else next(given)
        strength = None if self.strength is None else next(given)
        others = {"scale": scale, "noise": self.noise, "strength": strength}
        return activation(x * 1, bias, self.curve, **others, overwrite=True)

    def plain(self, x: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
        """The formulas, without the op."""
        others = iter(rest)
        u = x if self.scale is None else x * next(others)[:, :, None, None]
        u = u + bias[None, :, None, None]
        if self.noise is not None:
            u = u + self.noise * next(others)
        y = torch.where(u > 0, u, u * self.curve.slope) * self.curve.gain
        return y if self.curve.clamp is None else y.clamp(-self.curve.clamp, self.curve.clamp)


def layer(
    shape: tuple[int, ...] = (2, 3, 4, 5),
    *,
    scale: bool = True,
    noise: str = "each",
    last: bool = True,
    curve: Curve = LRELU,
    dtype: torch.dtype = torch.float64,
) -> Layer:
    batch, channels, height, width = shape
    x = normal(*shape, dtype=dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    size = (batch, 1, height, width) if noise == "each" else (height, width)
    return Layer(
        x,
        normal(channels, seed=1, dtype=dtype),
        curve,
        normal(batch, channels, seed=2, dtype=dtype) if scale else None,
        None if noise == "none" else normal(*size, seed=3, dtype=dtype),
        None if noise == "none" else torch.tensor(0.4, dtype=dtype),
    )


@pytest.mark.usefixtures("backend")
def test_worked_values() -> None:
    x = torch.tensor([1.0, -1.0, 10.0, -100.0]).reshape(1, 2, 1, 2)
    y = activation(
        x,
        torch.tensor([1.0, 0.0]),
        Curve(0.5, 2.0, 6.0),
        scale=torch.tensor([[3.0, 0.5]]),
        noise=torch.tensor([[0.0, 2.0]]),
        strength=torch.tensor(0.5),
    )
    # u = 3 + 1, -3 + 1 + 1, 5, -50 + 1; leaky, times 2, clamped
    assert y.flatten().tolist() == [6.0, -1.0, 6.0, -6.0]
    y = activation(x, torch.tensor([1.0, 0.0]), Curve(0.5, 2.0))
    assert y.flatten().tolist() == [4.0, 0.0, 20.0, -100.0]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("curve", [LRELU, Curve(0.2, 1.0), Curve(0.0, 1.3, 0.8), Curve(1.0, 2.0)])
@pytest.mark.parametrize("noise", ["none", "one", "each"])
@pytest.mark.parametrize("scale", [False, True])
def test_derivatives(scale: bool, noise: str, curve: Curve) -> None:
    for last in (False, True):
        one = layer((2, 2, 1, 2), scale=scale, noise=noise, last=last, curve=curve)
        assert gradcheck(one.call, one.tensors())
        assert gradgradcheck(one.call, one.tensors())


@pytest.mark.usefixtures("native")
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(
        st.integers(0, 3), st.sampled_from([1, 2, 31, 33, 64]), st.integers(0, 9), st.integers(1, 9)
    ),
    scale=st.booleans(),
    noise=st.sampled_from(["none", "one", "each"]),
    last=st.booleans(),
    curve=st.sampled_from([LRELU, Curve(0.2, 1.0), Curve(0.0, 1.3, 0.8), Curve(1.0, 1.0, 0.5)]),
)
def test_equals_the_formulas(shape, scale, noise, last, curve) -> None:
    one = layer(shape, scale=scale, noise=noise, last=last, curve=curve)
    tensors = one.tensors()
    ours, expected = one.call(*tensors), one.plain(*tensors)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert ours.stride() == one.x.stride() or 0 in shape
    cotangent = normal(*shape, seed=4)
    for a, b in zip(
        torch.autograd.grad(ours, tensors, cotangent),
        torch.autograd.grad(expected, tensors, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("native")
def test_many_runs_of_pixels_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("epigraf.ops.activation")
    one = layer((2, 33, 12, 11))
    tensors = one.tensors()
    expected = torch.autograd.grad(one.plain(*tensors).square().sum(), tensors)
    monkeypatch.setitem(module._RUN, "cpu", 33 * 5)
    found = torch.autograd.grad(one.call(*tensors).square().sum(), tensors)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_on_every_device(device: torch.device, backend: str) -> None:
    for last in (False, True):
        one = layer((2, 20, 6, 7), last=last, dtype=torch.float32)
        on_device = {
            name: None if t is None else t.to(device)
            for name, t in (("scale", one.scale), ("noise", one.noise), ("strength", one.strength))
        }
        y = activation(one.x.to(device), one.bias.to(device), one.curve, **on_device)
        torch.testing.assert_close(y.cpu(), one.plain(*one.tensors()).detach())


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("last", [False, True])
def test_a_gradient_penalty_equals_plain_torch(last: bool) -> None:
    """R1: of the gradient of x, in bias, scale and strength."""
    one = layer(last=last)

    def penalty(run) -> tuple[Tensor, ...]:
        tensors = one.tensors()
        y = run(*tensors)
        (grad,) = torch.autograd.grad((y**3).sum(), tensors[0], create_graph=True)
        return torch.autograd.grad(grad.square().sum(), tensors)

    for a, b in zip(penalty(one.call), penalty(one.plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_round_once(dtype: torch.dtype, last: bool) -> None:
    one = layer((2, 33, 5, 4), last=last, dtype=torch.float32)
    one.x = one.x.to(dtype)
    tensors = one.tensors()
    ours, wide = one.call(*tensors), one.plain(tensors[0].float(), *tensors[1:])
    assert ours.dtype == dtype
    assert torch.equal(ours, wide.to(dtype))
    with use_reference():
        torch.testing.assert_close(one.call(*tensors), ours)
    cotangent = normal(*one.x.shape, seed=4).to(dtype)
    found = torch.autograd.grad(ours, tensors, cotangent)
    expected = torch.autograd.grad(wide, tensors, cotangent.float())
    for a, b, limit in zip(found, expected, (0.01, 0.05, 0.05, 0.05), strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).abs().max()) <= limit * float(b.abs().max())
    assert found[1].dtype == torch.float32


@pytest.mark.usefixtures("native")
def test_sixteen_bits_have_second_derivatives() -> None:
    one = layer((2, 3, 4, 4), dtype=torch.float32)
    one.x = one.x.half()
    x, *rest = one.tensors()
    (grad,) = torch.autograd.grad(one.call(x, *rest).float().square().sum(), x, create_graph=True)
    grads = torch.autograd.grad(grad.float().square().sum(), rest)
    assert grad.dtype == torch.float16
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


@pytest.mark.usefixtures("backend")
def test_nothing_goes_back_where_it_is_clamped() -> None:
    x = torch.tensor([-3.0, -1.0, 1.0, 3.0]).reshape(1, 1, 2, 2).requires_grad_()
    activation(x * 1, torch.zeros(1), Curve(0.5, 1.0, 1.2), overwrite=True).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.0, 0.5, 1.0, 0.0]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("last", [False, True])
def test_nan_stays_where_it_is(last: bool) -> None:
    one = layer((1, 3, 4, 4), last=last)
    one.x[0, 1, 2, 3] = math.nan
    y = one.call(*one.tensors())
    assert bool(y[0, 1, 2, 3].isnan())
    assert int(y.isnan().sum()) == 1
    one.x[0, 1, 2, 3] = math.inf
    scale = 1.0 if one.scale is None or float(one.scale[0, 1]) > 0 else -1.0
    assert one.call(*one.tensors())[0, 1, 2, 3].item() == pytest.approx(scale * 1.7)


@pytest.mark.usefixtures("native")
def test_two_runs_are_bit_equal_with_any_number_of_threads() -> None:
    one = layer((3, 40, 32, 32), dtype=torch.float32)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            tensors = one.tensors()
            y = one.call(*tensors)
            results.append([y, *torch.autograd.grad(y.sum(), tensors)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("native")
def test_it_overwrites_only_what_it_may() -> None:
    x, bias = normal(1, 2, 3, 3), normal(2)
    kept = x.clone()
    assert activation(x, bias, LRELU).data_ptr() != x.data_ptr()
    assert torch.equal(x, kept)
    leaf = kept.clone().requires_grad_()
    activation(leaf, bias, LRELU, overwrite=True).sum().backward()
    assert torch.equal(leaf.detach(), kept)
    view = (leaf * 1).permute(0, 1, 3, 2)
    activation(view, bias, LRELU, overwrite=True).sum().backward()
    y = activation(x, bias, LRELU, overwrite=True)
    assert y.data_ptr() == x.data_ptr()
    torch.testing.assert_close(y, activation(kept, bias, LRELU))


@pytest.mark.usefixtures("native")
def test_pictures_in_any_strides() -> None:
    x, bias = normal(2, 3, 6, 8)[:, :, ::2, 1:5], normal(3)
    expected = activation(x.contiguous(), bias, LRELU)
    torch.testing.assert_close(activation(x, bias, LRELU), expected)
    wide = normal(2, 1, 1, 1).expand(2, 3, 4, 4)
    torch.testing.assert_close(activation(wide, bias, LRELU), activation(wide * 1, bias, LRELU))
    x.requires_grad_()
    activation(x, bias, LRELU).sum().backward()  # the gradient of y is one number, expanded


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("last", [False, True])
def test_a_clamp_alone_is_noticed_anywhere(last: bool) -> None:
    x = torch.zeros(2, 3, 4, 5)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert activation(x, None, Curve()) is x
    for value in (2.0, -2.0, math.inf, math.nan):
        x[1, 2, 3, 4] = value
        y = activation(x, None, Curve(clamp=1.0))
        expected = max(-1.0, min(1.0, value)) if value == value else math.nan
        torch.testing.assert_close(y[1, 2, 3, 4], torch.tensor(expected), equal_nan=True)
    x[1, 2, 3, 4] = 0.5
    assert activation(x, None, Curve(clamp=1.0)) is x


@pytest.mark.usefixtures("native")
def test_noise_with_a_gradient_takes_plain_torch() -> None:
    one = layer()
    noise = normal(4, 5).requires_grad_()
    y = activation(one.x, one.bias, one.curve, noise=noise, strength=one.strength)
    y.sum().backward()
    assert noise.grad is not None


@pytest.mark.usefixtures("native")
def test_gradients_nobody_asks_for_are_not_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """R1 asks for the gradient of the image alone."""
    module = importlib.import_module("epigraf.ops.activation")
    asked: list[bool] = []
    original = module._native_backward
    monkeypatch.setattr(
        module, "_native_backward", lambda *args: asked.append(args[-1]) or original(*args)
    )
    x, bias = normal(1, 2, 3, 3).requires_grad_(), normal(2).requires_grad_()
    y = activation(x * 1, bias * 1, LRELU).sum()
    torch.autograd.grad(y, x, retain_graph=True)
    y.backward()
    assert asked == [False, True]


@pytest.mark.skipif(not available(), reason="no native core")
def test_it_compiles_as_one_graph() -> None:
    one = layer((2, 3, 4, 4), dtype=torch.float32)
    compiled = torch.compile(one.call, fullgraph=True, backend="aot_eager")
    tensors = one.tensors()
    y = compiled(*tensors)
    torch.testing.assert_close(y, one.call(*tensors))
    found = torch.autograd.grad(y.sum(), tensors)
    for a, b in zip(found, torch.autograd.grad(one.call(*tensors).sum(), tensors), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("backend")
def test_mistakes_are_named() -> None:
    x, bias = normal(2, 3, 4, 5), normal(3)

    def fails(error: type[Exception], match: str, *args, **options) -> None:
        with pytest.raises(error, match=match):
            activation(*args, **options)

    fails(TypeError, "activation: x must be floating point, got torch.int64", x.long(), bias, LRELU)
    shape = r"activation: x must have shape \[B, C, H, W\], got \[3, 4, 5\]"
    fails(ValueError, shape, x[0], bias, LRELU)
    shape = r"activation: bias must have shape \[C\] = \[3\], got \[2\]"
    fails(ValueError, shape, x, bias[:2], LRELU)
    shape = r"activation: scale must have shape \[B, C\] = \[2, 3\], got \[3\]"
    fails(ValueError, shape, x, bias, LRELU, scale=bias)
    one = normal(1)[0]
    shape = r"activation: noise must have shape \[B, 1, H, W\] = \[2, 1, 4, 5\], got \[2, 3, 4, 5\]"
    fails(ValueError, shape, x, bias, LRELU, noise=x, strength=one)
    shape = r"activation: noise must have shape \[H, W\] = \[4, 5\], got \[5, 4\]"
    fails(ValueError, shape, x, bias, LRELU, noise=normal(5, 4), strength=one)
    shape = r"activation: strength must have shape \[\] = \[\], got \[1\]"
    fails(ValueError, shape, x, bias, LRELU, noise=normal(4, 5), strength=normal(1))
    together = "activation: noise and strength come together, got only one of them"
    fails(ValueError, together, x, bias, LRELU, strength=one)
    dtype = "activation: bias must have the dtype of x, torch.float64, got torch.float32"
    fails(TypeError, dtype, x, bias.float(), LRELU)
    dtype = "activation: scale must have the dtype of x, torch.float16, got torch.float64"
    fails(TypeError, dtype, x.half(), bias.half(), LRELU, scale=normal(2, 3))
    numbers = "activation: slope must be finite and >= 0, got -0.1"
    fails(ValueError, numbers, x, bias, Curve(-0.1))
    fails(ValueError, "gain must be finite and > 0, got 0", x, bias, Curve(gain=0))
    fails(ValueError, "clamp must be finite and > 0, got inf", x, bias, Curve(clamp=math.inf))
