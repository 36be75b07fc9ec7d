"""What a run leaves behind as text: the folder, log.txt, stats.jsonl and TensorBoard events.

File names and the plain status line follow the StyleGAN family.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epigraf.config import Config
from epigraf.errors import TrainingError
from epigraf.models.loading import write_atomically
from epigraf.training.distributed import world_size
from epigraf.training.events import EventFile

_RUN = re.compile(r"(\d{5,})-.+")
Numbers = dict[str, float]


def run_name(cfg: Config, desc: str | None = None) -> str:
    """`<config>-<data>-batchN-gammaG[-desc]`, safe as a folder name."""
    parts = [
        cfg.name,
        cfg.dataset.name,
        f"batch{cfg.training.batch_size}",
        f"gamma{cfg.gamma:g}",
    ]
    name = "-".join(parts + ([desc] if desc else []))
    return re.sub(r"[^\w.+=-]+", "_", name)


def run_folders(out: Path) -> list[Path]:
    """Run folders below `out`, newest (highest number) first."""
    if not out.is_dir():
        return []
    found = [(int(m[1]), p) for p in out.iterdir() if p.is_dir() and (m := _RUN.fullmatch(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def require_folder(out: Path) -> None:
    """Raise TrainingError where `out` cannot hold run folders: it, or what it is in, is a file."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise TrainingError(f"run: {nearest} is a file, not a folder; choose another --out")


def new_run_folder(out: Path, cfg: Config, desc: str | None = None) -> Path:
    """Make `out/00000-NAME` with the next free number.

    Raises:
        TrainingError: the folder cannot be made.
    """
    require_folder(out)
    taken = run_folders(out)
    number = int(taken[0].name.split("-")[0]) + 1 if taken else 0
    while True:
        folder = out / f"{number:05d}-{run_name(cfg, desc)}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise TrainingError(f"run: cannot make {folder}: {error.strerror}") from None


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically."""
    text = json.dumps(values, indent=2) + "\n"
    write_atomically(path, lambda file: _write_text(file, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def format_time(seconds: float) -> str:
    """1d 02h 03m, 2h 03m 04s, 3m 04s or 4s."""
    s = max(round(seconds), 0)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s // 60 % 60:02d}m {s % 60:02d}s"
    return f"{s // 86400}d {s // 3600 % 24:02d}h {s // 60 % 60:02d}m"


def status_line(row: Numbers) -> str:
    """The plain line of a tick, in the field's format."""
    line = (
        f"tick {row['Progress/tick']:<5.0f} kimg {row['Progress/kimg']:<8.1f} "
        f"time {format_time(row['Timing/total_sec']):<12} "
        f"sec/tick {row['Timing/sec_per_tick']:<7.1f} sec/kimg {row['Timing/sec_per_kimg']:<7.2f} "
        f"maintenance {row['Timing/maintenance_sec']:<6.1f} "
        f"cpumem {row['Resources/cpu_mem_gb']:<6.2f} "
    )
    if "Resources/peak_gpu_mem_gb" in row:
        line += (
            f"gpumem {row['Resources/peak_gpu_mem_gb']:<6.2f} "
            f"reserved {row['Resources/peak_gpu_mem_reserved_gb']:<6.2f} "
        )
    return line + f"augment {row['Progress/augment']:.3f}"


def peak_memory(device: torch.device) -> Numbers:
    """Peak memory so far in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    numbers = {"Resources/cpu_mem_gb": peak / 2**30}
    if device.type == "cuda":
        numbers["Resources/peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
        reserved = torch.cuda.max_memory_reserved(device)
        numbers["Resources/peak_gpu_mem_reserved_gb"] = reserved / 2**30
    return numbers


@dataclass
class Averages:
    """Running means of numbers by name."""

    sums: dict[str, float]
    counts: dict[str, int]

    @classmethod
    def empty(cls) -> Averages:
        """Nothing yet."""
        return cls({}, {})

    def add(self, numbers: Numbers) -> None:
        """One more observation of some names."""
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> Numbers:
        """The mean of every name."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


class RunLog:
    """The text files of a run folder. Use as a context manager.

    Args:
        folder: an existing run folder.
        echo: shows each line to the user.
        images_seen: where the run continues; later rows of stats.jsonl (written after the snapshot
            that is resumed from) are dropped.
    """

    def __init__(
        self, folder: Path, echo: Callable[[str], None] = print, images_seen: int = 0
    ) -> None:
        self.folder = folder
        self._echo = echo
        _drop_rows(folder / "stats.jsonl", images_seen)
        self._log = (folder / "log.txt").open("a", encoding="utf-8")
        self._stats = (folder / "stats.jsonl").open("a", encoding="utf-8")
        self._events = _event_file(folder, images_seen, self.line)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._stats.close()
        if self._events is not None:
            self._events.close()

    def line(self, text: str) -> None:
        """Show a line and append it to log.txt."""
        self._log.write(text + "\n")
        self._log.flush()
        self._echo(text)

    def row(self, numbers: Numbers) -> None:
        """Append the numbers of a tick to stats.jsonl and TensorBoard."""
        stamped = {**numbers, "timestamp": time.time()}
        self._stats.write(json.dumps(stamped) + "\n")
        self._stats.flush()
        self._scalars(numbers, round(numbers["Progress/images"]))

    def rewind(self, images_seen: int) -> None:
        """Drop the rows of stats.jsonl beyond `images_seen`, and have TensorBoard forget them."""
        self._stats.close()
        _drop_rows(self.folder / "stats.jsonl", images_seen)
        self._stats = (self.folder / "stats.jsonl").open("a", encoding="utf-8")
        if self._events is not None:
            self._events.close()
            self._events = _event_file(self.folder, images_seen, self.line)

    def metric(self, results: Numbers, seconds: float, snapshot: str, images_seen: int) -> None:
        """Append each result to its metric-NAME.jsonl (the field's keys) and to TensorBoard."""
        for name, value in results.items():
            record = {
                "results": {name: value},
                "metric": name,
                "total_time": seconds,
                "total_time_str": format_time(seconds),
                "num_gpus": world_size(),
                "snapshot_pkl": snapshot,
                "kimg": images_seen / 1000,
                "timestamp": time.time(),
            }
            with (self.folder / f"metric-{name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self._scalars({f"Metrics/{k}": v for k, v in results.items()}, images_seen)

    def _scalars(self, numbers: Numbers, step: int) -> None:
        if self._events is not None:
            self._events.scalars(numbers, step)


class SilentLog(RunLog):
    """Writes nothing and says nothing: the log of a process that is not the main one."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def row(self, numbers: Numbers) -> None:
        pass

    def rewind(self, images_seen: int) -> None:
        pass

    def metric(self, results: Numbers, seconds: float, snapshot: str, images_seen: int) -> None:
        pass


def _drop_rows(path: Path, images_seen: int) -> None:
    """Keep the rows of stats.jsonl up to `images_seen`; a torn last line goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["Progress/images"] <= images_seen:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    text = "".join(line + "\n" for line in kept)
    write_atomically(path, lambda file: _write_text(file, text))


def _event_file(folder: Path, images_seen: int, say: Callable[[str], None]) -> EventFile | None:
    """TensorBoard's file, or None (and one line) where it is not installed."""
    try:
        return EventFile(folder, purge_step=images_seen + 1 if images_seen else None)
    except ImportError:
        say("TensorBoard is not installed: no event files (pip install tensorboard)")
        return None
