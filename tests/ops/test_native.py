"""How the native core is found, refused and left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from epigraf.ops import _native, available, backend_line, reason, use_reference


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forgets what was found, before and after."""
    _native._find.cache_clear()
    yield
    _native._find.cache_clear()


def test_use_reference_is_undone_and_nests() -> None:
    tensor = torch.zeros(1)
    before = _native.runs_native(tensor)
    with use_reference():
        assert not _native.runs_native(tensor)
        assert backend_line() == "reference (pure torch): the reference was asked for"
        with use_reference(False):
            assert _native.runs_native(tensor) == before
        assert not _native.runs_native(tensor)
    assert _native.runs_native(tensor) == before


def test_backend_line_names_instructions_and_threads(native: None) -> None:
    threads = torch.get_num_threads()
    line = backend_line()
    assert line.startswith("native cpu (")
    assert line.endswith("OpenMP 1 thread)" if threads == 1 else f"OpenMP {threads} threads)")
    assert "\n" not in line


def test_the_loop_of_multiply_adds_by_hand(native: None) -> None:
    """Chain c begins at c; x -> x / 2 + 1 / 4 moves it half of the way to 1/2."""
    core = _native.core()
    chains, widths = core.FMA_CHAINS, core.vector_widths()
    assert widths[0] == 16
    for width in widths:
        for steps in (0, 1, 60):
            expected = sum(0.5 + (c - 0.5) / 2**steps for c in range(chains)) * width / 4
            assert core.fma_loop(width, steps, 2) == pytest.approx(2 * expected, rel=1e-6)
    with pytest.raises(RuntimeError, match="no vectors of 8 bytes"):
        core.fma_loop(8, 1, 1)


def test_backend_line_of_a_device_without_code(native: None) -> None:
    assert backend_line("meta") == "reference (pure torch): epigraf._C has no code for meta"


def test_missing_core_is_a_reason_not_an_error(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setitem(sys.modules, "epigraf._C", None)
    monkeypatch.setattr(sys, "path", [])
    assert not available()
    assert reason().startswith("epigraf._C not built: ")
    assert backend_line().startswith("reference (pure torch): epigraf._C not built: ")
    assert not _native.runs_native(torch.zeros(1))
    with pytest.raises(RuntimeError, match="not built"):
        _native.core()


def test_core_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    stale = ModuleType("epigraf._C")
    stale.ABI = -1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "epigraf._C", stale)
    assert not available()
    assert reason() == "epigraf._C is from another version: run pip install again"


def test_source_tree_finds_the_installed_core(
    monkeypatch: pytest.MonkeyPatch, fresh: None, native: None, tmp_path: Path
) -> None:
    """The tree's Python code comes first on the path; the core lies in site-packages."""
    built = Path(_native.core().__file__)
    (tmp_path / "epigraf").mkdir()
    (tmp_path / "epigraf" / built.name).symlink_to(built)

    def not_in_the_tree(name: str) -> ModuleType:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(_native.importlib, "import_module", not_in_the_tree)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    _native._find.cache_clear()
    assert available()


def test_other_dtypes_run_the_reference() -> None:
    assert not _native.runs_native(torch.zeros(1, dtype=torch.float16))
    assert not _native.runs_native(torch.zeros(1, dtype=torch.bfloat16))
