"""Work in several processes that talk over gloo, or in one that may be killed.

They are forked from a server that has imported everything already, so that each costs milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["epigraf.training.loop", "tensorboard.compat.proto.event_pb2", "tests.training.processes"]
)

Work = Callable[..., Any]


def start(work: Work, *arguments: Any) -> BaseProcess:
    """Begin `work(*arguments)` in a process of its own, on one thread."""
    process = _CONTEXT.Process(target=_alone, args=(work, arguments))
    process.start()
    return process


def _alone(work: Work, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    work(*arguments)


def together(count: int, work: Work, *arguments: Any, seconds: float = 120) -> list[Any]:
    """What `work(*arguments)` returns in each of `count` processes whose environment says that they
    train together; an exception is returned as its text `Type: message`. A process that has not
    returned anything counts as None."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ends, processes = [], []
    for rank in range(count):
        mine, theirs = _CONTEXT.Pipe()
        place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        packed = pickle.dumps((work, arguments))  # tensors as bytes, not as shared memory
        target = (theirs, place | meeting, packed)
        processes.append(_CONTEXT.Process(target=_one_of_several, args=target))
        processes[-1].start()
        theirs.close()
        ends.append(mine)
    return [_result(*pair, seconds) for pair in zip(ends, processes, strict=True)]


def _one_of_several(end: Connection, environment: dict[str, Any], packed: bytes) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    try:
        work, arguments = pickle.loads(packed)
        end.send_bytes(pickle.dumps(work(*arguments)))
    except Exception as error:
        traceback.print_exc()
        end.send_bytes(pickle.dumps(f"{type(error).__name__}: {error}"))


def _result(end: Connection, process: BaseProcess, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    try:
        value = pickle.loads(end.recv_bytes()) if end.poll(seconds) else "timed out"
    except EOFError:
        value = None
    end.close()
    process.join(max(deadline - time.monotonic(), 1))
    process.kill()
    process.join()
    return value
