"""The JSON file of a suite: what was measured, where, when, how, and every round.

Derived numbers (minimum, rates) are written for readers and left out when a file is read.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

import epigraf
from epigraf.benchmarks.fit import line_fits
from epigraf.benchmarks.machine import (
    machine_name,
    peak_bandwidth,
    peak_fma,
    peak_gflops,
    read_bandwidths,
)
from epigraf.benchmarks.runner import Counts, Row, Settings
from epigraf.errors import EpigrafError
from epigraf.ops import backend_line

FORMAT = 2
DEFAULT_ALLOCATOR = "default"


@dataclass
class Result:
    """A suite's rows, and the facts that they hold for (JSON-ready)."""

    suite: str
    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    complete: bool = False

    @property
    def machine(self) -> str:
        """The machine's name."""
        return str(self.facts.get("machine", "unknown"))

    @property
    def command(self) -> str:
        """What measured it, rounds aside: "epigraf bench step --config plants64"."""
        config, parts = self.facts.get("config", {}), ["epigraf bench", self.suite]
        parts += ["--config", config["preset"]] if config.get("preset") else []
        parts += [f"--set {change}" for change in config.get("set", ())]
        return " ".join([*parts, *(["--default-malloc"] if self.default_malloc else [])])

    @property
    def default_malloc(self) -> bool:
        """Measured with the allocator as a plain torch program has it."""
        return self.facts.get("allocator") == DEFAULT_ALLOCATOR

    @property
    def date(self) -> str:
        """When it began, ISO 8601 in UTC."""
        return str(self.facts.get("date", ""))

    @property
    def quick(self) -> bool:
        """Whether it was only a smoke test."""
        return bool(self.facts.get("config", {}).get("quick", False))


def new_result(suite: str, settings: Settings) -> Result:
    """An empty result that knows machine, versions, commit, date, load and configuration."""
    now = datetime.datetime.now(datetime.timezone.utc)
    config = {"rounds": settings.rounds, "only": settings.only, "quick": settings.quick}
    if suite == "step":
        config |= {"preset": settings.preset, "set": list(settings.overrides)}
    facts = {
        "date": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine_name(settings.device),
        "device": settings.device,
        "threads": settings.threads,
        "load_average": os.getloadavg()[0],
        "backend": backend_line(settings.device),
        "allocator": DEFAULT_ALLOCATOR if settings.default_malloc else "keeps freed memory",
        "versions": {
            "epigraf": epigraf.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "config": config,
    }
    return Result(suite, facts)


def result_path(result: Result, folder: Path) -> Path:
    """<machine>_<date>_<time>_<commit>_<suite>.json in `folder`."""
    name = "".join(c if c.isalnum() else "-" for c in result.machine).strip("-")
    when = datetime.datetime.fromisoformat(result.date)
    stem = f"{name}_{when:%Y-%m-%d_%H%M%S}_{result.facts['commit']}_{result.suite}"
    return folder / f"{stem}.json"


def write_result(result: Result, path: Path) -> None:
    """Write the file, complete or not at all."""
    content = {
        "format": FORMAT,
        "suite": result.suite,
        **result.facts,
        "complete": result.complete,
        "peak_gflops": peak_gflops(result.rows),
        "peak_fma_gflops": peak_fma(result.rows),
        "peak_copy_gb_per_s": peak_bandwidth(result.rows),
        "read_gb_per_s": read_bandwidths(result.rows),
        "fits": [asdict(fit) for fit in line_fits(result.rows)],
        "rows": [_row_values(row) for row in result.rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _row_values(row: Row) -> dict[str, Any]:
    values = asdict(row) | {"minimum_ms": row.best * 1e3, "median_ms": row.median * 1e3}
    counts = row.counts
    rates = {"rays_per_s": counts.rays, "samples_per_s": counts.samples}
    values |= {name: count / row.best for name, count in rates.items() if count}
    if counts.flops:
        values["gflops"] = row.gflops
    if counts.images:
        values["s_per_kimg"] = row.best / counts.images * 1000
    return values


def read_result(path: Path) -> Result:
    """The result in a file that `write_result` wrote.

    Raises:
        EpigrafError: no such file, not JSON, not a result, or of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EpigrafError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or "rows" not in content:
        raise EpigrafError(f"{path}: not a result of `epigraf bench`")
    if content.get("format") != FORMAT:
        raise EpigrafError(
            f"{path}: a result of format {content.get('format', 1)}, this version reads {FORMAT}; "
            f"measure again"
        )
    try:
        rows = [_read_row(values) for values in content["rows"]]
        suite, complete = content["suite"], bool(content["complete"])
    except (KeyError, TypeError, ValueError) as error:
        raise EpigrafError(f"{path}: damaged: {type(error).__name__}: {error}") from None
    derived = {"format", "suite", "complete", "peak_gflops", "peak_copy_gb_per_s", "read_gb_per_s"}
    derived |= {"fits", "rows", "peak_fma_gflops"}
    facts = {key: value for key, value in content.items() if key not in derived}
    return Result(suite, facts, rows, complete)


def _read_row(values: dict[str, Any]) -> Row:
    known = {f.name for f in fields(Row)}
    kept = {key: value for key, value in values.items() if key in known}
    seconds = [float(x) for x in kept.pop("seconds")]
    if not seconds or min(seconds) <= 0:
        raise ValueError("a row needs rounds of more than 0 seconds")
    return Row(**kept | {"seconds": seconds, "counts": Counts(**kept.pop("counts"))})


def newest_results(folder: Path) -> list[Result]:
    """The newest complete result of every command, of the machine measured last.

    Smoke tests and files of older formats do not count.

    Raises:
        EpigrafError: there is none.
    """
    if not folder.is_dir():
        raise EpigrafError(f"{folder}: no such folder; `epigraf bench all --out {folder}` fills it")
    results = [result for path in sorted(folder.glob("*.json")) if (result := _usable(path))]
    if not results:
        raise EpigrafError(f"{folder}: no complete result of `epigraf bench` in it")
    machine = max(results, key=lambda r: r.date).machine
    newest: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: r.date):
        if result.machine == machine:
            newest[result.command] = result
    return list(newest.values())


def _usable(path: Path) -> Result | None:
    try:
        result = read_result(path)
    except EpigrafError:
        return None
    partial = result.quick or not result.complete or result.facts.get("config", {}).get("only")
    return None if partial else result


def of_suite(results: Sequence[Result], suite: str) -> list[Result]:
    """Those of one suite."""
    return [result for result in results if result.suite == suite]


def _commit() -> str:
    """The short commit, with a + for a changed tree; "unknown" outside a repository of ours."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / "pyproject.toml").is_file():
        return f"v{epigraf.__version__}"
    command = ["git", "describe", "--always", "--dirty=+"]
    try:
        found = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
