// Resampling by two on a GPU (docs/math/resample.md). A thread makes a strip of a few rows, from
// the top down: along each row that it sees, then, as soon as a window of rows is full, down them.
// Threads lie along memory; neighbours find the pixels that they share in the first-level cache.
#include "epigraf/resample.h"

#include "channels.cuh"
#include "device.cuh"
#include "epigraf/half.h"

namespace epigraf {
namespace {

constexpr int kStrip = 4;  // steps down the rows

// Threads of a plane: blocks of lanes of a pixel, fastest, then steps along a row, then strips.
struct Layout {
  unsigned lane_blocks, columns, strips, threads;  // of 32 bits, whose division is not a call
};

// Where a thread works: `lane` of step `column` along the rows, from step `row` on down them.
struct Place {
  int64_t plane, row, column, lane;

  __device__ Place(const Layout& layout, unsigned thread, int block) {
    lane = int64_t(thread % layout.lane_blocks) * block;
    thread /= layout.lane_blocks;
    column = thread % layout.columns;
    thread /= layout.columns;
    row = int64_t(thread % layout.strips) * kStrip;
    plane = thread / layout.strips;
  }
};

// The pixels of one step along row `y` of x.
template <typename Map, int kBlock, typename T, typename P>
__device__ void along_row(const Resample<T, P>& p, const Place& at, int64_t y,
                          T (&made)[Map::kMade][kBlock]) {
  const ResampleShape& s = p.shape;
  T windows[kBlock][Map::kWindow];
  EPIGRAF_CUDA_UNROLL
  for (int i = 0; i < Map::kWindow; ++i) {
    const int64_t x = at.column * Map::kAdvance - s.pad + i;
    ChannelBlock<kBlock, P> pixel = {};
    if (y >= 0 && y < s.height && x >= 0 && x < s.width)
      pixel = load<kBlock>(p.x + ((at.plane * s.height + y) * s.width + x) * s.lanes() + at.lane);
    EPIGRAF_CUDA_UNROLL
    for (int k = 0; k < kBlock; ++k) windows[k][i] = T(pixel[k]);
  }
  const ResampleTaps<T> taps = resample_taps<Map>(p.gain);
  EPIGRAF_CUDA_UNROLL
  for (int i = 0; i < Map::kMade; ++i) {
    EPIGRAF_CUDA_UNROLL
    for (int k = 0; k < kBlock; ++k) made[i][k] = resample_pixel<Map>(taps, windows[k], i);
  }
}

template <typename Map, int kBlock, typename T, typename P>
__global__ void __launch_bounds__(kBlockThreads) resample_kernel(Resample<T, P> p, Layout layout) {
  const ResampleShape& s = p.shape;
  const unsigned thread = blockIdx.x * kBlockThreads + threadIdx.x;
  if (thread >= layout.threads) return;
  const Place at(layout, thread, kBlock);
  const int64_t height = s.made(s.height), width = s.made(s.width);
  const ResampleTaps<T> taps = resample_taps<Map>(T(1));
  T rows[Map::kWindow][Map::kMade][kBlock];  // go round
  EPIGRAF_CUDA_UNROLL
  for (int seen = 0; seen < int(Map::seen(kStrip)); ++seen) {
    along_row<Map>(p, at, at.row * Map::kAdvance - s.pad + seen, rows[seen % Map::kWindow]);
    const int first = seen + 1 - Map::kWindow;  // of the window
    if (first < 0 || first % Map::kAdvance != 0) continue;
    EPIGRAF_CUDA_UNROLL
    for (int i = 0; i < Map::kMade * Map::kMade; ++i) {
      const int64_t y = Map::place(at.row + first / Map::kAdvance) + i / Map::kMade;
      const int64_t x = Map::place(at.column) + i % Map::kMade;
      ChannelBlock<kBlock, P> pixel;
      EPIGRAF_CUDA_UNROLL
      for (int k = 0; k < kBlock; ++k) {
        T window[Map::kWindow];
        EPIGRAF_CUDA_UNROLL
        for (int j = 0; j < Map::kWindow; ++j)
          window[j] = rows[(first + j) % Map::kWindow][i % Map::kMade][k];
        pixel.channels[k] = P(resample_pixel<Map>(taps, window, i / Map::kMade));
      }
      if (y >= 0 && y < height && x >= 0 && x < width)
        store(p.y + ((at.plane * height + y) * width + x) * s.lanes() + at.lane, pixel);
    }
  }
}

template <typename Map, int kBlock, typename T, typename P>
void launch(const Resample<T, P>& p, cudaStream_t stream) {
  const ResampleShape& s = p.shape;
  const int64_t lane_blocks = s.lanes() / kBlock, columns = Map::count(s.made(s.width));
  const int64_t strips = (Map::count(s.made(s.height)) + kStrip - 1) / kStrip;
  const int64_t threads = s.planes() * strips * columns * lane_blocks;
  if (threads == 0) return;
  if (threads > std::numeric_limits<int>::max())
    throw std::runtime_error("resample: too many elements for one launch");
  const Layout layout = {unsigned(lane_blocks), unsigned(columns), unsigned(strips),
                         unsigned(threads)};
  EPIGRAF_LAUNCH((resample_kernel<Map, kBlock, T, P>), blocks_for(threads, "resample"),
                 kBlockThreads, 0, stream, p, layout);
  check_cuda(cudaGetLastError(), "resample");
}

// Blocks of kVector channels where every one starts at 16 bytes.
template <typename Map, typename T, typename P>
void launch_map(const Resample<T, P>& p, Stream stream) {
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  if (p.shape.lanes() % kVector<P> == 0 && aligned(p.x) && aligned(p.y)) {
    launch<Map, kVector<P>>(p, handle);
  } else {
    launch<Map, 1>(p, handle);
  }
}

}  // namespace

template <typename T, typename P>
void resample_cuda(const Resample<T, P>& p, Stream stream) {
  const DeviceGuard guard(stream.device, "resample");
  switch (p.shape.map) {
    case ResampleMap::blur:
      return launch_map<Blur>(p, stream);
    case ResampleMap::down:
      return launch_map<Down>(p, stream);
    case ResampleMap::up:
      return launch_map<Up>(p, stream);
  }
}

template void resample_cuda(const Resample<float, float>&, Stream);
template void resample_cuda(const Resample<double, double>&, Stream);
template void resample_cuda(const Resample<float, Half>&, Stream);
template void resample_cuda(const Resample<float, BFloat16>&, Stream);

}  // namespace epigraf
