"""The table of engines says what really happens."""

from __future__ import annotations

import sys

import pytest
import torch

from epigraf import ops
from epigraf.ops import _native, use_reference
from epigraf.ops import nerfacc as nerfacc_engine
from epigraf.ops.engines import ENGINES, ON_REQUEST, Engine, engine_table


def running(device: str = "cpu") -> dict[str, Engine]:
    return {entry.op: entry.engine for entry in engine_table(device) if entry.runs}


def test_every_op_of_the_package_has_a_row():
    public = {name for name in ops.__all__ if name[0].islower()}
    others = {"available", "backend_line", "reason", "use_reference"}
    rows = {"sample_triplane": "triplane", "decode": "decoder", "importance_t": "importance",
            "merge_samples": "merge", "patch_rays": "rays", "ball_segment": "rays",
            "philox_normal": "random", "philox_uniform": "random", "composite": "composite",
            "render": "render", "activation": "activation", "blur2d": "resample",
            "downsample2d": "resample", "upsample2d": "resample"}  # fmt: skip
    occupancy = {"build_occupancy", "traverse_grid", "occupied", "grid_from_binaries"}
    ours = {rows[name] for name in public - others - occupancy}
    assert ours | {"occupancy", "winograd", "pointwise", "linear"} == set(ENGINES)


@pytest.mark.skipif(not ops.available(), reason="needs the native core")
def test_exactly_one_engine_runs_each_op_and_it_is_the_core_on_a_cpu():
    assert running() == dict.fromkeys(ENGINES, Engine.CPU)
    assert _native.runs_native(torch.zeros(1))


def test_without_the_core_the_reference_runs_and_the_table_says_why():
    with use_reference():
        assert running() == {
            op: Engine.OPS if op == "render" else Engine.REFERENCE for op in ENGINES
        }
        why = {(e.op, e.engine): e.why_not for e in engine_table()}
        assert why["triplane", Engine.CPU] == "the reference was asked for"


def test_every_engine_that_does_not_run_says_why_or_waits_to_be_asked():
    first = running()
    for entry in engine_table():
        able_but_second = not entry.why_not and entry.engine is not first[entry.op]
        if able_but_second:
            assert entry.engine in (*ON_REQUEST, Engine.OPS, Engine.REFERENCE)
        if entry.engine is Engine.CUDA and not torch.cuda.is_available():
            assert entry.why_not


def test_a_missing_nerfacc_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nerfacc", None)
    nerfacc_engine._found.cache_clear()
    try:
        why = {(e.op, e.engine): e.why_not for e in engine_table()}
        assert why["composite", Engine.NERFACC] == "nerfacc is not installed"
    finally:
        nerfacc_engine._found.cache_clear()
