// Weights to the points and back: a task is a block of kernels, and columns are the lanes.
#include <algorithm>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "winograd_blocks.h"

namespace epigraf {
namespace {

constexpr int64_t kTaskRows = 16, kTaskColumns = 64;

template <typename Transform, typename T>
void run(const WinogradKernels<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t column = 0; column < p.columns; column += kTaskColumns)
      for (int64_t row = 0; row < p.rows; row += kTaskRows) {
        const int64_t last_row = std::min(row + kTaskRows, p.rows);
        const int64_t last_column = std::min(column + kTaskColumns, p.columns);
        Clone<bytes()>::run([&]() EPIGRAF_INLINE_LAMBDA {
          kernel_rows<Transform, bytes()>(p, row, last_row, column, last_column);
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
