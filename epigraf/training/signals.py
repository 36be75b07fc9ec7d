"""Why a run ends; Ctrl-C and SIGTERM while training: finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
import time
from enum import Enum
from types import FrameType
from typing import Any

ECHO_SECONDS = 1.0


class StopReason(Enum):
    """Why a run ended."""

    FINISHED = "finished"
    MINUTES = "out of time"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"

    @property
    def exit_code(self) -> int:
        """Of the process: 0, or 128 + the number of the signal as shells have it."""
        numbers = {StopReason.INTERRUPTED: signal.SIGINT, StopReason.TERMINATED: signal.SIGTERM}
        return 128 + numbers[self] if self in numbers else 0


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a wish to stop; a second Ctrl-C stops at once.

    Launchers and schedulers may pass on what has reached the process already: a repetition within
    `ECHO_SECONDS` counts for nothing, nor does another SIGTERM at any time.
    """

    def __init__(self) -> None:
        self.received: StopReason | None = None
        self._when = 0.0
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        terminated = number == signal.SIGTERM
        if self.received is not None:
            if not terminated and time.monotonic() - self._when > ECHO_SECONDS:
                raise KeyboardInterrupt
            return
        self._when = time.monotonic()
        self.received = StopReason.TERMINATED if terminated else StopReason.INTERRUPTED
