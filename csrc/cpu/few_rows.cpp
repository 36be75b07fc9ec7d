// Linear layers of few rows: the weight comes from memory once and meets all rows on its way.
#include <algorithm>
#include <type_traits>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "simd.h"

namespace epigraf {
namespace {

constexpr int kRows = 4;       // that meet a weight at a time
constexpr int kVectors = 4;    // of a row of the weight, in registers
constexpr int64_t kTask = 16;  // rows of the weight

// y[r, m] = sum_k x[r, k] weight[m, k] of kCount rows.
template <int kBytes, int kCount, typename T>
EPIGRAF_HD void dots(const FewRows<T>& p, const T* weight, int64_t row, int64_t m) {
  using S = Simd<T, kBytes>;
  const T* x = p.x + row * p.inputs;
  typename S::Vector sums[kCount][2] = {};
  int64_t k = 0;
  for (; k + 2 * S::kLanes <= p.inputs; k += 2 * S::kLanes) {
    EPIGRAF_UNROLL
    for (int v = 0; v < 2; ++v) {
      const auto w = S::load(weight + k + v * S::kLanes);
      EPIGRAF_UNROLL
      for (int r = 0; r < kCount; ++r)
        sums[r][v] += w * S::load(x + r * p.inputs + k + v * S::kLanes);
    }
  }
  for (int r = 0; r < kCount; ++r) {
    T sum = S::sum(sums[r][0] + sums[r][1]);
    for (int64_t i = k; i < p.inputs; ++i) sum += weight[i] * x[r * p.inputs + i];
    p.y[(row + r) * p.outputs + m] = sum;
  }
}

// x[r, k] = sum_m y[r, m] weight[m, k] of kCount rows and kWidth vectors from k on.
template <typename S, int kCount, int kWidth, typename T>
EPIGRAF_HD void columns(const FewRows<T>& p, int64_t row, int64_t k) {
  typename S::Vector sums[kCount][kWidth] = {};
  for (int64_t m = 0; m < p.outputs; ++m) {
    const T* weight = p.weight + m * p.inputs + k;
    EPIGRAF_UNROLL
    for (int v = 0; v < kWidth; ++v) {
      const auto w = S::load(weight + v * S::kLanes);
      EPIGRAF_UNROLL
      for (int r = 0; r < kCount; ++r) sums[r][v] += w * p.y[(row + r) * p.outputs + m];
    }
  }
  EPIGRAF_UNROLL
  for (int r = 0; r < kCount; ++r) {
    EPIGRAF_UNROLL
    for (int v = 0; v < kWidth; ++v)
      S::store(p.x + (row + r) * p.inputs + k + v * S::kLanes, sums[r][v]);
  }
}

// weight[m, k] = sum_r y[r, m] x[r, k].
template <int kBytes, typename T>
EPIGRAF_HD void outer(const FewRows<T>& p, int64_t m) {
  using S = Simd<T, kBytes>;
  T* weight = p.weight + m * p.inputs;
  int64_t k = 0;
  for (; k + S::kLanes <= p.inputs; k += S::kLanes) {
    typename S::Vector sum{};
    for (int64_t r = 0; r < p.rows; ++r)
      sum += S::load(p.x + r * p.inputs + k) * p.y[r * p.outputs + m];
    S::store(weight + k, sum);
  }
  for (; k < p.inputs; ++k) {
    T sum = 0;
    for (int64_t r = 0; r < p.rows; ++r) sum += p.x[r * p.inputs + k] * p.y[r * p.outputs + m];
    weight[k] = sum;
  }
}

// Calls body(row, count) for all rows, kRows at a time, then one by one.
template <typename Body>
EPIGRAF_HD void for_rows(int64_t rows, Body body) {
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) body(row, std::integral_constant<int, kRows>{});
  for (; row < rows; ++row) body(row, std::integral_constant<int, 1>{});
}

template <int kBytes, typename T>
EPIGRAF_HD void input_columns(const FewRows<T>& p, int64_t first, int64_t last) {
  using S = Simd<T, kBytes>;
  using One = Simd<T, sizeof(T)>;
  for_rows(p.rows, [&](int64_t row, auto count) EPIGRAF_INLINE_LAMBDA {
    int64_t k = first;
    for (; k + kVectors * S::kLanes <= last; k += kVectors * S::kLanes)
      columns<S, count(), kVectors>(p, row, k);
    for (; k < last; ++k) columns<One, count(), 1>(p, row, k);
  });
}

}  // namespace

template <typename T>
void few_rows_forward_cpu(const FewRows<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < p.outputs; begin += kTask)
      Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA {
        for (int64_t m = begin; m < std::min(begin + kTask, p.outputs); ++m)
          for_rows(p.rows, [&](int64_t row, auto count) EPIGRAF_INLINE_LAMBDA {
            dots<bytes(), count()>(p, p.weight + m * p.inputs, row, m);
          });
      });
  });
}

template <typename T>
void few_rows_input_cpu(const FewRows<T>& p, int threads) {
  with_vectors([&](auto bytes) {
    constexpr int64_t kColumns = kVectors * Simd<T, bytes()>::kLanes;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < p.inputs; first += kColumns)
      Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA {
        input_columns<bytes()>(p, first, std::min(first + kColumns, p.inputs));
      });
  });
}

template <typename T>
void few_rows_weight_cpu(const FewRows<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < p.outputs; begin += kTask)
      Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA {
        for (int64_t m = begin; m < std::min(begin + kTask, p.outputs); ++m) outer<bytes()>(p, m);
      });
  });
}

#define EPIGRAF_INSTANTIATE(T)                                \
  template void few_rows_forward_cpu(const FewRows<T>&, int); \
  template void few_rows_input_cpu(const FewRows<T>&, int);   \
  template void few_rows_weight_cpu(const FewRows<T>&, int);

EPIGRAF_INSTANTIATE(float)
EPIGRAF_INSTANTIATE(double)

}  // namespace epigraf
