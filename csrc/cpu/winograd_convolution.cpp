// Whole convolutions. Runs of tiles: all weights to the points, then run by run pictures to points,
// products, points to pictures. Few tiles: winograd_few.cpp.
#include <algorithm>

#include "epigraf/launch.h"
#include "winograd_parts.h"

namespace epigraf {
namespace {

// Tiles [first, first + count) of all, with points where they are asked for.
template <typename T>
WinogradTiles<T> run_of(const WinogradTiles<T>& p, int stride, int64_t first, int64_t count,
                        int64_t line, T* points) {
  WinogradTiles<T> run = p;
  run.first = first;
  run.count = count;
  run.line = line;
  run.step = step_of(stride, room_of(stride, count), line);
  run.points = points;
  return run;
}

// Numbers of the points of a run.
int64_t run_points(int stride, int64_t run, int64_t line) {
  return count_points(stride) * step_of(stride, room_of(stride, run), line);
}

template <typename T>
int64_t kernels_step(const WinogradKernels<T>& k) {
  return k.rows * whole_panels(k.columns) + kApart;
}

// The last row and column, where they lie beyond whole tiles, panel by panel.
template <typename T>
void strips_of(const WinogradConvolution<T>& p, T* scratch, int threads) {
  const Strips<T> any(p, nullptr);
  if (!any.any()) return;
  with_vectors([&](auto bytes) {
    share_out(whole_panels(p.kernels.columns) / kPanel, threads, [&](int64_t panel, int worker) {
      const Strips<T> strips(p, scratch + worker * any.scratch());
      WinogradTiles<T> to = p.write;
      to.pixels += panel * kPanel;
      to.taken = std::min(kPanel, to.channels - panel * kPanel);
      for (int64_t first = 0; first < p.kernels.rows; first += kBlock) {
        WinogradKernels<T> k = p.kernels;
        k.taps += first * k.row_step + panel * kPanel * k.column_step;
        k.rows = std::min(kBlock, k.rows - first);
        k.columns = to.taken;
        strips.template add<bytes()>(p.read.pixels + first, p.read.channels, k, first > 0);
      }
      strips.write(to);
    });
  });
}

template <typename T>
void convolve(const WinogradConvolution<T>& p, int threads) {
  const int stride = p.kernels.stride;
  WinogradKernels<T> kernels = p.kernels;
  kernels.width = kPanel;
  kernels.step = kernels_step(kernels);
  kernels.points = p.scratch;
  winograd_kernels_cpu(kernels, threads);
  const int64_t depth = p.read.channels, columns = whole_panels(p.write.channels);
  T* const points = kernels.points + kWeights * kernels.step;
  T* const results = points + run_points(stride, p.run, depth);
  for (int64_t first = 0; first < p.read.count; first += p.run) {
    const int64_t count = std::min(p.run, p.read.count - first);
    const auto read = run_of(p.read, stride, first, count, depth, points);
    const auto write = run_of(p.write, stride, first, count, columns, results);
    winograd_cpu(read, threads);
    for_groups(stride, [&](int64_t weight, int64_t weights, int64_t point, int64_t copies) {
      panel_products_cpu(PanelProducts<T>{weights,
                                          copies * room_of(stride, count),
                                          depth,
                                          columns,
                                          {copies * read.step, kernels.step, copies * write.step},
                                          read.points + point * read.step,
                                          kernels.points + weight * kernels.step,
                                          write.points + point * write.step},
                         threads);
    });
    winograd_cpu(write, threads);
  }
  strips_of(p, results + run_points(stride, p.run, columns), threads);
}

// Zeros where a run has room for one tile more: it is added up, too.
template <typename T>
void clear_room(const WinogradTiles<T>& run, int stride) {
  if (room_of(stride, run.count) == run.count) return;
  for (int64_t point = 0; point < count_points(stride); ++point)
    std::fill_n(run.points + point * run.step + run.count * run.line, run.line, T(0));
}

template <typename T>
void add_up(const WinogradGradient<T>& p, int threads) {
  const int stride = p.kernels.stride;
  WinogradKernels<T> kernels = p.kernels;
  kernels.width = whole_panels(kernels.columns);
  kernels.step = kernels_step(kernels);
  kernels.points = p.scratch;
  T* const lefts = kernels.points + kWeights * kernels.step;
  T* const rights = lefts + run_points(stride, p.run, kernels.rows);
  for (int64_t use = 0; use < p.uses; ++use) {
    for (int64_t first = 0; first < p.left.count; first += p.run) {
      const int64_t count = std::min(p.run, p.left.count - first);
      const auto left = run_of(p.tiles(use, 0), stride, first, count, kernels.rows, lefts);
      const auto right = run_of(p.tiles(use, 1), stride, first, count, kernels.columns, rights);
      for (const auto* tiles : {&left, &right}) {
        winograd_cpu(*tiles, threads);
        clear_room(*tiles, stride);
      }
      for_groups(stride, [&](int64_t weight, int64_t weights, int64_t point, int64_t copies) {
        product_sums_cpu(ProductSums<T>{weights,
                                        kernels.rows,
                                        copies * room_of(stride, count),
                                        kernels.columns,
                                        {copies * left.step, copies * right.step, kernels.step},
                                        use + first > 0,
                                        left.points + point * left.step,
                                        right.points + point * right.step,
                                        kernels.points + weight * kernels.step},
                         threads);
      });
    }
  }
  winograd_kernels_adjoint_cpu(kernels, threads);
}

}  // namespace

template <typename T>
int64_t winograd_scratch(const WinogradConvolution<T>& p, int threads) {
  if (p.run == 0) return winograd_few_scratch(p, threads);
  const int stride = p.kernels.stride;
  return kWeights * kernels_step(p.kernels) + run_points(stride, p.run, p.read.channels) +
         run_points(stride, p.run, whole_panels(p.write.channels)) +
         threads * Strips<T>(p, nullptr).scratch();
}

template <typename T>
int64_t winograd_scratch(const WinogradGradient<T>& p, int threads) {
  if (p.run == 0) return winograd_few_scratch(p, threads);
  const int stride = p.kernels.stride;
  return kWeights * kernels_step(p.kernels) + run_points(stride, p.run, p.left.channels) +
         run_points(stride, p.run, p.right.channels);
}

template <typename T>
void winograd_whole_cpu(const WinogradConvolution<T>& p, int threads) {
  return p.run == 0 ? winograd_few_cpu(p, threads) : convolve(p, threads);
}

template <typename T>
void winograd_whole_cpu(const WinogradGradient<T>& p, int threads) {
  return p.run == 0 ? winograd_few_cpu(p, threads) : add_up(p, threads);
}

#define EPIGRAF_INSTANTIATE(T)                                           \
  template int64_t winograd_scratch(const WinogradConvolution<T>&, int); \
  template int64_t winograd_scratch(const WinogradGradient<T>&, int);    \
  template void winograd_whole_cpu(const WinogradConvolution<T>&, int);  \
  template void winograd_whole_cpu(const WinogradGradient<T>&, int);

EPIGRAF_INSTANTIATE(float)
EPIGRAF_INSTANTIATE(double)

}  // namespace epigraf
