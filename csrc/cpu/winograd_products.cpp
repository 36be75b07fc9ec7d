// The matrix products between Winograd's transforms: a register tile runs down the depth, the rows
// of `left` that it needs stay in the first cache, panels of `right` come from the second.
#include <algorithm>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "epigraf/winograd.h"
#include "simd.h"

namespace epigraf {
namespace {

constexpr int64_t kTaskRows = 48;

// A tile of kRows x (kVectors lanes) numbers of the result.
template <typename S, int kRows, int kVectors, typename T>
EPIGRAF_HD void tile(const WinogradProducts<T>& p, const T* left, const T* right, T* result) {
  typename S::Vector sum[kRows][kVectors];
  EPIGRAF_UNROLL
  for (int r = 0; r < kRows; ++r) {
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[r][v] = typename S::Vector{};
  }
  for (int64_t k = 0; k < p.depth; ++k) {
    typename S::Vector line[kVectors];
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) line[v] = S::load(right + k * p.kPanel + v * S::kLanes);
    EPIGRAF_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const T x = left[r * p.depth + k];
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[r][v] += x * line[v];
    }
  }
  EPIGRAF_UNROLL
  for (int r = 0; r < kRows; ++r) {
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) S::store(result + r * p.columns + v * S::kLanes, sum[r][v]);
  }
}

// kRows rows from `row` on of one point.
template <typename S, int kRows, int kVectors, typename T>
EPIGRAF_HD void strip(const WinogradProducts<T>& p, int64_t point, int64_t row) {
  constexpr int64_t kWidth = kVectors * S::kLanes;
  const T* left = p.left + (point * p.rows + row) * p.depth;
  T* result = p.result + (point * p.rows + row) * p.columns;
  for (int64_t column = 0; column < p.columns; column += kWidth) {
    const int64_t within = column % p.kPanel;
    const T* panel = p.right + point * p.depth * p.columns + (column - within) * p.depth;
    tile<S, kRows, kVectors>(p, left, panel + within, result + column);
  }
}

template <int kBytes, typename T>
EPIGRAF_HD void strips(const WinogradProducts<T>& p, int64_t point, int64_t row, int64_t end) {
  using S = Simd<T, kBytes>;
  constexpr int kVectors = kBytes == 64 ? 4 : 2, kRows = 6;  // what the registers hold
  for (; row + kRows <= end; row += kRows) strip<S, kRows, kVectors>(p, point, row);
  for (; row < end; ++row) strip<S, 1, kVectors>(p, point, row);
}

constexpr int64_t kDepth = 128;  // of a panel: 32 KiB of floats

// A tile of the result of WinogradSums; `left` is that of its first row, `panel` [depth, kPanel].
template <typename S, int kRows, int kVectors, typename T>
EPIGRAF_HD void sum_tile(const WinogradSums<T>& p, const T* left, const T* panel, int64_t depth,
                         bool add, T* result) {
  typename S::Vector sum[kRows][kVectors];
  EPIGRAF_UNROLL
  for (int r = 0; r < kRows; ++r) {
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = add ? S::load(result + r * p.columns + v * S::kLanes) : typename S::Vector{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    typename S::Vector line[kVectors];
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) line[v] = S::load(panel + k * p.kPanel + v * S::kLanes);
    EPIGRAF_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const T x = left[k * p.rows + r];
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[r][v] += x * line[v];
    }
  }
  EPIGRAF_UNROLL
  for (int r = 0; r < kRows; ++r) {
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) S::store(result + r * p.columns + v * S::kLanes, sum[r][v]);
  }
}

// Columns [column, column + kPanel) of all rows of a point.
template <int kBytes, typename T>
EPIGRAF_HD void sum_panel(const WinogradSums<T>& p, int64_t point, int64_t column) {
  using S = Simd<T, kBytes>;
  constexpr int kVectors = kBytes == 64 ? 4 : 2, kRows = 6;
  alignas(64) T panel[kDepth * p.kPanel];
  const T* right = p.right + point * p.depth * p.columns + column;
  T* result = p.result + point * p.rows * p.columns + column;
  for (int64_t first = 0; first < p.depth; first += kDepth) {
    const int64_t depth = std::min(kDepth, p.depth - first);
    const bool add = p.add || first > 0;
    for (int64_t k = 0; k < depth; ++k)
      std::copy_n(right + (first + k) * p.columns, p.kPanel, panel + k * p.kPanel);
    const T* left = p.left + (point * p.depth + first) * p.rows;
    for (int64_t within = 0; within < p.kPanel; within += kVectors * S::kLanes) {
      int64_t row = 0;
      for (; row + kRows <= p.rows; row += kRows)
        sum_tile<S, kRows, kVectors>(p, left + row, panel + within, depth, add,
                                     result + row * p.columns + within);
      for (; row < p.rows; ++row)
        sum_tile<S, 1, kVectors>(p, left + row, panel + within, depth, add,
                                 result + row * p.columns + within);
    }
  }
}

}  // namespace

template <typename T>
void winograd_sums_cpu(const WinogradSums<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t point = 0; point < p.points; ++point)
      for (int64_t column = 0; column < p.columns; column += p.kPanel) {
        Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA { sum_panel<bytes()>(p, point, column); });
      }
  });
}

template void winograd_sums_cpu(const WinogradSums<float>&, int);
template void winograd_sums_cpu(const WinogradSums<double>&, int);

template <typename T>
void winograd_products_cpu(const WinogradProducts<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t point = 0; point < p.points; ++point)
      for (int64_t row = 0; row < p.rows; row += kTaskRows) {
        const int64_t end = std::min(row + kTaskRows, p.rows);
        Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA { strips<bytes()>(p, point, row, end); });
      }
  });
}

template void winograd_products_cpu(const WinogradProducts<float>&, int);
template void winograd_products_cpu(const WinogradProducts<double>&, int);

}  // namespace epigraf
