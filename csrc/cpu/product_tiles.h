// Matrix products in registers: a tile of the result runs down the depth of a panel.
#pragma once

#include "epigraf/macros.h"
#include "epigraf/products.h"
#include "simd.h"

namespace epigraf {
namespace {

constexpr int kRows = 6;  // of a register tile
template <int kBytes>
constexpr int kVectors = kBytes == 64 ? 4 : 2;

// A matrix of which neighbours in a row are `next` apart, and in a column `below`.
template <typename T>
struct Matrix {
  const T* from;
  int64_t below, next;

  Matrix rows_from(int64_t row) const { return {from + row * below, below, next}; }
};

// A tile of kCount rows and kBytes / sizeof(T) kVectors columns of the result; `panel` has `depth`
// lines of kPanel numbers.
template <int kBytes, int kCount, typename T>
EPIGRAF_HD void tile(Matrix<T> left, const T* panel, int64_t depth, bool add, T* result,
                     int64_t columns) {
  using S = Simd<T, kBytes>;
  typename S::Vector sum[kCount][kVectors<kBytes>];
  EPIGRAF_UNROLL
  for (int r = 0; r < kCount; ++r) {
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors<kBytes>; ++v)
      sum[r][v] = add ? S::load(result + r * columns + v * S::kLanes) : typename S::Vector{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    typename S::Vector line[kVectors<kBytes>];
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors<kBytes>; ++v)
      line[v] = S::load(panel + k * kPanel + v * S::kLanes);
    EPIGRAF_UNROLL
    for (int r = 0; r < kCount; ++r) {
      const T x = left.from[r * left.below + k * left.next];
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors<kBytes>; ++v) sum[r][v] += x * line[v];
    }
  }
  EPIGRAF_UNROLL
  for (int r = 0; r < kCount; ++r) {
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors<kBytes>; ++v)
      S::store(result + r * columns + v * S::kLanes, sum[r][v]);
  }
}

// The last `rows` rows, fewer than a register tile has: a smaller tile.
template <int kBytes, int kCount, typename T>
EPIGRAF_HD void last_rows(Matrix<T> left, int64_t rows, const T* panel, int64_t depth, bool add,
                          T* result, int64_t columns) {
  if constexpr (kCount > 0) {
    if (rows == kCount) return tile<kBytes, kCount>(left, panel, depth, add, result, columns);
    last_rows<kBytes, kCount - 1>(left, rows, panel, depth, add, result, columns);
  }
}

// The columns of a panel of `rows` rows.
template <int kBytes, typename T>
EPIGRAF_HD void panel_rows(Matrix<T> left, int64_t rows, const T* panel, int64_t depth, bool add,
                           T* result, int64_t columns) {
  constexpr int64_t kWidth = kVectors<kBytes> * Simd<T, kBytes>::kLanes;
  for (int64_t first = 0; first < kPanel; first += kWidth) {
    int64_t row = 0;
    for (; row + kRows <= rows; row += kRows)
      tile<kBytes, kRows>(left.rows_from(row), panel + first, depth, add,
                          result + row * columns + first, columns);
    last_rows<kBytes, kRows - 1>(left.rows_from(row), rows - row, panel + first, depth, add,
                                 result + row * columns + first, columns);
  }
}

}  // namespace
}  // namespace epigraf
