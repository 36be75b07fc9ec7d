// Gradients of the field at 32 points, one warp (decoder 5-8, triplane 4). Hidden units are
// computed again, a block at a time, and pass through shared memory, where the lanes change from
// points to channels and units: each then sums over the points alone, and adds to the block's sums.
#pragma once

#include "field.cuh"

namespace epigraf {

// Where the gradients of the decoder are added to: shared memory of the block, or the results.
template <typename T>
struct DecoderSums {
  T *weight0, *bias0, *weight1, *bias1;  // [H][C], [H], [4][H], [4]
};

// What one warp works with in the backward pass.
template <typename T>
struct WarpBackward {
  WarpField<T> at;
  DecoderSums<T> sums;
  T* grad_planes;  // of the batch element, or null
  T* grad_tile;    // [32][C], rows as the tile's
  T* units;        // [32][kUnits], rows units_row apart
  int units_row;
  const T* grad_out;  // [4] rows of the tile's points, grad_row apart
  int grad_row;
  int count;  // of these points

  // (decoder 6) of the last layer, from the activations of the units from `first` on.
  __device__ void add_outgoing(int first) const {
    constexpr int kPairs = kUnits<T> * kOutputs / kWarp;  // outputs to a lane
    const int unit = lane_index() % kUnits<T>, output = lane_index() / kUnits<T> * kPairs;
    T sum[kPairs] = {};
    for (int s = 0; s < count; ++s) {
      const T x = units[s * units_row + unit];
      for (int k = 0; k < kPairs; ++k) sum[k] += x * grad_out[(output + k) * grad_row + s];
    }
    if (first + unit >= at.decoder.hidden) return;
    for (int k = 0; k < kPairs; ++k) {
      atomicAdd(sums.weight1 + (output + k) * at.decoder.hidden + first + unit, sum[k]);
    }
  }

  // (decoder 6) of the first layer, from the gradients of the units from `first` on.
  __device__ void add_incoming(int first) const {
    const int channels = at.decoder.channels, last = at.decoder.hidden - first;
    for (int c = lane_index(); c < channels; c += kWarp) {
      T sum[kUnits<T>] = {};
      for (int s = 0; s < count; ++s) {
        const T x = at.tile[s * at.row + c];
        T grad[kUnits<T>];
        load_units(units + s * units_row, grad);
        for (int j = 0; j < kUnits<T>; ++j) sum[j] += x * grad[j];
      }
      for (int j = 0; j < kUnits<T>; ++j) {
        if (j < last) atomicAdd(sums.weight0 + (first + j) * channels + c, sum[j]);
      }
    }
    const int unit = lane_index() % kUnits<T>;
    T sum = 0;
    for (int s = lane_index() / kUnits<T>; s < count; s += kWarp / kUnits<T>) {
      sum += units[s * units_row + unit];
    }
    for (int offset = kUnits<T>; offset < kWarp; offset *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, offset);
    }
    if (lane_index() < kUnits<T> && unit < last) atomicAdd(sums.bias0 + first + unit, sum);
  }

  // (decoder 8): the units' share of the gradient of the lane's features.
  __device__ void add_to_features(const T (&grad)[kUnits<T>], int first) const {
    T* to = grad_tile + lane_index() * at.row;
    for (int c = 0; c < at.decoder.channels; ++c) {
      T weights[kUnits<T>], sum = first > 0 ? to[c] : T(0);
      load_units(at.decoder.weight0 + c * at.decoder.padded + first, weights);
      for (int j = 0; j < kUnits<T>; ++j) sum += grad[j] * weights[j];
      to[c] = sum;
    }
  }

  // (decoder 5-8) of the points whose features are in the tile; those after `count` have zeros.
  __device__ void decoder_vjp() const {
    const SharedDecoder<T>& d = at.decoder;
    const bool exists = lane_index() < count;
    T grad[kOutputs];
    for (int o = 0; o < kOutputs; ++o) {
      grad[o] = exists ? grad_out[o * grad_row + lane_index()] : T(0);
      const T sum = sum_over_warp(grad[o]);
      if (lane_index() == 0) atomicAdd(sums.bias1 + o, sum);
    }
    T* own = units + lane_index() * units_row;
    for (int first = 0; first < d.padded; first += kUnits<T>) {
      T unit[kUnits<T>];
      hidden_units(d, at.tile + lane_index() * at.row, first, unit);
      T active[kUnits<T>];
      for (int j = 0; j < kUnits<T>; ++j) active[j] = d.activate(unit[j]);
      store_units(own, active);
      __syncwarp();
      add_outgoing(first);
      __syncwarp();
      for (int j = 0; j < kUnits<T>; ++j) {  // (decoder 7)
        const auto weights = d.outgoing(first + j);
        T sum = 0;
        for (int o = 0; o < kOutputs; ++o) sum += grad[o] * weights[o];
        unit[j] = unit[j] > T(0) ? sum : sum * d.slope;
      }
      store_units(own, unit);
      if (grad_planes) add_to_features(unit, first);
      __syncwarp();
      add_incoming(first);
      __syncwarp();
    }
  }

  // (triplane 4): a group of lanes takes a run of consecutive points, and gathers those that stay
  // in a cell before it adds them to the plane.
  template <int kBlock>
  __device__ void scatter(const PointTaps<T>& own) const {
    const Lanes lanes = at.lanes;
    const int run = lanes.count(), begin = (lane_index() >> lanes.bits) * run;
    for (int first = 0; first < at.decoder.channels; first += lanes.count() * kBlock) {
      const int c = first + lanes.lane() * kBlock;
      EPIGRAF_CUDA_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        T* grad_plane = grad_planes + plane * at.field.shape.plane_stride + c;
        CellGradient<kBlock, T> gathered;
        for (int i = 0; i < run; ++i) {
          const int point = begin + i;
          const PlaneTaps<T> taps = taps_of_lane(own.plane[plane], point);
          if (point >= count || c >= at.decoder.channels) continue;
          T grad[kBlock];
          for (int v = 0; v < kBlock; ++v) {
            grad[v] = grad_tile[point * at.row + c + v] / T(kPlanes);
          }
          if (!gathered.holds(taps)) {
            gathered.flush(grad_plane, at.field.shape);
            gathered.start(taps);
          }
          gathered.add(taps, grad);
        }
        gathered.flush(grad_plane, at.field.shape);
      }
    }
    __syncwarp();
  }
};

}  // namespace epigraf
