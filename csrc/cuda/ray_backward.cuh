// Gradients along one ray, by one warp, without the field: from those of the ray's outputs to those
// of its samples' outputs (render 7, composite 6-9), read from what the forward pass saved.
//
// Legend: N samples. What was saved is [5][N]: three colours, raw density, t.
#pragma once

#include "ray.cuh"

namespace epigraf {

// The gradients of one ray's outputs.
template <typename T>
struct RayGrad {
  T features[3], depth, opacity, transmittance;
};

template <typename T>
__device__ RayGrad<T> grad_of_ray(const RenderBackward<T>& p, int64_t ray) {
  RayGrad<T> grad = {};
  for (int c = 0; c < 3; ++c) {
    if (p.grad_features) grad.features[c] = p.grad_features[3 * ray + c];
  }
  if (p.grad_depth) grad.depth = p.grad_depth[ray];
  if (p.grad_opacity) grad.opacity = p.grad_opacity[ray];
  if (p.grad_transmittance) grad.transmittance = p.grad_transmittance[ray];
  return grad;
}

// Depths and gradients of a ray's samples in shared memory: t [N], then those of the outputs
// [4][N].
template <typename T>
struct SampleGrads {
  T *t, *out;
  int samples;

  __device__ SampleGrads(T* memory, int n) : t(memory), out(memory + n), samples(n) {}
  __device__ T& at(int o, int k) const { return out[o * samples + k]; }
};

// (composite 6), directly: dL/d weight k from what was saved [5][N].
template <typename T>
__device__ T grad_of_weight(const RayGrad<T>& grad, const T* saved, int samples, int k) {
  T sum = grad.depth * saved[kOutputs * samples + k];
  for (int c = 0; c < 3; ++c) sum += grad.features[c] * saved[c * samples + k];
  return sum;
}

// (composite 9): gradients of the colours; T_k in the place of the raw density's.
template <typename T>
__device__ void color_grads(const RenderBackward<T>& p, const RayGrad<T>& grad, const T* saved,
                            const SampleRow<T>& row, const SampleGrads<T>& grads, int64_t ray) {
  const T* raw = saved + (kOutputs - 1) * row.count;
  T transmittance = 1, opacity = 0;
  for (int chunk = 0; chunk < row.count; chunk += kWarp) {
    const int k = chunk + lane_index();
    const bool exists = k < row.count;
    const T decay = exists ? interval_at(p.rays, p.march, row, ray, k, raw[k]).decay : T(1);
    const Absorbed<T> absorbed = absorb(exists, decay, transmittance);
    opacity += sum_over_warp(absorbed.weight);
    if (!exists) continue;
    T weight = absorbed.weight;
    if (p.march.last_back && k + 1 == row.count) weight += T(1) - opacity;
    for (int c = 0; c < 3; ++c) grads.at(c, k) = weight * grad.features[c];
    grads.at(kOutputs - 1, k) = absorbed.transmittance;
    grads.t[k] = row.t[k];
  }
}

// (composite 6-8, render 7): gradients of the raw densities.
template <typename T>
__device__ void raw_grads(const RenderBackward<T>& p, const RayGrad<T>& grad, const T* saved,
                          const SampleRow<T>& row, const SampleGrads<T>& grads, int64_t ray) {
  const T* raw = saved + (kOutputs - 1) * row.count;
  T* to = &grads.at(kOutputs - 1, 0);
  const T shown = grad.features[0] + grad.features[1] + grad.features[2];
  T through_opacity = grad.opacity - p.march.background * shown;  // (render 10)
  T grad_transmittance = 0;
  if (p.march.last_back) through_opacity -= grad_of_weight(grad, saved, row.count, row.count - 1);
  for (int chunk = (row.count - 1) / kWarp * kWarp; chunk >= 0; chunk -= kWarp) {
    const int k = chunk + lane_index();
    const bool exists = k < row.count;
    Interval<T> x = {};
    Affine<T> map = {T(0), T(1)};
    T grad_weight = 0;
    if (exists) {
      x = interval_at(p.rays, p.march, row, ray, k, raw[k]);
      grad_weight = grad_of_weight(grad, saved, row.count, k) + through_opacity;
      map = step_as_affine(x.decay, grad_weight);
      if (k + 1 == row.count) map.offset += grad.transmittance;
    }
    T behind = grad_behind(map, grad_transmittance);
    if (!exists) continue;
    const T thickness = composite_step_decay_vjp(x.decay, to[k], grad_weight, behind);
    to[k] = thickness * x.delta * activate_density_vjp(x.noisy, p.march.gain, p.march.relu);
  }
  __syncwarp();
}

// Moves the samples that have a gradient at all to the front, in their order; returns their number.
template <typename T>
__device__ int keep_with_gradient(const SampleGrads<T>& grads, int samples) {
  int kept = 0;
  for (int chunk = 0; chunk < samples; chunk += kWarp) {
    const int k = chunk + lane_index();
    T out[kOutputs] = {}, t = 0;
    bool wanted = false;
    for (int o = 0; o < kOutputs; ++o) {
      if (k < samples) out[o] = grads.at(o, k);
      wanted = wanted || !(out[o] == T(0));
    }
    if (k < samples) t = grads.t[k];
    const unsigned all = __ballot_sync(kAllLanes, wanted);
    const int to = kept + __popc(all & ((1u << lane_index()) - 1u));
    __syncwarp();
    for (int o = 0; o < kOutputs; ++o) {
      if (wanted) grads.at(o, to) = out[o];
    }
    if (wanted) grads.t[to] = t;
    kept += __popc(all);
  }
  __syncwarp();
  return kept;
}

}  // namespace epigraf
