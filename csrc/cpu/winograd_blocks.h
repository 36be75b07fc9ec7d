// Winograd's transforms of blocks: a tile of pictures, whose channels are the lanes, and a row of
// kernels, whose columns are.
#pragma once

#include <algorithm>
#include <cstdint>

#include "clones.h"
#include "epigraf/winograd.h"
#include "simd.h"

namespace epigraf {
namespace {

constexpr int64_t kTilesPerTask = 4;

// Calls body with one of the transforms of pictures.
template <typename T, typename Body>
void with_transform(WinogradTransform transform, Body body) {
  switch (transform) {
    case WinogradTransform::stride1_input:
      return body(Stride1Input<T>{});
    case WinogradTransform::stride1_output:
      return body(Stride1Output<T>{});
    case WinogradTransform::stride1_output_adjoint:
      return body(Stride1OutputAdjoint<T>{});
    case WinogradTransform::stride2_input:
      return body(Stride2Input<T>{});
    case WinogradTransform::stride2_output:
      return body(Stride2Output<T>{});
    case WinogradTransform::stride2_output_adjoint:
      return body(Stride2OutputAdjoint<T>{});
    case WinogradTransform::transposed_input:
      return body(TransposedInput<T>{});
    case WinogradTransform::transposed_output:
      return body(TransposedOutput<T>{});
  }
}

// Channels [c, c + lanes) of a tile. Pixels outside of the picture are read from a line of zeros:
// no branch.
template <typename Transform, typename S, typename T>
EPIGRAF_HD void block_to_points(const WinogradTiles<T>& p, TilePlace at, int64_t slot, int64_t c) {
  using Vector = typename S::Vector;
  constexpr int m = Transform::kPixels;
  alignas(64) const T zeros[S::kLanes] = {};
  const T* picture = p.pixels + at.batch * p.height * p.width * p.channels + c;
  bool inside[m];
  for (int j = 0; j < m; ++j) inside[j] = at.column + j >= 0 && at.column + j < p.width;
  T* points = p.points + slot * p.line + c;
  square_to_points<Transform, Vector>(
      [&](int i, int j) EPIGRAF_INLINE_LAMBDA {
        const int64_t y = at.row + i;
        const T* pixel = picture + (y * p.width + at.column + j) * p.channels;
        return S::load(inside[j] & (y >= 0) & (y < p.height) ? pixel : zeros);
      },
      [&](int place, Vector v) EPIGRAF_INLINE_LAMBDA { S::store(points + place * p.step, v); });
}

template <typename Transform, typename S, typename T>
EPIGRAF_HD void block_from_points(const WinogradTiles<T>& p, TilePlace at, int64_t slot,
                                  int64_t c) {
  using Vector = typename S::Vector;
  T* picture = p.pixels + at.batch * p.height * p.width * p.channels + c;
  const T* points = p.points + slot * p.line + c;
  square_from_points<Transform, Vector>(
      [&](int place) EPIGRAF_INLINE_LAMBDA { return S::load(points + place * p.step); },
      [&](int i, int j, Vector v) EPIGRAF_INLINE_LAMBDA {
        const int64_t y = at.row + i, x = at.column + j;
        if (y < p.height && x < p.width) S::store(picture + (y * p.width + x) * p.channels, v);
      });
}

template <typename Transform, typename S, typename T>
EPIGRAF_HD void block(const WinogradTiles<T>& p, TilePlace at, int64_t slot, int64_t c) {
  if constexpr (Transform::kToPixels) {
    block_from_points<Transform, S>(p, at, slot, c);
  } else {
    block_to_points<Transform, S>(p, at, slot, c);
  }
}

// Tiles [begin, end) of the run.
template <typename Transform, int kBytes, typename T>
EPIGRAF_HD void picture_tiles(const WinogradTiles<T>& p, int64_t begin, int64_t end) {
  using S = Simd<T, kBytes>;
  using One = Simd<T, sizeof(T)>;
  for (int64_t slot = begin; slot < end; ++slot) {
    const TilePlace at = tile_place<Transform>(p, p.first + slot);
    int64_t c = 0;
    for (; c + S::kLanes <= p.taken; c += S::kLanes) block<Transform, S>(p, at, slot, c);
    for (; c < p.taken; ++c) block<Transform, One>(p, at, slot, c);
  }
}

constexpr int kTaps = 9;

// Taps of kLanes kernels from `column` on, transposed: [tap, lane]. The taps of a kernel are read
// and written as vectors, as many of them as there are whole ones; where there are more lanes than
// taps a vector reads beyond its kernel, of which the last one of all has nothing.
template <typename S, typename T>
struct KernelBlock {
  using Vector = typename S::Vector;
  static constexpr bool kWide = S::kLanes > kTaps;
  static constexpr int kWhole = kWide ? kTaps : kTaps / S::kLanes * S::kLanes;

  alignas(64) T taps[kTaps][S::kLanes];
  T* from;
  int64_t step;
  bool last;

  EPIGRAF_HD KernelBlock(const WinogradKernels<T>& p, int64_t row, int64_t column)
      : from(p.taps + row * p.row_step + column * p.column_step),
        step(p.column_step),
        last(row + 1 == p.rows && column + S::kLanes >= p.columns) {}

  EPIGRAF_HD void read() {
    if (S::kLanes == 1 || (kWide && last)) return read(0);
    for (int first = 0; first < kWhole; first += S::kLanes) {
      Vector lines[S::kLanes];
      EPIGRAF_UNROLL
      for (int lane = 0; lane < S::kLanes; ++lane)
        lines[lane] = S::load(from + lane * step + first);
      transpose<S>(lines);
      EPIGRAF_UNROLL
      for (int k = 0; k < kWhole && k < S::kLanes; ++k) S::store(taps[first + k], lines[k]);
    }
    read(kWhole);
  }

  EPIGRAF_HD void write() const {
    constexpr int kRuns = S::kLanes == 1 || kWide ? 0 : kWhole;
    for (int first = 0; first < kRuns; first += S::kLanes) {
      Vector lines[S::kLanes];
      EPIGRAF_UNROLL
      for (int k = 0; k < S::kLanes; ++k) lines[k] = S::load(taps[first + k]);
      transpose<S>(lines);
      EPIGRAF_UNROLL
      for (int lane = 0; lane < S::kLanes; ++lane)
        S::store(from + lane * step + first, lines[lane]);
    }
    for (int lane = 0; lane < S::kLanes; ++lane)
      for (int k = kRuns; k < kTaps; ++k) from[lane * step + k] = taps[k][lane];
  }

 private:
  // One by one from a tap on.
  EPIGRAF_HD void read(int tap) {
    for (int lane = 0; lane < S::kLanes; ++lane)
      for (int k = tap; k < kTaps; ++k) taps[k][lane] = from[lane * step + k];
  }
};

template <typename T>
EPIGRAF_HD T* points_of(const WinogradKernels<T>& p, int64_t row, int64_t column) {
  const int64_t panel = column / p.width;
  return p.points + (panel * p.rows + row) * p.width + column % p.width;
}

template <typename Transform, typename S, typename T>
EPIGRAF_HD void kernels_to_points(const WinogradKernels<T>& p, int64_t row, int64_t column) {
  using Vector = typename S::Vector;
  KernelBlock<S, T> kernels(p, row, column);
  kernels.read();
  T* points = points_of(p, row, column);
  square_to_points<Transform, Vector>(
      [&](int i, int j) EPIGRAF_INLINE_LAMBDA {
        const int k = i * 3 + j;
        return S::load(kernels.taps[p.turned ? kTaps - 1 - k : k]) * p.gain;
      },
      [&](int place, Vector v) EPIGRAF_INLINE_LAMBDA { S::store(points + place * p.step, v); });
}

template <typename Transform, typename S, typename T>
EPIGRAF_HD void kernels_from_points(const WinogradKernels<T>& p, int64_t row, int64_t column) {
  using Vector = typename S::Vector;
  KernelBlock<S, T> kernels(p, row, column);
  const T* points = points_of(p, row, column);
  square_from_points<Transform, Vector>(
      [&](int place) EPIGRAF_INLINE_LAMBDA { return S::load(points + place * p.step); },
      [&](int i, int j, Vector v) EPIGRAF_INLINE_LAMBDA {
        const int k = i * 3 + j;
        S::store(kernels.taps[p.turned ? kTaps - 1 - k : k], v * p.gain);
      });
  kernels.write();
}

template <typename Transform, typename S, typename T>
EPIGRAF_HD void kernel_block(const WinogradKernels<T>& p, int64_t row, int64_t column) {
  if constexpr (Transform::kToPixels) {
    kernels_from_points<Transform, S>(p, row, column);
  } else {
    kernels_to_points<Transform, S>(p, row, column);
  }
}

// Rows [row, last_row) of columns [column, last_column), inside of panels with vectors, what is
// left one by one. Kernels that are neighbours in memory come one after another, since a cache has
// few lines for those that are far apart.
template <typename Transform, int kBytes, typename T>
EPIGRAF_HD void kernel_rows(const WinogradKernels<T>& p, int64_t row, int64_t last_row,
                            int64_t column, int64_t last_column) {
  using S = Simd<T, kBytes>;
  using One = Simd<T, sizeof(T)>;
  const bool fits = p.width >= p.columns || p.width % S::kLanes == 0;
  const int64_t whole = fits ? (last_column - column) / S::kLanes * S::kLanes : 0;
  if (p.row_step < p.column_step) {
    for (int64_t c = column; c < column + whole; c += S::kLanes)
      for (int64_t r = row; r < last_row; ++r) kernel_block<Transform, S>(p, r, c);
  } else {
    for (int64_t r = row; r < last_row; ++r)
      for (int64_t c = column; c < column + whole; c += S::kLanes)
        kernel_block<Transform, S>(p, r, c);
  }
  for (int64_t r = row; r < last_row; ++r)
    for (int64_t c = column + whole; c < last_column; ++c) kernel_block<Transform, One>(p, r, c);
}

}  // namespace
}  // namespace epigraf
