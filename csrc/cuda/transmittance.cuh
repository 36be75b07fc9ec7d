// Transmittance along a ray whose samples are in the lanes of a warp: products from the left for
// the forward pass, and for the gradient (composite 7) affine maps composed from the right. Chunks
// of 32 samples hand their ends on.
#pragma once

#include "device.cuh"
#include "epigraf/composite.h"

namespace epigraf {

// The product of `before` and the factors of the lanes below. `before` takes in all factors.
template <typename T>
__device__ T product_below(T factor, T& before) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T below = __shfl_up_sync(kAllLanes, factor, offset);
    if (lane_index() >= offset) factor *= below;
  }
  const T below = __shfl_up_sync(kAllLanes, factor, 1);
  const T product = lane_index() == 0 ? before : before * below;
  before *= __shfl_sync(kAllLanes, factor, kWarp - 1);
  return product;
}

// How many lanes come before the first that is dark: 32 where there is none (composite 10).
__device__ inline int lanes_before(bool dark) {
  const unsigned all = __ballot_sync(kAllLanes, dark);
  const unsigned up_to_here = kAllLanes >> (kWarp - 1 - lane_index());
  return sum_over_warp(int((all & up_to_here) == 0));
}

// The map dL/dT_{k+1} -> dL/dT_k of a run of samples, which is affine: offset + slope x.
template <typename T>
struct Affine {
  T offset, slope;
};

// composite_step_decay_vjp as such a map.
template <typename T>
__device__ Affine<T> step_as_affine(T decay, T grad_weight) {
  T offset = 0, slope = 1;
  composite_step_decay_vjp(decay, T(1), grad_weight, offset);
  composite_step_decay_vjp(decay, T(1), T(0), slope);
  return {offset, slope};
}

// In each lane, the composition of its own map after those of all lanes above it.
template <typename T>
__device__ Affine<T> scan_from_above(Affine<T> map) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T above_offset = __shfl_down_sync(kAllLanes, map.offset, offset);
    const T above_slope = __shfl_down_sync(kAllLanes, map.slope, offset);
    if (lane_index() + offset >= kWarp) continue;
    map.offset += map.slope * above_offset;
    map.slope *= above_slope;
  }
  return map;
}

// dL/dT_{k+1} of each lane's sample, from the maps of all of them. `grad_transmittance` is dL/dT
// after the chunk on entry, dL/dT before it on return.
template <typename T>
__device__ T grad_behind(Affine<T> map, T& grad_transmittance) {
  map = scan_from_above(map);
  const T own = map.offset + map.slope * grad_transmittance;  // dL/dT_k
  const T above = __shfl_down_sync(kAllLanes, own, 1);
  const T behind = lane_index() == kWarp - 1 ? grad_transmittance : above;
  grad_transmittance = __shfl_sync(kAllLanes, own, 0);
  return behind;
}

}  // namespace epigraf
