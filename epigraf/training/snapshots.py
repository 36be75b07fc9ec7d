"""Which snapshots of a run are kept, and which one a run continues from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from epigraf.errors import CheckpointError
from epigraf.models.loading import (
    Snapshot,
    read_snapshot,
    snapshot_files,
    valid_snapshots,
)
from epigraf.training.distributed import is_main, on_main
from epigraf.training.log import run_folders, write_json
from epigraf.training.resume import SharedSnapshot
from epigraf.training.state import State, save_state

BEST_FILE = "best.json"
BEST_SNAPSHOT = "network-snapshot-best.safetensors"
OPTIONS_FILE = "training_options.json"


@dataclass(frozen=True)
class Best:
    """The best value of the main metric so far (smaller is better) and its snapshot."""

    metric: str
    value: float
    kimg: float
    file: str


class Snapshots:
    """The snapshots of a run folder: the last `keep_last`, and the best one under its own name.

    Every process of a run has one and calls the same methods; the main one writes.

    Args:
        folder: the run folder; leftovers of interrupted writes are removed.
        keep_last: how many recent ones to keep, >= 1.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last
        if is_main():
            for leftover in (*folder.glob(".*.tmp"), *folder.glob(".tmp*")):  # ours, safetensors'
                leftover.unlink(missing_ok=True)
        self.best = on_main(lambda: _read_best(folder))

    def path(self, state: State) -> Path:
        """The file name that a snapshot of `state` has."""
        kimg = state.counters.images_seen // 1000
        return self.folder / f"network-snapshot-{kimg:06d}.safetensors"

    def save(self, state: State) -> Path:
        """Write a snapshot now, then delete those beyond the last `keep_last`."""
        path = self.path(state)
        save_state(state, path, {"best": asdict(self.best) if self.best else None})
        if is_main():
            for old in snapshot_files(self.folder)[self.keep_last :]:
                old.unlink(missing_ok=True)
        return path

    def drop_after(self, images_seen: int) -> None:
        """Delete those that a rollback leaves ahead: `--resume latest` must not take them."""
        for path in snapshot_files(self.folder) if is_main() else ():
            if int(path.stem.rsplit("-", 1)[1]) > images_seen // 1000:
                path.unlink(missing_ok=True)

    def offer_best(self, state: State, metric: str, value: float) -> bool:
        """Record a metric; keeps the state as the best snapshot when no better one was seen."""
        if self.best is not None and self.best.metric == metric and value >= self.best.value:
            return False
        self.best = Best(metric, value, state.counters.images_seen / 1000, BEST_SNAPSHOT)
        save_state(state, self.folder / BEST_SNAPSHOT, {"best": asdict(self.best)})
        if is_main():
            write_json(self.folder / BEST_FILE, asdict(self.best))
        return True


def _read_best(folder: Path) -> Best | None:
    try:
        return Best(**json.loads((folder / BEST_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Origin:
    """Where a run continues: the snapshot, and the run folder to go on in (None: a new one)."""

    snapshot: SharedSnapshot
    folder: Path | None


def _config_name(folder: Path) -> str | None:
    """The name of the configuration that a run folder was made from."""
    try:
        return json.loads((folder / OPTIONS_FILE).read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_origin(resume: str, out: Path, config_name: str, warnings: list[str]) -> Origin | None:
    """The snapshot to continue from.

    Args:
        resume: `latest` (the newest readable snapshot of the newest run of this configuration in
            `out`), a run folder, or a snapshot file.
        warnings: receives one line for each damaged snapshot that was passed over.
    Returns:
        None when `latest` finds no run to continue.
    Raises:
        CheckpointError: nothing readable where `resume` points; names another snapshot that is.
    """
    if resume == "latest":
        for folder in run_folders(out):
            if _config_name(folder) == config_name:
                for snapshot in valid_snapshots(folder, warnings):
                    return _origin(snapshot, folder)
        return None
    path = Path(resume)
    if not path.exists():
        raise CheckpointError(
            f"resume {path}: no such file or folder; give `latest`, a run folder or a snapshot"
        )
    if path.is_file():
        newest = snapshot_files(path.parent)[:1]
        in_place = newest == [path] and (path.parent / OPTIONS_FILE).exists()
        return _origin(_whole(path), path.parent if in_place else None)
    for snapshot in valid_snapshots(path, warnings):
        return _origin(snapshot, path)
    raise CheckpointError(
        f"resume {path}: no readable network-snapshot-*.safetensors in it"
        + (f": {warnings[0]}" if warnings else "")
    )


def _origin(snapshot: Snapshot, folder: Path | None) -> Origin:
    return Origin(SharedSnapshot(snapshot.path, snapshot.header), folder)


def _whole(path: Path) -> Snapshot:
    """The snapshot that was asked for, if it is undamaged; otherwise the error offers another."""
    try:
        snapshot = read_snapshot(path)
        snapshot.check()
        return snapshot
    except CheckpointError as error:
        others = (other for other in valid_snapshots(path.parent) if other.path != path)
        other = next(others, None)
        hint = f"; the newest whole one is {other.path}" if other is not None else ""
        raise CheckpointError(f"{error}{hint}") from None
