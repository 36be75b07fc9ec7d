// Threads around occupancy.h: a task is a run of words, rays or points.
#include "epigraf/occupancy.h"

#include "clones.h"
#include "epigraf/launch.h"

namespace epigraf {
namespace {

constexpr int64_t kRaysOfTask = 64, kPointsOfTask = 4096;

// target_clones does not apply to templates: one function for each type.
template <typename T>
EPIGRAF_HD void traverse_run(const OccupancyTraverse<T>& p, int64_t first, int64_t last) {
  for (int64_t index = first; index < last; ++index) traverse_indexed_ray(p, index);
}
EPIGRAF_CLONES void traverse_clones(const OccupancyTraverse<float>& p, int64_t first,
                                    int64_t last) {
  traverse_run(p, first, last);
}
EPIGRAF_CLONES void traverse_clones(const OccupancyTraverse<double>& p, int64_t first,
                                    int64_t last) {
  traverse_run(p, first, last);
}

// Calls run(first, last) for runs of at most `most` of `count`.
template <typename Run>
void in_runs(int64_t count, int64_t most, int threads, Run run) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t first = 0; first < count; first += most) {
    run(first, first + most < count ? first + most : count);
  }
}

}  // namespace

template <typename T>
void occupancy_build_cpu(const OccupancyBuild<T>& params, int threads) {
  const int64_t n = params.resolution, words = words_of_grid(n), row = n * n / kCellsOfWord;
  in_runs(params.batch * words, row, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      params.dense[i] = dense_word(samples_of_grid(params, i / words), i % words);
    }
  });
  in_runs(params.batch * words, row, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      params.words[i] = dilated_word(params.dense + i / words * words, n, i % words);
    }
  });
}

template <typename T>
void occupancy_traverse_cpu(const OccupancyTraverse<T>& params, int threads) {
  in_runs(params.batch * params.rays, kRaysOfTask, threads,
          [&](int64_t first, int64_t last) { traverse_clones(params, first, last); });
}

template <typename T>
void occupancy_lookup_cpu(const OccupancyLookup<T>& p, int threads) {
  const int64_t words = words_of_grid(p.resolution);
  in_runs(p.batch * p.points, kPointsOfTask, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const OccupancyCells<T> grid = {p.resolution, p.words + i / p.points * words, p.half_edge};
      p.occupied[i] = occupied_point(grid, p.coords + 3 * i);
    }
  });
}

template void occupancy_build_cpu(const OccupancyBuild<float>&, int);
template void occupancy_build_cpu(const OccupancyBuild<double>&, int);
template void occupancy_traverse_cpu(const OccupancyTraverse<float>&, int);
template void occupancy_traverse_cpu(const OccupancyTraverse<double>&, int);
template void occupancy_lookup_cpu(const OccupancyLookup<float>&, int);
template void occupancy_lookup_cpu(const OccupancyLookup<double>&, int);

}  // namespace epigraf
