// A ray in units of the cells of an occupancy grid, lanes over its samples.
#pragma once

#include "epigraf/occupancy.h"
#include "simd.h"

namespace epigraf {

template <typename S>
struct CellLine {
  using T = typename S::Scalar;
  using V = typename S::Vector;
  using IntVector = typename S::IntVector;

  T first[3], step[3];  // a place is first + step depth
  typename S::Int side;

  EPIGRAF_HD CellLine(const OccupancyCells<T>& grid, const T* origin, const T* direction)
      : side(static_cast<typename S::Int>(grid.resolution)) {
    const T half = T(0.5) * T(grid.resolution), scale = half / grid.half_edge;
    for (int axis = 0; axis < 3; ++axis) {
      first[axis] = origin[axis] * scale + half;
      step[axis] = direction[axis] * scale;
    }
  }

  // Whether `cells` may be asked at a depth, however it rounds.
  EPIGRAF_HD bool inside(T depth) const {
    bool all = true;
    for (int axis = 0; axis < 3; ++axis) {
      const T place = first[axis] + step[axis] * depth;
      all &= place >= T(0) && place <= T(side) - T(0.01);
    }
    return all;
  }

  // The numbers of the cells (occupancy 5) at depths that are inside.
  EPIGRAF_HD IntVector cells(V depth) const {
    IntVector along[3];
    EPIGRAF_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      along[axis] = __builtin_convertvector(depth * step[axis] + first[axis], IntVector);
    }
    return (along[0] * side + along[1]) * side + along[2];
  }
};

}  // namespace epigraf
