// Tri-plane look-up on a GPU (docs/math/triplane.md). A group of lanes of one warp shares a point
// (or a run of points) and each lane takes kBlock neighbouring channels, so that the group reads
// the line of memory that a tap's channels are. Where everything is aligned a block is 16 bytes,
// else one channel. grad_planes is summed by atomics, in whatever order the points come: two runs
// agree but for rounding. Everything else is bit-equal from run to run.
#include "epigraf/triplane.h"

#include "channels.cuh"
#include "device.cuh"

namespace epigraf {
namespace {

constexpr int kResident = 2;  // blocks on a multiprocessor: room for 128 registers, so none spills
constexpr int kGridHeight = 1024;  // batch elements beyond it wait for a block to be done
constexpr int kRun = 8;  // consecutive points whose plane gradients one group of lanes gathers

template <int kBlock, typename T, typename P>
__global__ void __launch_bounds__(kBlockThreads, kResident)
    triplane_forward_kernel(TriplaneForward<T, P> p, Lanes lanes) {
  const int64_t point = lanes.group();
  if (point >= p.shape.points) return;
  for (int64_t b = blockIdx.y; b < p.shape.batch; b += gridDim.y) {
    const int64_t row = b * p.shape.points + point;
    const P* planes = p.planes + b * p.shape.batch_stride;
    for (int64_t c = lanes.lane() * kBlock; c < p.shape.channels; c += lanes.count() * kBlock) {
      ChannelBlock<kBlock, P> features;
      triplane_point<kBlock>(planes + c * p.shape.channel_stride, p.points + row * 3, p.shape,
                             features.channels);
      store(p.features + row * p.shape.channels + c, features);
    }
  }
}

template <int kBlock, typename T, typename P>
__global__ void __launch_bounds__(kBlockThreads, kResident)
    triplane_backward_points_kernel(TriplaneBackward<T, P> p, Lanes lanes) {
  const int64_t point = lanes.group();
  const bool inside = point < p.shape.points;  // lanes without a point stay for the warp's sums
  for (int64_t b = blockIdx.y; b < p.shape.batch; b += gridDim.y) {
    const int64_t row = b * p.shape.points + point;
    const P* planes = p.planes + b * p.shape.batch_stride;
    const int64_t channels = inside ? p.shape.channels : 0;
    T grad_point[3] = {};
    for (int64_t c = lanes.lane() * kBlock; c < channels; c += lanes.count() * kBlock) {
      const auto grad = load<kBlock>(p.grad_features + row * p.shape.channels + c);
      triplane_point_vjp_point<kBlock>(planes + c * p.shape.channel_stride, p.points + row * 3,
                                       p.shape, grad.channels, grad_point);
    }
    for (int axis = 0; axis < 3; ++axis) {
      const T sum = sum_over_lanes(grad_point[axis], lanes.count());
      if (inside && lanes.lane() == 0) p.grad_points[row * 3 + axis] = sum;
    }
  }
}

// One plane (blockIdx.z), kRun points and kBlock channels a thread.
template <int kBlock, typename T, typename P>
__global__ void __launch_bounds__(kBlockThreads, kResident)
    triplane_backward_planes_kernel(TriplaneBackward<T, P> p, Lanes lanes) {
  const int plane = int(blockIdx.z);
  const int64_t first = lanes.group() * kRun;
  const int64_t end = first + kRun < p.shape.points ? first + kRun : p.shape.points;
  for (int64_t b = blockIdx.y; b < p.shape.batch; b += gridDim.y) {
    T* grad_plane = p.grad_planes + b * p.shape.batch_stride + plane * p.shape.plane_stride;
    for (int64_t c = lanes.lane() * kBlock; c < p.shape.channels; c += lanes.count() * kBlock) {
      CellGradient<kBlock, T> gathered;
      for (int64_t point = first; point < end; ++point) {
        const int64_t row = b * p.shape.points + point;
        const auto features = load<kBlock>(p.grad_features + row * p.shape.channels + c);
        const auto taps = plane_taps_of_point(p.points + row * 3, plane, p.shape);
        T grad[kBlock];
        for (int k = 0; k < kBlock; ++k) grad[k] = T(features[k]) / T(kPlanes);
        if (!gathered.holds(taps)) {
          gathered.flush(grad_plane + c * p.shape.channel_stride, p.shape);
          gathered.start(taps);
        }
        gathered.add(taps, grad);
      }
      gathered.flush(grad_plane + c * p.shape.channel_stride, p.shape);
    }
  }
}

// How a launch is laid out.
dim3 grid_for(const TriplaneShape& shape, int64_t groups, Lanes lanes, int planes, const char* op) {
  const int64_t batch = shape.batch < kGridHeight ? shape.batch : kGridHeight;
  return dim3(blocks_for(groups * lanes.count(), op), unsigned(batch), unsigned(planes));
}

template <int kBlock, typename T, typename P>
void launch_forward(const TriplaneForward<T, P>& p, cudaStream_t stream) {
  const Lanes lanes = lanes_for(p.shape.channels, kBlock);
  const dim3 grid = grid_for(p.shape, p.shape.points, lanes, 1, "triplane_forward");
  EPIGRAF_LAUNCH((triplane_forward_kernel<kBlock, T, P>), grid, kBlockThreads, 0, stream, p, lanes);
  check_cuda(cudaGetLastError(), "triplane_forward");
}

template <int kBlock, typename T, typename P>
void launch_backward(const TriplaneBackward<T, P>& p, cudaStream_t stream) {
  if (p.grad_planes) {
    constexpr int kHeld =
        kBlock > 4 ? 4 : kBlock;  // four cells of more would not fit the registers
    const Lanes lanes = lanes_for(p.shape.channels, kHeld);
    const int64_t runs = (p.shape.points + kRun - 1) / kRun;
    const dim3 grid = grid_for(p.shape, runs, lanes, kPlanes, "triplane_backward");
    EPIGRAF_LAUNCH((triplane_backward_planes_kernel<kHeld, T, P>), grid, kBlockThreads, 0, stream,
                   p, lanes);
    check_cuda(cudaGetLastError(), "triplane_backward");
  }
  if (p.grad_points) {
    const Lanes lanes = lanes_for(p.shape.channels, kBlock);
    const dim3 grid = grid_for(p.shape, p.shape.points, lanes, 1, "triplane_backward");
    EPIGRAF_LAUNCH((triplane_backward_points_kernel<kBlock, T, P>), grid, kBlockThreads, 0, stream,
                   p, lanes);
    check_cuda(cudaGetLastError(), "triplane_backward");
  }
}

}  // namespace

template <typename T, typename P>
void triplane_forward_cuda(const TriplaneForward<T, P>& p, Stream stream) {
  if (p.shape.batch == 0 || p.shape.points == 0) return;
  const DeviceGuard guard(stream.device, "triplane_forward");
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  if (vectors_fit(p.shape, p.planes) && aligned(p.features))
    launch_forward<kVector<P>>(p, handle);
  else
    launch_forward<1>(p, handle);
}

template <typename T, typename P>
void triplane_backward_cuda(const TriplaneBackward<T, P>& p, Stream stream) {
  if (p.shape.batch == 0 || p.shape.points == 0) return;
  const DeviceGuard guard(stream.device, "triplane_backward");
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  if (vectors_fit(p.shape, p.planes) && aligned(p.grad_features) && aligned(p.grad_planes))
    launch_backward<kVector<P>>(p, handle);
  else
    launch_backward<1>(p, handle);
}

template void triplane_forward_cuda(const TriplaneForward<float, float>&, Stream);
template void triplane_backward_cuda(const TriplaneBackward<float, float>&, Stream);
template void triplane_forward_cuda(const TriplaneForward<double, double>&, Stream);
template void triplane_backward_cuda(const TriplaneBackward<double, double>&, Stream);
template void triplane_forward_cuda(const TriplaneForward<float, Half>&, Stream);
template void triplane_backward_cuda(const TriplaneBackward<float, Half>&, Stream);
template void triplane_forward_cuda(const TriplaneForward<float, BFloat16>&, Stream);
template void triplane_backward_cuda(const TriplaneBackward<float, BFloat16>&, Stream);

}  // namespace epigraf
