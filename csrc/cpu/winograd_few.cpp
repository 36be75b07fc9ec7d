// Convolutions of few tiles: their weights would be read from memory and, 36 numbers for nine taps,
// be written there, only to meet a few rows. A core takes a panel of channels instead, with all of
// its points, and keeps them and a block of the weights at a time in its second cache.
#include <algorithm>

#include "epigraf/launch.h"
#include "winograd_blocks.h"
#include "winograd_parts.h"

namespace epigraf {
namespace {

constexpr int64_t kRun = 128;                              // tiles of a sum at a time
constexpr int64_t kValuesStep = kBlock * kPanel + kApart;  // from a point of kernels to the next

// Numbers of the points of a block of channels.
template <typename T>
int64_t block_points(const WinogradTiles<T>& p, int stride) {
  return count_points(stride) * step_of(stride, room_of(stride, p.count), kBlock);
}

// ... of all of them.
template <typename T>
int64_t all_points(const WinogradTiles<T>& p, int stride) {
  return whole_panels(p.channels) / kBlock * block_points(p, stride);
}

// ... of both pictures of a use.
template <typename T>
int64_t use_points(const WinogradGradient<T>& p) {
  return all_points(p.left, p.kernels.stride) + all_points(p.right, p.kernels.stride);
}

// The tiles of a block of channels from `first` on.
template <typename T>
WinogradTiles<T> block_of(const WinogradTiles<T>& p, int64_t first, int stride) {
  WinogradTiles<T> block = p;
  block.taken = std::min(kBlock, p.channels - first);
  block.line = kBlock;
  block.step = step_of(stride, room_of(stride, p.count), kBlock);
  block.pixels += first;
  block.points += first / kBlock * block_points(p, stride);
  return block;
}

// A block of kernels, and where its points lie.
template <typename T>
WinogradKernels<T> block_of(const WinogradKernels<T>& p, int64_t row, int64_t column, T* points) {
  WinogradKernels<T> block = p;
  block.taps += row * p.row_step + column * p.column_step;
  block.rows = std::min(kBlock, p.rows - row);
  block.columns = std::min(kPanel, p.columns - column);
  block.width = kPanel;
  block.points = points;
  block.step = kValuesStep;
  return block;
}

// Calls body(weight, first point, copies).
template <typename Body>
void for_weights(int stride, Body body) {
  for_groups(stride, [&](int64_t weight, int64_t weights, int64_t point, int64_t copies) {
    for (int64_t i = 0; i < weights; ++i) body(weight + i, point + i * copies, copies);
  });
}

// The points of all tiles, block by block, and zeros in the room that is left.
template <typename Transform, int kBytes, typename T>
void read_all(const WinogradTiles<T>& p, int stride, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (int64_t channel = 0; channel < p.channels; channel += kBlock)
    for (int64_t begin = 0; begin < p.count; begin += kTilesPerTask) {
      const WinogradTiles<T> block = block_of(p, channel, stride);
      const int64_t end = std::min(begin + kTilesPerTask, p.count);
      Clone<kBytes>::run(
          [&]() EPIGRAF_INLINE_LAMBDA { picture_tiles<Transform, kBytes>(block, begin, end); });
      if (end < p.count || room_of(stride, p.count) == p.count) continue;
      for (int64_t point = 0; point < count_points(stride); ++point)
        std::fill_n(block.points + point * block.step + p.count * kBlock, kBlock, T(0));
    }
}

// All points of a panel of columns, and the pixels that come of them.
template <typename Kernel, typename Write, int kBytes, typename T>
void panel_of(const WinogradConvolution<T>& p, int64_t column, T* scratch) {
  const int stride = p.kernels.stride;
  T* const values = scratch;
  WinogradTiles<T> to = block_of(p.write, 0, stride);
  to.pixels += column;
  to.taken = std::min(kPanel, to.channels - column);
  to.points = values + kWeights * kValuesStep;
  const Strips<T> strips(p, to.points + block_points(p.write, stride));
  for (int64_t first = 0; first < p.kernels.rows; first += kBlock) {
    const WinogradTiles<T> from = block_of(p.read, first, stride);
    const WinogradKernels<T> k = block_of(p.kernels, first, column, values);
    Clone<kBytes>::run(
        [&]() EPIGRAF_INLINE_LAMBDA { kernel_rows<Kernel, kBytes>(k, 0, k.rows, 0, k.columns); });
    for_weights(stride, [&](int64_t weight, int64_t point, int64_t copies) {
      const Matrix<T> left{from.points + point * from.step, from.line, 1};
      const int64_t rows = copies * room_of(stride, from.count);
      Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA {
        panel_rows<kBytes>(left, rows, values + weight * kValuesStep, k.rows, first > 0,
                           to.points + point * to.step, kPanel);
      });
    });
    if (strips.any()) strips.template add<kBytes>(from.pixels, from.channels, k, first > 0);
  }
  Clone<kBytes>::run([&]()
                         EPIGRAF_INLINE_LAMBDA { picture_tiles<Write, kBytes>(to, 0, to.count); });
  strips.write(to);
}

// Scratch of a thread.
template <typename T>
int64_t own_scratch(const WinogradConvolution<T>& p) {
  const int64_t strips = Strips<T>(p, nullptr).scratch();
  return kWeights * kValuesStep + block_points(p.write, p.kernels.stride) + strips;
}

template <typename Kernel, typename Read, typename Write, typename T>
void convolve(const WinogradConvolution<T>& p, int threads) {
  const int stride = p.kernels.stride;
  with_vectors([&](auto bytes) {
    WinogradConvolution<T> placed = p;
    placed.read.points = p.scratch;
    read_all<Read, bytes()>(placed.read, stride, threads);
    T* const own = p.scratch + all_points(p.read, stride);
    share_out(whole_panels(p.kernels.columns) / kPanel, threads, [&](int64_t panel, int worker) {
      panel_of<Kernel, Write, bytes()>(placed, panel * kPanel, own + worker * own_scratch(p));
    });
  });
}

// Sums of a block of rows and a panel over all uses, whose points lie one after another, and the
// taps that come of them.
template <typename Kernel, int kBytes, typename T>
void sums_of(const WinogradGradient<T>& p, int64_t row, int64_t column, T* scratch) {
  const int stride = p.kernels.stride;
  const int64_t between = use_points(p), room = room_of(stride, p.left.count);
  const WinogradTiles<T> left = block_of(p.left, row, stride);
  const WinogradTiles<T> right = block_of(p.right, column, stride);
  const WinogradKernels<T> k = block_of(p.kernels, row, column, scratch);
  for_weights(stride, [&](int64_t weight, int64_t point, int64_t copies) {
    for (int64_t use = 0; use < p.uses; ++use)
      for (int64_t first = 0; first < copies * room; first += kRun) {
        const int64_t at = use * between + first * kBlock;
        const Matrix<T> turned{left.points + point * left.step + at, 1, kBlock};
        const T* panel = right.points + point * right.step + at;
        const int64_t depth = std::min(kRun, copies * room - first);
        Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA {
          panel_rows<kBytes>(turned, k.rows, panel, depth, use + first > 0,
                             scratch + weight * kValuesStep, kPanel);
        });
      }
  });
  Clone<kBytes>::run(
      [&]() EPIGRAF_INLINE_LAMBDA { kernel_rows<Kernel, kBytes>(k, 0, k.rows, 0, k.columns); });
}

template <typename Kernel, typename T>
void add_up(const WinogradGradient<T>& p, int threads) {
  const int stride = p.kernels.stride;
  with_vectors([&](auto bytes) {
    WinogradGradient<T> placed = p;
    placed.left.points = p.scratch;
    placed.right.points = p.scratch + all_points(p.left, stride);
    for (int64_t use = 0; use < p.uses; ++use)
      for (int side = 0; side < 2; ++side) {
        WinogradTiles<T> tiles = placed.tiles(use, side);
        tiles.points += use * use_points(p);
        with_transform<T>(tiles.transform, [&](auto transform) {
          if constexpr (!decltype(transform)::kToPixels)
            read_all<decltype(transform), bytes()>(tiles, stride, threads);
        });
      }
    T* const own = p.scratch + p.uses * use_points(p);
    const int64_t panels = whole_panels(p.kernels.columns) / kPanel;
    const int64_t blocks = whole_panels(p.kernels.rows) / kBlock;
    share_out(blocks * panels, threads, [&](int64_t block, int worker) {
      sums_of<Kernel, bytes()>(placed, block / panels * kBlock, block % panels * kPanel,
                               own + worker * kWeights * kValuesStep);
    });
  });
}

}  // namespace

template <typename T>
int64_t winograd_few_scratch(const WinogradConvolution<T>& p, int threads) {
  return all_points(p.read, p.kernels.stride) + threads * own_scratch(p);
}

template <typename T>
int64_t winograd_few_scratch(const WinogradGradient<T>& p, int threads) {
  return p.uses * use_points(p) + threads * kWeights * kValuesStep;
}

template <typename T>
void winograd_few_cpu(const WinogradConvolution<T>& p, int threads) {
  if (p.kernels.stride == 1)
    return convolve<Stride1Kernel<T>, Stride1Input<T>, Stride1Output<T>>(p, threads);
  if (p.write.transform == WinogradTransform::stride2_output)
    return convolve<Stride2Kernel<T>, Stride2Input<T>, Stride2Output<T>>(p, threads);
  return convolve<Stride2Kernel<T>, TransposedInput<T>, TransposedOutput<T>>(p, threads);
}

template <typename T>
void winograd_few_cpu(const WinogradGradient<T>& p, int threads) {
  return p.kernels.stride == 1 ? add_up<Stride1KernelAdjoint<T>>(p, threads)
                               : add_up<Stride2KernelAdjoint<T>>(p, threads);
}

#define EPIGRAF_INSTANTIATE(T)                                               \
  template int64_t winograd_few_scratch(const WinogradConvolution<T>&, int); \
  template int64_t winograd_few_scratch(const WinogradGradient<T>&, int);    \
  template void winograd_few_cpu(const WinogradConvolution<T>&, int);        \
  template void winograd_few_cpu(const WinogradGradient<T>&, int);

EPIGRAF_INSTANTIATE(float)
EPIGRAF_INSTANTIATE(double)

}  // namespace epigraf
