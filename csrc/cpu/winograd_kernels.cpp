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

// Every kernel once: with vectors inside of panels, the columns that are left one by one.
template <typename T, typename Block>
void for_all_kernels(const WinogradKernels<T>& p, int threads, Block block) {
  with_vectors([&](auto bytes) {
    constexpr int kLanes = Simd<T, bytes()>::kLanes;
    const bool fits = p.width == p.columns || p.width % kLanes == 0;
    const int64_t whole = fits ? p.columns : 0;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t column = 0; column < p.columns; column += kTaskColumns)
      for (int64_t row = 0; row < p.rows; row += kTaskRows) {
        const int64_t last_row = std::min(row + kTaskRows, p.rows);
        const int64_t last_column = std::min(column + kTaskColumns, p.columns);
        Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA {
          for (int64_t r = row; r < last_row; ++r) {
            int64_t c = column;
            for (; c + kLanes <= std::min(last_column, whole); c += kLanes)
              block(Simd<T, bytes()>{}, r, c);
            for (; c < last_column; ++c) block(Simd<T, sizeof(T)>{}, r, c);
          }
        });
      }
  });
}

}  // namespace

template <typename T>
void winograd_kernels_cpu(const WinogradKernels<T>& p, int threads) {
  for_all_kernels(p, threads, [&](auto simd, int64_t row, int64_t column) EPIGRAF_INLINE_LAMBDA {
    using S = decltype(simd);
    if (p.stride == 1) {
      block_to_points<Stride1Kernel<T>, S>(p, row, column);
    } else {
      block_to_points<Stride2Kernel<T>, S>(p, row, column);
    }
  });
}

template <typename T>
void winograd_kernels_adjoint_cpu(const WinogradKernels<T>& p, int threads) {
  for_all_kernels(p, threads, [&](auto simd, int64_t row, int64_t column) EPIGRAF_INLINE_LAMBDA {
    using S = decltype(simd);
    if (p.stride == 1) {
      block_to_taps<Stride1KernelAdjoint<T>, S>(p, row, column);
    } else {
      block_to_taps<Stride2KernelAdjoint<T>, S>(p, row, column);
    }
  });
}

template void winograd_kernels_cpu(const WinogradKernels<float>&, int);
template void winograd_kernels_cpu(const WinogradKernels<double>&, int);
template void winograd_kernels_adjoint_cpu(const WinogradKernels<float>&, int);
template void winograd_kernels_adjoint_cpu(const WinogradKernels<double>&, int);

}  // namespace epigraf
