// Rays through the pixels of a patch (docs/math/rays.md, cited as "(rays n)").
//
// Camera frame: x right, y up, looking along -z. Pixel (row 0, column 0) is the upper left one;
// pixel centres are corner-aligned: the first and the last lie on the frustum's edges.
#pragma once

#include <cmath>
#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

// One camera and the patch that it sees.
template <typename T>
struct PatchCamera {
  T cam2world[12];                         // the upper three rows of the matrix
  T focal;                                 // (rays 2)
  T scale_x, scale_y, offset_x, offset_y;  // image units [0, 1]; offset_y from the bottom
};

// (rays 1): position i of `count` from -1 to 1, symmetric to the last bit; -1 where there is one.
template <typename T>
EPIGRAF_HD T grid_position(int64_t i, int64_t count) {
  if (count == 1) return T(-1);
  const T step = T(2) / T(count - 1);
  return i < count / 2 ? T(-1) + step * T(i) : T(1) - step * T(count - 1 - i);
}

// (rays 2): the distance of the image plane in units of half its height.
template <typename T>
EPIGRAF_HD T focal_of_fov(T fov_degrees) {
  return T(1) / std::tan(fov_degrees * T(3.14159265358979323846 / 360));
}

// (rays 3): a coordinate of the patch as one of the image.
template <typename T>
EPIGRAF_HD T patch_place(T x, T scale, T offset) {
  return (x + T(1)) * scale - T(1) + T(2) * offset;
}

// (rays 4, 5): the unit direction in world coordinates through (x, y) of the image plane. In the
// order of torch's normalize and matmul, so that rays are those of the plain formulation: a draw at
// the edge of an importance bin may turn on the last bit of a ray. (The CPU file is compiled
// without contraction; the fused sum of squares is spelled out.)
template <typename T>
EPIGRAF_HD void ray_direction(const PatchCamera<T>& camera, T x, T y, T& dx, T& dy, T& dz) {
  const T z = -camera.focal, *m = camera.cam2world;
  const T length = std::sqrt(std::fma(z, z, std::fma(y, y, x * x)));
  const T u = x / length, v = y / length, w = z / length;
  dx = (m[0] * u + m[1] * v) + m[2] * w;
  dy = (m[4] * u + m[5] * v) + m[6] * w;
  dz = (m[8] * u + m[9] * v) + m[10] * w;
}

// Distances along a ray.
template <typename T>
struct RayEnds {
  T near, far;
};

// (rays 6): the part of a ray between `near` and `far` that lies in a ball about the origin; where
// there is none, both are the place nearest to it. In the order of the plain formulation; NaN stays
// NaN.
template <typename T>
EPIGRAF_HD RayEnds<T> ends_in_ball(const T* o, const T* d, T radius_squared, T near, T far) {
  const T closest = -((o[0] * d[0] + o[1] * d[1]) + o[2] * d[2]);
  const T away = (o[0] * o[0] + o[1] * o[1]) + o[2] * o[2];
  T chord = radius_squared - (away - closest * closest);
  chord = std::sqrt(chord < T(0) ? T(0) : chord);
  const T in = closest - chord, out = closest + chord;
  return {in < near ? near : (in > far ? far : in), out < near ? near : (out > far ? far : out)};
}

}  // namespace epigraf
