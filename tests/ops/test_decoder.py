"""`decode` against values worked by hand, a loop over points, its reference and differences.

Legend: P points, F features, O outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epigraf.ops import decode, use_reference

SLOPE = 0.2


@pytest.fixture(params=["tiles", "reference"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_reference(request.param == "reference"):
        yield request.param


def make_inputs(
    sizes: Sequence[int], points: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """Features [P, sizes[0]], then all weights, then all biases; all want a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    features = normal(points, sizes[0])
    return [features, *(normal(o, i) for o, i in pairs), *(normal(o) for o, _ in pairs)]


def evaluate(features: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
    """`decode` with weights and biases in one row."""
    layers = len(params) // 2
    return decode(features, params[:layers], params[layers:], SLOPE)


def value_and_grads(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Both outputs, and the gradients of a weighted sum of them."""
    outputs = evaluate(*inputs)
    loss = sum(
        (o * torch.linspace(-1, 2, o.numel(), dtype=o.dtype).view(o.shape)).sum() for o in outputs
    )
    return [*outputs, *torch.autograd.grad(loss, inputs, materialize_grads=True)]


def assert_all_close(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def by_reference(inputs: Sequence[Tensor]) -> list[Tensor]:
    with use_reference():
        return value_and_grads(inputs)


def decode_by_loop(features: Tensor, *params: Tensor) -> list[list[float]]:
    """All outputs of every point, number by number."""
    layers = len(params) // 2
    results = []
    for h in features.tolist():
        for i in range(layers):
            rows = zip(params[i].tolist(), params[layers + i].tolist(), strict=True)
            h = [sum(w * v for w, v in zip(row, h, strict=True)) + b for row, b in rows]
            if i + 1 < layers:
                h = [a if a > 0 else SLOPE * a for a in h]
        results.append(h)
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_worked_by_hand(implementation: str, dtype: torch.dtype) -> None:
    values = [[[1, -2]], [[1, 1], [1, 0]], [[1, 0], [10, 1]], [0, 1], [0, 0.5]]
    inputs = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in values]
    rest, last = evaluate(*inputs)
    # hidden = leaky([1 - 2, 1 + 1]) = [-0.2, 2]; outputs = [-0.2, -2 + 2 + 0.5].
    assert rest.item() == pytest.approx(-0.2)
    assert last.item() == pytest.approx(0.5)
    # Gradient 1 of both outputs: of the hidden layer [1 + 10, 1], before the leaky ReLU [2.2, 1].
    expected = [
        [[2.2 * 1 + 1 * 1, 2.2 * 1 + 1 * 0]],
        [[2.2, -4.4], [1, -2]],
        [[-0.2, 2], [-0.2, 2]],
        [2.2, 1],
        [1, 1],
    ]
    grads = torch.autograd.grad(rest.sum() + last.sum(), inputs)
    for grad, value in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, torch.tensor(value, dtype=dtype))


@pytest.mark.parametrize("points", [0, 1, 7, 8, 31, 33])
@pytest.mark.parametrize("sizes", [[5, 2], [5, 4], [1, 1, 2], [5, 31, 4], [3, 33, 2, 9], [0, 3, 2]])
def test_sizes_agree_with_reference(points: int, sizes: list[int]) -> None:
    inputs = make_inputs(sizes, points)
    ours = value_and_grads(inputs)
    assert all(x.is_contiguous() for x in ours[:2])
    assert_all_close(ours, by_reference(inputs))


@pytest.mark.parametrize("points", [4095, 4096, 4097, 8193])
def test_many_tiles_agree_with_reference(points: int) -> None:
    inputs = make_inputs([4, 8, 4], points)
    assert_all_close(value_and_grads(inputs), by_reference(inputs))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    outputs=st.integers(2, 6),
    points=st.integers(0, 40),
    seed=st.integers(0, 2**31),
)
def test_any_size_agrees_with_a_loop(
    sizes: list[int], outputs: int, points: int, seed: int
) -> None:
    inputs = make_inputs([*sizes, outputs], points, seed=seed)
    rest, last = evaluate(*inputs)
    ours = torch.cat([rest, last.unsqueeze(-1)], -1)
    expected = torch.tensor(decode_by_loop(*inputs), dtype=torch.float64).view(points, outputs)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


def test_gradcheck(implementation: str) -> None:
    assert torch.autograd.gradcheck(evaluate, make_inputs([3, 4, 3], 11))


def test_second_derivative(implementation: str) -> None:
    """Under create_graph the composable path takes over, and it is right."""
    assert torch.autograd.gradgradcheck(evaluate, make_inputs([3, 4, 3], 9))


@pytest.mark.parametrize("output", [0, 1])
def test_gradient_of_each_output_alone(output: int) -> None:
    inputs = make_inputs([3, 5, 4], 19)
    ours = torch.autograd.grad(evaluate(*inputs)[output].square().sum(), inputs)
    with use_reference():
        theirs = torch.autograd.grad(evaluate(*inputs)[output].square().sum(), inputs)
    assert_all_close(ours, theirs)


@pytest.mark.parametrize("shape", [(), (2, 0), (0, 3), (2, 3, 4)])
def test_leading_sizes(implementation: str, shape: tuple[int, ...]) -> None:
    _, *params = make_inputs([3, 4, 3], 0)
    features = torch.randn(*shape, 3, dtype=torch.float64, requires_grad=True)
    rest, last = evaluate(features, *params)
    assert rest.shape == (*shape, 2)
    assert last.shape == shape
    grads = torch.autograd.grad(rest.sum() + last.sum(), [features, *params])
    assert grads[0].shape == features.shape
    assert bool(grads[-1].any()) == (features.numel() > 0)


def test_strided_inputs_agree(implementation: str) -> None:
    features, *params = make_inputs([6, 5, 4], 31)
    expected = value_and_grads([features, *params])
    x = features.detach()
    transposed, every_other = x.T.contiguous().T, x.repeat_interleave(2, dim=1)[:, ::2]
    slice_of_larger = torch.nn.functional.pad(x, (1, 2, 3, 1))[3:-1, 1:-2]
    turned = [p.detach().T.contiguous().T if p.ndim == 2 else p.detach() for p in params]
    for view in (transposed, every_other, slice_of_larger):
        inputs = [t.requires_grad_() for t in (view, *turned)]
        assert_all_close(value_and_grads(inputs), expected)


def test_expanded_inputs_agree(implementation: str) -> None:
    """One point's features for many points; a gradient without memory of its own."""
    features, *params = make_inputs([3, 4, 3], 1)
    rest, last = evaluate(features.expand(33, 3), *params)
    grads = torch.autograd.grad(rest.sum() + last.sum(), [features, *params])
    rest, last = evaluate(features, *params)
    once = torch.autograd.grad(rest.sum() + last.sum(), [features, *params])
    assert_all_close(grads, [33 * grad for grad in once])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_feature_stays_in_its_point(implementation: str, bad: float) -> None:
    inputs = make_inputs([5, 16, 4], 33, torch.float32)
    expected = value_and_grads(inputs)[:3]
    spoiled = inputs[0].detach().clone()
    spoiled[10, 3] = bad
    ours = value_and_grads([spoiled.requires_grad_(), *inputs[1:]])[:3]
    others = torch.arange(33) != 10
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a[others], b[others])
    assert not ours[0][10].isfinite().any()
    assert not ours[1][10].isfinite()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_gradient_stays_in_its_point(implementation: str, bad: float) -> None:
    inputs = make_inputs([5, 16, 4], 33, torch.float32)
    outputs = evaluate(*inputs)
    cotangents = [torch.ones_like(o) for o in outputs]
    expected = torch.autograd.grad(outputs, inputs[0], cotangents, retain_graph=True)[0]
    cotangents[1][10] = bad
    grad = torch.autograd.grad(outputs, inputs[0], cotangents)[0]
    others = torch.arange(33) != 10
    torch.testing.assert_close(grad[others], expected[others])
    assert not grad[10].isfinite().any()


def test_two_runs_are_bit_equal(implementation: str) -> None:
    inputs = make_inputs([16, 32, 4], 90001, torch.float32)
    for a, b in zip(value_and_grads(inputs), value_and_grads(inputs), strict=True):
        assert torch.equal(a, b)


def test_float32_is_as_accurate_as_torch() -> None:
    """The error against double precision is at most twice that of the reference."""
    inputs = make_inputs([16, 32, 4], 90001, torch.float32)
    ours, theirs = value_and_grads(inputs), by_reference(inputs)
    exact = by_reference([x.detach().double().requires_grad_() for x in inputs])
    for a, b, e in zip(ours, theirs, exact, strict=True):
        assert (a - e).abs().max() <= 2 * (b - e).abs().max() + 1e-7 * e.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_the_reference(dtype: torch.dtype) -> None:
    """The core knows float and double."""
    inputs = make_inputs([5, 8, 4], 33, dtype)
    for a, b in zip(value_and_grads(inputs), by_reference(inputs), strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("wanted", range(5))
def test_only_the_wanted_gradient(implementation: str, wanted: int) -> None:
    inputs = make_inputs([3, 5, 4], 19)
    expected = value_and_grads(inputs)[2 + wanted]
    inputs = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(inputs)]
    rest, last = evaluate(*inputs)
    steps = [torch.linspace(-1, 2, o.numel(), dtype=o.dtype).view(o.shape) for o in (rest, last)]
    (grad,) = torch.autograd.grad((rest, last), [inputs[wanted]], steps)
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)


def kept(inputs: Sequence[Tensor]) -> set[int]:
    """Addresses of what the op keeps for the backward pass."""
    found: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        found.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        evaluate(*inputs)
    return found


def test_only_the_inputs_are_kept() -> None:
    inputs = make_inputs([3, 5, 4], 19)
    assert kept(inputs) == {x.data_ptr() for x in inputs}
    with use_reference():
        assert kept(inputs) - {x.data_ptr() for x in inputs}


def test_compiled_graph_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile can fuse plain torch; it cannot look into the tiles."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    inputs = make_inputs([3, 5, 4], 19)
    assert kept(inputs) - {x.data_ptr() for x in inputs}


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_extreme_slopes(slope: float) -> None:
    """A plain ReLU, and no nonlinearity at all."""
    x, *params = make_inputs([3, 5, 4], 19)
    weights, biases = params[:2], params[2:]
    rest, last = decode(x, weights, biases, slope)
    hidden = x @ weights[0].T + biases[0]
    hidden = hidden.clamp_min(0) if slope == 0 else hidden
    expected = hidden @ weights[1].T + biases[1]
    torch.testing.assert_close(torch.cat([rest, last.unsqueeze(-1)], -1), expected)
    ours = torch.autograd.grad(last.sum() + rest.sum(), [x, *params])
    assert_all_close(ours, torch.autograd.grad(expected.sum(), [x, *params]))


X, W = torch.zeros(2, 3), [torch.zeros(4, 3), torch.zeros(2, 4)]
B = [torch.zeros(4), torch.zeros(2)]
COUNTS = "weights and biases must be as many and at least one"
META = "weights[0] must be on the device of features, cpu, got meta"


@pytest.mark.parametrize(
    ("x", "weights", "biases", "slope", "message"),
    [
        (X[:, :2], W, B, 0.2, "weights[0] must have shape [O, I] = [4, 2], got [4, 3]"),
        (X, [W[0], W[0]], B, 0.2, "weights[1] must have shape [O, I] = [4, 4], got [4, 3]"),
        (X, [W[0][0], W[1]], B, 0.2, "weights[0] must be a matrix, got [3]"),
        (X, [W[0].to("meta"), W[1]], B, 0.2, META),
        (X, W, [B[0], B[0]], 0.2, "biases[1] must have shape [O] = [2], got [4]"),
        (X, W, B[:1], 0.2, f"{COUNTS}, got 2 and 1"),
        (X, [], [], 0.2, f"{COUNTS}, got 0 and 0"),
        (X, [W[0][:1]], [B[0][:1]], 0.2, "the last layer must have at least 2 outputs, got 1"),
        (X[0, 0], W, B, 0.2, "features must have shape [..., F], got []"),
        (X, W, B, -0.2, "slope must be finite and >= 0, got -0.2"),
        (X, W, B, math.nan, "slope must be finite and >= 0, got nan"),
    ],
)
def test_wrong_values(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], slope: float, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'decode: {message}')}$"):
        decode(x, weights, biases, slope)


HALF = "biases[1] must have the dtype of features, torch.float32, got torch.float16"
DOUBLE = "weights[0] must have the dtype of features, torch.float64, got torch.float32"


@pytest.mark.parametrize(
    ("x", "biases", "message"),
    [
        (X.double(), B, DOUBLE),
        (X, [B[0], B[1].half()], HALF),
        (X.long(), B, "features must be floating point, got torch.int64"),
    ],
)
def test_wrong_dtypes(x: Tensor, biases: list[Tensor], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(f'decode: {message}')}$"):
        decode(x, W, biases, SLOPE)
