// One ray of the fused renderer by one warp, without the field: random numbers, depths, weights,
// the second pass's depths, the merge (docs/math/render.md). A lane is a sample; chunks of 32
// samples hand their sums and products on.
//
// Legend: S coarse and F fine samples, N = S + F.
#pragma once

#include "device.cuh"
#include "epigraf/density.h"
#include "epigraf/render.h"
#include "epigraf/render_memory.h"
#include "transmittance.cuh"

namespace epigraf {

// The number k of a ray's row of `count`, from its tensor or its stream of the seed.
template <typename T>
__device__ T uniform_draw(const RenderRays<T>& rays, const T* tensor, int64_t stride, bool drawn,
                          uint32_t stream, int64_t ray, int64_t k, int64_t count) {
  if (!drawn) return tensor[ray * stride + k];
  const uint64_t index = rays.place_in_stream(ray) * uint64_t(count) + uint64_t(k);
  return philox_uniform<T>(*rays.seeds.seed, stream, index);
}

// Noise of the raw density of sample k, times its standard deviation; 0 where none is wanted.
template <typename T>
__device__ T noise_at(const RenderRays<T>& rays, const RenderMarch<T>& march, bool coarse,
                      int64_t ray, int64_t k) {
  const T* tensor = coarse ? rays.coarse_noise : rays.final_noise;
  const int64_t count = coarse ? rays.coarse : rays.coarse + rays.fine;
  if (tensor) return march.noise_std * tensor[ray * count + k];
  if (!(coarse ? rays.seeds.coarse_noise : rays.seeds.final_noise)) return T(0);
  const uint64_t index = rays.place_in_stream(ray) * uint64_t(count) + uint64_t(k);
  const uint32_t stream = coarse ? kCoarseNoiseStream : kFinalNoiseStream;
  return march.noise_std * philox_normal<T>(*rays.seeds.seed, stream, index);
}

// Samples in the order of their depths, as a ray is composited.
template <typename T>
struct SampleRow {
  const T* t;
  int count;
  bool coarse;  // the first pass of two
};

// A sample's density and interval (render 2, 3).
template <typename T>
struct Interval {
  T noisy;  // raw density with noise and shift
  T delta, decay;
};

template <typename T>
__device__ Interval<T> interval_at(const RenderRays<T>& rays, const RenderMarch<T>& march,
                                   const SampleRow<T>& row, int64_t ray, int k, T raw) {
  Interval<T> x;
  x.noisy = raw + noise_at(rays, march, row.coarse, ray, k) + march.shift;
  x.delta =
      render_delta(row.t, k, row.count, march.finite_interval, rays.far[ray], rays.last_delta[ray]);
  x.decay = std::exp(-x.delta * activate_density(x.noisy, march.gain, march.relu));
  return x;
}

// (composite 2, 3) of the samples of a chunk: weight before the last_back edit, and T_k.
template <typename T>
struct Absorbed {
  T weight, transmittance;
};

template <typename T>
__device__ Absorbed<T> absorb(bool exists, T decay, T& transmittance) {
  T through = 1;
  if (exists) composite_step_decay(decay, through);
  Absorbed<T> result;
  result.transmittance = product_below(through, transmittance);
  T after = result.transmittance;
  result.weight = exists ? composite_step_decay(decay, after) : T(0);
  return result;
}

// (render 1): depths of the first pass.
template <typename T>
__device__ void stratify(const RenderRays<T>& rays, int64_t ray, T* t) {
  const T near = rays.near[ray], far = rays.far[ray];
  const bool drawn = rays.seeds.jitter && !rays.jitter;
  for (int64_t k = lane_index(); k < rays.coarse; k += kWarp) {
    T position = rays.even[k];
    if (rays.jitter || drawn) {
      const T jitter =
          uniform_draw(rays, rays.jitter, rays.coarse, drawn, kJitterStream, ray, k, rays.coarse);
      position = jittered_position(rays.even, k, rays.coarse, jitter);
    }
    t[k] = near + (far - near) * position;
  }
  __syncwarp();
}

// (render 4) in place: weights [S] become the distribution function.
template <typename T>
__device__ void weights_to_cdf(T* weights, int samples) {
  const T epsilon = T(kPdfEpsilon);
  T sum = 0;
  for (int k = lane_index(); k + 1 < samples; k += kWarp) {  // each lane reads what it will write
    if (k > 0) sum += (weights[k] + epsilon) + epsilon;
  }
  sum = sum_over_warp(sum);
  T before = 0;
  for (int chunk = 0; chunk + 1 < samples; chunk += kWarp) {
    const int k = chunk + lane_index();
    const bool inner = k > 0 && k + 1 < samples;
    T total = inner ? ((weights[k] + epsilon) + epsilon) / sum : T(0);
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const T below = __shfl_up_sync(kAllLanes, total, offset);
      if (lane_index() >= offset) total += below;
    }
    if (k + 1 < samples) weights[k] = k > 0 ? before + total : T(0);
    before += __shfl_sync(kAllLanes, total, kWarp - 1);
  }
  __syncwarp();
}

// The draws of the second pass, ascending: Batcher's bitonic sort of `length`, a power of two.
template <typename T>
__device__ void sort_draws(const RenderRays<T>& rays, int64_t ray, T* draws, int length) {
  const bool drawn = rays.seeds.u && !rays.u;
  for (int k = lane_index(); k < length; k += kWarp) {
    draws[k] = k < rays.fine ? uniform_draw(rays, rays.u, rays.u_stride, drawn, kImportanceStream,
                                            ray, k, rays.fine)
                             : T(INFINITY);
  }
  __syncwarp();
  for (int size = 2; size <= length; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = lane_index(); i < length / 2; i += kWarp) {
        const int low = i / stride * 2 * stride + i % stride, high = low + stride;
        const T a = draws[low], b = draws[high];
        if ((low & size) == 0 ? b < a : a < b) {
          draws[low] = b;
          draws[high] = a;
        }
      }
      __syncwarp();
    }
  }
}

// The first of `count` ascending values that is not below `x`, or `count`.
template <typename T>
__device__ int first_not_below(const T* values, int count, T x) {
  int low = 0;
  while (low < count) {
    const int middle = (low + count) / 2;
    if (values[middle] < x) {
      low = middle + 1;
    } else {
      count = middle;
    }
  }
  return low;
}

// (render 5): depths of the second pass [F], ascending, of ascending draws.
template <typename T>
__device__ void place_draws(const T* t, const T* cdf, int samples, const T* draws, int count,
                            T* depths) {
  T before = T(-INFINITY);
  for (int chunk = 0; chunk < count; chunk += kWarp) {
    const int i = chunk + lane_index();
    T depth = T(-INFINITY);
    if (i < count) {
      const int above = first_not_below(cdf, samples - 1, draws[i]);
      depth = importance_depth(t, cdf, samples, above, draws[i]);
    }
    for (int offset = 1; offset < kWarp; offset *= 2) {  // rounding at a bin's end
      const T below = __shfl_up_sync(kAllLanes, depth, offset);
      if (lane_index() >= offset && depth < below) depth = below;
    }
    if (depth < before) depth = before;
    if (i < count) depths[i] = depth;
    before = __shfl_sync(kAllLanes, depth, kWarp - 1);
  }
  __syncwarp();
}

// (render 6): both passes by depth, a fine sample before a coarse one of the same depth. t holds
// coarse depths, then fine ones; order[k] becomes the place of sample k there, and sorted[k] its
// depth. counts [F] is for the number of coarse samples in front of each fine one: a running
// maximum, so that order is a permutation whatever the depths are, NaN too.
template <typename T>
__device__ void merge(const T* t, int coarse, int fine, int* counts, int* order, T* sorted) {
  int before = 0;
  for (int chunk = 0; chunk < fine; chunk += kWarp) {
    const int i = chunk + lane_index();
    int count = i < fine ? first_not_below(t, coarse, t[coarse + i]) : 0;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int below = __shfl_up_sync(kAllLanes, count, offset);
      if (lane_index() >= offset && count < below) count = below;
    }
    if (count < before) count = before;
    if (i < fine) {
      counts[i] = count;
      order[i + count] = coarse + i;
      sorted[i + count] = t[coarse + i];
    }
    before = __shfl_sync(kAllLanes, count, kWarp - 1);
  }
  __syncwarp();
  for (int k = lane_index(); k < coarse; k += kWarp) {
    const int at = k + first_not_below(counts, fine, k + 1);  // the fine ones in front of it
    order[at] = k;
    sorted[at] = t[k];
  }
  __syncwarp();
}

}  // namespace epigraf
