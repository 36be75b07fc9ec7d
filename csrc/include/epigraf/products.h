// Batches of matrix products on a CPU: those at Winograd's points (docs/math/winograd.md), and of
// 1x1 convolutions. n matrices each, dense ones, some numbers apart.
#pragma once

#include <cstdint>

namespace epigraf {

constexpr int64_t kPanel = 64;  // columns of a panel; `columns` is a multiple of it

// Numbers from a matrix to the next one.
struct ProductSteps {
  int64_t left, right, result;
};

// result [n, rows, columns] = left [n, rows, depth] right.
template <typename T>
struct PanelProducts {
  int64_t count, rows, depth, columns;
  ProductSteps steps;
  const T* left;
  const T* right;  // [n, columns / kPanel, depth, kPanel]
  T* result;
};

// result [n, rows, columns] = left^T right, or that added to it: the products of weight gradients.
template <typename T>
struct ProductSums {
  int64_t count, rows, depth, columns;
  ProductSteps steps;
  bool add;
  const T* left;   // [n, depth, rows]
  const T* right;  // [n, depth, columns]
  T* result;
};

}  // namespace epigraf
