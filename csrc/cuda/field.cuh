// The field at 32 points, one warp (docs/math/render.md, "How it runs on a GPU"): look-up with
// lanes over channels, decoder with lanes over points, and the gradients of both. The decoder's
// weights lie in shared memory, where all lanes read the same word.
//
// Legend: C plane channels, H hidden units. A tile is [32][C], its rows memory.tile_row() apart.
#pragma once

#include "channels.cuh"
#include "device.cuh"
#include "epigraf/render.h"
#include "epigraf/render_memory.h"

namespace epigraf {

template <typename T>
constexpr int kUnits = int(64 / sizeof(T));  // hidden units in registers

// The decoder in shared memory, laid out as RenderMemory says.
template <typename T>
struct SharedDecoder {
  const T *weight0, *bias0, *weight1, *bias1;
  int channels, hidden, padded;
  T slope;

  __device__ T activate(T x) const { return x > T(0) ? x : x * slope; }  // (decoder 2)
  // Of one hidden unit, to the four outputs.
  __device__ ChannelBlock<kOutputs, T> outgoing(int unit) const {
    return load<kOutputs>(weight1 + kOutputs * unit);
  }
};

// The block's threads copy the decoder into `memory`. Ends with the block's barrier.
template <typename T>
__device__ SharedDecoder<T> load_decoder(const DecoderLayers<T>& d, const RenderMemory& sizes,
                                         T* memory) {
  const int channels = int(sizes.channels), hidden = int(sizes.hidden);
  const int padded = int(sizes.padded_hidden()), threads = int(blockDim.x);
  T *weight0 = memory, *bias0 = weight0 + channels * padded;
  T *weight1 = bias0 + padded, *bias1 = weight1 + kOutputs * padded;
  for (int i = int(threadIdx.x); i < channels * padded; i += threads) {
    const int c = i / padded, unit = i % padded;
    weight0[i] = unit < hidden ? d.weights[0][unit * channels + c] : T(0);
  }
  for (int i = int(threadIdx.x); i < kOutputs * padded; i += threads) {
    const int unit = i / kOutputs, o = i % kOutputs;
    weight1[i] = unit < hidden ? d.weights[1][o * hidden + unit] : T(0);
    if (o == 0) bias0[unit] = unit < hidden ? d.biases[0][unit] : T(0);
  }
  if (threadIdx.x < kOutputs) bias1[threadIdx.x] = d.biases[1][threadIdx.x];
  __syncthreads();
  return {weight0, bias0, weight1, bias1, channels, hidden, padded, d.slope};
}

// Copies of kUnits neighbouring values, 16 bytes at a time.
template <typename T>
__device__ void load_units(const T* from, T (&units)[kUnits<T>]) {
  for (int j = 0; j < kUnits<T>; j += kVector<T>) {
    const auto block = load<kVector<T>>(from + j);
    for (int v = 0; v < kVector<T>; ++v) units[j + v] = block[v];
  }
}

template <typename T>
__device__ void store_units(T* to, const T (&units)[kUnits<T>]) {
  for (int j = 0; j < kUnits<T>; j += kVector<T>) {
    ChannelBlock<kVector<T>, T> block;
    for (int v = 0; v < kVector<T>; ++v) block.channels[v] = units[j + v];
    store(to + j, block);
  }
}

// (decoder 3): kUnits hidden units from `first` on, before their leaky ReLU, of the lane's point.
template <typename T>
__device__ void hidden_units(const SharedDecoder<T>& d, const T* features, int first,
                             T (&units)[kUnits<T>]) {
  load_units(d.bias0 + first, units);
  for (int c = 0; c < d.channels; ++c) {
    const T x = features[c];
    T weights[kUnits<T>];
    load_units(d.weight0 + c * d.padded + first, weights);
    for (int j = 0; j < kUnits<T>; ++j) units[j] += x * weights[j];
  }
}

// (decoder 2-4) of the lane's point.
template <typename T>
__device__ void decode(const SharedDecoder<T>& d, const T* features, T (&out)[kOutputs]) {
  for (int o = 0; o < kOutputs; ++o) out[o] = d.bias1[o];
  for (int first = 0; first < d.padded; first += kUnits<T>) {
    T units[kUnits<T>];
    hidden_units(d, features, first, units);
    for (int j = 0; j < kUnits<T>; ++j) {
      const T unit = d.activate(units[j]);
      const auto weights = d.outgoing(first + j);
      for (int o = 0; o < kOutputs; ++o) out[o] += unit * weights[o];
    }
  }
}

// A ray's line, in the world and (divided by the field's scale) on its planes.
template <typename T>
struct RayLine {
  T origin[3], direction[3];
};

template <typename T>
__device__ RayLine<T> line_of_ray(const RenderRays<T>& rays, int64_t ray) {
  RayLine<T> line;
  for (int axis = 0; axis < 3; ++axis) {
    line.origin[axis] = rays.origins[3 * ray + axis];
    line.direction[axis] = rays.directions[3 * ray + axis];
  }
  return line;
}

// Where the lane's point falls on the planes.
template <typename T>
struct PointTaps {
  PlaneTaps<T> plane[kPlanes];
};

template <typename T>
__device__ PointTaps<T> taps_at(const RenderField<T>& field, const T (&point)[3]) {
  PointTaps<T> taps;
  EPIGRAF_CUDA_UNROLL
  for (int plane = 0; plane < kPlanes; ++plane) {
    taps.plane[plane] = plane_taps_of_point(point, plane, field.shape);
  }
  return taps;
}

// The taps that another lane has found.
template <typename T>
__device__ PlaneTaps<T> taps_of_lane(const PlaneTaps<T>& own, int lane) {
  const int sides = own.left + 2 * own.right + 4 * own.top + 8 * own.bottom;
  const int theirs = __shfl_sync(kAllLanes, sides, lane);
  PlaneTaps<T> taps;
  taps.row = __shfl_sync(kAllLanes, int(own.row), lane);
  taps.column = __shfl_sync(kAllLanes, int(own.column), lane);
  taps.x = __shfl_sync(kAllLanes, own.x, lane);
  taps.y = __shfl_sync(kAllLanes, own.y, lane);
  taps.left = theirs & 1;
  taps.right = theirs & 2;
  taps.top = theirs & 4;
  taps.bottom = theirs & 8;
  return taps;
}

// A field as one warp sees it: planes of the ray's batch element, the decoder, memory for a tile.
template <typename T>
struct WarpField {
  const RenderField<T>& field;
  SharedDecoder<T> decoder;
  Lanes lanes;  // to a point of the look-up
  const T* planes;
  T* tile;
  int row;  // of the tile

  // The lane's sample at depth t of the line, on the planes.
  __device__ void place(const RayLine<T>& line, T t, T (&point)[3]) const {
    for (int axis = 0; axis < 3; ++axis) {
      point[axis] = (line.origin[axis] + line.direction[axis] * t) / field.cube_scale;
    }
  }

  // The prior of the raw density at a point of the planes.
  __device__ T prior(const T (&point)[3]) const {
    if (field.prior_strength == T(0)) return T(0);
    const T scale = field.cube_scale;
    const T x = point[0] * scale, y = point[1] * scale, z = point[2] * scale;
    return field.prior_strength - std::sqrt(x * x + y * y + z * z) * field.prior_slope;
  }

  // (triplane 3): features of the points of all lanes into the tile; zeros for those not `wanted`.
  template <int kBlock>
  __device__ void look_up(const PointTaps<T>& own, unsigned wanted) const {
    const TriplaneShape& shape = field.shape;
    for (int first = 0; first < kWarp; first += kWarp >> lanes.bits) {
      const int point = first + (lane_index() >> lanes.bits);
      PointTaps<T> taps;
      EPIGRAF_CUDA_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        taps.plane[plane] = taps_of_lane(own.plane[plane], point);
      }
      for (int c = lanes.lane() * kBlock; c < decoder.channels; c += lanes.count() * kBlock) {
        T sum[kBlock] = {};
        if (wanted >> point & 1u) {
          EPIGRAF_CUDA_UNROLL
          for (int plane = 0; plane < kPlanes; ++plane) {
            plane_read(planes + plane * shape.plane_stride + c, taps.plane[plane], shape, sum);
          }
        }
        for (int v = 0; v < kBlock; ++v) tile[point * row + c + v] = sum[v] / T(kPlanes);
      }
    }
    __syncwarp();
  }
};

}  // namespace epigraf
