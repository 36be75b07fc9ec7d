from __future__ import annotations

import pytest

from epigraf.cli import progress
from epigraf.cli.progress import Meter


def test_plain_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 3.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Meter("filming", 8, live=False) as meter:
        for _ in range(4):
            meter.advance(1)
        meter.say("smaller tiles")
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err == "filming: 25% in 11 s\nfilming: 50% in 22 s\nsmaller tiles\n"


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Meter("filming", 2, live=True) as meter:
        meter.advance(1)
        meter.say("smaller tiles")
    assert "smaller tiles" in capsys.readouterr().err
