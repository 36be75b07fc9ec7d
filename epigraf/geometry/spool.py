"""Finished layers of a large surface on disk, so that an interrupted run can go on.

The folder lies beside the target and is removed when the mesh is written. It holds `plan`, the
fingerprint of everything that the surface depends on, and one file for each layer of blocks,
written to a temporary name and renamed.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np

from epigraf.geometry.blocks import Piece

_PLAN = "plan"


class Spool:
    """Layers by their first lattice index along x.

    Args:
        folder: where; what lies there of another plan is deleted.
        plan: fingerprint of model, object, lattice, level and options.

    Raises OSError where the disk is full or cannot be written.
    """

    def __init__(self, folder: Path, plan: str) -> None:
        self.folder = folder
        mark = folder / _PLAN
        if folder.exists() and not (mark.exists() and mark.read_text() == plan):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(plan)

    def layers(self) -> int:
        """How many are there."""
        return len(list(self.folder.glob("*.npz")))

    def read(self, start: int) -> Piece | None:
        """A finished layer; None where it is missing or damaged."""
        try:
            with self._file(start).open("rb") as content, np.load(content) as file:
                return Piece(file["edges"], file["fractions"], file["faces"])
        except (FileNotFoundError, zipfile.BadZipFile, KeyError, ValueError, EOFError):
            return None

    def write(self, start: int, piece: Piece) -> None:
        """Keep a layer."""
        path = self._file(start)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, edges=piece.edges, fractions=piece.fractions, faces=piece.faces)
        temporary.replace(path)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _file(self, start: int) -> Path:
        return self.folder / f"{start + 1:06d}.npz"
