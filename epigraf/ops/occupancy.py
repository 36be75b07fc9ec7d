"""Occupancy grids: which cells of a scene hold anything, and where rays pass through them.

Legend: B batch (latents, each with its own grid), G cells along an edge, R rays, P points, N
intervals. Names of arguments follow nerfacc (Li et al. 2023), which does one scene at a time.
Traversal: Amanatides and Woo (1987). Formulas: docs/math/occupancy.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.ops import _native
from epigraf.ops._checks import check_floating, check_like, check_shape

CELLS_OF_WORD = 32
MOST_INTERVALS = 2**31


@dataclass(frozen=True)
class OccupancyGrid:
    """G^3 cells for each of B scenes, which fill the cube of half edge `half_edge` (world units).

    words: int32 [B, G * G * G / 32], a bit a cell: cell (x, y, z) is bit z % 32 of word
    (x G + y) G / 32 + z // 32. G is a multiple of 32.
    """

    words: Tensor
    resolution: int
    half_edge: float

    def __post_init__(self) -> None:
        check_resolution("OccupancyGrid", self.resolution)
        if self.words.dtype != torch.int32:
            raise TypeError(f"OccupancyGrid: words must be int32, got {self.words.dtype}")
        count = self.resolution**3 // CELLS_OF_WORD
        batch = self.words.shape[0] if self.words.ndim else 0
        check_shape("OccupancyGrid", "words", self.words, "[B, G G G / 32]", (batch, count))
        if not (math.isfinite(self.half_edge) and self.half_edge > 0):
            raise ValueError(f"OccupancyGrid: half_edge must be positive, got {self.half_edge}")

    def __len__(self) -> int:
        return len(self.words)

    @property
    def aabbs(self) -> Tensor:
        """[1, 6]: the cube's corners, as nerfacc has them."""
        low, high = [-self.half_edge] * 3, [self.half_edge] * 3
        return torch.tensor([[*low, *high]], device=self.words.device)

    @property
    def binaries(self) -> Tensor:
        """The cells as bool [B, G, G, G], indexed by x, y, z."""
        bits = torch.arange(CELLS_OF_WORD, dtype=torch.int32, device=self.words.device)
        cells = (self.words[..., None] >> bits) & 1
        return cells.bool().view(-1, *[self.resolution] * 3)

    @property
    def share(self) -> Tensor:
        """The share of the cells that are occupied, [B]."""
        return self.binaries.flatten(1).float().mean(dim=1)

    def scene(self, index: int) -> OccupancyGrid:
        """The grid of one scene, B = 1."""
        return OccupancyGrid(self.words[index : index + 1], self.resolution, self.half_edge)


class Intervals(NamedTuple):
    """What rays pass through, one ray after another, along a ray in order.

    ray_indices: int64 [N], b R + r; t_starts, t_ends: [N], t_starts < t_ends; packed_info: int64
    [B R, 2], where a ray's intervals begin and how many they are.
    """

    ray_indices: Tensor
    t_starts: Tensor
    t_ends: Tensor
    packed_info: Tensor


def check_resolution(op: str, resolution: int) -> None:
    """Raises ValueError unless a grid can have this resolution."""
    if resolution < CELLS_OF_WORD or resolution % CELLS_OF_WORD:
        raise ValueError(
            f"{op}: resolution must be a multiple of {CELLS_OF_WORD}, got {resolution}"
        )


def grid_from_binaries(binaries: Tensor, half_edge: float) -> OccupancyGrid:
    """The grid of bool [B, G, G, G], indexed by x, y, z."""
    if binaries.ndim != 4 or len(set(binaries.shape[1:])) != 1:
        raise ValueError(
            f"grid_from_binaries: binaries must have shape [B, G, G, G], got {list(binaries.shape)}"
        )
    resolution = binaries.shape[1]
    check_resolution("grid_from_binaries", resolution)
    return OccupancyGrid(_pack(binaries.bool()), resolution, half_edge)


def _pack(cells: Tensor) -> Tensor:
    """Words [B, G G G / 32] of bool cells [B, G, G, G]."""
    bits = torch.arange(CELLS_OF_WORD, device=cells.device)
    words = (cells.reshape(len(cells), -1, CELLS_OF_WORD).long() << bits).sum(dim=-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()  # int32 with the same bits


def lattice_ticks(
    resolution: int, half_edge: float, like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The coordinates along an axis where a grid wants densities (occupancy 1): of the corners of
    its cells [G + 1] and of their centres [G], in the dtype and on the device of `like`."""
    check_resolution("lattice_ticks", resolution)
    device = None if like is None else like.device
    dtype = torch.float32 if like is None else like.dtype
    ticks = torch.arange(resolution + 1, dtype=torch.float64, device=device)
    corners = half_edge * (2 * ticks / resolution - 1)
    return corners.to(dtype), ((corners[1:] + corners[:-1]) / 2).to(dtype)


def threshold_density(alpha_thre: float, resolution: int, half_edge: float) -> float:
    """(occupancy 2): the density that adds the opacity alpha_thre over the diagonal of a cell."""
    if not 0 <= alpha_thre < 1:
        raise ValueError(f"build_occupancy: alpha_thre must be in [0, 1), got {alpha_thre}")
    return -math.log1p(-alpha_thre) / (2 * half_edge / resolution * math.sqrt(3))


def build_occupancy(
    corners: Tensor, centres: Tensor, half_edge: float, alpha_thre: float
) -> OccupancyGrid:
    """The cells where a scene may absorb light (occupancy 1-4), and all that touch them.

    corners: densities sigma >= 0 at the corners of the cells, [B, G + 1, G + 1, G + 1]; centres: at
    their centres, [B, G, G, G]; both indexed by x, y, z (see `lattice_ticks`). A cell is dense when
    1 - exp(-sigma diagonal) >= alpha_thre for one of its nine samples, or a sample is NaN;
    occupied when it or one of the 26 around it is dense. Every point of the cube is within 0.56
    cell edges of a sample: a ball of density that is larger is never missed, and what is found is
    kept with at least one edge around it. Not differentiable.
    Raises ValueError for a wrong shape or device, TypeError for a wrong dtype.
    """
    op = "build_occupancy"
    check_floating(op, "centres", centres)
    n = centres.shape[-1] if centres.ndim == 4 else 0
    check_shape(op, "centres", centres, "[B, G, G, G]", (len(centres), n, n, n))
    check_resolution(op, n)
    check_like(op, "corners", corners, "centres", centres)
    size = (len(centres), n + 1, n + 1, n + 1)
    check_shape(op, "corners", corners, "[B, G + 1, G + 1, G + 1]", size)
    threshold = threshold_density(alpha_thre, n, half_edge)
    corners, centres = corners.detach().contiguous(), centres.detach().contiguous()
    if not _native.runs_native(centres):
        words = _build_reference(corners, centres, threshold)
        return OccupancyGrid(words, n, half_edge)
    dense, words = torch.empty(
        2, len(centres), n**3 // CELLS_OF_WORD, dtype=torch.int32, device=centres.device
    )
    _native.core().occupancy_build(
        _native.launch(centres),
        (len(centres), n),
        threshold,
        _native.addresses(corners, centres, dense, words),
    )
    return OccupancyGrid(words, n, half_edge)


def _build_reference(corners: Tensor, centres: Tensor, threshold: float) -> Tensor:
    """Words [B, G G G / 32], by pooling."""
    corner, centre = ((~(x < threshold)).float()[:, None] for x in (corners, centres))
    dense = torch.maximum(F.max_pool3d(corner, 2, stride=1), centre)
    return _pack(F.max_pool3d(dense, 3, stride=1, padding=1)[:, 0].bool())


def occupied(grid: OccupancyGrid, points: Tensor) -> Tensor:
    """Which points_world [B, P, 3] lie in occupied cells, bool [B, P] (occupancy 5).

    Outside the cube nothing is occupied; a point with NaN in it is, so that it is not hidden.
    """
    op = "occupied"
    check_floating(op, "points", points)
    if points.ndim != 3:
        raise ValueError(f"{op}: points must have shape [B, P, 3], got {list(points.shape)}")
    check_shape(op, "points", points, "[B, P, 3]", (len(grid), points.shape[1], 3))
    _check_device(op, grid, "points", points)
    if not _native.runs_native(points):
        return _occupied_reference(grid, points)
    points = points.detach().contiguous()
    result = torch.empty(points.shape[:2], dtype=torch.bool, device=points.device)
    _native.core().occupancy_lookup(
        _native.launch(points),
        (*points.shape[:2], grid.resolution),
        grid.half_edge,
        _native.addresses(grid.words, points, result),
    )
    return result


def _occupied_reference(grid: OccupancyGrid, points: Tensor) -> Tensor:
    n, s = grid.resolution, grid.half_edge
    cell = ((points / s + 1) * (0.5 * n)).nan_to_num(0).clamp(0, n - 1).long()
    index = (cell[..., 0] * n + cell[..., 1]) * n + cell[..., 2]
    word = grid.words.gather(1, index // CELLS_OF_WORD)
    found = ((word >> (index % CELLS_OF_WORD)) & 1).bool()
    outside = (points.abs() > s).any(dim=-1)
    return (found | points.isnan().any(dim=-1)) & ~outside


def may_absorb(grid: OccupancyGrid, points: Tensor) -> Tensor:
    """Where a renderer asks the field, bool [B, ...] for points_world [B, ..., 3] (occupancy 9): in
    occupied cells, and outside the cube, where the grid knows nothing."""
    flat = points.flatten(1, -2)
    outside = (flat.abs() > grid.half_edge).any(dim=-1)
    return (occupied(grid, flat) | outside).view(points.shape[:-1])


def traverse_grid(
    grid: OccupancyGrid,
    rays_o: Tensor,
    rays_d: Tensor,
    near_plane: float | Tensor = 0.0,
    far_plane: float | Tensor = 1e10,
    render_step_size: float | None = None,
) -> Intervals:
    """The parts of rays that pass through occupied cells (occupancy 6-8), between near and far.

    rays_o, rays_d: [B, R, 3], directions of any length: t counts in it. near_plane, far_plane: one
    number or [B, R]. A run of occupied cells is one interval; with render_step_size each is cut
    into the fewest equal pieces that are no longer. A ray with NaN in it, or without direction
    outside all cells, has none. Two runs, with any number of threads, agree bit for bit. Not
    differentiable.
    Raises ValueError for a wrong shape, device or step, TypeError for a wrong dtype.
    """
    rays_o, rays_d, near, far = _check_rays(grid, rays_o, rays_d, near_plane, far_plane)
    step = 0.0 if render_step_size is None else float(render_step_size)
    if render_step_size is not None and not step > 0:
        raise ValueError(f"traverse_grid: render_step_size must be positive, got {step}")
    if not _native.runs_native(rays_o):
        return _traverse_reference(grid, (rays_o, rays_d, near, far), step)
    batch, count = rays_o.shape[:2]
    inputs = _native.addresses(grid.words.contiguous(), rays_o, rays_d, near, far)

    def run(outputs: tuple[Tensor | None, ...]) -> None:
        _native.core().occupancy_traverse(
            _native.launch(rays_o),
            (batch, count, grid.resolution),
            (grid.half_edge, step),
            inputs,
            _native.addresses(*outputs),
        )

    counts = torch.empty(batch * count, dtype=torch.int64, device=rays_o.device)
    run((None, counts, None, None, None))
    packed, total = _packed_info(counts)
    indices = counts.new_empty(total)
    starts, ends = rays_o.new_empty(2, total)
    run((packed[:, 0].contiguous(), None, indices, starts, ends))
    return Intervals(indices, starts, ends, packed)


def _packed_info(counts: Tensor) -> tuple[Tensor, int]:
    """[B R, 2]: offsets and counts; and their sum."""
    ends = counts.cumsum(dim=0)
    total = int(ends[-1]) if len(ends) else 0
    if total >= MOST_INTERVALS or (len(counts) and int(counts.max()) >= MOST_INTERVALS):
        raise ValueError(
            "traverse_grid: the rays would be cut into 2^31 pieces or more; "
            "use a larger render_step_size"
        )
    return torch.stack([ends - counts, counts], dim=1), total


def _traverse_reference(
    grid: OccupancyGrid, rays: tuple[Tensor, Tensor, Tensor, Tensor], step: float
) -> Intervals:
    """Every plane that a ray may cross, sorted: the cells between them, all rays at once."""
    origins, directions, near, far = (x.flatten(0, 1) for x in rays)
    n, s = grid.resolution, grid.half_edge
    planes = s * ((2 * torch.arange(n + 1, device=near.device) - n).to(near.dtype) / n)
    crossings = (planes - origins[..., None]) / directions[..., None]  # [BR, 3, G + 1]
    still = (directions == 0)[..., None]
    ordered = torch.where(still, crossings.new_tensor(math.inf), crossings)
    cuts = torch.cat([near[:, None], ordered.flatten(1), far[:, None]], dim=1)
    cuts = torch.minimum(torch.maximum(cuts, near[:, None]), far[:, None]).sort(dim=1).values
    middle = (cuts[:, :-1] + (cuts[:, 1:] - cuts[:, :-1]) / 2)[..., None]
    points = origins[:, None] + torch.where(still.mT, 0, directions[:, None] * middle)
    batch = len(grid)
    inside = _occupied_reference(grid, points.reshape(batch, -1, 3)).view(middle.shape[:2])
    finite = torch.cat([origins, directions, near[:, None], far[:, None]], 1).isnan().any(1)
    inside = inside & (cuts[:, 1:] > cuts[:, :-1]) & ~finite[:, None]
    return _merge_cells(cuts, inside, step)


def _merge_cells(cuts: Tensor, inside: Tensor, step: float) -> Intervals:
    """Runs of neighbouring pieces [BR, K] that are inside, cut into steps."""
    solid = cuts[:, 1:] > cuts[:, :-1]  # pieces of no length join or part nothing
    ray, piece = solid.nonzero(as_tuple=True)
    kept = inside[ray, piece]
    same = torch.zeros_like(kept)
    same[1:] = (ray[1:] == ray[:-1]) & kept[:-1]
    first, last = kept & ~same, kept.clone()
    last[:-1] &= ~(same[1:] & kept[1:])
    starts, ends, rays = cuts[:, :-1][ray, piece][first], cuts[:, 1:][ray, piece][last], ray[first]
    pieces = torch.ones_like(starts) if step == 0 else ((ends - starts) / step).ceil().clamp_min(1)
    repeats = pieces.clamp_max(float(MOST_INTERVALS)).long()
    counts = torch.zeros(len(cuts), dtype=torch.int64, device=cuts.device)
    packed, _ = _packed_info(counts.index_add_(0, rays, repeats))
    index = torch.arange(int(repeats.sum()), device=cuts.device)
    number = index - (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    a, b, m = (x.repeat_interleave(repeats) for x in (starts, ends, repeats))
    t_ends = torch.where(number + 1 < m, a + (b - a) * ((number + 1).to(a.dtype) / m), b)
    return Intervals(
        rays.repeat_interleave(repeats), a + (b - a) * (number.to(a.dtype) / m), t_ends, packed
    )


def _check_rays(
    grid: OccupancyGrid,
    rays_o: Tensor,
    rays_d: Tensor,
    near_plane: float | Tensor,
    far_plane: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    op = "traverse_grid"
    check_floating(op, "rays_o", rays_o)
    if rays_o.ndim != 3:
        raise ValueError(f"{op}: rays_o must have shape [B, R, 3], got {list(rays_o.shape)}")
    count = rays_o.shape[1]
    check_shape(op, "rays_o", rays_o, "[B, R, 3]", (len(grid), count, 3))
    check_shape(op, "rays_d", rays_d, "[B, R, 3]", (len(grid), count, 3))
    check_like(op, "rays_d", rays_d, "rays_o", rays_o)
    _check_device(op, grid, "rays_o", rays_o)
    planes = []
    for name, plane in (("near_plane", near_plane), ("far_plane", far_plane)):
        if isinstance(plane, Tensor):
            check_shape(op, name, plane, "[B, R]", (len(grid), count))
            check_like(op, name, plane, "rays_o", rays_o)
            planes.append(plane.detach().contiguous())
        else:
            planes.append(rays_o.new_full((len(grid), count), plane))
    return rays_o.detach().contiguous(), rays_d.detach().contiguous(), planes[0], planes[1]


def _check_device(op: str, grid: OccupancyGrid, name: str, tensor: Tensor) -> None:
    if tensor.device != grid.words.device:
        raise ValueError(
            f"{op}: {name} must be on the grid's device {grid.words.device}, got {tensor.device}"
        )
