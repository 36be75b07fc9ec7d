"""`epigraf mesh --check` and `--against`: the mesh beside its volume, or beside the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from epigraf.cli.media import grid, save_picture
from epigraf.errors import EpigrafError
from epigraf.geometry.extract import ObjectField
from epigraf.geometry.likeness import Comparison, compare, mean_likeness
from epigraf.geometry.mesh import Mesh
from epigraf.interop import kaolin
from epigraf.metrics.geometry import nearest_distances, surface_distance, surface_points
from epigraf.models.loading import LoadedModel

VIEWS, SMALLEST = 6, 128
POINTS = 100_000
THRESHOLD = 0.01  # of the diagonal of the true mesh's box


def check_mesh(mesh: Mesh, loaded: LoadedModel, ws: Tensor, field: ObjectField, path: Path) -> str:
    """Compare from held-out cameras and write the contact sheet beside `path`: a column a view;
    volume, mesh, and where the mesh is nearer (blue) or further (red)."""
    side = max(loaded.config.dataset.resolution, SMALLEST)
    views = list(compare(mesh, loaded.generator, ws, field, VIEWS, side))
    limit = loaded.config.dataset.cube_scale / 10
    rows = [
        *(view.volume for view in views),
        *(view.mesh for view in views),
        *(_difference_picture(view, limit) for view in views),
    ]
    sheet = path.with_name(f"{path.stem}-check.png")
    save_picture(grid(rows, VIEWS, 2), sheet)
    mean = mean_likeness([view.likeness for view in views])
    return f"against the volume, {VIEWS} held-out views: {mean} ({sheet})"


def _difference_picture(view: Comparison, limit: float) -> np.ndarray:
    """Differences of depth as colours [S, S, 3]: white 0, red `limit` further, blue nearer."""
    share = np.clip(np.nan_to_num(view.depth_difference) / limit, -1, 1)[..., None]
    further, nearer = np.array([200, 30, 30.0]), np.array([30, 60, 200.0])
    color = 255 + np.abs(share) * (np.where(share > 0, further, nearer) - 255)
    return np.round(color).astype(np.uint8)


def measure_against(mesh: Mesh, path: Path, device: torch.device) -> str:
    """Chamfer and F-score to the mesh in a file; on a GPU by Kaolin, where it is installed.

    Raises:
        EpigrafError: it cannot be read, or is empty.
    """
    import trimesh

    try:
        truth = trimesh.load_mesh(path, process=False)
        theirs = surface_points(np.asarray(truth.vertices), np.asarray(truth.faces), POINTS)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise EpigrafError(f"--against {path}: not a mesh that trimesh reads ({error})") from None
    ours = surface_points(mesh.vertices, mesh.faces, POINTS, seed=1)
    diagonal = float(np.linalg.norm(np.ptp(theirs, axis=0)))
    nearest = nearest_distances
    if device.type == "cuda" and not kaolin.why_not_kaolin(
        "kaolin.metrics.pointcloud", ("sided_distance",)
    ):
        nearest = kaolin.nearest_distances
    found = surface_distance(ours, theirs, THRESHOLD * diagonal, nearest)
    return f"against {path.name}: {found}"
