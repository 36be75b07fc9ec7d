// Matrix products: a register tile of the result runs down the depth, the rows of `left` that it
// needs stay in the first cache, panels of `right` come from the second. Those of a weight gradient
// run down pixels or tiles instead: there a panel is gathered first.
#include "epigraf/products.h"

#include <algorithm>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "simd.h"

namespace epigraf {
namespace {

constexpr int64_t kTaskRows = 48;
constexpr int64_t kDepth = 128;  // of a gathered panel: 32 KiB of floats
constexpr int kRows = 6;         // of a register tile
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

// The columns of a panel of `rows` rows.
template <int kBytes, typename T>
EPIGRAF_HD void tiles(Matrix<T> left, int64_t rows, const T* panel, int64_t depth, bool add,
                      T* result, int64_t columns) {
  constexpr int64_t kWidth = kVectors<kBytes> * Simd<T, kBytes>::kLanes;
  for (int64_t first = 0; first < kPanel; first += kWidth) {
    int64_t row = 0;
    for (; row + kRows <= rows; row += kRows)
      tile<kBytes, kRows>(left.rows_from(row), panel + first, depth, add,
                          result + row * columns + first, columns);
    for (; row < rows; ++row)
      tile<kBytes, 1>(left.rows_from(row), panel + first, depth, add,
                      result + row * columns + first, columns);
  }
}

// Rows [row, end) of one product, a few at a time, which then stay in the first cache.
template <int kBytes, typename T>
EPIGRAF_HD void strips(const PanelProducts<T>& p, int64_t number, int64_t row, int64_t end) {
  const Matrix<T> left{p.left + number * p.steps.left, p.depth, 1};
  const T* right = p.right + number * p.steps.right;
  T* result = p.result + number * p.steps.result;
  for (; row < end; row += kRows) {
    for (int64_t column = 0; column < p.columns; column += kPanel)
      tiles<kBytes>(left.rows_from(row), std::min<int64_t>(kRows, end - row),
                    right + column * p.depth, p.depth, false, result + row * p.columns + column,
                    p.columns);
  }
}

// Columns [column, column + kPanel) of all rows of one sum.
template <int kBytes, typename T>
EPIGRAF_HD void sum_panel(const ProductSums<T>& p, int64_t number, int64_t column) {
  alignas(64) T panel[kDepth * kPanel];
  const T* right = p.right + number * p.steps.right + column;
  T* result = p.result + number * p.steps.result + column;
  for (int64_t first = 0; first < p.depth; first += kDepth) {
    const int64_t depth = std::min(kDepth, p.depth - first);
    for (int64_t k = 0; k < depth; ++k)
      std::copy_n(right + (first + k) * p.columns, kPanel, panel + k * kPanel);
    const Matrix<T> left{p.left + number * p.steps.left + first * p.rows, 1, p.rows};
    tiles<kBytes>(left, p.rows, panel, depth, p.add || first > 0, result, p.columns);
  }
}

}  // namespace

template <typename T>
void panel_products_cpu(const PanelProducts<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t number = 0; number < p.count; ++number)
      for (int64_t row = 0; row < p.rows; row += kTaskRows) {
        const int64_t end = std::min(row + kTaskRows, p.rows);
        Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA { strips<bytes()>(p, number, row, end); });
      }
  });
}

template <typename T>
void product_sums_cpu(const ProductSums<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t number = 0; number < p.count; ++number)
      for (int64_t column = 0; column < p.columns; column += kPanel) {
        Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA { sum_panel<bytes()>(p, number, column); });
      }
  });
}

template void panel_products_cpu(const PanelProducts<float>&, int);
template void panel_products_cpu(const PanelProducts<double>&, int);
template void product_sums_cpu(const ProductSums<float>&, int);
template void product_sums_cpu(const ProductSums<double>&, int);

}  // namespace epigraf
