// Compositing on a GPU (docs/math/composite.md). One warp to a ray and one lane to a sample: a
// ray's rows are read and written in lines, and the running transmittance is a scan over the lanes.
// Rays of more than 32 samples are taken in chunks of 32, which hand the transmittance on.
#include "epigraf/composite.h"

#include "device.cuh"
#include "transmittance.cuh"

namespace epigraf {
namespace {

constexpr int kResident = 4;  // blocks on a multiprocessor: room for 64 registers, so none spills

__device__ int64_t ray_index() {
  return (int64_t(blockIdx.x) * kBlockThreads + threadIdx.x) / kWarp;
}

// The sample of one lane: its own interval, and what reaches it.
template <typename T>
struct Sample {
  int64_t k;
  bool exists;
  T thickness;      // delta sigma
  T transmittance;  // T_k
  T weight;         // before the last_back edit
};

// The samples of one chunk of a ray. `transmittance` reaches the chunk on entry, leaves it on
// return.
template <typename T>
__device__ Sample<T> absorb_chunk(const CompositeRay<T>& ray, int64_t samples, int64_t chunk,
                                  T& transmittance) {
  Sample<T> s = {};
  s.k = chunk + lane_index();
  s.exists = s.k < samples;
  T through = 1;  // the factor from T_k to T_{k+1}
  if (s.exists) {
    s.thickness = composite_delta(ray, s.k, samples) * ray.densities[s.k];
    composite_step(s.thickness, through);
  }
  s.transmittance = product_below(through, transmittance);
  T after = s.transmittance;
  if (s.exists) s.weight = composite_step(s.thickness, after);
  return s;
}

// The weight after the last_back edit (composite 5). `opacity` is the sum of all weights up to and
// including this chunk.
template <typename T>
__device__ T edited_weight(const Sample<T>& s, const CompositeShape& shape, T opacity) {
  const bool last = s.k + 1 == shape.samples;
  return shape.last_back && last ? s.weight + (T(1) - opacity) : s.weight;
}

// The samples behind an early stop: no weight but for the last_back edit. Adds to the lane's depth.
template <typename T>
__device__ void leave_out(const CompositeRay<T>& ray, const CompositeShape& shape,
                          const CompositeOut<T>& out, int64_t lit, T opacity, T& depth) {
  for (int64_t k = lit + lane_index(); k < shape.samples; k += kWarp) {
    out.weights[k] = shape.last_back && k + 1 == shape.samples ? T(1) - opacity : T(0);
    depth += out.weights[k] * ray.t[k];
  }
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) composite_forward_kernel(CompositeForward<T> p) {
  const int64_t index = ray_index(), samples = p.shape.samples, channels = p.shape.channels;
  if (index >= p.shape.rays) return;  // a whole warp
  const CompositeRay<T> ray = ray_of(p, index);
  const CompositeOut<T> out = out_of_ray(p, index);
  T transmittance = 1, opacity = 0, depth = 0;
  const T eps = T(p.shape.early_stop_eps);
  int64_t lit = samples;  // samples in front of the early stop
  if (samples == 0 && lane_index() == 0) *out.transmittance = T(1);
  for (int64_t chunk = 0; chunk < lit; chunk += kWarp) {
    const Sample<T> s = absorb_chunk(ray, samples, chunk, transmittance);
    const int lanes = eps > T(0) ? lanes_before(s.exists && s.transmittance < eps) : kWarp;
    if (lanes < kWarp) lit = chunk + lanes;
    opacity += sum_over_warp(s.k < lit ? s.weight : T(0));
    if (s.k == lit && s.exists) *out.transmittance = s.transmittance;
    if (s.k >= lit) continue;
    const T weight = edited_weight(s, p.shape, opacity);
    out.weights[s.k] = weight;
    depth += weight * ray.t[s.k];
    if (s.k + 1 == samples) *out.transmittance = s.transmittance;
  }
  leave_out(ray, p.shape, out, lit, opacity, depth);
  depth = sum_over_warp(depth);
  if (lane_index() == 0) *out.depth = depth;
  if (lane_index() == 0) *out.opacity = opacity;
  for (int64_t c = 0; c < channels; ++c) {
    T sum = 0;  // each lane reads back the weights that it wrote
    for (int64_t k = lane_index(); k < lit; k += kWarp)
      sum += out.weights[k] * ray.colors[k * channels + c];
    if (lit < samples && p.shape.last_back && lane_index() == 0)
      sum += (T(1) - opacity) * ray.colors[(samples - 1) * channels + c];
    sum = sum_over_warp(sum);
    if (lane_index() == 0) out.features[c] = sum;
  }
}

// First pass of the gradient, as composite_ray_vjp_weights: T_k into grad_in.densities, the
// gradient of colors, the direct part of that of t.
template <typename T>
__device__ void backward_weights(const CompositeRay<T>& ray, const CompositeShape& shape,
                                 const CompositeGradOut<T>& grad,
                                 const CompositeGradIn<T>& grad_in) {
  const int64_t channels = shape.channels;
  T transmittance = 1, opacity = 0;
  for (int64_t chunk = 0; chunk < shape.samples; chunk += kWarp) {
    const Sample<T> s = absorb_chunk(ray, shape.samples, chunk, transmittance);
    opacity += sum_over_warp(s.weight);
    if (!s.exists) continue;
    const T weight = edited_weight(s, shape, opacity);
    grad_in.densities[s.k] = s.transmittance;
    if (grad_in.t) grad_in.t[s.k] = grad.depth ? weight * *grad.depth : T(0);
    if (!grad_in.colors) continue;
    for (int64_t c = 0; c < channels; ++c)
      grad_in.colors[s.k * channels + c] = grad.features ? weight * grad.features[c] : T(0);
  }
}

// One chunk of the second pass (composite 6-9). `grad_transmittance` is dL/dT after the chunk on
// entry, dL/dT before it on return.
template <typename T>
__device__ void backward_chunk(const CompositeRay<T>& ray, const CompositeShape& shape,
                               int64_t chunk, const CompositeGradOut<T>& grad,
                               const CompositeGradIn<T>& grad_in, T grad_opacity,
                               T& grad_transmittance) {
  const int64_t k = chunk + lane_index();
  const bool exists = k < shape.samples, last = k + 1 == shape.samples;
  T delta = 0, density = 0, grad_weight = 0;
  Affine<T> map = {T(0), T(1)};
  if (exists) {
    delta = composite_delta(ray, k, shape.samples);
    density = ray.densities[k];
    grad_weight = composite_grad_weight(ray, grad, k, shape.channels) + grad_opacity;
    map = step_as_affine(std::exp(-(delta * density)), grad_weight);
    if (last && grad.transmittance) map.offset += *grad.transmittance;
  }
  T grad_next = grad_behind(map, grad_transmittance);
  T grad_thickness = 0;
  if (exists) {
    grad_thickness =
        composite_step_vjp(delta * density, grad_in.densities[k], grad_weight, grad_next);
    grad_in.densities[k] = delta * grad_thickness;
    if (last && grad_in.last_delta) *grad_in.last_delta = density * grad_thickness;
  }
  if (!grad_in.t) return;
  // delta_k = t_{k+1} - t_k; what lane 31 owes to the chunk above is added after that chunk is
  // done.
  const T grad_delta = last ? T(0) : density * grad_thickness;
  const T below = __shfl_up_sync(kAllLanes, grad_delta, 1);
  if (exists) grad_in.t[k] += (lane_index() == 0 ? T(0) : below) - grad_delta;
  if (exists && !last && lane_index() == kWarp - 1) grad_in.t[k + 1] += grad_delta;
  __syncwarp();
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads, kResident)
    composite_backward_kernel(CompositeBackward<T> p) {
  const int64_t index = ray_index(), samples = p.shape.samples;
  if (index >= p.shape.rays) return;  // a whole warp
  const CompositeRay<T> ray = ray_of(p, index);
  const CompositeGradOut<T> grad = grad_of_ray(p, index);
  const CompositeGradIn<T> grad_in = grad_in_of_ray(p, index);
  if (samples == 0) {
    if (grad_in.last_delta && lane_index() == 0) *grad_in.last_delta = T(0);
    return;
  }
  backward_weights(ray, p.shape, grad, grad_in);
  __syncwarp();
  T grad_opacity = grad.opacity ? *grad.opacity : T(0);
  if (p.shape.last_back)
    grad_opacity -= composite_grad_weight(ray, grad, samples - 1, p.shape.channels);
  T grad_transmittance = 0;
  for (int64_t chunk = (samples - 1) / kWarp * kWarp; chunk >= 0; chunk -= kWarp)
    backward_chunk(ray, p.shape, chunk, grad, grad_in, grad_opacity, grad_transmittance);
}

}  // namespace

template <typename T>
void composite_forward_cuda(const CompositeForward<T>& p, Stream stream) {
  if (p.shape.rays == 0) return;
  const DeviceGuard guard(stream.device, "composite_forward");
  const unsigned grid = blocks_for(p.shape.rays * kWarp, "composite_forward");
  EPIGRAF_LAUNCH((composite_forward_kernel<T>), grid, kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), "composite_forward");
}

template <typename T>
void composite_backward_cuda(const CompositeBackward<T>& p, Stream stream) {
  if (p.shape.rays == 0) return;
  const DeviceGuard guard(stream.device, "composite_backward");
  const unsigned grid = blocks_for(p.shape.rays * kWarp, "composite_backward");
  EPIGRAF_LAUNCH((composite_backward_kernel<T>), grid, kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), "composite_backward");
}

template void composite_forward_cuda<float>(const CompositeForward<float>&, Stream);
template void composite_forward_cuda<double>(const CompositeForward<double>&, Stream);
template void composite_backward_cuda<float>(const CompositeBackward<float>&, Stream);
template void composite_backward_cuda<double>(const CompositeBackward<double>&, Stream);

}  // namespace epigraf
