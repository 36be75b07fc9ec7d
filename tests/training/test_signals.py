"""One signal is a wish, its echo is nothing, a second Ctrl-C is an order."""

from __future__ import annotations

import os
import signal

import pytest

from epigraf.training import signals
from epigraf.training.signals import StopReason, StopSignals


def test_echoes_and_repeated_terminations_are_one_wish() -> None:
    with StopSignals() as stop:
        assert stop.received is None
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.received is StopReason.TERMINATED
        assert stop.received.exit_code == 143


def test_a_second_ctrl_c_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO_SECONDS", -1.0)
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is StopReason.INTERRUPTED
        assert stop.received.exit_code == 130
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
