// The CUDA types that kernels and launchers name, and what the engines of cuda_emulation.h share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

using cudaStream_t = struct EmulatedStream*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

namespace cuda_emulation {

enum class Collective { sync, shuffle, ballot };

// A place in a kernel.
struct Site {
  const char* file;
  int line;
};

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes;
  cudaStream_t stream;
};

// Dynamic shared memory of a block: exactly so many bytes, all of them NaN.
inline std::shared_ptr<void> shared_memory(std::size_t bytes) {
  constexpr std::size_t alignment = 32;  // as cuda/device.cuh declares it
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes > 0 ? bytes : 1) != 0) throw std::bad_alloc();
  std::memset(memory, 0xff, bytes);
  return {memory, std::free};
}

}  // namespace cuda_emulation
