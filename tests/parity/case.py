"""One fixture case: `NAME.safetensors` (tensors) beside `NAME.json` (config, scalars, draws)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from epigraf.config import Config
from epigraf.interop.official import config_from_official
from epigraf.rendering.draws import ReplayDraws


@dataclass(frozen=True)
class Case:
    """A fixture case in memory."""

    name: str
    kind: str
    folder: Path
    info: dict[str, Any]
    tensors: dict[str, Tensor]

    def prefix(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix`, without it."""
        n = len(prefix)
        return {k[n:]: v for k, v in self.tensors.items() if k.startswith(prefix)}

    def draws(self, lo: int = 0, hi: int | None = None) -> ReplayDraws:
        """The recorded random numbers lo..hi-1 in call order."""
        names = self.info.get("draws", [])[lo:hi]
        return ReplayDraws([(name, self.tensors[name]) for name in names])

    def config(self) -> Config:
        """The case's configuration as ours.

        The batch of its training section is not that of the case, and need not fit its groups.
        """
        labels = [v for k, v in self.tensors.items() if k == "in/c" or k.endswith("/in.c")]
        c_dim = labels[0].shape[1] if labels else None
        z = self.tensors.get("in/z")
        z_dim = self.info.get("z_dim") if z is None else z.shape[1]
        tree = copy.deepcopy(self.info["config"])
        group = tree.get("model", {}).get("discriminator", {}).get("mbstd_group_size")
        tree.setdefault("training", {}).update(batch_size=group or 1, batch_gpu=None)
        return config_from_official(tree, z_dim=z_dim, c_dim=c_dim)

    def required(self) -> set[str]:
        """Every tensor that a runner must recompute."""
        return {k for k in self.tensors if k.startswith(("out/", "mid/")) and k != "mid/ray_index"}


def find_cases(paths: list[Path]) -> Iterator[Path]:
    """The JSON files that `paths` (files or folders) name, sorted."""
    for path in paths:
        if path.is_dir():
            yield from sorted(path.glob("*.json"))
        elif path.suffix in (".safetensors", ".json"):
            yield path.with_suffix(".json")
        else:
            raise FileNotFoundError(f"parity: not a case file or a folder: {path}")


def load_case(path: Path) -> Case:
    """Read a case; cases without a tensor file (schedules) have no tensors.

    Two forms exist: a dict with a `kind`, and a bare list (the schedules).
    """
    info = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(info, list):
        info = {"kind": re.sub(r"^g_", "", path.stem), "rows": info, "draws": []}
    kind = info.get("kind") or ("snapshot" if "pickle" in info else "unknown")
    tensors_path = path.with_suffix(".safetensors")
    tensors = load_file(tensors_path) if tensors_path.exists() else {}
    return Case(path.stem, kind, path.parent, info, tensors)


def as_tensor(value: Tensor | list | float) -> Tensor:
    """Numbers from the JSON as a tensor."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value)
