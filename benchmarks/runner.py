"""Times functions and writes a JSON file with machine, versions, commit and date."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import epigraf
from epigraf.allocator import keep_freed_memory
from epigraf.ops import backend_line

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measurement: `case` of `op` in one implementation, in milliseconds of wall time.

    `peak_mib` is the most memory in use at once above that before the call, where it was measured.
    """

    op: str
    case: str
    implementation: str
    median_ms: float
    best_ms: float
    repeats: int
    peak_mib: float | None = None


def alternate(
    op: str, case: str, functions: dict[str, Callable[[], object]], rounds: int
) -> list[Row]:
    """Calls every implementation once to warm up, then all of them in turn, `rounds` times.

    A busy moment of the machine then hits all of them alike. Prints how many times faster than the
    last one each is.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_number > 0:
                times[name].append(time.perf_counter() - start)
    rows = [
        Row(op, case, name, statistics.median(seconds) * 1e3, min(seconds) * 1e3, rounds)
        for name, seconds in times.items()
    ]
    for row in rows:
        ratio = rows[-1].best_ms / row.best_ms
        print(
            f"{op:10} {case:44} {row.implementation:12} {row.median_ms:9.2f} ms "
            f"(best {row.best_ms:.2f}, {ratio:.1f}x)"
        )
    return rows


def with_peak_memory(row: Row, function: Callable[[], object], device: str) -> Row:
    """`row` with the peak memory of one more call of `function`, which must have been warmed up."""
    peak = _cuda_peak(function) if device.startswith("cuda") else _resident_peak(function)
    if peak is not None:
        print(f"{row.op:10} {row.case:44} {row.implementation:12} {peak:9.1f} MiB at most")
    return replace(row, peak_mib=peak)


def _cuda_peak(function: Callable[[], object]) -> float:
    """What torch's allocator handed out, in MiB."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _resident_peak(function: Callable[[], object]) -> float | None:
    """Growth of the resident memory in MiB; None elsewhere than on Linux with glibc."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must count when it is used again
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except (OSError, AttributeError):
        return None
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 2**10


def _status(key: str) -> int:
    """A line of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def command_line(description: str, rounds: int = 10) -> argparse.Namespace:
    """--threads, --device, --rounds and --out, with torch set up as the programs do it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON file")
    parser.add_argument("--rounds", type=int, default=rounds, help="of all implementations")
    parser.add_argument(
        "--default-malloc",
        action="store_true",
        help="leave the allocator as Python has it; epigraf's programs keep freed memory",
    )
    arguments = parser.parse_args()
    if not arguments.default_malloc:
        keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments


def write_results(op: str, rows: list[Row], arguments: argparse.Namespace) -> Path:
    """Writes <out>/<machine>_<date>_<commit>_<op>.json and returns its path."""
    now = datetime.datetime.now(datetime.timezone.utc)
    facts = {
        "op": op,
        "date": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(arguments.device),
        "load_average": os.getloadavg()[0],
        "threads": arguments.threads,
        "backend": backend_line(arguments.device),
        "allocator": "default" if arguments.default_malloc else "keeps freed memory",
        "versions": {
            "epigraf": epigraf.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "rows": [asdict(row) for row in rows],
    }
    name = "".join(c if c.isalnum() else "-" for c in facts["machine"]).strip("-")
    suffix = "_default-malloc" if arguments.default_malloc else ""
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{name}_{now:%Y-%m-%d}_{facts['commit']}_{op}{suffix}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {path}")
    return path


def machine(device: str) -> str:
    """The GPU's name, or the CPU's name and the number of its cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name} x{os.cpu_count()}"


def _commit() -> str:
    """The short commit, with a + for a changed tree; "unknown" outside a repository."""
    folder = Path(__file__).parent
    try:
        short = subprocess.check_output(
            ["git", "describe", "--always", "--dirty=+"],
            cwd=folder,
            text=True,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return short.strip()
