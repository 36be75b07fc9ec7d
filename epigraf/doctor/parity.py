"""Every op on every engine that can run it, against its plain-torch reference: error and speed.

Legend: B batch, R rays, S samples per ray, P points, F channels of the planes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from epigraf import ops
from epigraf.config import RenderBackend
from epigraf.doctor.checkup import one_line
from epigraf.ops import use_reference
from epigraf.ops.engines import ENGINES, Engine, engine_table
from epigraf.ops.linear import linear
from epigraf.ops.nerfacc import composite_nerfacc, sample_occupied
from epigraf.ops.occupancy import Intervals, grid_from_binaries, traverse_grid
from epigraf.ops.pointwise import pointwise
from epigraf.ops.render import FieldTensors
from epigraf.ops.tinycudann import decode_tinycudann
from epigraf.ops.winograd import winograd
from epigraf.rendering.camera import cam2world
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays
from epigraf.rendering.renderer import TensorField, render_rays

_SECONDS = 0.05  # of timing for one cell
_TOLERANCE = {Engine.TINYCUDANN: 2e-2, Engine.NERFACC: 5e-3}  # half precision; steps of 1e-4
_ROUNDING = 2e-4  # of the largest value, for float32
_SLOPE = 0.2
Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Cell:
    """One op on one engine.

    error: largest difference from the reference over its largest value, None where it did not run.
    ms: of one call, the quickest. verdict: `ok`, `off` (why_not says why) or `wrong`.
    """

    op: str
    engine: str
    verdict: str
    runs: bool = False
    error: float | None = None
    ms: float | None = None
    why_not: str = ""


def parity_matrix(device: str = "cpu") -> list[Cell]:
    """The whole matrix, small enough to take a second or two. Never raises: what an op raises
    becomes a cell that is wrong."""
    entries = {(e.op, e.engine): e for e in engine_table(device)}
    cells = []
    for op, engines in ENGINES.items():
        runs = _RUNS[op](device)
        with use_reference():
            expected = _measured(runs[Engine.REFERENCE])
        for engine in engines:
            entry = entries[op, engine]
            if entry.why_not:
                cells.append(Cell(op, engine.value, "off", why_not=entry.why_not))
                continue
            found = expected
            if engine is not Engine.REFERENCE:
                found = _measured(runs.get(engine, runs[Engine.REFERENCE]))
            cells.append(_cell(op, engine, entry.runs, expected, found))
    return cells


Measured = tuple[Sequence[Tensor], float] | str


def _measured(run: Run) -> Measured:
    """Outputs and milliseconds, or what was raised."""
    try:
        with torch.no_grad():
            outputs, best, began = run(), float("inf"), time.perf_counter()
            while time.perf_counter() - began < _SECONDS:
                start = time.perf_counter()
                run()
                _wait(outputs)
                best = min(best, time.perf_counter() - start)
        return outputs, best * 1e3
    except Exception as error:
        return one_line(error)


def _wait(outputs: Sequence[Tensor]) -> None:
    if outputs and outputs[0].device.type == "cuda":
        torch.cuda.synchronize(outputs[0].device)


def _cell(op: str, engine: Engine, runs: bool, expected: Measured, found: Measured) -> Cell:
    cell = Cell(op, engine.value, "wrong", runs)
    if isinstance(found, str):
        return replace(cell, why_not=found)
    if isinstance(expected, str):
        return replace(cell, why_not=f"the reference failed: {expected}")
    error = max(_difference(a, b) for a, b in zip(found[0], expected[0], strict=True))
    good = error <= _TOLERANCE.get(engine, _ROUNDING)
    return replace(cell, verdict="ok" if good else "wrong", error=error, ms=found[1])


def _difference(found: Tensor, expected: Tensor) -> float:
    scale = float(expected.abs().max()) or 1.0
    return float((found - expected).abs().max()) / scale


def _draw(seed: int, *shape: int, device: str) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def _triplane(device: str) -> dict[Engine, Run]:
    planes = _draw(0, 1, 3, 32, 64, 64, device=device)
    points = _draw(1, 1, 4096, 3, device=device).clamp(-1.1, 1.1)
    return {Engine.REFERENCE: lambda: [ops.sample_triplane(planes, points)]}


def _decoder(device: str) -> dict[Engine, Run]:
    features = _draw(0, 4096, 32, device=device)
    weights = [_draw(1, 64, 32, device=device) * 0.2, _draw(2, 4, 64, device=device) * 0.1]
    biases = [_draw(3, 64, device=device), _draw(4, 4, device=device)]
    arguments = (features, weights, biases, _SLOPE)
    return {
        Engine.REFERENCE: lambda: ops.decode(*arguments),
        Engine.TINYCUDANN: lambda: decode_tinycudann(*arguments),
    }


def _samples(device: str) -> tuple[Tensor, Tensor, Tensor]:
    colors, raw = _draw(0, 1, 256, 32, 3, device=device), _draw(1, 1, 256, 32, device=device)
    t = torch.linspace(0.8, 1.2, 32, device=device).expand(1, 256, 32)
    return colors, 10 * raw.exp(), (t + 0.005 * _draw(2, 1, 256, 32, device=device)).sort(-1).values


def _composite(device: str) -> dict[Engine, Run]:
    colors, sigma, t = _samples(device)
    return {
        Engine.REFERENCE: lambda: ops.composite(colors, sigma, t, 0.01),
        Engine.NERFACC: lambda: composite_nerfacc(colors, sigma, t, 0.01),
    }


def _importance(device: str) -> dict[Engine, Run]:
    _, sigma, t = _samples(device)
    u = torch.linspace(0.01, 0.99, 32, device=device).expand(1, 256, 32)
    return {Engine.REFERENCE: lambda: [ops.importance_t(t, sigma, u)]}


def _merge(device: str) -> dict[Engine, Run]:
    coarse = _samples(device)
    fine = (coarse[0] + 1, coarse[1], coarse[2] + 0.003)
    return {Engine.REFERENCE: lambda: ops.merge_samples(fine, coarse)}


def _rays(device: str) -> dict[Engine, Run]:
    matrices = cam2world(torch.tensor([[0.4, 1.2, 0.0]], device=device), 1.0)
    return {Engine.REFERENCE: lambda: ops.patch_rays(matrices, 30.0, 32, 32)}


def _occupancy(device: str) -> dict[Engine, Run]:
    cells = torch.rand(1, 32, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.02
    grid = grid_from_binaries(cells.to(device), 0.25)
    aims = _draw(1, 1, 256, 3, device=device).clamp(-0.2, 0.2)
    origins = torch.tensor([-1.0, 0.02, 0.03], device=device).expand(1, 256, 3).contiguous()
    directions = torch.nn.functional.normalize(aims - origins, dim=-1)
    near, far = (torch.full((1, 256), t, device=device) for t in (0.5, 1.5))

    def lengths(found: Intervals) -> Sequence[Tensor]:
        """Of what each ray has in occupied cells: engines may cut it into other pieces."""
        sums = torch.zeros(256, device=device)
        return [sums.index_add_(0, found.ray_indices, found.t_ends - found.t_starts)]

    return {
        Engine.REFERENCE: lambda: lengths(traverse_grid(grid, origins, directions, near, far)),
        Engine.NERFACC: lambda: lengths(
            sample_occupied(grid, origins, directions, near, far, 1e-4)
        ),
    }


def _winograd(device: str) -> dict[Engine, Run]:
    """The reference is torch's own convolution."""
    x, weight = _draw(0, 2, 64, 32, 32, device=device), _draw(1, 64, 64, 3, 3, device=device)
    return {
        Engine.REFERENCE: lambda: [torch.nn.functional.conv2d(x, weight, padding=1)],
        Engine.CPU: lambda: [winograd(x, weight, padding=1)],
    }


def _pointwise(device: str) -> dict[Engine, Run]:
    """The reference is torch's own convolution."""
    x, weight = _draw(0, 2, 64, 32, 32, device=device), _draw(1, 128, 64, 1, 1, device=device)
    return {
        Engine.REFERENCE: lambda: [torch.nn.functional.conv2d(x, weight)],
        Engine.CPU: lambda: [pointwise(x, weight)],
    }


def _linear(device: str) -> dict[Engine, Run]:
    """The reference is torch's own."""
    x, weight = _draw(0, 4, 2048, device=device), _draw(1, 512, 2048, device=device)
    return {
        Engine.REFERENCE: lambda: [torch.nn.functional.linear(x, weight)],
        Engine.CPU: lambda: [linear(x, weight)],
    }


def _activation(device: str) -> dict[Engine, Run]:
    x, noise = _draw(0, 2, 64, 32, 32, device=device), _draw(1, 32, 32, device=device)
    bias, scale = _draw(2, 64, device=device), _draw(3, 2, 64, device=device)
    strength, curve = torch.tensor(0.3, device=device), ops.Curve(_SLOPE, 2**0.5, 2.0)

    def run() -> list[torch.Tensor]:
        return [ops.activation(x, bias, curve, scale=scale, noise=noise, strength=strength)]

    return {Engine.REFERENCE: run}


def _resample(device: str) -> dict[Engine, Run]:
    x = _draw(0, 2, 64, 32, 32, device=device).contiguous(memory_format=torch.channels_last)

    def run() -> list[torch.Tensor]:
        return [ops.blur2d(x, pad=2), ops.downsample2d(x), ops.upsample2d(x)]

    return {Engine.REFERENCE: run}


def _random(device: str) -> dict[Engine, Run]:
    like = torch.empty(0, device=device)
    return {Engine.REFERENCE: lambda: [ops.philox_uniform(7, 0, (65536,), like)]}


def _render(device: str) -> dict[Engine, Run]:
    field = TensorField(
        FieldTensors(
            planes=_draw(0, 1, 3, 32, 64, 64, device=device),
            weights=[_draw(1, 64, 32, device=device) * 0.2, _draw(2, 4, 64, device=device) * 0.1],
            biases=[_draw(3, 64, device=device), _draw(4, 4, device=device)],
            slope=_SLOPE,
            cube_scale=0.3,
            prior_strength=0.0,
            prior_slope=0.0,
        )
    )
    directions = _draw(5, 1, 256, 3, device=device) * 0.1 + torch.tensor([-1.0, 0, 0]).to(device)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    rays = Rays(-directions, directions)
    options = RenderOptions(num_coarse=16, num_fine=16, near=0.7, far=1.3, deterministic=True)

    def run(backend: RenderBackend) -> Sequence[Tensor]:
        return render_rays(field, rays, replace(options, backend=backend), draws=RandomDraws(0))

    return {
        Engine.REFERENCE: lambda: run(RenderBackend.REFERENCE),
        Engine.OPS: lambda: run(RenderBackend.OPS),
        Engine.CPU: lambda: run(RenderBackend.FUSED),
        Engine.CUDA: lambda: run(RenderBackend.FUSED),
    }


_RUNS: dict[str, Any] = {
    "triplane": _triplane,
    "decoder": _decoder,
    "composite": _composite,
    "importance": _importance,
    "merge": _merge,
    "rays": _rays,
    "random": _random,
    "occupancy": _occupancy,
    "activation": _activation,
    "resample": _resample,
    "winograd": _winograd,
    "pointwise": _pointwise,
    "linear": _linear,
    "render": _render,
}
