// Importance samples and their merge on a GPU (docs/math/render.md). One warp to a ray: its
// distribution function is a scan over the lanes into shared memory, its draws and its samples are
// shared among the lanes. Every ray is one warp's work: two runs agree bit for bit.
#include "epigraf/importance.h"

#include "device.cuh"

namespace epigraf {
namespace {

constexpr int kResident = 2;  // blocks on a multiprocessor: room for 128 registers, so none spills
constexpr int64_t kSharedBytes = 48 * 1024;  // what every device gives a block without asking

// In each lane, the sum of the values of this lane and all below it.
__device__ double sum_up_to_lane(double value) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const double below = __shfl_up_sync(kAllLanes, value, offset);
    if (lane_index() >= offset) value += below;
  }
  return value;
}

// importance_cdf by a warp; `cdf` is shared memory.
template <typename T>
__device__ void importance_cdf_of_warp(const T* weights, int64_t samples, T* cdf) {
  const int64_t last = samples - 1;  // of the inner samples 1 ... S - 2, one after
  double sum = 0, total = 0;
  for (int64_t k = 1 + lane_index(); k < last; k += kWarp) sum += importance_mass(weights[k]);
  sum = sum_over_warp(sum);
  if (lane_index() == 0) cdf[0] = T(0);
  for (int64_t chunk = 1; chunk < last; chunk += kWarp) {
    const int64_t k = chunk + lane_index();
    const double up_to = sum_up_to_lane(k < last ? importance_mass(weights[k]) / sum : 0.0);
    if (k < last) cdf[k] = T(total + up_to);
    total += __shfl_sync(kAllLanes, up_to, kWarp - 1);
  }
  __syncwarp();
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) importance_forward_kernel(ImportanceForward<T> p) {
  EPIGRAF_DYNAMIC_SHARED(T, shared);
  const int64_t ray = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (ray >= p.rays) return;  // a whole warp
  T* cdf = shared + threadIdx.x / kWarp * (p.samples - 1);
  importance_cdf_of_warp(p.weights + ray * p.samples, p.samples, cdf);
  for (int64_t i = lane_index(); i < p.draws; i += kWarp) {
    const T u = p.u[ray * p.u_stride + i];
    const int64_t above = importance_above(cdf, p.samples, u);
    p.depths[ray * p.draws + i] = importance_depth(p.t + ray * p.samples, cdf, p.samples, above, u);
  }
}

__device__ int64_t ray_of_warp() {
  return (int64_t(blockIdx.x) * kBlockThreads + threadIdx.x) / kWarp;
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) merge_forward_kernel(MergeForward<T> p) {
  const MergeShape& s = p.shape;
  const int64_t ray = ray_of_warp(), all = s.fine + s.coarse;
  if (ray >= s.rays) return;
  for (int64_t k = lane_index(); k < all; k += kWarp) {
    const int64_t place =
        merge_rank(p.fine.t + ray * s.fine, s.fine, p.coarse.t + ray * s.coarse, s.coarse, k);
    p.order[ray * all + place] = int32_t(k);
    merge_sample(p, ray, k, place);
  }
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads, kResident)
    merge_backward_kernel(MergeBackward<T> p) {
  const int64_t ray = ray_of_warp(), all = p.shape.fine + p.shape.coarse;
  if (ray >= p.shape.rays) return;
  for (int64_t place = lane_index(); place < all; place += kWarp) merge_sample_vjp(p, ray, place);
}

}  // namespace

template <typename T>
void importance_forward_cuda(const ImportanceForward<T>& p, Stream stream) {
  if (p.rays == 0 || p.draws == 0) return;
  const DeviceGuard guard(stream.device, "importance_forward");
  const int64_t bytes = (p.samples - 1) * int64_t(sizeof(T));  // of one warp
  if (bytes > kSharedBytes)
    throw std::runtime_error("importance_forward: too many samples for one ray: " +
                             std::to_string(p.samples));
  int warps = kBlockThreads / kWarp;
  while (warps * bytes > kSharedBytes) warps /= 2;
  const int threads = warps * kWarp;
  const unsigned grid = blocks_for((p.rays + warps - 1) / warps * kBlockThreads, "importance");
  EPIGRAF_LAUNCH((importance_forward_kernel<T>), grid, threads, size_t(warps * bytes),
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), "importance_forward");
}

template <typename T>
void merge_forward_cuda(const MergeForward<T>& p, Stream stream) {
  if (p.shape.rays == 0) return;
  const DeviceGuard guard(stream.device, "merge_forward");
  const unsigned grid = blocks_for(p.shape.rays * kWarp, "merge_forward");
  EPIGRAF_LAUNCH((merge_forward_kernel<T>), grid, kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), "merge_forward");
}

template <typename T>
void merge_backward_cuda(const MergeBackward<T>& p, Stream stream) {
  if (p.shape.rays == 0) return;
  const DeviceGuard guard(stream.device, "merge_backward");
  const unsigned grid = blocks_for(p.shape.rays * kWarp, "merge_backward");
  EPIGRAF_LAUNCH((merge_backward_kernel<T>), grid, kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), "merge_backward");
}

template void importance_forward_cuda<float>(const ImportanceForward<float>&, Stream);
template void importance_forward_cuda<double>(const ImportanceForward<double>&, Stream);
template void merge_forward_cuda<float>(const MergeForward<float>&, Stream);
template void merge_forward_cuda<double>(const MergeForward<double>&, Stream);
template void merge_backward_cuda<float>(const MergeBackward<float>&, Stream);
template void merge_backward_cuda<double>(const MergeBackward<double>&, Stream);

}  // namespace epigraf
