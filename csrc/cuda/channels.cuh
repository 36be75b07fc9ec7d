// Channels of a point or of a pixel on a GPU: which lanes share them, blocks of them in one load,
// and the gradient of the pixels of one cell, gathered in registers.
#pragma once

#include <type_traits>

#include "device.cuh"
#include "epigraf/triplane.h"

namespace epigraf {

// The lanes that share a point: a power of two, so that groups do not straddle warps. Each takes
// kBlock neighbouring channels, so that the group reads the line of memory that a tap's channels
// are.
struct Lanes {
  int bits;

  __host__ __device__ int count() const { return 1 << bits; }
  __device__ int64_t group() const {
    return (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) >> bits;
  }
  __device__ int lane() const { return int(threadIdx.x) & (count() - 1); }
};

inline Lanes lanes_for(int64_t channels, int block) {
  Lanes lanes = {0};
  while (lanes.count() < kWarp && lanes.count() * block < channels) ++lanes.bits;
  return lanes;
}

// Channels that a lane takes at a time where everything is aligned: 16 bytes.
template <typename T>
constexpr int kVector = int(16 / sizeof(T));

template <typename T>
bool aligned(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// Whether every block of kVector channels of the planes starts at 16 bytes.
template <typename T>
bool vectors_fit(const TriplaneShape& s, const T* planes) {
  if (s.channel_stride != 1) return false;
  const int64_t all = s.channels | s.batch_stride | s.plane_stride | s.row_stride | s.pixel_stride;
  return all % kVector<T> == 0 && aligned(planes);
}

template <int kBlock, typename T>
__device__ ChannelBlock<kBlock, T> load(const T* first) {
  return *reinterpret_cast<const ChannelBlock<kBlock, T>*>(first);
}

template <int kBlock, typename T>
__device__ void store(T* first, const ChannelBlock<kBlock, T>& block) {
  *reinterpret_cast<ChannelBlock<kBlock, T>*>(first) = block;
}

// Adds a block of channels atomically; one instruction for four floats since sm_90.
template <int kBlock, typename T>
__device__ void add_block(T* where, const T* share) {
#if defined(EPIGRAF_HAS_FLOAT4_ATOMICS)
  if constexpr (std::is_same_v<T, float> && kBlock % 4 == 0) {
    for (int c = 0; c < kBlock; c += 4) {
      const float4 four = {share[c], share[c + 1], share[c + 2], share[c + 3]};
      atomicAdd(reinterpret_cast<float4*>(where + c), four);
    }
  } else {
    for (int c = 0; c < kBlock; ++c) atomicAdd(where + c, share[c]);
  }
#else
  for (int c = 0; c < kBlock; ++c) atomicAdd(where + c, share[c]);
#endif
}

// The gradient of the four pixels of one cell, gathered in registers while consecutive points (the
// samples of a ray, often) stay in that cell, and added to the plane when they leave it.
template <int kBlock, typename T>
struct CellGradient {
  T sums[4 * kBlock];  // a plane of 2 x 2 pixels
  PlaneTaps<T> cell;
  bool empty = true;

  __device__ bool holds(const PlaneTaps<T>& taps) const {
    return !empty && taps.row == cell.row && taps.column == cell.column && taps.left == cell.left &&
           taps.right == cell.right && taps.top == cell.top && taps.bottom == cell.bottom;
  }
  __device__ void start(const PlaneTaps<T>& taps) {
    cell = taps;
    empty = false;
    for (T& sum : sums) sum = T(0);
  }
  __device__ void add(PlaneTaps<T> taps, const T* grad) {
    TriplaneShape shape = {};
    shape.pixel_stride = kBlock;
    shape.row_stride = 2 * kBlock;
    taps.row = taps.column = 0;
    plane_read_vjp_plane<kBlock>(sums, taps, shape, grad, [](T* where, const T(&share)[kBlock]) {
      for (int c = 0; c < kBlock; ++c) where[c] += share[c];
    });
  }
  __device__ void flush(T* grad_plane, const TriplaneShape& shape) {
    if (empty) return;
    empty = true;
    T* pixel = grad_plane + cell.row * shape.row_stride + cell.column * shape.pixel_stride;
    if (cell.left && cell.top) add_block<kBlock>(pixel, sums);
    if (cell.right && cell.top) add_block<kBlock>(pixel + shape.pixel_stride, sums + kBlock);
    pixel += shape.row_stride;
    if (cell.left && cell.bottom) add_block<kBlock>(pixel, sums + 2 * kBlock);
    if (cell.right && cell.bottom) add_block<kBlock>(pixel + shape.pixel_stride, sums + 3 * kBlock);
  }
};

}  // namespace epigraf
