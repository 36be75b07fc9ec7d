from __future__ import annotations

import sys
from pathlib import Path

import pytest

from epigraf.optional import import_optional


def test_a_package_that_is_there():
    found = import_optional("json", ("dumps",))
    assert found.reason == ""
    assert found.module is sys.modules["json"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('libcuda.so.1: no such file\\nsecond line')",
         "fails to import: OSError: libcuda.so.1: no such file second line"),
        ("import surely_not_there", "needs surely_not_there, which is not installed"),
        ("raise RuntimeError", "fails to import: RuntimeError: no message"),
        ("x = 1", "has no Network: another package, or too old a version"),
        ("import sys; sys.exit", "has no Network"),
        ("def f(:", "fails to import: SyntaxError"),
    ],
)  # fmt: skip
def test_whatever_an_import_does_becomes_one_line(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "broken_part.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = import_optional("broken_part", ("Network",))
    sys.modules.pop("broken_part", None)
    assert found.module is None
    assert found.reason.startswith(f"broken_part {reason}")
    assert "\n" not in found.reason


def test_a_package_that_is_not_there():
    assert import_optional("surely_not_there").reason == "surely_not_there is not installed"
