// Threads and SIMD around winograd.h: a task is a tile, and its channels are the lanes.
#include "epigraf/winograd.h"

#include <algorithm>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "winograd_blocks.h"

namespace epigraf {
namespace {

template <typename Transform, typename T>
void run(const WinogradTiles<T>& p, int threads) {
  with_vectors([&](auto bytes) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < p.count; begin += kTilesPerTask) {
      const int64_t end = std::min(begin + kTilesPerTask, p.count);
      Clone<bytes()>::run(
          [&]() EPIGRAF_INLINE_LAMBDA { picture_tiles<Transform, bytes()>(p, begin, end); });
    }
  });
}

}  // namespace

template <typename T>
void winograd_cpu(const WinogradTiles<T>& p, int threads) {
  with_transform<T>(p.transform, [&](auto transform) { run<decltype(transform)>(p, threads); });
}

template void winograd_cpu(const WinogradTiles<float>&, int);
template void winograd_cpu(const WinogradTiles<double>&, int);

}  // namespace epigraf
