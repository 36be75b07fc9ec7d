"""Rays and their parts in a ball against worked values, plain loops, and their references.

Legend: B batch, R rays.
"""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epigraf.ops import ball_segment, patch_rays, use_reference
from epigraf.ops.rays import pixel_rays

Pair = tuple[Tensor, Tensor]
Ends = tuple[float, float] | None


def make_cameras(batch: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Rotations with origins [B, 4, 4], fields of view [B], scales and offsets [B, 2]."""
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(batch, 3, 3, generator=generator).double())
    matrices = torch.eye(4).double().repeat(batch, 1, 1)
    matrices[:, :3, :3] = rotation
    matrices[:, :3, 3] = torch.randn(batch, 3, generator=generator).double()
    fov = 10 + 80 * torch.rand(batch, generator=generator).double()
    scales = 0.2 + 0.8 * torch.rand(batch, 2, generator=generator).double()
    offsets = (1 - scales) * torch.rand(batch, 2, generator=generator).double()
    return [x.to(dtype) for x in (matrices, fov, scales, offsets)]


def ray_by_loop(camera: list[Tensor], row: int, column: int, size: tuple[int, int]) -> list[float]:
    """The world direction through one pixel, with Python's numbers."""
    matrix, fov, (sx, sy), (ox, oy) = (x.tolist() for x in camera)
    height, width = size
    right = column / (width - 1) if width > 1 else 0.0
    up = 1 - (row / (height - 1) if height > 1 else 0.0)
    local = (
        2 * (right * sx + ox) - 1,
        2 * (up * sy + oy) - 1,
        -1 / math.tan(math.radians(fov) / 2),
    )
    length = math.sqrt(sum(x * x for x in local))
    return [sum(m * x for m, x in zip(line, local, strict=False)) / length for line in matrix[:3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_worked_by_hand(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """fov 90: slopes of 1 at the edges. The camera looks along +x, its up is the world's z."""
    matrix = torch.tensor(
        [[[0.0, 0, -1, 5], [-1, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1]]], dtype=dtype, device=device
    )
    origins, directions = patch_rays(matrix, 90.0, 2, 3)
    slopes = [(-1, 1), (0, 1), (1, 1), (-1, -1), (0, -1), (1, -1)]
    rows = [[1 / math.sqrt(x * x + y * y + 1) * c for c in (1, -x, y)] for x, y in slopes]
    torch.testing.assert_close(directions[0], torch.tensor(rows, dtype=dtype, device=device))
    assert origins[0].tolist() == [[5, 6, 7]] * 6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**31),
)
def test_any_patch_is_the_loop(batch: int, size: tuple[int, int], seed: int) -> None:
    cameras = make_cameras(batch, seed=seed)
    origins, directions = patch_rays(cameras[0], cameras[1], *size, *cameras[2:])
    for b in range(batch):
        camera = [x[b] for x in cameras]
        rows = [ray_by_loop(camera, i, j, size) for i in range(size[0]) for j in range(size[1])]
        torch.testing.assert_close(directions[b], torch.tensor(rows).double(), rtol=0, atol=1e-7)
        assert (origins[b] == cameras[0][b, :3, 3]).all()
    norms = directions.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [(0, 5), (1, 1), (1, 31), (31, 1), (33, 31), (2, 0)])
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("patch", [False, True])
def test_native_is_the_reference(
    native: None, device: torch.device, batch: int, size: tuple[int, int], patch: bool
) -> None:
    matrices, fov, *place = (x.to(device) for x in make_cameras(batch))
    for angle in (fov, fov[:1], 30.0):
        if isinstance(angle, Tensor) and len(angle) == 0:
            continue
        ours = patch_rays(matrices, angle, *size, *(place if patch else ()))
        with use_reference():
            theirs = patch_rays(matrices, angle, *size, *(place if patch else ()))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_float32_is_as_accurate_as_torch(native: None) -> None:
    """The error against double precision is at most twice that of the reference."""
    matrices, fov, *place = make_cameras(4, torch.float32)
    exact = patch_rays(matrices.double(), fov.double(), 64, 64, *(x.double() for x in place))[1]
    ours = (patch_rays(matrices, fov, 64, 64, *place)[1] - exact).abs().max()
    with use_reference():
        theirs = (patch_rays(matrices, fov, 64, 64, *place)[1] - exact).abs().max()
    assert ours <= 2 * theirs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_the_reference(dtype: torch.dtype) -> None:
    cameras = make_cameras(2, dtype)
    directions = patch_rays(cameras[0], cameras[1], 3, 3, *cameras[2:])[1]
    assert directions.dtype == dtype
    exact = patch_rays(*(x.double() for x in cameras[:2]), 3, 3, *(x.double() for x in cameras[2:]))
    torch.testing.assert_close(directions.double(), exact[1], rtol=0.1, atol=0.1)


def test_strided_input(backend: str) -> None:
    matrices, fov, scales, offsets = make_cameras(3)
    expected = patch_rays(matrices, fov, 4, 5, scales, offsets)
    wide = [x.repeat_interleave(2, -1)[..., ::2] for x in (scales, offsets)]
    turned = matrices.transpose(1, 2).contiguous().transpose(1, 2)
    ours = patch_rays(turned, fov.repeat_interleave(2)[::2], 4, 5, *wide)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_value_stays_in_its_camera(backend: str, bad: float) -> None:
    for which in range(4):
        cameras = make_cameras(3)
        expected = patch_rays(cameras[0], cameras[1], 4, 5, *cameras[2:])[1]
        cameras[which][1].flatten()[0:1].fill_(bad) if which != 1 else cameras[1][1:2].fill_(bad)
        directions = patch_rays(cameras[0], cameras[1], 4, 5, *cameras[2:])[1]
        assert torch.equal(directions[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bit_equal_for_any_number_of_threads(native: None, threads: int) -> None:
    cameras = make_cameras(3, torch.float32)
    first = patch_rays(cameras[0], cameras[1], 65, 63, *cameras[2:])[1]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        second = patch_rays(cameras[0], cameras[1], 65, 63, *cameras[2:])[1]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first, second)


def rays_of(matrices: Tensor, fov: Tensor, scales: Tensor, offsets: Tensor) -> tuple:
    return patch_rays(matrices, fov, 2, 3, scales, offsets)


def test_gradcheck(backend: str) -> None:
    """Gradients go through plain torch, whatever the backend."""
    inputs = [x.requires_grad_() for x in make_cameras(2)]
    assert torch.autograd.gradcheck(rays_of, inputs)
    assert torch.autograd.gradgradcheck(rays_of, inputs)


@pytest.mark.parametrize("wanted", range(4))
def test_only_the_wanted_gradient(backend: str, wanted: int) -> None:
    inputs = [x.requires_grad_(i == wanted) for i, x in enumerate(make_cameras(2))]
    directions = rays_of(*inputs)[1]
    assert torch.autograd.grad(directions[..., 0].sum(), inputs[wanted])[0].any()
    with torch.no_grad():
        assert not rays_of(*inputs)[1].requires_grad


M, S = torch.eye(4).expand(2, 4, 4), torch.ones(2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((M[0], 30.0, 4, 4), "cam2world must have shape [B, 4, 4], got [4, 4]"),
        ((M, torch.ones(3), 4, 4), "fov_degrees must have 1 or 2 elements, got 3"),
        ((M, 30.0, -1, 4), "height and width must not be negative, got [-1, 4]"),
        ((M, 30.0, 4, 4, S), "scales and offsets come together, got only one of them"),
        ((M, 30.0, 4, 4, S[:1], S), "scales must have shape [B, 2] = [2, 2], got [1, 2]"),
        ((M, 30.0, 4, 4, S, S[:, :1]), "offsets must have shape [B, 2] = [2, 2], got [2, 1]"),
    ],
)
def test_wrong_values(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'patch_rays: {message}')}$"):
        patch_rays(*arguments)


def test_wrong_dtypes() -> None:
    with pytest.raises(
        TypeError, match=r"^patch_rays: cam2world must be floating point, got torch"
    ):
        patch_rays(M.int(), 30.0, 4, 4)
    message = (
        "patch_rays: scales must have the dtype of cam2world, torch.float32, got torch.float64"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        patch_rays(M, 30.0, 4, 4, S.double(), S)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rays_through_places_are_the_loop(
    backend: str, device: torch.device, dtype: torch.dtype
) -> None:
    """The loop takes a place x as the column of a patch that begins and ends there."""
    cameras = [x.to(dtype) for x in make_cameras(3)[:2]]
    columns, rows = torch.tensor([-0.9, 0.1, 2.0, 0.4]), torch.tensor([0.3, -1.0, 0.8])
    origins, directions = pixel_rays(
        *(x.to(device) for x in cameras), columns.to(device, dtype), rows.to(device, dtype)
    )
    assert directions.shape == (3, 12, 3)
    for b in range(3):
        matrix, fov = (x[b].double() for x in cameras)
        z = -1 / math.tan(math.radians(float(fov)) / 2)
        local = [torch.tensor([x, y, z]).double() for y in rows.tolist() for x in columns.tolist()]
        expected = torch.stack([matrix[:3, :3] @ (v / v.norm()) for v in local])
        tolerance = 1e-6 if dtype == torch.float32 else 1e-7  # places are float32 in the loop
        torch.testing.assert_close(directions[b].cpu().double(), expected, rtol=0, atol=tolerance)
        assert (origins[b] == cameras[0][b, :3, 3].to(device)).all()


def test_a_ray_depends_on_its_own_place_alone(native: None) -> None:
    cameras = make_cameras(2, torch.float32)[:2]
    columns, rows = torch.linspace(-1, 1, 61), torch.linspace(1, -1, 33)
    whole = pixel_rays(*cameras, columns, rows)[1].view(2, 33, 61, 3)
    part = pixel_rays(*cameras, columns[7:20], rows[30:31])[1].view(2, 1, 13, 3)
    assert torch.equal(part, whole[:, 30:31, 7:20])


def test_places_that_are_refused() -> None:
    matrix = torch.eye(4)[None]
    with pytest.raises(ValueError, match=r"columns must have shape \[W\] = \[6\], got \[2, 3\]"):
        pixel_rays(matrix, 30.0, torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(TypeError, match="rows must have the dtype of cam2world"):
        pixel_rays(matrix, 30.0, torch.zeros(2), torch.zeros(2).double())


def make_rays(batch: int, count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Pair:
    """Origins about as far from the ball as it is large, unit directions, [B, R, 3] each."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(batch, count, 3, generator=generator, dtype=torch.float64)
    directions = torch.randn(batch, count, 3, generator=generator, dtype=torch.float64)
    return origins.to(dtype), torch.nn.functional.normalize(directions, dim=-1).to(dtype)


def segment_by_formula(origin: list[float], direction: list[float], radius: float) -> Ends:
    """Where |o + t d| = radius, by the quadratic formula; None: nowhere."""
    half = sum(o * d for o, d in zip(origin, direction, strict=True))
    root = half * half - sum(o * o for o in origin) + radius * radius
    return None if root <= 0 else (-half - math.sqrt(root), -half + math.sqrt(root))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(0, 40), st.integers(0, 10**6), st.floats(0.05, 2.5))
def test_segments_are_those_of_the_formula(batch: int, count: int, seed: int, radius: float):
    near, far = -0.5, 1.5
    rays = make_rays(batch, count, seed)
    t_near, t_far, hit = ball_segment(*rays, radius, near, far)
    assert t_near.shape == t_far.shape == hit.shape == (batch, count)
    for b in range(batch):
        for r in range(count):
            ends = segment_by_formula(rays[0][b, r].tolist(), rays[1][b, r].tolist(), radius)
            a, z = float(t_near[b, r]), float(t_far[b, r])
            if ends is None:
                place = float(-(rays[0][b, r] * rays[1][b, r]).sum())
                ends = (place, place)
            assert a == pytest.approx(min(max(ends[0], near), far), abs=1e-7)
            assert z == pytest.approx(min(max(ends[1], near), far), abs=1e-7)
            assert bool(hit[b, r]) is (z > a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_segments_of_the_core_are_those_of_torch(native: None, dtype: torch.dtype) -> None:
    rays = make_rays(2, 9000, dtype=dtype)
    ours = ball_segment(*rays, 0.8, 0.1, 2.0)
    with use_reference():
        expected = ball_segment(*rays, 0.8, 0.1, 2.0)
    eps = torch.finfo(dtype).eps
    for x, y in zip(ours[:2], expected[:2], strict=True):  # a root near 0 magnifies rounding
        torch.testing.assert_close(x, y, rtol=0, atol=30 * math.sqrt(eps))
        assert (x - y).abs().median() <= 4 * eps
    assert (ours[2] != expected[2]).float().mean() < 1e-3


def test_segments_of_rays_that_share_an_origin(backend: str, device: torch.device) -> None:
    """Views of other tensors: an origin for all, directions of which every second one is meant."""
    origins, directions = (x.to(device) for x in make_rays(2, 64))
    shared, skipped = origins[:, :1].expand(2, 32, 3), directions[:, ::2]
    ours = ball_segment(shared, skipped, 0.9, 0.0, 3.0)
    expected = ball_segment(shared.contiguous(), skipped.contiguous(), 0.9, 0.0, 3.0)
    for x, y in zip(ours, expected, strict=True):
        assert torch.equal(x, y)


def test_segments_have_gradients() -> None:
    origins, directions = make_rays(1, 12)
    touches = ball_segment(origins, directions, 1.2, -9.0, 9.0)[2]
    inputs = [x[touches][None].requires_grad_() for x in (origins, directions)]
    assert touches.any()
    torch.autograd.gradcheck(lambda o, d: ball_segment(o, d, 1.2, -9.0, 9.0)[:2], inputs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_rays_hit_nothing_and_leave_the_others(backend: str, bad: float) -> None:
    origins, directions = make_rays(1, 8)
    good = ball_segment(origins, directions, 1.0, 0.0, 3.0)
    origins[0, 3, 1] = bad
    near, far, hit = ball_segment(origins, directions, 1.0, 0.0, 3.0)
    assert not hit[0, 3]
    others = [0, 1, 2, 4, 5, 6, 7]
    for x, y in zip((near, far, hit), good, strict=True):
        assert torch.equal(x[:, others], y[:, others])


def test_segments_that_are_refused() -> None:
    o = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"directions must have shape \[B, R, 3\], got \[5, 3\]"):
        ball_segment(o, o[0], 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"origins must have shape"):
        ball_segment(o[:, :4], o, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="radius must not be negative, got -1"):
        ball_segment(o, o, -1.0, 0.0, 1.0)
    with pytest.raises(TypeError, match="directions must be floating point"):
        ball_segment(o, o.int(), 1.0, 0.0, 1.0)
    with pytest.raises(TypeError, match="origins must have the dtype of directions"):
        ball_segment(o.double(), o, 1.0, 0.0, 1.0)
