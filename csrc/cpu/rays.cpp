// Threads and SIMD around rays.h: a task is a row of pixels, or a run of rays.
#include "epigraf/rays.h"

#include <algorithm>

#include "clones.h"
#include "epigraf/launch.h"

namespace epigraf {
namespace {

constexpr int64_t kBlock = 64;  // pixels, whose directions are turned from lanes into triples

template <typename T>
EPIGRAF_HD void pixel_row(const PatchRays<T>& p, int64_t index) {
  const int64_t b = index / p.height, row = index % p.height;
  const PatchCamera<T> camera = patch_camera(p, b);
  const T y = place_of_row(p, camera, row);
  const T ox = camera.cam2world[3], oy = camera.cam2world[7], oz = camera.cam2world[11];
  T *origins = p.origins + index * p.width * 3, *directions = p.directions + index * p.width * 3;
  for (int64_t first = 0; first < p.width; first += kBlock) {
    const int64_t count = std::min(kBlock, p.width - first);
    T x[kBlock], along[3][kBlock];
    for (int64_t i = 0; i < count; ++i) x[i] = place_of_column(p, camera, first + i);
    EPIGRAF_SIMD
    for (int64_t i = 0; i < count; ++i) {
      T u, v, w;
      ray_direction(camera, x[i], y, u, v, w);
      along[0][i] = u;
      along[1][i] = v;
      along[2][i] = w;
    }
    for (int64_t i = 0; i < count; ++i) {
      T *origin = origins + 3 * (first + i), *direction = directions + 3 * (first + i);
      direction[0] = along[0][i];
      direction[1] = along[1][i];
      direction[2] = along[2][i];
      origin[0] = ox;
      origin[1] = oy;
      origin[2] = oz;
    }
  }
}

// target_clones does not apply to templates: one function for each type.
EPIGRAF_CLONES void row_clones(const PatchRays<float>& p, int64_t index) {
  pixel_row(p, index);
}
EPIGRAF_CLONES void row_clones(const PatchRays<double>& p, int64_t index) {
  pixel_row(p, index);
}

constexpr int64_t kRun = 4096;  // rays

template <typename T>
EPIGRAF_HD void segment_run(const BallSegments<T>& p, int64_t first) {
  const int64_t end = std::min(first + kRun, p.rays);
  EPIGRAF_SIMD
  for (int64_t ray = first; ray < end; ++ray) find_ball_segment(p, ray);
}

EPIGRAF_CLONES void run_clones(const BallSegments<float>& p, int64_t first) {
  segment_run(p, first);
}
EPIGRAF_CLONES void run_clones(const BallSegments<double>& p, int64_t first) {
  segment_run(p, first);
}

}  // namespace

template <typename T>
void ball_segments_cpu(const BallSegments<T>& params, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t first = 0; first < params.rays; first += kRun) run_clones(params, first);
}

template void ball_segments_cpu(const BallSegments<float>&, int);
template void ball_segments_cpu(const BallSegments<double>&, int);

template <typename T>
void patch_rays_cpu(const PatchRays<T>& params, int threads) {
  const int64_t rows = params.batch * params.height;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t index = 0; index < rows; ++index) row_clones(params, index);
}

template void patch_rays_cpu(const PatchRays<float>&, int);
template void patch_rays_cpu(const PatchRays<double>&, int);

}  // namespace epigraf
