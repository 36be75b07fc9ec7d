// Planes seen through the decoder's first layer (docs/math/render.md, cited as "(render n)"): a
// read is linear, so the first layer may come before it, once a pixel instead of once a sample.
//
// Legend: C plane channels, H hidden units.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "arena.h"
#include "epigraf/render.h"
#include "simd.h"

namespace epigraf {

// The pixels of one plane that the rays of a batch element can reach.
struct PlaneBox {
  int64_t row, column, rows, columns;
  int64_t start;  // of this plane in the projected planes, in pixels

  EPIGRAF_HD int64_t pixels() const { return rows * columns; }
};

// Bounds of the rays' points along an axis, in plane coordinates; NaN is no bound.
template <typename T>
struct Extent {
  T low[3], high[3];

  Extent() {
    std::fill_n(low, 3, std::numeric_limits<T>::infinity());
    std::fill_n(high, 3, -std::numeric_limits<T>::infinity());
  }
  EPIGRAF_HD void add(int axis, T value) {
    if (value < low[axis]) low[axis] = value;
    if (value > high[axis]) high[axis] = value;
  }
};

template <typename T>
Extent<T> extent_of_rays(const RenderRays<T>& r, int64_t element, T cube_scale) {
  Extent<T> extent;
  for (int64_t ray = element * r.rays; ray < (element + 1) * r.rays; ++ray) {
    for (int axis = 0; axis < 3; ++axis) {
      const T o = r.origins[3 * ray + axis], d = r.directions[3 * ray + axis];
      extent.add(axis, (o + d * r.near[ray]) / cube_scale);
      extent.add(axis, (o + d * r.far[ray]) / cube_scale);
    }
  }
  return extent;
}

// First and last pixel that a coordinate between low and high can read, with one to spare.
struct PixelRange {
  int64_t first, count;
};

template <typename T>
PixelRange pixels_between(T low, T high, int64_t size) {
  const T last = T(size - 1);
  const T from = std::floor(pixel_position(low, size)) - T(1);
  const T to = std::floor(pixel_position(high, size)) + T(2);
  if (!(from <= last) || !(to >= T(0))) return {0, 0};
  const int64_t first = from > T(0) ? static_cast<int64_t>(from) : 0;
  const int64_t end = to < last ? static_cast<int64_t>(to) : size - 1;
  return {first, end - first + 1};
}

// The boxes of all planes, one behind the other.
template <typename T>
struct PlaneBoxes {
  PlaneBox box[kPlanes] = {};
  int64_t pixels = 0, rows = 0;

  PlaneBoxes() = default;

  // All pixels.
  explicit PlaneBoxes(const TriplaneShape& s) {
    for (PlaneBox& b : box) {
      b = {0, 0, s.height, s.width, pixels};
      pixels += b.pixels();
      rows += s.height;
    }
  }

  PlaneBoxes(const Extent<T>& e, const TriplaneShape& shape) {
    for (int plane = 0; plane < kPlanes; ++plane) {
      const int u = plane_u(plane), v = plane_v(plane);
      const PixelRange across = pixels_between(e.low[u], e.high[u], shape.width);
      const PixelRange down = pixels_between(e.low[v], e.high[v], shape.height);
      box[plane] = {down.first, across.first, down.count, across.count, pixels};
      pixels += box[plane].pixels();
      rows += down.count;
    }
  }

  // Row `index` of all rows of all boxes.
  struct Row {
    int plane;
    int64_t row;
  };
  Row row_at(int64_t index) const {
    int plane = 0;
    while (index >= box[plane].rows) index -= box[plane++].rows;
    return {plane, box[plane].row + index};
  }
};

// Hidden units are taken in groups of 4, 2 or 1 vectors: a width that the compiler knows.
constexpr int most_vectors(int bytes) {
  return bytes == 64 ? 4 : 2;
}

// The first layer cut to a group of kVectors vectors of units, from `first` on; weights carry the
// third of the mean of the three reads.
template <typename T, int kBytes>
struct FirstLayer {
  using S = Simd<T, kBytes>;
  using V = typename S::Vector;
  static constexpr int kLanes = S::kLanes;
  static constexpr int kAccumulators = kBytes == 64 ? 24 : 12;
  static constexpr int64_t kChunk = 96;  // pixels packed at a time

  int64_t channels;
  T* turned;  // [C][width of the group]
  T* pixels;  // [C][kChunk]

  static int64_t memory(int64_t channels) {
    return Arena<T>::round(channels * most_vectors(kBytes) * kLanes) +
           Arena<T>::round(channels * kChunk);
  }

  FirstLayer(int64_t c, Arena<T>& arena) : channels(c) {
    turned = arena.take(channels * most_vectors(kBytes) * kLanes);
    pixels = arena.take(channels * kChunk);
  }

  void take(const DecoderLayers<T>& d, int64_t first, int64_t width) {
    const int64_t units = std::min(width, d.widths[1] - first);
    std::fill_n(turned, channels * width, T(0));
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t j = 0; j < units; ++j) {
        turned[c * width + j] = d.weights[0][(first + j) * channels + c] * T(1.0 / kPlanes);
      }
    }
  }

  // (render 8): `count` pixels of a row of a plane, `step` apart, channels `channel_step` apart.
  template <int kVectors>
  EPIGRAF_HD void project(const T* from, int64_t step, int64_t channel_step, int64_t count,
                          T* to) const {
    for (int64_t first = 0; first < count; first += kChunk) {
      const int64_t n = std::min(kChunk, count - first);
      for (int64_t c = 0; c < channels; ++c) {
        const T* x = from + first * step + c * channel_step;
        for (int64_t p = 0; p < n; ++p) pixels[c * kChunk + p] = x[p * step];
      }
      for_blocks<kAccumulators / kVectors>(n, [&](auto some, int64_t p) EPIGRAF_INLINE_LAMBDA {
        project_block<decltype(some)::value, kVectors>(p, to + (first + p) * kVectors * kLanes);
      });
    }
  }

  template <int kPixels, int kVectors>
  EPIGRAF_HD void project_block(int64_t pixel, T* to) const {
    constexpr int kWidth = kVectors * kLanes;
    V sum[kPixels][kVectors] = {};
    for (int64_t c = 0; c < channels; ++c) {
      V weight[kVectors];
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors; ++v) weight[v] = S::load(turned + c * kWidth + v * kLanes);
      EPIGRAF_UNROLL
      for (int p = 0; p < kPixels; ++p) {
        const T x = pixels[c * kChunk + pixel + p];
        EPIGRAF_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[p][v] += weight[v] * x;
      }
    }
    EPIGRAF_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors; ++v) S::store(to + p * kWidth + v * kLanes, sum[p][v]);
    }
  }
};

// The planes of one batch element behind the first layer, group of units after group.
template <typename T>
struct ProjectedPlanes {
  PlaneBoxes<T> boxes;
  const T* data;  // the first group; a group of width w is boxes.pixels * w long
};

}  // namespace epigraf
