// Runs CUDA kernels on a CPU, so that a machine without a GPU can test the very code that a GPU
// runs.
//
// A .cu file is compiled by the host compiler with this header in place of <cuda_runtime.h>. One
// fiber stands for one CUDA thread. A fiber runs until it reaches __syncthreads(), a warp
// collective or its end, so a run is deterministic; `set_order` replays it with the threads (and
// the blocks) reversed or shuffled, which brings out a missing barrier as a wrong answer.
//
// Reported by an exception out of the launch: a barrier that not every thread of the block reaches,
// a warp collective that a lane named in its mask never joins, a shuffle that reads a lane outside
// the mask. Reported by cudaGetLastError() as on a GPU: a grid, block or shared memory size that
// no device takes. Dynamic shared memory is a heap block of exactly the size asked for, filled with
// NaN, so AddressSanitizer sees an overrun and the answers show a read before a write.
//
// Not modelled: races between unordered plain accesses (see `set_order`), memory fences, textures,
// streams (a launch is over when it returns), static __shared__ (it is not cleared between blocks).
// One launch at a time: the state is global, as threadIdx is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

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
  cuda_emulation::launch({grid, block, shared_bytes, stream}, [&] { (kernel)(__VA_ARGS__); })
#define EPIGRAF_DYNAMIC_SHARED(type, name) \
  type* name = static_cast<type*>(cuda_emulation::state().dynamic_shared.get())

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

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

using cudaStream_t = struct EmulatedStream*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101
};

namespace cuda_emulation {

enum class Order { forward, reversed, shuffled };
enum class Wait { none, block, warp, finished };
enum class Collective { sync, shuffle, ballot };

struct Thread {
  Fiber fiber;
  Wait wait = Wait::none;
  const char* file = "";  // where it waits
  int line = 0;
  Collective collective = Collective::sync;
  unsigned mask = 0;
  int source = 0;           // shuffle: the lane (of this warp) to read
  std::uint64_t value = 0;  // shuffle, ballot: what this lane brings, then what it takes away
};

struct State {
  Order order = Order::forward;
  std::mt19937 random{0};
  std::vector<Thread> threads;  // of the running block
  int running = 0;
  std::string failure;  // set by a fiber that cannot go on, thrown by the launch
  std::function<void()> kernel;
  std::shared_ptr<void> dynamic_shared;
  cudaError_t last_error = cudaSuccess;
};

inline State& state() {
  static State instance;
  return instance;
}

// The order in which threads and blocks run from now on; `seed` is for Order::shuffled.
inline void set_order(Order order, unsigned seed = 0) {
  state().order = order;
  state().random.seed(seed);
}

inline std::vector<int> visiting_order(int n) {
  std::vector<int> result(n);
  for (int i = 0; i < n; ++i) result[i] = state().order == Order::reversed ? n - 1 - i : i;
  if (state().order == Order::shuffled)
    for (int i = n - 1; i > 0; --i)
      std::swap(result[i], result[state().random() % static_cast<unsigned>(i + 1)]);
  return result;
}

inline std::string describe(int thread) {
  const Thread& t = state().threads[thread];
  const std::string name = "thread " + std::to_string(thread);
  if (t.wait == Wait::finished) return name + " has returned";
  return name + " waits at " + t.file + ":" + std::to_string(t.line);
}

// Leaves the running fiber; the scheduler resumes it when what it waits for has happened.
inline void suspend(Wait wait, const char* file, int line) {
  Thread& self = state().threads[state().running];
  self.wait = wait;
  self.file = file;
  self.line = line;
  self.fiber.leave(wait == Wait::finished);
}

inline void block_barrier(const char* file, int line) {
  suspend(Wait::block, file, line);
}

// ---- warp collectives ------------------------------------------------------------------------

inline bool joined(const Thread& lane, const Thread& self) {
  return lane.wait == Wait::warp && lane.mask == self.mask && lane.collective == self.collective;
}

// Gives every lane of the mask its result once all of them have arrived; false if one is missing.
inline bool complete_collective(int first_lane, const Thread& self) {
  State& s = state();
  const int lanes = std::min<int>(warpSize, static_cast<int>(s.threads.size()) - first_lane);
  std::uint64_t brought[warpSize] = {}, ballot = 0;
  for (int lane = 0; lane < warpSize; ++lane) {
    if (!(self.mask >> lane & 1u)) continue;
    if (lane >= lanes || !joined(s.threads[first_lane + lane], self)) return false;
    brought[lane] = s.threads[first_lane + lane].value;
    ballot |= static_cast<std::uint64_t>(brought[lane] != 0) << lane;
  }
  for (int lane = 0; lane < lanes; ++lane) {
    if (!(self.mask >> lane & 1u)) continue;
    Thread& t = s.threads[first_lane + lane];
    if (t.collective == Collective::shuffle && !(self.mask >> t.source & 1u))
      s.failure = "shuffle reads lane " + std::to_string(t.source) +
                  ", which is not in its mask: " + describe(first_lane + lane);
    t.value = t.collective == Collective::ballot ? ballot : brought[t.source];
  }
  for (int lane = 0; lane < lanes; ++lane)
    if (self.mask >> lane & 1u) s.threads[first_lane + lane].wait = Wait::none;
  return true;
}

struct Site {
  const char* file;
  int line;
};

inline std::uint64_t warp_collective(Collective kind, unsigned mask, std::uint64_t value,
                                     int source, Site site) {
  State& s = state();
  Thread& self = s.threads[s.running];
  const int lane = s.running % warpSize;
  self.collective = kind;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.wait = Wait::warp;
  self.file = site.file;
  self.line = site.line;
  if (!(mask >> lane & 1u))
    s.failure = "a collective's mask leaves out its caller: " + describe(s.running);
  if (!s.failure.empty() || !complete_collective(s.running - lane, self))
    suspend(Wait::warp, site.file, site.line);
  return self.value;
}

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
  static int lane() { return state().running % warpSize; }
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

// ---- blocks and launches ---------------------------------------------------------------------

inline void thread_main() {
  state().kernel();
  suspend(Wait::finished, "", 0);
  std::abort();  // a finished fiber is never resumed
}

inline void resume(int index) {
  State& s = state();
  const unsigned i = static_cast<unsigned>(index);
  threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  s.running = index;
  s.threads[index].fiber.enter();
  if (!s.failure.empty()) throw std::runtime_error("cuda emulation: " + s.failure);
}

inline bool same_place(const Thread& a, const Thread& b) {
  return a.wait == b.wait && a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

// Opens the block's barrier when every thread stands at the same one. Throws otherwise: no thread
// can run, so some wait for one that waits elsewhere, has returned or does not exist.
inline void open_barrier() {
  std::vector<Thread>& threads = state().threads;
  int first_other = 0;
  for (Thread& t : threads) {
    if (!same_place(t, threads[0])) break;
    ++first_other;
  }
  if (first_other < static_cast<int>(threads.size()))
    throw std::runtime_error("cuda emulation: divergent barrier or collective: " + describe(0) +
                             ", " + describe(first_other));
  if (threads[0].wait == Wait::warp)
    throw std::runtime_error("cuda emulation: a collective's mask names a lane that never comes: " +
                             describe(0));
  for (Thread& t : threads) t.wait = Wait::none;
}

inline void run_block() {
  State& s = state();
  const int n = static_cast<int>(s.threads.size());
  for (Thread& t : s.threads) {
    t.wait = Wait::none;
    t.fiber.start(&thread_main);
  }
  for (int finished = 0; finished < n;) {
    int ran = 0;
    for (int i : visiting_order(n)) {
      if (s.threads[i].wait != Wait::none) continue;
      resume(i);
      finished += s.threads[i].wait == Wait::finished;
      ++ran;
    }
    if (ran == 0) open_barrier();
  }
}

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes;
  cudaStream_t stream;
};

inline bool valid_launch(const LaunchShape& shape) {
  const dim3 grid = shape.grid, block = shape.block;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const bool grid_fits = grid.x > 0 && grid.x < (1u << 31) && grid.y > 0 && grid.y < 65536 &&
                         grid.z > 0 && grid.z < 65536;
  return grid_fits && threads > 0 && threads <= 1024 && block.z <= 64 &&
         shape.shared_bytes <= 48 * 1024;
}

inline void launch(const LaunchShape& shape, std::function<void()> kernel) {
  State& s = state();
  if (!valid_launch(shape)) {
    s.last_error = cudaErrorInvalidConfiguration;
    return;
  }
  s.kernel = std::move(kernel);
  s.failure.clear();
  s.threads.resize(std::size_t{shape.block.x} * shape.block.y * shape.block.z);
  s.dynamic_shared.reset(std::malloc(std::max<std::size_t>(shape.shared_bytes, 1)), std::free);
  gridDim = shape.grid;
  blockDim = shape.block;
  for (int i : visiting_order(static_cast<int>(gridDim.x * gridDim.y * gridDim.z))) {
    const unsigned b = static_cast<unsigned>(i);
    blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / (gridDim.x * gridDim.y)};
    std::memset(s.dynamic_shared.get(), 0xff, shape.shared_bytes);
    run_block();
  }
}

// Calls `function` once in each order (three shuffles), and leaves the forward order behind.
template <typename Function>
void in_every_order(Function function) {
  set_order(Order::reversed);
  function();
  for (unsigned seed = 0; seed < 3; ++seed) {
    set_order(Order::shuffled, seed);
    function();
  }
  set_order(Order::forward);
  function();
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

// Fibers are never preempted, so plain arithmetic is atomic.
template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}

inline float4 atomicAdd(float4* address, float4 value) {  // as sm_90 does: each component by itself
  const float4 old = *address;
  *address = {old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w};
  return old;
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_emulation::state().last_error;
  cuda_emulation::state().last_error = cudaSuccess;
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
