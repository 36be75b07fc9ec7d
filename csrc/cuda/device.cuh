// What the .cu files share: CUDA itself, the launch check, and sums and scans over a warp.
//
// Under nvcc CUDA is the runtime; under the host compiler it is an emulation
// (csrc/tests/cuda_emulation.h) that runs the same kernels on a CPU for the tests.
#pragma once

#if defined(EPIGRAF_EMULATE_CUDA)
#include "../tests/cuda_emulation.h"
#define EPIGRAF_CUDA_UNROLL
#else
#include <cuda_runtime.h>

#define EPIGRAF_CUDA_UNROLL _Pragma("unroll")

#define EPIGRAF_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (kernel)<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define EPIGRAF_DYNAMIC_SHARED(type, name)                      \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)
#endif

#if defined(EPIGRAF_EMULATE_CUDA) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
#define EPIGRAF_HAS_FLOAT4_ATOMICS
#endif

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "epigraf/launch.h"

namespace epigraf {

constexpr int kWarp = 32;
constexpr int kBlockThreads = 256;
constexpr unsigned kAllLanes = 0xffffffffu;

// Throws "<op>: <CUDA's message>" for anything but success.
inline void check_cuda(cudaError_t error, const char* op) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": CUDA error " + std::to_string(error) + ", " +
                           cudaGetErrorString(error));
}

// Makes the stream's device current and puts the former one back.
class DeviceGuard {
 public:
  DeviceGuard(int device, const char* op) {
    check_cuda(cudaGetDevice(&former_), op);
    if (device != former_) check_cuda(cudaSetDevice(device), op);
  }
  ~DeviceGuard() { cudaSetDevice(former_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int former_ = 0;
};

// The number of blocks of kBlockThreads threads that hold `threads` threads.
inline unsigned blocks_for(int64_t threads, const char* op) {
  const int64_t blocks = (threads + kBlockThreads - 1) / kBlockThreads;
  if (blocks > std::numeric_limits<int>::max())
    throw std::runtime_error(std::string(op) + ": too many elements for one launch");
  return static_cast<unsigned>(blocks);
}

__device__ inline int lane_index() {
  return int(threadIdx.x) % kWarp;
}

// The sum over each group of `lanes` lanes (a power of two), in every lane of the group.
template <typename T>
__device__ T sum_over_lanes(T value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

template <typename T>
__device__ T sum_over_warp(T value) {
  return sum_over_lanes(value, kWarp);
}

}  // namespace epigraf
