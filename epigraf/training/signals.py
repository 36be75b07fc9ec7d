"""Why a run ends; Ctrl-C and SIGTERM while training: finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
from enum import Enum
from types import FrameType
from typing import Any


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
    """Turns the first SIGINT or SIGTERM into a wish to stop; the second one stops at once."""

    def __init__(self) -> None:
        self.received: StopReason | None = None
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
        if self.received is not None:
            raise KeyboardInterrupt
        terminated = number == signal.SIGTERM
        self.received = StopReason.TERMINATED if terminated else StopReason.INTERRUPTED
