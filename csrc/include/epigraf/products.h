// Matrix products on a CPU: batches of them at Winograd's points (docs/math/winograd.md) and of 1x1
// convolutions, n dense matrices each, some numbers apart; and of few rows.
#pragma once

#include <cstdint>

namespace epigraf {

constexpr int64_t kPanel = 64;  // columns of a panel

// Numbers of a row of whole panels.
constexpr int64_t whole_panels(int64_t columns) {
  return (columns + kPanel - 1) / kPanel * kPanel;
}

// Numbers from a matrix to the next one.
struct ProductSteps {
  int64_t left, right, result;
};

// result [n, rows, columns] = left [n, rows, depth] right; columns are whole panels.
template <typename T>
struct PanelProducts {
  int64_t count, rows, depth, columns;
  ProductSteps steps;
  const T* left;
  const T* right;  // [n, columns / kPanel, depth, kPanel]
  T* result;
};

// result [n, rows, whole_panels(columns)] = left^T right, or that added to it: the products of
// weight gradients. What lies beyond the columns means nothing.
template <typename T>
struct ProductSums {
  int64_t count, rows, depth, columns;
  ProductSteps steps;
  bool add;
  const T* left;   // [n, depth, rows]
  const T* right;  // [n, depth, columns]
  T* result;
};

// y [rows, outputs] = x [rows, inputs] weight^T, weight [outputs, inputs], for few rows, or one of
// its two adjoints: what is found is written, the others are read. All dense.
template <typename T>
struct FewRows {
  int64_t rows, inputs, outputs;
  T *x, *weight, *y;
};

}  // namespace epigraf
