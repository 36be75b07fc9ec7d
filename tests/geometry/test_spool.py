"""An interrupted surface goes on, and ends as one that was not interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from epigraf.geometry.density import Bounds, Lattice, Progress
from epigraf.geometry.spool import Spool
from epigraf.geometry.surface import SurfaceOptions, extract_surface

LATTICE = Lattice(40, Bounds.cube(2.0))


def ball(points: Tensor) -> Tensor:
    return 0.7 - points.norm(dim=-1)


def test_an_interrupted_surface_goes_on(tmp_path: Path) -> None:
    options, calls = SurfaceOptions(cells=10), []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if done > total // 2:
            raise KeyboardInterrupt

    whole = extract_surface(ball, LATTICE, 0.0, options)
    spool = Spool(tmp_path / ".a.partial", "plan")
    with pytest.raises(KeyboardInterrupt):
        extract_surface(ball, LATTICE, 0.0, options, lambda _: stop, spool)
    assert spool.layers() == 2
    again = Spool(tmp_path / ".a.partial", "plan")
    told: list[int] = []

    def tell(stage: str) -> Progress:
        return lambda done, _: told.append(done) if stage == "surface" else None

    mesh = extract_surface(ball, LATTICE, 0.0, options, tell, again)
    assert told[0] > 1  # the first layer was not computed anew
    assert mesh.vertices.tobytes() == whole.vertices.tobytes()
    assert mesh.faces.tobytes() == whole.faces.tobytes()
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_layers_of_another_plan_and_damaged_ones_are_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    spool = Spool(folder, "one")
    extract_surface(ball, LATTICE, 0.0, SurfaceOptions(cells=20), spool=spool)
    count = spool.layers()
    assert Spool(folder, "one").layers() == count > 0
    file = next(folder.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:100])
    mesh = extract_surface(ball, LATTICE, 0.0, SurfaceOptions(cells=20), spool=spool)
    whole = extract_surface(ball, LATTICE, 0.0, SurfaceOptions(cells=20))
    np.testing.assert_array_equal(mesh.faces, whole.faces)
    assert Spool(folder, "two").layers() == 0
