"""sample_triplane against values worked by hand, torch's grid_sample, and its own reference.

Legend: B batch, P points, F channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epigraf.ops import available, sample_triplane, use_reference
from epigraf.ops.triplane import PIXELS_PER_POINT, reads_in_place

# One channel, 2 rows and 3 columns. Plane (x, y), plane (x, z), plane (y, z).
WORKED_PLANES = [
    [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    [[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]],
    [[100.0, 200.0, 300.0], [400.0, 500.0, 600.0]],
]
# Column = x + 1 in 0..2, row = (v + 1) / 2 in 0..1.
WORKED_POINTS = [
    # point, the three reads
    ((-1.0, -1.0, -1.0), (1.0, 10.0, 100.0)),
    ((1.0, 1.0, 1.0), (6.0, 60.0, 600.0)),
    ((0.0, -1.0, 1.0), (2.0, 50.0, 400.0)),  # middle column, first row | last row | (y, z)
    ((0.5, 0.0, 0.0), (4.0, 40.0, 350.0)),  # between columns 1 and 2, between the rows
    ((-2.0, -1.0, -1.0), (0.0, 0.0, 100.0)),  # x one pixel to the left of the planes
    ((1.5, -1.0, -1.0), (1.5, 15.0, 100.0)),  # half a pixel to the right: half of the last column
    ((1e30, -1e30, 0.0), (0.0, 0.0, 0.0)),
]


def grid_sample_triplane(planes: Tensor, points: Tensor) -> Tensor:
    """The same through torch's own bilinear sampling."""
    reads = [
        F.grid_sample(planes[:, i], points[..., axes].unsqueeze(1), align_corners=True)[:, :, 0]
        for i, axes in enumerate(([0, 1], [0, 2], [1, 2]))
    ]
    return torch.stack(reads).mean(0).transpose(1, 2)


def make_inputs(
    sizes: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Planes and points for (B, P, F, H, W); some of the points lie outside."""
    batch, points, channels, height, width = sizes
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(batch, 3, channels, height, width, generator=generator, dtype=dtype)
    where = torch.rand(batch, points, 3, generator=generator, dtype=dtype) * 2.6 - 1.3
    return planes.requires_grad_(), where.requires_grad_()


def value_and_grads(
    function: Callable[[Tensor, Tensor], Tensor], planes: Tensor, points: Tensor
) -> list[Tensor]:
    features = function(planes, points)
    cotangent = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view(features.shape)
    cotangent = cotangent.to(features.device)
    return [features, *torch.autograd.grad(features, (planes, points), cotangent)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_worked_by_hand(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    planes = torch.tensor(WORKED_PLANES, dtype=dtype, device=device).view(1, 3, 1, 2, 3)
    points = torch.tensor([[p for p, _ in WORKED_POINTS]], dtype=dtype, device=device)
    expected = torch.tensor([[sum(r) / 3 for _, r in WORKED_POINTS]], dtype=dtype, device=device)
    torch.testing.assert_close(sample_triplane(planes, points)[..., 0], expected)


def test_gradients_worked_by_hand(backend: str, device: torch.device) -> None:
    """At (0.5, 0, 0): both taps of a column share, and the slopes are differences of neighbours."""
    planes = torch.tensor(WORKED_PLANES, device=device).view(1, 3, 1, 2, 3).requires_grad_()
    points = torch.tensor([[[0.5, 0.0, 0.0]]], device=device, requires_grad=True)
    sample_triplane(planes, points).sum().backward()
    assert planes.grad is not None
    assert points.grad is not None
    quarter, half = 0.25 / 3, 0.5 / 3
    xy = [[0, quarter, quarter], [0, quarter, quarter]]  # columns 1 and 2, both rows
    yz = [[0, half, 0], [0, half, 0]]  # column 1 exactly
    expected = torch.tensor([xy, xy, yz], device=device).view(1, 3, 1, 2, 3)
    torch.testing.assert_close(planes.grad, expected)
    # d/dx: 1 pixel per unit times (1 + 10); d/dy: half a pixel per unit times 3, plus 100; d/dz.
    slopes = torch.tensor([11.0, 1.5 + 100, 15 + 150], device=device) / 3
    torch.testing.assert_close(points.grad[0, 0], slopes)


@pytest.mark.parametrize("channels", [1, 3, 8, 20, 32, 47])
def test_agrees_with_grid_sample(backend: str, channels: int) -> None:
    planes, points = make_inputs((2, 33, channels, 5, 7))
    ours = value_and_grads(sample_triplane, planes, points)
    theirs = value_and_grads(grid_sample_triplane, planes, points)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("points", [0, 1, 31, 33, 1025])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_sizes_agree_with_reference(
    native: None, device: torch.device, batch: int, points: int
) -> None:
    inputs = [x.detach().to(device).requires_grad_() for x in make_inputs((batch, points, 5, 4, 6))]
    ours = value_and_grads(sample_triplane, *inputs)
    with use_reference():
        theirs = value_and_grads(sample_triplane, *inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(
        st.integers(1, 3),
        st.integers(1, 40),
        st.integers(1, 40),
        st.integers(1, 9),
        st.integers(1, 9),
    ),
    seed=st.integers(0, 2**31),
)
def test_any_size_agrees_with_grid_sample(sizes: tuple[int, int, int, int, int], seed: int) -> None:
    planes, points = make_inputs(sizes, seed=seed)
    ours = value_and_grads(sample_triplane, planes, points)
    theirs = value_and_grads(grid_sample_triplane, planes, points)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_gradcheck(backend: str) -> None:
    planes, points = make_inputs((2, 4, 3, 3, 4))
    assert torch.autograd.gradcheck(sample_triplane, (planes, points))


def test_second_derivative(backend: str) -> None:
    """Under create_graph the composable path takes over, and it is right."""
    planes, points = make_inputs((1, 3, 2, 3, 4))
    assert torch.autograd.gradgradcheck(sample_triplane, (planes, points))


def test_second_derivative_without_points(backend: str) -> None:
    """Planes are read linearly: the gradient's gradient is the look-up again."""
    planes, points = make_inputs((2, 9, 4, 3, 4))
    features = sample_triplane(planes, points.detach())
    cotangent = torch.ones_like(features, requires_grad=True)
    (grad,) = torch.autograd.grad(features, planes, cotangent, create_graph=True)
    direction = torch.randn_like(grad)
    (again,) = torch.autograd.grad(grad, cotangent, direction)
    expected = grid_sample_triplane(direction, points.detach())
    torch.testing.assert_close(again, expected, rtol=1e-12, atol=1e-12)


def test_strided_inputs_agree(backend: str) -> None:
    planes, points = make_inputs((2, 31, 6, 5, 4))
    expected = value_and_grads(grid_sample_triplane, planes, points)
    batch, _, channels, height, width = planes.shape
    flat = planes.detach().reshape(batch, 3 * channels, height, width)
    views = {
        "channels last": flat.contiguous(memory_format=torch.channels_last).view(planes.shape),
        "transposed": planes.detach().transpose(3, 4).contiguous().transpose(3, 4),
        "every other": planes.detach().repeat_interleave(2, dim=2)[:, :, ::2],
        "slice of a larger one": F.pad(planes.detach(), (1, 2, 3, 1))[..., 3:-1, 1:-2],
    }
    wide = points.detach().repeat_interleave(2, dim=1)[:, ::2]
    for name, view in views.items():
        ours = value_and_grads(sample_triplane, view.requires_grad_(), wide.requires_grad_())
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=name)


def test_expanded_planes_agree(backend: str) -> None:
    """One set of planes for several batches of points, without a copy by the caller."""
    planes, points = make_inputs((1, 9, 4, 3, 4))
    many = points.detach().expand(3, -1, -1)
    features = sample_triplane(planes.expand(3, -1, -1, -1, -1), many)
    torch.testing.assert_close(features[2], grid_sample_triplane(planes, points)[0])


def testchannels_last_is_read_in_place(native: None) -> None:
    planes = torch.randn(1, 3 * 8, 16, 16).contiguous(memory_format=torch.channels_last)
    from epigraf.ops.triplane import channels_last

    assert channels_last(planes.view(1, 3, 8, 16, 16)).data_ptr() == planes.data_ptr()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_point_stays_local(backend: str, bad: float) -> None:
    planes, points = make_inputs((2, 33, 8, 5, 5), torch.float32)
    expected = value_and_grads(grid_sample_triplane, planes, points)
    spoiled = points.detach().clone()
    spoiled[1, 7, 1] = bad
    features, _, grad_points = value_and_grads(sample_triplane, planes, spoiled.requires_grad_())
    others = torch.ones(2, 33, dtype=torch.bool)
    others[1, 7] = False
    assert features[1, 7].isnan().all()
    torch.testing.assert_close(features[others], expected[0][others])
    torch.testing.assert_close(grad_points[others], expected[2][others], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_point_leaves_plane_gradients_finite(backend: str, bad: float) -> None:
    planes, points = make_inputs((1, 5, 2, 4, 4))
    spoiled = points.detach().clone()
    spoiled[0, 2] = bad
    (grad,) = torch.autograd.grad(sample_triplane(planes, spoiled).sum(), planes)
    kept = [0, 1, 3, 4]
    features = grid_sample_triplane(planes, points.detach()[:, kept])
    torch.testing.assert_close(grad, torch.autograd.grad(features.sum(), planes)[0])


def test_bad_pixel_stays_local(backend: str) -> None:
    """A NaN in a corner pixel reaches the points of its cells, not those outside the planes."""
    planes = torch.zeros(1, 3, 8, 4, 4)
    planes[0, :, :, 0, 0] = math.nan
    points = torch.tensor([[[-0.9, -0.9, -0.9], [0.5, 0.5, 0.5], [-3.0, -3.0, -3.0]]])
    features = sample_triplane(planes, points)
    assert features[0, 0].isnan().all()
    assert (features[0, 1:] == 0).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bit_equal_for_any_number_of_threads(native: None, threads: int) -> None:
    planes, points = make_inputs((2, 4000, 11, 9, 8), torch.float32)
    first = value_and_grads(sample_triplane, planes, points)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        second = value_and_grads(sample_triplane, planes, points)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_float32_is_as_accurate_as_torch(native: None) -> None:
    """The error against double precision is at most twice that of the reference."""
    planes, points = make_inputs((1, 2000, 32, 64, 64), torch.float32)
    exact = grid_sample_triplane(planes.double(), points.double())
    ours = (sample_triplane(planes, points) - exact).abs().max()
    with use_reference():
        theirs = (sample_triplane(planes, points) - exact).abs().max()
    assert ours <= 2 * theirs


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@HALVES
@pytest.mark.parametrize("points_dtype", [torch.float32, None])
@pytest.mark.parametrize("points", [0, 1, 31, 33])
@pytest.mark.parametrize("channels", [1, 8, 33])
def test_16_bits_are_float32_rounded_once(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    points_dtype: torch.dtype | None,
    points: int,
    channels: int,
) -> None:
    """Features and gradients are those of float32 arithmetic on the same numbers, rounded."""
    planes, where = (x.detach().to(device) for x in make_inputs((2, points, channels, 5, 4)))
    inputs = planes.to(dtype).requires_grad_(), where.to(points_dtype or dtype).requires_grad_()
    features = sample_triplane(*inputs)
    cotangent = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    cotangent = cotangent.to(device, dtype)
    ours = [features, *torch.autograd.grad(features, inputs, cotangent)]
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    exact = grid_sample_triplane(*exact_inputs)
    theirs = [exact, *torch.autograd.grad(exact, exact_inputs, cotangent.double())]
    for x, y, like in zip(ours, theirs, (inputs[0], *inputs), strict=True):
        assert x.dtype == like.dtype
        eps = torch.finfo(x.dtype).eps
        torch.testing.assert_close(x.double(), y, rtol=0.51 * eps, atol=3e-5)


@HALVES
def test_16_bits_are_as_accurate_as_torch(backend: str, dtype: torch.dtype) -> None:
    """The error is at most twice that of torch's grid_sample in this dtype."""
    planes, points = (x.detach() for x in make_inputs((1, 500, 32, 16, 16)))
    planes, points = planes.to(dtype).requires_grad_(), points.to(dtype)
    exact = grid_sample_triplane(planes.double(), points.double())
    ours, theirs = sample_triplane(planes, points), grid_sample_triplane(planes, points)
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()
    exact_planes = planes.detach().double().requires_grad_()
    exact = grid_sample_triplane(exact_planes, points.double())
    (expected,) = torch.autograd.grad(exact.sum(), exact_planes)
    errors = [torch.autograd.grad(x.sum(), planes)[0].double() - expected for x in (ours, theirs)]
    assert errors[0].abs().max() <= 2 * errors[1].abs().max()


@HALVES
def test_16_bits_have_second_derivatives(backend: str, dtype: torch.dtype) -> None:
    planes, points = (x.detach() for x in make_inputs((1, 9, 4, 5, 4)))
    planes, points = planes.to(dtype).requires_grad_(), points.float().requires_grad_()
    features = sample_triplane(planes, points).float()
    (slope,) = torch.autograd.grad(features.square().sum(), points, create_graph=True)
    (again,) = torch.autograd.grad(slope.square().sum(), planes)
    assert again.dtype == dtype
    assert again.isfinite().all()
    assert again.any()


@pytest.mark.parametrize("points", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_few_points_read_any_layout_in_place(native: None, points: int, dtype: torch.dtype) -> None:
    """The values and gradients of the copy, the gradient in the layout of the planes."""
    planes, where = (x.detach() for x in make_inputs((2, points, 6, 9, 8)))
    planes, where = planes.to(dtype), where.to(dtype if dtype != torch.float16 else torch.float32)
    assert reads_in_place(planes, points)
    views = [planes, planes.transpose(3, 4).contiguous().transpose(3, 4), F.pad(planes, (1, 2))]
    views[2] = views[2][..., 1:-2]
    pixels = planes.movedim(2, 4).contiguous().movedim(4, 2)
    assert not reads_in_place(pixels, points)
    expected = value_and_grads(sample_triplane, pixels.requires_grad_(), where.requires_grad_())
    for view in views:
        assert reads_in_place(view, points)
        ours = value_and_grads(sample_triplane, view.detach().requires_grad_(), where)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b)
    assert ours[1].shape == planes.shape


def test_many_points_pay_for_a_copy() -> None:
    planes = torch.zeros(1, 3, 4, 8, 8)
    limit = 3 * 8 * 8 // PIXELS_PER_POINT
    assert reads_in_place(planes, limit)
    assert not reads_in_place(planes, limit + 1)
    assert not reads_in_place(planes[:, :, :1].expand(1, 3, 4, 8, 8), 1)


def test_gradient_of_a_slice_of_channels_last_planes(native: None) -> None:
    """Planes and their gradient then have different strides."""
    planes, points = make_inputs((1, 31, 6, 5, 4))
    expected = value_and_grads(grid_sample_triplane, planes, points)
    wide = F.pad(planes.detach().movedim(2, 4), (0, 0, 1, 2))[..., 1:-2, :].movedim(4, 2)
    ours = value_and_grads(sample_triplane, wide.requires_grad_(), points)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_only_the_wanted_gradient(backend: str) -> None:
    planes, points = make_inputs((1, 5, 2, 4, 4))
    assert torch.autograd.grad(sample_triplane(planes.detach(), points).sum(), points)[0].any()
    assert torch.autograd.grad(sample_triplane(planes, points.detach()).sum(), planes)[0].any()
    assert not sample_triplane(planes.detach(), points.detach()).requires_grad


def test_planes_are_kept_only_for_the_gradient_of_points(native: None) -> None:
    planes, points = make_inputs((1, 5, 2, 4, 4))
    assert sample_triplane(planes, points.detach()).grad_fn.saved_tensors[0] is None
    assert sample_triplane(planes, points).grad_fn.saved_tensors[0] is not None


def test_compiled_graph_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile cannot look into the core; it traces plain torch instead."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    planes, points = make_inputs((1, 5, 2, 4, 4))
    assert "_Triplane" not in type(sample_triplane(planes, points).grad_fn).__name__


@pytest.mark.parametrize(
    ("planes", "points", "error", "message"),
    [
        (
            torch.zeros(2, 96, 8, 8),
            torch.zeros(2, 5, 3),
            ValueError,
            r"sample_triplane: planes must have shape \[B, 3, F, H, W\], got \[2, 96, 8, 8\]",
        ),
        (
            torch.zeros(2, 3, 4, 0, 8),
            torch.zeros(2, 5, 3),
            ValueError,
            r"sample_triplane: planes must have at least one pixel, got \[2, 3, 4, 0, 8\]",
        ),
        (
            torch.zeros(2, 3, 4, 8, 8),
            torch.zeros(2, 5),
            ValueError,
            r"sample_triplane: points must have shape \[B, P, 3\], got \[2, 5\]",
        ),
        (
            torch.zeros(2, 3, 4, 8, 8),
            torch.zeros(1, 5, 3),
            ValueError,
            r"sample_triplane: points must have shape \[B, P, 3\] = \[2, 5, 3\], got \[1, 5, 3\]",
        ),
        (
            torch.zeros(2, 3, 4, 8, 8),
            torch.zeros(2, 5, 3).double(),
            TypeError,
            r"sample_triplane: points must have the dtype of planes, torch.float32, "
            r"got torch.float64",
        ),
        (
            torch.zeros(2, 3, 4, 8, 8).int(),
            torch.zeros(2, 5, 3),
            TypeError,
            r"sample_triplane: planes must be floating point, got torch.int32",
        ),
    ],
)
def test_wrong_arguments(
    planes: Tensor, points: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        sample_triplane(planes, points)


def test_native_was_tested() -> None:
    """Says in the summary of a run without the core that half of these tests did not run."""
    if not available():
        pytest.skip("epigraf._C is missing: only the reference was tested")
