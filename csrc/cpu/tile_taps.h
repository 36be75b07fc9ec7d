// Where the points of a tile fall on the planes (triplane 1, 2), lanes over points.
//
// Legend: P points of a tile, one or two vectors of them.
#pragma once

#include <algorithm>
#include <limits>

#include "epigraf/render.h"
#include "simd.h"

namespace epigraf {

// Weights and upper left corners of the cells, and which points have all their cells inside (the
// others take the careful path of triplane.h).
template <typename T, int kBytes>
struct TileTaps {
  using S = Simd<T, kBytes>;
  using V = typename S::Vector;
  using Int = typename S::Int;
  static constexpr int kLanes = S::kLanes, kVectors = kBytes == 64 ? 1 : 2;
  static constexpr int kPoints = kLanes * kVectors;  // whose taps stay in the first-level cache

  const T* coords[3];                  // [P] each, in plane coordinates
  alignas(64) T gathered[3][kPoints];  // where they are not neighbours in memory
  alignas(64) T weight[kPlanes][4][kPoints];
  alignas(64) Int corner[kPlanes][kPoints];  // where the cell's upper left pixel begins
  alignas(64) T inside[kPoints];             // 1 or 0

  // The pixels of a plane, `start` elements behind the first: how far it is to the next row and
  // column.
  struct Layout {
    int64_t start, row, pixel;
  };

  // Whether the taps of planes this far apart can be counted in the index type.
  static bool fits(const TriplaneShape& shape, int64_t plane_stride) {
    const int64_t end = (kPlanes - 1) * plane_stride + (shape.height - 1) * shape.row_stride +
                        (shape.width - 1) * shape.pixel_stride;
    return end <= std::numeric_limits<Int>::max();
  }

  // A coordinate along rows or columns: the pixel below it, what the two neighbours weigh, and 1
  // where both exist, else 0.
  struct Axis {
    V near, far, inside;
    typename S::IntVector index;
  };

  static EPIGRAF_HD Axis find_axis(const T* coordinate, int64_t size) {
    const V x = (S::load(coordinate) + T(1)) / T(2) * T(size - 1);
    const V none = S::splat(-1), one = S::splat(1);
    const V above = choose(x >= V{}, x, none), kept = choose(above < T(size - 1), above, none);
    const V position = choose(kept < V{}, V{}, kept);
    const V inside = choose(kept + one < one, kept + one, one);
    const auto index = __builtin_convertvector(position, typename S::IntVector);
    const V far = position - __builtin_convertvector(index, V);
    return {T(1) - far, far, inside, index};
  }

  // Where coords fall. Planes that do not fit have no point inside.
  EPIGRAF_HD void find(const TriplaneShape& shape, const Layout (&layout)[kPlanes], bool fit) {
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int at = v * kLanes;
      const Axis across[2] = {find_axis(coords[0] + at, shape.width),
                              find_axis(coords[1] + at, shape.width)};
      const Axis down[2] = {find_axis(coords[1] + at, shape.height),
                            find_axis(coords[2] + at, shape.height)};
      EPIGRAF_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        cross(across[plane_u(plane)], down[plane_v(plane) - 1], layout[plane], plane, at);
      }
      const V all = across[0].inside * across[1].inside * down[0].inside * down[1].inside;
      S::store(inside + at, all * (fit ? T(1) : T(0)));
    }
  }

  EPIGRAF_HD void cross(const Axis& across, const Axis& down, const Layout& layout, int plane,
                        int at) {
    S::store(weight[plane][0] + at, across.near * down.near);
    S::store(weight[plane][1] + at, across.far * down.near);
    S::store(weight[plane][2] + at, across.near * down.far);
    S::store(weight[plane][3] + at, across.far * down.far);
    S::store(corner[plane] + at, down.index * static_cast<Int>(layout.row) +
                                     across.index * static_cast<Int>(layout.pixel) +
                                     static_cast<Int>(layout.start));
  }
};

// The prior of the raw densities at points in plane coordinates.
template <typename T>
EPIGRAF_HD void add_density_prior(const RenderField<T>& field, const T* const (&coords)[3], T* raw,
                                  int count) {
  if (field.prior_strength == T(0)) return;
  for (int p = 0; p < count; ++p) {
    const T x = coords[0][p] * field.cube_scale, y = coords[1][p] * field.cube_scale;
    const T z = coords[2][p] * field.cube_scale;
    raw[p] += field.prior_strength - std::sqrt(x * x + y * y + z * z) * field.prior_slope;
  }
}

}  // namespace epigraf
