// Occupancy grids on a GPU (docs/math/occupancy.md): a thread a word, a ray or a point.
#include "epigraf/occupancy.h"

#include "device.cuh"

namespace epigraf {
namespace {

__device__ inline int64_t thread_of_grid() {
  return int64_t(blockIdx.x) * kBlockThreads + threadIdx.x;
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) occupancy_dense_kernel(OccupancyBuild<T> p) {
  const int64_t i = thread_of_grid(), words = words_of_grid(p.resolution);
  if (i >= p.batch * words) return;
  p.dense[i] = dense_word(samples_of_grid(p, i / words), i % words);
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) occupancy_dilate_kernel(OccupancyBuild<T> p) {
  const int64_t i = thread_of_grid(), words = words_of_grid(p.resolution);
  if (i >= p.batch * words) return;
  p.words[i] = dilated_word(p.dense + i / words * words, p.resolution, i % words);
}

// Two blocks a multiprocessor: without that number 64 registers are taken, and one value spills.
template <typename T>
__global__ void __launch_bounds__(kBlockThreads, 2)
    occupancy_traverse_kernel(OccupancyTraverse<T> p) {
  const int64_t i = thread_of_grid();
  if (i < p.batch * p.rays) traverse_indexed_ray(p, i);
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) occupancy_lookup_kernel(OccupancyLookup<T> p) {
  const int64_t i = thread_of_grid();
  if (i >= p.batch * p.points) return;
  const OccupancyCells<T> grid = {
      p.resolution, p.words + i / p.points * words_of_grid(p.resolution), p.half_edge};
  p.occupied[i] = occupied_point(grid, p.coords + 3 * i);
}

}  // namespace

template <typename T>
void occupancy_build_cuda(const OccupancyBuild<T>& p, Stream stream) {
  const char* op = "occupancy_build";
  const int64_t words = p.batch * words_of_grid(p.resolution);
  if (words == 0) return;
  const DeviceGuard guard(stream.device, op);
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  const unsigned blocks = blocks_for(words, op);
  EPIGRAF_LAUNCH((occupancy_dense_kernel<T>), blocks, kBlockThreads, 0, handle, p);
  check_cuda(cudaGetLastError(), op);
  EPIGRAF_LAUNCH((occupancy_dilate_kernel<T>), blocks, kBlockThreads, 0, handle, p);
  check_cuda(cudaGetLastError(), op);
}

template <typename T>
void occupancy_traverse_cuda(const OccupancyTraverse<T>& p, Stream stream) {
  const char* op = "occupancy_traverse";
  const int64_t rays = p.batch * p.rays;
  if (rays == 0) return;
  const DeviceGuard guard(stream.device, op);
  EPIGRAF_LAUNCH((occupancy_traverse_kernel<T>), blocks_for(rays, op), kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), op);
}

template <typename T>
void occupancy_lookup_cuda(const OccupancyLookup<T>& p, Stream stream) {
  const char* op = "occupancy_lookup";
  const int64_t points = p.batch * p.points;
  if (points == 0) return;
  const DeviceGuard guard(stream.device, op);
  EPIGRAF_LAUNCH((occupancy_lookup_kernel<T>), blocks_for(points, op), kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), op);
}

template void occupancy_build_cuda<float>(const OccupancyBuild<float>&, Stream);
template void occupancy_build_cuda<double>(const OccupancyBuild<double>&, Stream);
template void occupancy_traverse_cuda<float>(const OccupancyTraverse<float>&, Stream);
template void occupancy_traverse_cuda<double>(const OccupancyTraverse<double>&, Stream);
template void occupancy_lookup_cuda<float>(const OccupancyLookup<float>&, Stream);
template void occupancy_lookup_cuda<double>(const OccupancyLookup<double>&, Stream);

}  // namespace epigraf
