// Threads and SIMD around winograd.h: a task is a tile, and its channels are the lanes.
#include "epigraf/winograd.h"

#include <algorithm>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "simd.h"

namespace epigraf {
namespace {

constexpr int64_t kTilesPerTask = 4;

// Channels [c, c + lanes) of a tile. Pixels outside of the picture are read from a line of zeros:
// no branch.
template <typename Transform, typename S, typename T>
EPIGRAF_HD void block_to_points(const WinogradTiles<T>& p, TilePlace at, int64_t slot, int64_t c) {
  using Vector = typename S::Vector;
  constexpr int m = Transform::kPixels;
  alignas(64) const T zeros[S::kLanes] = {};
  const T* picture = p.pixels + at.batch * p.height * p.width * p.channels + c;
  bool inside[m];
  for (int j = 0; j < m; ++j) inside[j] = at.column + j >= 0 && at.column + j < p.width;
  T* points = p.points + slot * p.channels + c;
  square_to_points<Transform, Vector>(
      [&](int i, int j) EPIGRAF_INLINE_LAMBDA {
        const int64_t y = at.row + i;
        const T* pixel = picture + (y * p.width + at.column + j) * p.channels;
        return S::load(inside[j] & (y >= 0) & (y < p.height) ? pixel : zeros);
      },
      [&](int place, Vector v) EPIGRAF_INLINE_LAMBDA { S::store(points + place * p.step, v); });
}

template <typename Transform, typename S, typename T>
EPIGRAF_HD void block_from_points(const WinogradTiles<T>& p, TilePlace at, int64_t slot,
                                  int64_t c) {
  using Vector = typename S::Vector;
  T* picture = p.pixels + at.batch * p.height * p.width * p.channels + c;
  const T* points = p.points + slot * p.channels + c;
  square_from_points<Transform, Vector>(
      [&](int place) EPIGRAF_INLINE_LAMBDA { return S::load(points + place * p.step); },
      [&](int i, int j, Vector v) EPIGRAF_INLINE_LAMBDA {
        const int64_t y = at.row + i, x = at.column + j;
        if (y < p.height && x < p.width) S::store(picture + (y * p.width + x) * p.channels, v);
      });
}

template <typename Transform, typename S, typename T>
EPIGRAF_HD void block(const WinogradTiles<T>& p, TilePlace at, int64_t slot, int64_t c) {
  if constexpr (Transform::kToPixels) {
    block_from_points<Transform, S>(p, at, slot, c);
  } else {
    block_to_points<Transform, S>(p, at, slot, c);
  }
}

// Tiles [begin, end) of the run.
template <typename Transform, int kBytes, typename T>
EPIGRAF_HD void tiles(const WinogradTiles<T>& p, int64_t begin, int64_t end) {
  using S = Simd<T, kBytes>;
  using One = Simd<T, sizeof(T)>;
  for (int64_t slot = begin; slot < end; ++slot) {
    const TilePlace at = tile_place<Transform>(p, p.first + slot);
    int64_t c = 0;
    for (; c + S::kLanes <= p.channels; c += S::kLanes) block<Transform, S>(p, at, slot, c);
    for (; c < p.channels; ++c) block<Transform, One>(p, at, slot, c);
  }
}

template <typename Transform, typename T>
void run(const WinogradTiles<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < p.count; begin += kTilesPerTask) {
      const int64_t end = std::min(begin + kTilesPerTask, p.count);
      Clone<bytes()>::run([&]()
                              EPIGRAF_INLINE_LAMBDA { tiles<Transform, bytes()>(p, begin, end); });
    }
  });
}

}  // namespace

template <typename T>
void winograd_cpu(const WinogradTiles<T>& p, int threads) {
  switch (p.transform) {
    case WinogradTransform::stride1_input:
      return run<Stride1Input<T>>(p, threads);
    case WinogradTransform::stride1_output:
      return run<Stride1Output<T>>(p, threads);
    case WinogradTransform::stride1_output_adjoint:
      return run<Stride1OutputAdjoint<T>>(p, threads);
    case WinogradTransform::stride2_input:
      return run<Stride2Input<T>>(p, threads);
    case WinogradTransform::stride2_output:
      return run<Stride2Output<T>>(p, threads);
    case WinogradTransform::stride2_output_adjoint:
      return run<Stride2OutputAdjoint<T>>(p, threads);
    case WinogradTransform::transposed_input:
      return run<TransposedInput<T>>(p, threads);
    case WinogradTransform::transposed_output:
      return run<TransposedOutput<T>>(p, threads);
  }
}

template void winograd_cpu(const WinogradTiles<float>&, int);
template void winograd_cpu(const WinogradTiles<double>&, int);

}  // namespace epigraf
