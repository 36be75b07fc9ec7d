"""`epigraf history --timelapse`: objects of a run at every snapshot, for Kaolin's web viewer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from epigraf.cli.models import object_styles
from epigraf.cli.progress import Meter
from epigraf.errors import EpigrafError
from epigraf.geometry.extract import MeshOptions, OnCPU, extract_mesh
from epigraf.geometry.mesh import Mesh
from epigraf.interop import kaolin
from epigraf.models.loading import LoadedModel, load, snapshot_files
from epigraf.models.sampling import object_field

SEEDS, RESOLUTION, PSI = (0, 1, 2, 3), 96, 0.7


def require_kaolin() -> None:
    """Raise EpigrafError, before the work, where Kaolin is missing."""
    if reason := kaolin.why_not_kaolin("kaolin.visualize", ("Timelapse",)):
        raise EpigrafError(f"--timelapse needs NVIDIA Kaolin: {reason}")


def write_timelapse(
    run: Path, folder: Path, seeds: Sequence[int] = SEEDS, resolution: int = RESOLUTION
) -> int:
    """Write the same objects at every snapshot of a run; the time is its kimg.

    Args:
        run: a run folder. folder: to write to. seeds: which objects. resolution: of the lattice.

    Returns:
        How many snapshots there were; one whose objects are still empty is left out.

    Raises:
        EpigrafError: Kaolin is missing, there is no snapshot, or none has a surface yet.
    """
    files = snapshot_files(run)[::-1]
    if not files:
        raise EpigrafError(f"{run}: no network-snapshot-*.safetensors in this folder")
    writer, written, reason = kaolin.Timelapse(folder), 0, ""
    with Meter("timelapse", len(files)) as meter:
        for file in files:
            loaded = load(file)
            try:
                meshes = _meshes(loaded, list(seeds), resolution)
            except EpigrafError as error:
                reason = f"{file.name}: {error}"
                meter.say(f"left out {reason}")
            else:
                _add(writer, round(loaded.kimg), meshes)
                written += 1
            meter.advance(1)
    if not written:
        raise EpigrafError(f"{run}: no snapshot has a surface yet ({reason})")
    return written


def _meshes(loaded: LoadedModel, seeds: list[int], resolution: int) -> list[Mesh]:
    styles = object_styles(loaded, seeds, PSI, None)
    options = MeshOptions(resolution=resolution)
    fields = (OnCPU(object_field(loaded.generator, ws[None]), ws.device) for ws in styles)
    return [extract_mesh(field, loaded.config, options) for field in fields]


def _add(writer: kaolin.Timelapse, kimg: int, meshes: list[Mesh]) -> None:
    colors = [mesh.colors for mesh in meshes if mesh.colors is not None]
    writer.add(kimg, [m.vertices for m in meshes], [m.faces for m in meshes], colors)
