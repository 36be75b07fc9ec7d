// Which cells of a scene hold anything, and where rays pass through them (docs/math/occupancy.md,
// cited as "(occupancy n)").
//
// G^3 cells fill the cube of half edge s about the origin; G is a multiple of 32. Cell (x, y, z)
// is bit z % 32 of word (x G + y) G / 32 + z / 32: a word is a run of cells along z.
#pragma once

#include <cmath>
#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

constexpr int64_t kCellsOfWord = 32;
constexpr int64_t kMostPieces = int64_t(1) << 31;  // of one interval

// The cells of one scene.
template <typename T>
struct OccupancyCells {
  int64_t resolution;     // G
  const uint32_t* words;  // [G G G / 32]
  T half_edge;            // s
};

EPIGRAF_HD int64_t words_of_grid(int64_t resolution) {
  return resolution * resolution * resolution / kCellsOfWord;
}

template <typename T>
EPIGRAF_HD bool occupied_cell(const OccupancyCells<T>& grid, int64_t x, int64_t y, int64_t z) {
  const int64_t cell = (x * grid.resolution + y) * grid.resolution + z;
  return grid.words[cell / kCellsOfWord] >> (cell % kCellsOfWord) & 1u;
}

// (occupancy 5): the cell along one axis of a coordinate inside the cube, the nearest one outside;
// NaN: the first.
template <typename T>
EPIGRAF_HD int64_t cell_along_axis(T coordinate, T half_edge, int64_t resolution) {
  const T place = (coordinate / half_edge + T(1)) * (T(0.5) * T(resolution));
  if (!(place > T(0))) return 0;
  return place < T(resolution) ? static_cast<int64_t>(place) : resolution - 1;
}

// (occupancy 5): whether a point lies in an occupied cell. Outside the cube there is nothing; a
// point that is not a number counts as occupied, so that it is seen.
template <typename T>
EPIGRAF_HD bool occupied_point(const OccupancyCells<T>& grid, const T* point) {
  const T s = grid.half_edge;
  if (point[0] < -s || point[0] > s || point[1] < -s || point[1] > s || point[2] < -s ||
      point[2] > s) {
    return false;
  }
  if (!(point[0] - point[0] == T(0) && point[1] - point[1] == T(0) &&
        point[2] - point[2] == T(0))) {
    return true;
  }
  return occupied_cell(grid, cell_along_axis(point[0], s, grid.resolution),
                       cell_along_axis(point[1], s, grid.resolution),
                       cell_along_axis(point[2], s, grid.resolution));
}

// (occupancy 9): whether a renderer asks the field at a point: it lies in an occupied cell, or
// where the grid knows nothing, outside the cube or not a number. Without branches, for lanes over
// points.
template <typename T>
EPIGRAF_HD bool may_absorb(const OccupancyCells<T>& grid, T x, T y, T z) {
  const int n = static_cast<int>(grid.resolution);
  const T half = T(0.5) * T(n), scale = half / grid.half_edge, last = T(n - 1);
  const T place[3] = {x * scale + half, y * scale + half, z * scale + half};
  bool known = true;
  int cell[3];
  for (int i = 0; i < 3; ++i) {
    known = known & (place[i] >= T(0)) & (place[i] <= T(n));
    const T kept = place[i] > T(0) ? place[i] : T(0);
    cell[i] = static_cast<int>(kept < last ? kept : last);
  }
  const int index = (cell[0] * n + cell[1]) * n + cell[2];
  return (!known) | ((grid.words[index >> 5] >> (index & 31)) & 1u);
}

// Densities of one scene that a grid is made of (occupancy 1).
template <typename T>
struct OccupancySamples {
  int64_t resolution;
  const T* corners;  // [G + 1, G + 1, G + 1]
  const T* centres;  // [G, G, G]
  T threshold;       // the density that makes a cell occupied
};

// (occupancy 3): word `index` of the cells one of whose nine samples reaches the threshold. NaN
// does.
template <typename T>
EPIGRAF_HD uint32_t dense_word(const OccupancySamples<T>& p, int64_t index) {
  const int64_t n = p.resolution, m = n + 1, cell = index * kCellsOfWord;
  const int64_t x = cell / n / n, y = cell / n % n, z = cell % n;
  const T *centre = p.centres + cell, *corner[4], low = p.threshold;
  for (int i = 0; i < 4; ++i) corner[i] = p.corners + ((x + i / 2) * m + y + i % 2) * m + z;
  uint32_t dense[kCellsOfWord];
  EPIGRAF_SIMD
  for (int64_t i = 0; i < kCellsOfWord; ++i) {
    const bool below = (centre[i] < low) & (corner[0][i] < low) & (corner[0][i + 1] < low) &
                       (corner[1][i] < low) & (corner[1][i + 1] < low) & (corner[2][i] < low) &
                       (corner[2][i + 1] < low) & (corner[3][i] < low) & (corner[3][i + 1] < low);
    dense[i] = below ? 0u : uint32_t(1) << i;
  }
  uint32_t word = 0;
  for (int64_t i = 0; i < kCellsOfWord; ++i) word |= dense[i];
  return word;
}

// (occupancy 4): word `index` of the cells that are dense or touch a dense one, at a corner at
// least.
EPIGRAF_HD uint32_t dilated_word(const uint32_t* dense, int64_t resolution, int64_t index) {
  const int64_t per_row = resolution / kCellsOfWord, part = index % per_row;
  const int64_t x = index / per_row / resolution, y = index / per_row % resolution;
  uint32_t word = 0;
  for (int64_t i = x > 0 ? x - 1 : x; i <= x + 1 && i < resolution; ++i) {
    for (int64_t j = y > 0 ? y - 1 : y; j <= y + 1 && j < resolution; ++j) {
      const uint32_t* row = dense + (i * resolution + j) * per_row;
      word |= row[part] | row[part] << 1 | row[part] >> 1;
      if (part > 0) word |= row[part - 1] >> 31;
      if (part + 1 < per_row) word |= row[part + 1] << 31;
    }
  }
  return word;
}

// A ray and the part of it that is looked at.
template <typename T>
struct OccupancyRay {
  const T* origin;     // [3]
  const T* direction;  // [3], of any length: t counts in it
  T near, far;
};

// (occupancy 6): t at which a ray crosses plane `index` of an axis, between cells index - 1 and
// index. It never falls along the ray, rounding or not, since every step of it is monotone.
template <typename T>
EPIGRAF_HD T crossing(const OccupancyCells<T>& grid, T origin, T direction, int64_t index) {
  const T plane = grid.half_edge * (T(2 * index - grid.resolution) / T(grid.resolution));
  return (plane - origin) / direction;
}

// Where a ray is along one axis of the grid.
template <typename T>
struct OccupancyAxis {
  int64_t cell;
  int step;  // 1, -1, or 0: it never leaves the cell
  T exit;    // t at which it leaves the cell; infinity
};

template <typename T>
EPIGRAF_HD T exit_of(const OccupancyCells<T>& grid, T origin, T direction,
                     const OccupancyAxis<T>& axis) {
  if (axis.step == 0) return T(INFINITY);
  return crossing(grid, origin, direction, axis.cell + (axis.step > 0));
}

// (occupancy 6): the part [low, high] of a ray in the slab of one axis; false where there is none.
template <typename T>
EPIGRAF_HD bool clip_to_slab(const OccupancyCells<T>& grid, T origin, T direction, T& low,
                             T& high) {
  if (!(direction < T(0)) && !(direction > T(0))) {  // also NaN, which no comparison accepts
    return direction == T(0) && origin >= -grid.half_edge && origin <= grid.half_edge;
  }
  const T a = crossing(grid, origin, direction, 0);
  const T b = crossing(grid, origin, direction, grid.resolution);
  const T in = direction > T(0) ? a : b, out = direction > T(0) ? b : a;
  if (in > low) low = in;
  if (out < high) high = out;
  return in <= out;  // NaN: an origin that is none
}

// The cell that a ray is in right behind t, by its crossings: cells that it leaves until t are
// passed.
template <typename T>
EPIGRAF_HD OccupancyAxis<T> enter_axis(const OccupancyCells<T>& grid, T origin, T direction, T t) {
  OccupancyAxis<T> axis;
  axis.step = direction > T(0) ? 1 : (direction < T(0) ? -1 : 0);
  const T place = axis.step == 0 ? origin : origin + direction * t;
  axis.cell = cell_along_axis(place, grid.half_edge, grid.resolution);
  if (axis.step != 0) {
    const int64_t first = axis.step > 0 ? 0 : grid.resolution - 1;
    const int64_t last = grid.resolution - 1 - first;
    while (axis.cell != first &&
           crossing(grid, origin, direction, axis.cell + (axis.step < 0)) > t) {
      axis.cell -= axis.step;
    }
    while (axis.cell != last && exit_of(grid, origin, direction, axis) <= t) axis.cell += axis.step;
  }
  axis.exit = exit_of(grid, origin, direction, axis);
  return axis;
}

// (occupancy 7): calls found(t_start, t_end) for every run of occupied cells along a ray, in order;
// each with t_start < t_end. A ray with NaN in it passes through none. Amanatides and Woo (1987),
// with crossings computed from the cells' numbers, not added up; where a ray passes through an edge
// or a corner it goes on to the cell across.
template <typename T, typename Found>
EPIGRAF_HD void traverse_ray(const OccupancyCells<T>& grid, const OccupancyRay<T>& ray,
                             Found found) {
  T t = ray.near, end = ray.far;
  if (!(t < end)) return;
  for (int i = 0; i < 3; ++i) {
    if (!clip_to_slab(grid, ray.origin[i], ray.direction[i], t, end)) return;
  }
  if (!(t < end)) return;
  OccupancyAxis<T> axis[3];
  for (int i = 0; i < 3; ++i) axis[i] = enter_axis(grid, ray.origin[i], ray.direction[i], t);
  T start = t;
  bool inside = false;
  for (bool more = true; more;) {
    T next = end;
    for (int i = 0; i < 3; ++i) next = axis[i].exit < next ? axis[i].exit : next;
    const bool now = occupied_cell(grid, axis[0].cell, axis[1].cell, axis[2].cell);
    if (next > t) {  // not a cell that is only touched
      if (inside && !now) found(start, t);
      if (!inside && now) start = t;
      inside = now;
    }
    t = next;
    more = t < end;
    for (int i = 0; i < 3 && more; ++i) {
      if (axis[i].exit > t) continue;
      axis[i].cell += axis[i].step;
      more = axis[i].cell >= 0 && axis[i].cell < grid.resolution;
      if (more) axis[i].exit = exit_of(grid, ray.origin[i], ray.direction[i], axis[i]);
    }
  }
  if (inside) found(start, t);
}

// (occupancy 8): into how many equal pieces, none longer than `step`, an interval is cut; step 0:
// it stays whole.
template <typename T>
EPIGRAF_HD int64_t pieces_of_interval(T length, T step) {
  if (!(step > T(0))) return 1;
  const T pieces = std::ceil(length / step);
  if (!(pieces > T(1))) return 1;
  return pieces < T(kMostPieces) ? static_cast<int64_t>(pieces) : kMostPieces;
}

}  // namespace epigraf
