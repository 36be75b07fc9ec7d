// Matrix products: a register tile of the result runs down the depth, the rows of `left` that it
// needs stay in the first cache, panels of `right` come from the second. Those of a weight gradient
// run down pixels or tiles instead: there a panel is gathered first.
#include "epigraf/products.h"

#include <algorithm>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "product_tiles.h"

namespace epigraf {
namespace {

constexpr int64_t kTaskRows = 48;
constexpr int64_t kDepth = 128;       // of a gathered panel: 32 KiB of floats
constexpr int64_t kPanelDepth = 256;  // of a panel's part that meets all rows of a task

// Rows [row, end) of one product: a part of a panel stays in the first cache while all of them
// meet it.
template <int kBytes, typename T>
EPIGRAF_HD void strips(const PanelProducts<T>& p, int64_t number, int64_t row, int64_t end) {
  const Matrix<T> left{p.left + number * p.steps.left + row * p.depth, p.depth, 1};
  const T* right = p.right + number * p.steps.right;
  T* result = p.result + number * p.steps.result + row * p.columns;
  for (int64_t first = 0; first < p.depth; first += kPanelDepth) {
    const int64_t depth = std::min(kPanelDepth, p.depth - first);
    const Matrix<T> part{left.from + first, left.below, 1};
    for (int64_t column = 0; column < p.columns; column += kPanel)
      panel_rows<kBytes>(part, end - row, right + column * p.depth + first * kPanel, depth,
                         first > 0, result + column, p.columns);
  }
}

// The panel from `column` on of all rows of one sum.
template <int kBytes, typename T>
EPIGRAF_HD void sum_panel(const ProductSums<T>& p, int64_t number, int64_t column) {
  alignas(64) T panel[kDepth * kPanel];
  const int64_t columns = whole_panels(p.columns), width = std::min(kPanel, p.columns - column);
  const T* right = p.right + number * p.steps.right + column;
  T* result = p.result + number * p.steps.result + column;
  for (int64_t first = 0; first < p.depth; first += kDepth) {
    const int64_t depth = std::min(kDepth, p.depth - first);
    for (int64_t k = 0; k < depth; ++k) {
      std::copy_n(right + (first + k) * p.columns, width, panel + k * kPanel);
      std::fill_n(panel + k * kPanel + width, kPanel - width, T(0));
    }
    const Matrix<T> left{p.left + number * p.steps.left + first * p.rows, 1, p.rows};
    panel_rows<kBytes>(left, p.rows, panel, depth, p.add || first > 0, result, columns);
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
