"""The one table that says, for every op, which engine can run it, which does, and why not others.

Nothing is chosen after a failure: an op takes the first engine of its row that can run, unless the
configuration names another (`render.backend`, `render.compositor`, `decoder.engine`); a named one
that cannot run is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch

from epigraf.ops import _native
from epigraf.ops.nerfacc import why_no_traversal, why_not_nerfacc
from epigraf.ops.tinycudann import why_not_tinycudann


class Engine(Enum):
    """What can compute an op."""

    CUDA = "cuda"
    CPU = "cpu"
    OPS = "ops"
    REFERENCE = "reference"
    NERFACC = "nerfacc"
    TINYCUDANN = "tinycudann"


OCCUPANCY = "occupancy"
_NATIVE = (Engine.CUDA, Engine.CPU, Engine.REFERENCE)

ENGINES: dict[str, tuple[Engine, ...]] = {
    "triplane": _NATIVE,
    "decoder": (*_NATIVE, Engine.TINYCUDANN),
    "composite": (*_NATIVE, Engine.NERFACC),
    "importance": _NATIVE,
    "merge": _NATIVE,
    "rays": _NATIVE,
    "random": _NATIVE,
    OCCUPANCY: (*_NATIVE, Engine.NERFACC),
    "activation": _NATIVE,
    "resample": _NATIVE,
    "winograd": (Engine.CPU, Engine.REFERENCE),
    "pointwise": (Engine.CPU, Engine.REFERENCE),
    "linear": (Engine.CPU, Engine.REFERENCE),
    "render": (Engine.CUDA, Engine.CPU, Engine.OPS, Engine.REFERENCE),
}
"""The engines that each op has code for, in the order of preference; the last ones on request."""

ON_REQUEST = {
    Engine.NERFACC: "--set render.compositor=nerfacc, --set render.sampler=nerfacc",
    Engine.TINYCUDANN: "--set decoder.engine=tinycudann",
}
"""Engines that run only where the configuration names them, and how it does."""


@dataclass(frozen=True)
class Entry:
    """One cell of the table.

    why_not: why this engine cannot run the op here; empty where it can. runs: it is the one that
    does by default.
    """

    op: str
    engine: Engine
    why_not: str
    runs: bool


def engine_table(device: torch.device | str = "cpu") -> list[Entry]:
    """All ops and engines for float32 tensors on `device`, by op in the order of preference."""
    kind = torch.device(device).type
    table = []
    for op, engines in ENGINES.items():
        reasons = {engine: _why_not(op, engine, kind) for engine in engines}
        able = [e for e in engines if not reasons[e] and e not in ON_REQUEST]
        table += [Entry(op, e, reasons[e], e is able[0]) for e in engines]
    return table


def _why_not(op: str, engine: Engine, kind: str) -> str:
    checks: dict[Engine, Callable[[str], str]] = {
        Engine.CUDA: _why_not_cuda,
        Engine.CPU: _why_not_cpu,
        Engine.NERFACC: lambda _: why_no_traversal() if op == OCCUPANCY else why_not_nerfacc(),
        Engine.TINYCUDANN: _why_not_tinycudann,
    }
    return checks[engine](kind) if engine in checks else ""


def _why_not_cuda(kind: str) -> str:
    if reason := _native.reason():
        return reason
    if not _native.core().cuda_compiled():
        return "epigraf._C was built without CUDA"
    if not torch.cuda.is_available():
        built = "torch sees no CUDA device" if torch.version.cuda else "torch is a CPU build"
        return built
    return "" if kind == "cuda" else f"the tensors are on {kind}"


def _why_not_cpu(kind: str) -> str:
    return _native.reason() or ("" if kind == "cpu" else f"the tensors are on {kind}")


def _why_not_tinycudann(kind: str) -> str:
    if reason := why_not_tinycudann():
        return reason
    return "" if kind == "cuda" else f"it computes on CUDA only, and the tensors are on {kind}"
