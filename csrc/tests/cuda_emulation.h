// Runs CUDA kernels on a CPU, so that a machine without a GPU can test the very code that a GPU
// runs.
//
// A .cu file is compiled by the host compiler with this header in place of <cuda_runtime.h>. Two
// engines run its threads: fibers (cuda_fibers.h), deterministic and quick, in any order; and, with
// EPIGRAF_EMULATE_WITH_THREADS, real threads (cuda_threads.h), in which ThreadSanitizer sees races.
//
// Reported by cudaGetLastError() as on a GPU: a grid, block or shared memory size that no device
// takes, or more dynamic shared memory than cudaFuncSetAttribute has allowed the kernel. Dynamic
// shared memory is a heap block of exactly the size asked for, filled with NaN, so AddressSanitizer
// sees an overrun and the answers show a read before a write.
//
// Not modelled: memory fences, textures, streams (a launch is over when it returns), static
// __shared__ (it is not cleared between blocks). One launch at a time: the state is global, as
// threadIdx is.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>

#include "cuda_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) alignas(n)

#define __syncthreads() cuda_emulation::block_barrier(__FILE__, __LINE__)

// The two spellings that differ between nvcc and this header; cuda/device.cuh holds nvcc's.
#define EPIGRAF_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  cuda_emulation::launch({grid, block, shared_bytes, stream}, kernel,  \
                         [&] { (kernel)(__VA_ARGS__); })
#define EPIGRAF_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(cuda_emulation::dynamic_shared())

#if defined(EPIGRAF_EMULATE_WITH_THREADS)
#include "cuda_threads.h"
#else
#include "cuda_fibers.h"
#endif

namespace cuda_emulation {

// ---- warp collectives ------------------------------------------------------------------------

// The calls of one place in a kernel. A shuffle stays inside its segment of `width` lanes; a lane
// whose source lies outside keeps its own value, as on a GPU.
struct Warp {
  Site site;

  void sync(unsigned mask = ~0u) { warp_collective(Collective::sync, mask, 0, 0, site); }
  unsigned ballot(unsigned mask, bool predicate) {
    return static_cast<unsigned>(warp_collective(Collective::ballot, mask, predicate, 0, site));
  }
  bool any(unsigned mask, bool predicate) { return ballot(mask, predicate) != 0u; }
  bool all(unsigned mask, bool predicate) { return ballot(mask, !predicate) == 0u; }

  template <typename T>
  T shuffle(unsigned mask, T value, int source, int width = warpSize) {
    return read(mask, value, segment(width) + (source & (width - 1)));
  }
  template <typename T>
  T shuffle_xor(unsigned mask, T value, int lane_mask, int width = warpSize) {
    const int source = lane() ^ lane_mask;
    return read(mask, value, source < segment(width) + width ? source : lane());
  }
  template <typename T>
  T shuffle_down(unsigned mask, T value, unsigned delta, int width = warpSize) {
    const int source = lane() + static_cast<int>(delta);
    return read(mask, value, source < segment(width) + width ? source : lane());
  }
  template <typename T>
  T shuffle_up(unsigned mask, T value, unsigned delta, int width = warpSize) {
    const int source = lane() - static_cast<int>(delta);
    return read(mask, value, source >= segment(width) ? source : lane());
  }

 private:
  static int lane() { return lane_of_thread(); }
  static int segment(int width) { return lane() / width * width; }
  template <typename T>
  T read(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t), "a shuffle moves at most 8 bytes");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = warp_collective(Collective::shuffle, mask, bits, source, site);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
  }
};

// ---- launches --------------------------------------------------------------------------------

// The device: sizes of an sm_86, and few multiprocessors, so that blocks stride.
constexpr std::size_t kSharedBytes = 48 * 1024, kSharedBytesOptin = 99 * 1024;
constexpr int kSharedBytesOfProcessor = 100 * 1024, kSharedBytesReserved = 1024;
constexpr int kProcessors = 3, kThreadsOfProcessor = 1536;

using Address = void (*)();  // of any function

struct Runtime {
  cudaError_t last_error = cudaSuccess;
  std::map<Address, std::size_t> shared_limits;  // of kernels that were allowed more
};

inline Runtime& runtime() {
  static Runtime instance;
  return instance;
}

inline bool valid_launch(const LaunchShape& shape, Address kernel) {
  const dim3 grid = shape.grid, block = shape.block;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const bool grid_fits = grid.x > 0 && grid.x < (1u << 31) && grid.y > 0 && grid.y < 65536 &&
                         grid.z > 0 && grid.z < 65536;
  const auto allowed = runtime().shared_limits.find(kernel);
  const std::size_t limit =
      allowed == runtime().shared_limits.end() ? kSharedBytes : allowed->second;
  return grid_fits && threads > 0 && threads <= 1024 && block.z <= 64 &&
         shape.shared_bytes <= limit;
}

template <typename... Args>
void launch(const LaunchShape& shape, void (*kernel)(Args...), std::function<void()> call) {
  if (!valid_launch(shape, reinterpret_cast<Address>(kernel))) {
    runtime().last_error = cudaErrorInvalidConfiguration;
    return;
  }
  gridDim = shape.grid;
  blockDim = shape.block;
  run_grid(shape, std::move(call));
}

}  // namespace cuda_emulation

// ---- the CUDA names that kernels and launchers use --------------------------------------------

#define __syncwarp cuda_emulation::Warp{{__FILE__, __LINE__}}.sync
#define __shfl_sync cuda_emulation::Warp{{__FILE__, __LINE__}}.shuffle
#define __shfl_xor_sync cuda_emulation::Warp{{__FILE__, __LINE__}}.shuffle_xor
#define __shfl_down_sync cuda_emulation::Warp{{__FILE__, __LINE__}}.shuffle_down
#define __shfl_up_sync cuda_emulation::Warp{{__FILE__, __LINE__}}.shuffle_up
#define __ballot_sync cuda_emulation::Warp{{__FILE__, __LINE__}}.ballot
#define __any_sync cuda_emulation::Warp{{__FILE__, __LINE__}}.any
#define __all_sync cuda_emulation::Warp{{__FILE__, __LINE__}}.all

// A sum in memory that several threads add to.
template <typename T>
T atomicAdd(T* address, T value) {
  T old, sum;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    sum = old + value;
  } while (
      !__atomic_compare_exchange(address, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

inline float4 atomicAdd(float4* address, float4 value) {  // as sm_90 does: each component by itself
  return {atomicAdd(&address->x, value.x), atomicAdd(&address->y, value.y),
          atomicAdd(&address->z, value.z), atomicAdd(&address->w, value.w)};
}

inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_emulation::runtime().last_error;
  cuda_emulation::runtime().last_error = cudaSuccess;
  return error;
}

// One device, number 0.
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  *value = attribute == cudaDevAttrMultiProcessorCount ? cuda_emulation::kProcessors
                                                       : int(cuda_emulation::kSharedBytesOptin);
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || std::size_t(bytes) > cuda_emulation::kSharedBytesOptin)
    return cudaErrorInvalidValue;
  const auto address = reinterpret_cast<cuda_emulation::Address>(kernel);
  cuda_emulation::runtime().shared_limits[address] = std::size_t(bytes);
  return cudaSuccess;
}

// By threads and shared memory; registers are not known here.
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int threads,
                                                          std::size_t shared_bytes) {
  const int by_threads = cuda_emulation::kThreadsOfProcessor / threads;
  const int by_memory = cuda_emulation::kSharedBytesOfProcessor /
                        (int(shared_bytes) + cuda_emulation::kSharedBytesReserved);
  *blocks = by_threads < by_memory ? by_threads : by_memory;
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
  }
  return "unrecognized error code";
}
