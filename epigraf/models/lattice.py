"""Where a scene that is rendered once is empty: its density at all points of a lattice, cheaply.

On a lattice each plane is read at N^2 points instead of N^3, and the decoder's first layer, being
linear, is applied to what was read (occupancy 12). Legend: B batch, N points along an edge, C
features, O width of the decoder's first layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.models.decoder import TriPlaneField
from epigraf.ops.occupancy import OccupancyGrid, build_occupancy, lattice_ticks
from epigraf.ops.render import FieldTensors
from epigraf.rendering.occupancy import Cube, chart
from epigraf.rendering.options import RenderOptions, activate_density

CELLS = 32  # along an edge: a patch has too few samples to pay for a finer grid
ALPHA_THRE = 1e-3  # opacity over a cell's diagonal: a ray of 32 such cells would lose 3 %


@torch.no_grad()
def coarse_grid(field: TriPlaneField, half_edge: float, options: RenderOptions) -> OccupancyGrid:
    """A grid of 32^3 cells of the cube of half edge `half_edge` (world units, within the planes)
    for each scene of a field."""
    tensors = field.tensors()
    if tensors is None:  # more than planes and a decoder

        def densities(points: Tensor) -> Tensor:
            return activate_density(field.density_raw(points), options)

        return chart(densities, Cube(CELLS, half_edge), ALPHA_THRE, field.planes)
    corners, centres = (
        activate_density(lattice_densities(field, tensors, ticks), options)
        for ticks in lattice_ticks(CELLS, half_edge, field.planes)
    )
    return build_occupancy(corners, centres, half_edge, ALPHA_THRE)


def lattice_densities(field: TriPlaneField, tensors: FieldTensors, ticks: Tensor) -> Tensor:
    """Raw densities [B, N, N, N], indexed by x, y, z, at the points all of whose coordinates are
    among ticks [N] (world units, inside the planes); tensors: of the field."""
    first, *later = zip(tensors.weights, tensors.biases, strict=True)
    xy, xz, yz = _first_layer(tensors, ticks / tensors.cube_scale, *first)
    slabs = []
    for number, x in enumerate(ticks):
        hidden = xy[:, number, :, None] + xz[:, number, None] + yz  # [B, N, N, O]
        for index, (weight, bias) in enumerate(later):
            if index == len(later) - 1:
                weight, bias = weight[-1:], bias[-1:]  # the density alone
            hidden = F.linear(F.leaky_relu_(hidden, tensors.slope), weight, bias)
        raw = hidden[..., -1]
        slabs.append(raw if field.prior is None else raw + field.prior(_slab(x, ticks)))
    return torch.stack(slabs, dim=1)


def _slab(x: Tensor, ticks: Tensor) -> Tensor:
    """The points [N, N, 3] of a lattice with this x."""
    y, z = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x.expand_as(y), y, z], dim=-1)


def _first_layer(
    tensors: FieldTensors, coords: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    """What each plane adds to the decoder's first layer, [B, N, N, O], the pair of coordinates in
    the order of its name; coords: [N], -1 to 1."""
    read = tensors.planes
    for axis in (3, 4):
        size = read.shape[axis]
        position = ((coords + 1) / 2 * (size - 1)).clamp(0, size - 1)
        low = position.long().clamp_max(max(size - 2, 0))
        share = (position - low).view(-1, *[1] * (4 - axis))
        upper = read.index_select(axis, (low + 1).clamp_max(size - 1))
        read = read.index_select(axis, low).lerp(upper, share)
    features = read.permute(1, 0, 4, 3, 2)  # the first coordinate lies along the width
    added = F.linear(features, weight / 3)
    added[0] += bias
    return added.unbind(0)
