// Weights to the points and back: a task is a block of kernels, and columns are the lanes.
#include <algorithm>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "epigraf/winograd.h"
#include "simd.h"

namespace epigraf {
namespace {

constexpr int64_t kTaskRows = 16, kTaskColumns = 64;
constexpr int kTaps = 9;

// Taps of kLanes kernels from `column` on, transposed: [tap, lane].
template <typename S, typename T>
struct KernelBlock {
  alignas(64) T taps[kTaps][S::kLanes];
  T* from;
  int64_t step;

  EPIGRAF_HD KernelBlock(const WinogradKernels<T>& p, int64_t row, int64_t column)
      : from(p.taps + row * p.row_step + column * p.column_step), step(p.column_step) {}

  EPIGRAF_HD void read() {
    for (int lane = 0; lane < S::kLanes; ++lane)
      for (int k = 0; k < kTaps; ++k) taps[k][lane] = from[lane * step + k];
  }
  EPIGRAF_HD void write() const {
    for (int lane = 0; lane < S::kLanes; ++lane)
      for (int k = 0; k < kTaps; ++k) from[lane * step + k] = taps[k][lane];
  }
};

template <typename T>
EPIGRAF_HD T* points_of(const WinogradKernels<T>& p, int64_t row, int64_t column) {
  const int64_t panel = column / p.width;
  return p.points + (panel * p.rows + row) * p.width + column % p.width;
}

template <typename Transform, typename S, typename T>
EPIGRAF_HD void block_to_points(const WinogradKernels<T>& p, int64_t row, int64_t column) {
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
EPIGRAF_HD void block_to_taps(const WinogradKernels<T>& p, int64_t row, int64_t column) {
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
EPIGRAF_HD void block(const WinogradKernels<T>& p, int64_t row, int64_t column) {
  if constexpr (Transform::kToPixels) {
    block_to_taps<Transform, S>(p, row, column);
  } else {
    block_to_points<Transform, S>(p, row, column);
  }
}

// Rows [row, last_row) of a block of columns: with vectors inside of panels, the columns that are
// left one by one.
template <typename Transform, int kBytes, typename T>
EPIGRAF_HD void rows(const WinogradKernels<T>& p, int64_t row, int64_t last_row, int64_t column,
                     int64_t last_column) {
  using S = Simd<T, kBytes>;
  using One = Simd<T, sizeof(T)>;
  const bool fits = p.width == p.columns || p.width % S::kLanes == 0;
  for (; row < last_row; ++row) {
    int64_t c = column;
    for (; fits && c + S::kLanes <= last_column; c += S::kLanes) block<Transform, S>(p, row, c);
    for (; c < last_column; ++c) block<Transform, One>(p, row, c);
  }
}

template <typename Transform, typename T>
void run(const WinogradKernels<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t column = 0; column < p.columns; column += kTaskColumns)
      for (int64_t row = 0; row < p.rows; row += kTaskRows) {
        const int64_t last_row = std::min(row + kTaskRows, p.rows);
        const int64_t last_column = std::min(column + kTaskColumns, p.columns);
        Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA {
          rows<Transform, bytes()>(p, row, last_row, column, last_column);
        });
      }
  });
}

}  // namespace

template <typename T>
void winograd_kernels_cpu(const WinogradKernels<T>& p, int threads) {
  return p.stride == 1 ? run<Stride1Kernel<T>>(p, threads) : run<Stride2Kernel<T>>(p, threads);
}

template <typename T>
void winograd_kernels_adjoint_cpu(const WinogradKernels<T>& p, int threads) {
  return p.stride == 1 ? run<Stride1KernelAdjoint<T>>(p, threads)
                       : run<Stride2KernelAdjoint<T>>(p, threads);
}

template void winograd_kernels_cpu(const WinogradKernels<float>&, int);
template void winograd_kernels_cpu(const WinogradKernels<double>&, int);
template void winograd_kernels_adjoint_cpu(const WinogradKernels<float>&, int);
template void winograd_kernels_adjoint_cpu(const WinogradKernels<double>&, int);

}  // namespace epigraf
