"""TensorBoard event files, written in step with the run: a failed write is an error of the run.

(The writer of `torch.utils.tensorboard` works in a thread of its own, where a full disk ends in a
traceback that nobody can catch.)
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any, cast


class EventFile:
    """A new `events.out.tfevents.*` file of scalars.

    Args:
        folder: where the file goes.
        purge_step: None, or the first step whose earlier records (of a session that was cut off
            after its last snapshot) TensorBoard is to forget.
    Raises:
        ImportError: tensorboard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        messages: Any = event_pb2  # generated: their names exist at run time only
        self._event, self._summary = messages.Event, cast("Any", summary_pb2).Summary
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb", buffering=0)  # nothing is left to fail in close
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(
                step=purge_step, session_log=messages.SessionLog(status=messages.SessionLog.START)
            )

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())

    def scalars(self, numbers: dict[str, float], step: int) -> None:
        """Append numbers by tag.

        Args:
            numbers: values by tag.
            step: images seen.
        Raises:
            OSError: they cannot be written.
        """
        for tag, value in numbers.items():
            point = self._summary.Value(tag=tag, simple_value=value)
            self._write(step=step, summary=self._summary(value=[point]))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
