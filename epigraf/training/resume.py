"""What a run may continue from: which keys of the configuration may differ, whether the data set is
still the same, and which random numbers each process goes on with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from epigraf.config import Config
from epigraf.data.fingerprint import Fingerprint
from epigraf.errors import CheckpointError
from epigraf.models.loading import Snapshot
from epigraf.training.distributed import broadcast_tensor, on_main

_FIXED = ("model.generator.", "model.discriminator.", "dataset.resolution", "dataset.c_dim",
          "dataset.cube_scale", "training.use_labels")  # fmt: skip
_FREE = (".optim.", "_steps")  # within the networks' sections: learning rates, samples a ray
_NOTES = {"training.seed": " (without effect: the random numbers go on)"}
ALLOW_DATA_CHANGE = "--allow-data-change"


@dataclass(frozen=True)
class SharedSnapshot(Snapshot):
    """A snapshot that the main process reads from its disk and all processes receive.

    `tensors` is then a call that all of them make, in the same order.
    """

    def tensors(self, group: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def read() -> dict[str, tuple[list[int], Any]]:
            found.update(Snapshot.tensors(self, group))
            return {name: (list(tensor.shape), tensor.dtype) for name, tensor in found.items()}

        specs = on_main(read)
        return {
            name: broadcast_tensor(found.get(name), shape, dtype)
            for name, (shape, dtype) in specs.items()
        }


def changes_on_resume(cfg: Config, snapshot: Snapshot) -> list[str]:
    """One line for each key that differs from the run that wrote `snapshot`.

    Networks, the size of what they make, and labels can only be continued as what they are;
    learning rates, lengths, weights of losses and all else may change.

    Raises:
        CheckpointError: names every key that may not change.
    """
    old, new = (dict(_flatten("", c.to_dict())) for c in (snapshot.config, cfg))
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    refused = [key for key in different if _is_fixed(key)]
    if refused:
        said = ", ".join(
            f"{key}={_text(old.get(key))} (now {_text(new.get(key))})" for key in refused
        )
        raise CheckpointError(
            f"snapshot {snapshot.path}: was trained with {said}; resume with the same model, or "
            f"start a new run"
        )
    return [
        f"resume: changed {key} {_text(old.get(key))} -> {_text(new.get(key))}{_NOTES.get(key, '')}"
        for key in different
    ]


def _is_fixed(key: str) -> bool:
    return key.startswith(_FIXED) and not any(part in key for part in _FREE)


def _text(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _flatten(prefix: str, node: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        rows += _flatten(name + ".", value) if isinstance(value, dict) else [(name, value)]
    return rows


def data_changes(now: Fingerprint, snapshot: Snapshot, allowed: bool) -> list[str]:
    """What differs between today's data set and the one of the snapshot, in words.

    Args:
        now: today's.
        snapshot: one without a fingerprint (written by an older version) is taken as it is.
        allowed: whether the user accepts a difference.
    Raises:
        CheckpointError: something differs and is not accepted; says what, and the option.
    """
    stored = snapshot.header.get("data")
    if stored is None:
        return []
    try:
        found = Fingerprint.from_dict(stored).differences(now)
    except TypeError:
        raise CheckpointError(f"snapshot {snapshot.path}: its header is damaged (data)") from None
    if found and not allowed:
        raise CheckpointError(
            f"resume: the data set is not the one of snapshot {snapshot.path}: {', '.join(found)}; "
            f"give the old one, or go on with this one by {ALLOW_DATA_CHANGE}"
        )
    return found
