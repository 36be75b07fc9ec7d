"""Times functions in turn and measures the memory that they need.

Legend: a case is a few pieces of work that are timed in alternation; a row is one, measured.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from epigraf.errors import EpigrafError

Announce = Callable[[str], None]
_SHORTEST = 5e-3  # seconds: quicker work is called several times in a round
_MOST_CALLS = 200
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """How suites are measured.

    threads: of torch and of the native core. rounds: of all implementations in turn (None: what the
    suite takes). only: see `asked_for`. quick: small sizes, for a smoke test.
    default_malloc: the process has Python's own allocator. preset, overrides: what `step` trains.
    """

    threads: int
    device: str = "cpu"
    rounds: int | None = None
    only: str = ""
    quick: bool = False
    default_malloc: bool = False
    preset: str = "plants64"
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counts:
    """What one call handles (0: not counted).

    flops: floating-point operations that the result needs, whoever recomputes some; bytes_moved:
    of the tri-plane's taps, or of a copy. images: of a training batch, or frames. decibels: PSNR of
    the result to that of the first implementation.
    """

    rays: int = 0
    samples: int = 0
    flops: float = 0
    bytes_moved: float = 0
    images: int = 0
    decibels: float = 0


@dataclass(frozen=True)
class Work:
    """A function to time, in one implementation.

    run: returns its outputs (whose memory is told apart). control: an opponent or the machine, of
    which nobody says that it got slower. at: its place on the `axis` of a scaling suite.
    """

    case: str
    implementation: str
    run: Callable[[], object]
    counts: Counts = Counts()
    control: bool = False
    axis: str = ""
    at: float | None = None


@dataclass(frozen=True)
class Case:
    """Work to be timed in alternation; its tensors are made when its turn comes.

    memory: measure it too. heavy: seconds a call, half the rounds (but three) do.
    """

    op: str
    name: str
    build: Callable[[], Sequence[Work]]
    memory: bool = True
    heavy: bool = False

    @property
    def title(self) -> str:
        return f"{self.op} {self.name}"


@dataclass(frozen=True)
class Row:
    """One measurement: wall seconds of every round, in their order.

    peak_mib: the most memory in use at once above that before the call; beyond_mib: without the
    outputs (inputs were there before). None where it was not measured.
    """

    op: str
    case: str
    implementation: str
    seconds: list[float]
    counts: Counts = field(default_factory=Counts)
    control: bool = False
    axis: str = ""
    at: float | None = None
    peak_mib: float | None = None
    beyond_mib: float | None = None

    @property
    def best(self) -> float:
        """Seconds of the quickest round."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """Seconds of the round in the middle."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """How far the middle round lies above the quickest one, as a share of it."""
        return self.median / self.best - 1

    @property
    def gflops(self) -> float:
        """Useful GFLOP/s of the quickest round; 0 where they are not counted."""
        return self.counts.flops / self.best / 1e9


def asked_for(titles: Sequence[str], only: str) -> set[str]:
    """Those with one of the words of `only` in them, a list with commas; all of none.

    Raises:
        EpigrafError: a word is in none of them.
    """
    words = [word for part in only.split(",") if (word := part.strip().lower())] or [""]
    for word in words:
        if not any(word in title.lower() for title in titles):
            raise EpigrafError(f"bench: --only: no case has {word!r} in its name")
    return {title for title in titles if any(word in title.lower() for word in words)}


def measure(
    cases: Iterable[Case], settings: Settings, rounds: int, announce: Announce
) -> Iterator[list[Row]]:
    """The rows of every case that is asked for; `rounds` where the settings name none."""
    cases = list(cases)
    wanted = asked_for([case.title for case in cases], settings.only)
    for case in cases:
        if case.title not in wanted:
            continue
        announce(case.title)
        count = settings.rounds or rounds
        if case.heavy and settings.rounds is None:
            count = max(count // 2, min(count, 3))
        with torch.random.fork_rng(devices=[]), threads(settings.threads):
            torch.manual_seed(0)
            yield _measure_case(case, count, settings.device)


def _measure_case(case: Case, rounds: int, device: str) -> list[Row]:
    works = case.build()
    timed = alternate([work.run for work in works], rounds, device)
    rows = [_row(case.op, work, seconds) for work, seconds in zip(works, timed, strict=True)]
    if not case.memory:
        return rows
    peaks = [peak_memory(work.run, device) for work in works]
    return [
        row if peak is None else replace(row, peak_mib=peak[0], beyond_mib=peak[1])
        for row, peak in zip(rows, peaks, strict=True)
    ]


def _row(op: str, work: Work, seconds: list[float]) -> Row:
    return Row(
        op, work.case, work.implementation, seconds, work.counts, work.control, work.axis, work.at
    )


def alternate(
    functions: Sequence[Callable[[], object]], rounds: int, device: str
) -> list[list[float]]:
    """Seconds of a call of each function in each round.

    Every function is called once to warm up, then all of them in turn: a busy moment of the machine
    hits all alike. What takes less than 5 ms is called several times in a round.
    """
    calls = [_calls(clocked(function, 1, device)) for function in functions]
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, count, taken in zip(functions, calls, times, strict=True):
            taken.append(clocked(function, count, device))
    return times


def _calls(seconds: float) -> int:
    return min(max(round(_SHORTEST / max(seconds, 1e-9)), 1), _MOST_CALLS)


def clocked(function: Callable[[], object], calls: int, device: str) -> float:
    """Wall seconds of a call, the mean of `calls` in a row."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronise(device)
    return (time.perf_counter() - start) / calls


def synchronise(device: str) -> None:
    """Wait for a GPU; nothing on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block torch and the native core run on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(function: Callable[[], object], device: str) -> tuple[float, float] | None:
    """(peak, peak without outputs) in MiB of one more call of a function that is warm.

    On a CPU it is the growth of the resident memory, after everything freed went back to the
    system; None elsewhere than on Linux with glibc.
    """
    measured = _cuda_peak(function, device) if device.startswith("cuda") else _cpu_peak(function)
    if measured is None:
        return None
    peak, outputs = measured
    return peak / MIB, max(peak - output_bytes(outputs), 0) / MIB


def _cuda_peak(function: Callable[[], object], device: str) -> tuple[float, object]:
    """Bytes that torch's allocator handed out, and what the function returned."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    outputs = function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before, outputs


def _cpu_peak(function: Callable[[], object]) -> tuple[float, object] | None:
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must count when it is used again
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except (OSError, AttributeError):
        return None
    before = _status("VmRSS")
    outputs = function()
    return (_status("VmHWM") - before) * 1024, outputs


def _status(key: str) -> int:
    """A line of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def output_bytes(outputs: object) -> int:
    """Memory of all tensors in nested tuples and lists, shared storage once."""
    storages: dict[int, int] = {}

    def visit(node: object) -> None:
        if isinstance(node, Tensor):
            storage = node.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(node, (tuple, list)):
            for child in node:
                visit(child)

    visit(outputs)
    return sum(storages.values())
