// Rays of a patch, and rays in a ball, on a GPU (docs/math/rays.md): a thread a ray.
#include "epigraf/rays.h"

#include "device.cuh"

namespace epigraf {
namespace {

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) patch_rays_kernel(PatchRays<T> p) {
  const int64_t ray = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (ray >= p.batch * p.height * p.width) return;
  const int64_t row = ray / p.width % p.height, column = ray % p.width;
  const PatchCamera<T> camera = patch_camera(p, ray / (p.width * p.height));
  const T x = place_of_column(p, camera, column), y = place_of_row(p, camera, row);
  T* d = p.directions + 3 * ray;
  ray_direction(camera, x, y, d[0], d[1], d[2]);
  for (int i = 0; i < 3; ++i) p.origins[3 * ray + i] = camera.cam2world[4 * i + 3];
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) ball_segments_kernel(BallSegments<T> p) {
  const int64_t ray = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (ray < p.rays) find_ball_segment(p, ray);
}

}  // namespace

template <typename T>
void patch_rays_cuda(const PatchRays<T>& p, Stream stream) {
  const int64_t rays = p.batch * p.height * p.width;
  if (rays == 0) return;
  const DeviceGuard guard(stream.device, "patch_rays");
  EPIGRAF_LAUNCH((patch_rays_kernel<T>), blocks_for(rays, "patch_rays"), kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), "patch_rays");
}

template <typename T>
void ball_segments_cuda(const BallSegments<T>& p, Stream stream) {
  if (p.rays == 0) return;
  const DeviceGuard guard(stream.device, "ball_segment");
  EPIGRAF_LAUNCH((ball_segments_kernel<T>), blocks_for(p.rays, "ball_segment"), kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), "ball_segment");
}

template void ball_segments_cuda<float>(const BallSegments<float>&, Stream);
template void ball_segments_cuda<double>(const BallSegments<double>&, Stream);
template void patch_rays_cuda<float>(const PatchRays<float>&, Stream);
template void patch_rays_cuda<double>(const PatchRays<double>&, Stream);

}  // namespace epigraf
