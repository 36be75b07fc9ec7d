// Tri-plane look-up: the mean of three bilinear reads (docs/math/triplane.md, cited as "(triplane
// n)").
//
// A point q in [-1, 1]^3 reads plane 0 at (x, y), plane 1 at (x, z), plane 2 at (y, z); the first
// of the two runs along the width, the second along the height. Corner-aligned pixels, zeros
// outside.
//
// Legend: B batch, P points, F channels, H height, W width. Planes are [B, 3, H, W, F] in any
// strides. Where the channel stride is 1 the channels of one tap are one contiguous line of memory,
// and are read in blocks; else one channel is read at a time.
//
// T is the type of the arithmetic and of points; P that of planes and features, T itself or 16 bits
// (half.h).
#pragma once

#include <cmath>
#include <cstdint>

#include "epigraf/half.h"
#include "epigraf/macros.h"

namespace epigraf {

constexpr int kPlanes = 3;

// Sizes, and the strides of planes (and of grad_planes) in elements.
struct TriplaneShape {
  int64_t batch, points, channels, height, width;
  int64_t batch_stride, plane_stride, row_stride, pixel_stride;
  int64_t channel_stride = 1;
};

// Where one point falls on one plane: the cell's upper left corner, the position inside the cell,
// and which of its columns x0, x0 + 1 and rows y0, y0 + 1 exist.
template <typename T>
struct PlaneTaps {
  int64_t row, column;  // y0, x0; only meaningful where a flag below is set
  T x, y;               // in [0, 1); NaN for a coordinate that is not finite
  bool left, right, top, bottom;
};

// The two coordinates of a point that `plane` reads: (0, 1), (0, 2), (1, 2).
EPIGRAF_HD constexpr int plane_u(int plane) {
  return plane == 2 ? 1 : 0;
}
EPIGRAF_HD constexpr int plane_v(int plane) {
  return plane == 0 ? 1 : 2;
}

// (triplane 1): a coordinate in [-1, 1] as a position in pixels.
template <typename T>
EPIGRAF_HD T pixel_position(T coordinate, int64_t size) {
  return (coordinate + T(1)) / T(2) * T(size - 1);
}

// (triplane 2): the cell and the position in it. The bounds are tested before the conversion to an
// integer, so that huge, infinite and NaN coordinates are simply outside.
template <typename T>
EPIGRAF_HD PlaneTaps<T> plane_taps(T u, T v, const TriplaneShape& shape) {
  const T column = pixel_position(u, shape.width), row = pixel_position(v, shape.height);
  const T x0 = std::floor(column), y0 = std::floor(row);
  PlaneTaps<T> taps;
  taps.left = x0 >= T(0) && x0 <= T(shape.width - 1);
  taps.right = x0 >= T(-1) && x0 < T(shape.width - 1);
  taps.top = y0 >= T(0) && y0 <= T(shape.height - 1);
  taps.bottom = y0 >= T(-1) && y0 < T(shape.height - 1);
  taps.x = column - x0;
  taps.y = row - y0;
  taps.column = taps.left || taps.right ? static_cast<int64_t>(x0) : 0;
  taps.row = taps.top || taps.bottom ? static_cast<int64_t>(y0) : 0;
  return taps;
}

template <typename T>
EPIGRAF_HD PlaneTaps<T> plane_taps_of_point(const T* point, int plane, const TriplaneShape& shape) {
  return plane_taps(point[plane_u(plane)], point[plane_v(plane)], shape);
}

template <typename T>
EPIGRAF_HD bool all_inside(const PlaneTaps<T>& taps) {
  return taps.left && taps.right && taps.top && taps.bottom;
}

// 0 for a point whose coordinates are finite, NaN otherwise: makes a bad point visible in its own
// output.
template <typename T>
EPIGRAF_HD T finite_or_nan(const PlaneTaps<T>& taps) {
  return T(0) * (taps.x + taps.y);
}

// kBlock neighbouring channels as one value, which a GPU loads and stores in one instruction.
template <int kBlock, typename T>
struct alignas(kBlock * sizeof(T)) ChannelBlock {
  T channels[kBlock];
  EPIGRAF_HD T operator[](int c) const { return channels[c]; }
};

// The block that starts at `first`, read as block[c]. On a GPU blocks are aligned to their size
// (the launcher chooses kBlock so that they are) and loaded here, on a CPU they are anywhere.
#if defined(__CUDA_ARCH__) || defined(EPIGRAF_EMULATE_CUDA)
template <int kBlock, typename T>
EPIGRAF_HD ChannelBlock<kBlock, T> channel_block(const T* first) {
  return *reinterpret_cast<const ChannelBlock<kBlock, T>*>(first);
}
#else
template <int kBlock, typename T>
EPIGRAF_HD const T* channel_block(const T* first) {
  return first;
}
#endif

// (triplane 3): sum[c] += the bilinear read of kBlock channels. `plane` points at the first of
// these channels in pixel (0, 0). Taps outside are not touched.
template <int kBlock, typename T, typename P>
EPIGRAF_HD void plane_read(const P* plane, const PlaneTaps<T>& taps, const TriplaneShape& shape,
                           T (&sum)[kBlock]) {
  const P* tap = plane + taps.row * shape.row_stride + taps.column * shape.pixel_stride;
  const T x1 = taps.x, y1 = taps.y, x0 = T(1) - x1, y0 = T(1) - y1;
  const int64_t right = shape.pixel_stride, below = shape.row_stride;
  if (all_inside(taps)) {
    const T w00 = x0 * y0, w01 = x1 * y0, w10 = x0 * y1, w11 = x1 * y1;
    const auto p00 = channel_block<kBlock>(tap), p01 = channel_block<kBlock>(tap + right);
    const auto p10 = channel_block<kBlock>(tap + below),
               p11 = channel_block<kBlock>(tap + below + right);
    EPIGRAF_SIMD
    for (int c = 0; c < kBlock; ++c) {
      sum[c] += w00 * T(p00[c]) + w01 * T(p01[c]) + w10 * T(p10[c]) + w11 * T(p11[c]);
    }
    return;
  }
  const T nothing = finite_or_nan(taps);
  for (int c = 0; c < kBlock; ++c) {
    if (taps.left && taps.top) sum[c] += x0 * y0 * T(tap[c]);
    if (taps.right && taps.top) sum[c] += x1 * y0 * T(tap[right + c]);
    if (taps.left && taps.bottom) sum[c] += x0 * y1 * T(tap[below + c]);
    if (taps.right && taps.bottom) sum[c] += x1 * y1 * T(tap[below + right + c]);
    sum[c] += nothing;
  }
}

// (triplane 4), the gradient with respect to the plane: each tap inside receives weight * grad[c]
// through `add(T* where, const T (&share)[kBlock])` (a plain sum on one thread, an atomic on a
// GPU). `grad` is the gradient of the plane's own read, that is grad_features / 3.
template <int kBlock, typename T, typename Add>
EPIGRAF_HD void plane_read_vjp_plane(T* grad_plane, const PlaneTaps<T>& taps,
                                     const TriplaneShape& shape, const T* grad, Add add) {
  T* tap = grad_plane + taps.row * shape.row_stride + taps.column * shape.pixel_stride;
  const T x1 = taps.x, y1 = taps.y, x0 = T(1) - x1, y0 = T(1) - y1;
  const int64_t right = shape.pixel_stride, below = shape.row_stride;
  for (int corner = 0; corner < 4; ++corner) {
    const bool on_right = corner & 1, on_bottom = corner & 2;
    if (!(on_right ? taps.right : taps.left) || !(on_bottom ? taps.bottom : taps.top)) continue;
    const T weight = (on_right ? x1 : x0) * (on_bottom ? y1 : y0);
    T* where = tap + (on_right ? right : 0) + (on_bottom ? below : 0);
    T share[kBlock];
    EPIGRAF_SIMD
    for (int c = 0; c < kBlock; ++c) share[c] = weight * grad[c];
    add(where, share);
  }
}

// <grad, tap> over kBlock channels.
template <int kBlock, typename T, typename P>
EPIGRAF_HD T channel_dot(const P* tap, const P* grad) {
  const auto block = channel_block<kBlock>(tap);
  T sum = 0;
  EPIGRAF_SIMD_SUM
  for (int c = 0; c < kBlock; ++c) sum += T(grad[c]) * T(block[c]);
  return sum;
}

// (triplane 5), the gradient with respect to the point, in pixels: adds this block's share of
// d read / d column and d read / d row to slope_x and slope_y. Multiply the sums by
// pixels_per_unit(width) and pixels_per_unit(height).
template <int kBlock, typename T, typename P>
EPIGRAF_HD void plane_read_vjp_point(const P* plane, const PlaneTaps<T>& taps,
                                     const TriplaneShape& shape, const P* grad, T& slope_x,
                                     T& slope_y) {
  const P* tap = plane + taps.row * shape.row_stride + taps.column * shape.pixel_stride;
  const T x1 = taps.x, y1 = taps.y, x0 = T(1) - x1, y0 = T(1) - y1;
  const int64_t right = shape.pixel_stride, below = shape.row_stride;
  T sum00 = 0, sum01 = 0, sum10 = 0, sum11 = 0;  // <grad, tap> of the four corners
  if (taps.left && taps.top) sum00 = channel_dot<kBlock, T>(tap, grad);
  if (taps.right && taps.top) sum01 = channel_dot<kBlock, T>(tap + right, grad);
  if (taps.left && taps.bottom) sum10 = channel_dot<kBlock, T>(tap + below, grad);
  if (taps.right && taps.bottom) sum11 = channel_dot<kBlock, T>(tap + below + right, grad);
  const T nothing = finite_or_nan(taps);
  slope_x += (sum01 - sum00) * y0 + (sum11 - sum10) * y1 + nothing;
  slope_y += (sum10 - sum00) * x0 + (sum11 - sum01) * x1 + nothing;
}

template <typename T>
EPIGRAF_HD T pixels_per_unit(int64_t size) {
  return T(size - 1) / T(2);
}

// Forward for kBlock channels of one point. `planes` points at the first of these channels of the
// point's batch element; features[c] receives (triplane 3).
template <int kBlock, typename T, typename P>
EPIGRAF_HD void triplane_point(const P* planes, const T* point, const TriplaneShape& shape,
                               P* features) {
  T sum[kBlock] = {};
  for (int plane = 0; plane < kPlanes; ++plane) {
    const PlaneTaps<T> taps = plane_taps_of_point(point, plane, shape);
    plane_read(planes + plane * shape.plane_stride, taps, shape, sum);
  }
  EPIGRAF_SIMD
  for (int c = 0; c < kBlock; ++c) features[c] = P(sum[c] / T(kPlanes));
}

// Gradient of kBlock channels of one point with respect to the point: adds to grad_point[3].
template <int kBlock, typename T, typename P>
EPIGRAF_HD void triplane_point_vjp_point(const P* planes, const T* point,
                                         const TriplaneShape& shape, const P* grad_features,
                                         T* grad_point) {
  for (int plane = 0; plane < kPlanes; ++plane) {
    T slope_x = 0, slope_y = 0;
    const PlaneTaps<T> taps = plane_taps_of_point(point, plane, shape);
    plane_read_vjp_point<kBlock>(planes + plane * shape.plane_stride, taps, shape, grad_features,
                                 slope_x, slope_y);
    grad_point[plane_u(plane)] += slope_x * pixels_per_unit<T>(shape.width) / T(kPlanes);
    grad_point[plane_v(plane)] += slope_y * pixels_per_unit<T>(shape.height) / T(kPlanes);
  }
}

}  // namespace epigraf
