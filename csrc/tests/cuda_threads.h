// The engine of cuda_emulation.h for ThreadSanitizer: one real thread stands for one CUDA thread,
// and the blocks of a launch run side by side.
//
// Only what orders memory on a GPU orders it here: __syncthreads() and __syncwarp() release and
// acquire, while shuffles and votes pass their values through relaxed atomics. So a kernel that
// relies on a shuffle to make another lane's write visible is a race here as well. A thread waits
// by yielding; one that waits for two minutes ends the program (some thread never comes).
//
// A collective must name all lanes of its warp; the fibers of cuda_fibers.h take any mask.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "cuda_types.h"

inline thread_local uint3 threadIdx, blockIdx;

namespace cuda_emulation {

constexpr int kThreadsAtOnce = 512;  // of the blocks that run side by side

[[noreturn]] inline void give_up(const char* what, Site site) {
  std::fprintf(stderr, "cuda emulation: %s at %s:%d\n", what, site.file, site.line);
  std::_Exit(1);
}

// A meeting of `size` threads, again and again.
struct Meeting {
  int size = 0;
  std::atomic<int> arrived{0};
  std::atomic<unsigned> round{0};

  // Returns when all have come. Memory is ordered only `in_order`.
  void wait(bool in_order, Site site) {
    const auto come = in_order ? std::memory_order_acq_rel : std::memory_order_relaxed;
    const auto leave = in_order ? std::memory_order_release : std::memory_order_relaxed;
    const auto look = in_order ? std::memory_order_acquire : std::memory_order_relaxed;
    const unsigned now = round.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, come) + 1 == size) {
      arrived.store(0, std::memory_order_relaxed);
      round.store(now + 1, leave);
      return;
    }
    const auto start = std::chrono::steady_clock::now();
    while (round.load(look) == now) {
      std::this_thread::yield();
      if (std::chrono::steady_clock::now() - start > std::chrono::minutes(2))
        give_up("a thread never reaches the barrier or collective", site);
    }
  }
};

struct WarpState {
  Meeting meeting;
  std::atomic<std::uint64_t> brought[2][warpSize];  // by even and odd rounds
};

struct BlockState {
  Meeting barrier;
  std::vector<WarpState> warps;
  std::shared_ptr<void> dynamic_shared;

  BlockState(int threads, std::size_t shared_bytes)
      : warps(static_cast<std::size_t>(threads + warpSize - 1) / warpSize) {
    barrier.size = threads;
    for (int w = 0; w * warpSize < threads; ++w)
      warps[w].meeting.size = std::min(warpSize, threads - w * warpSize);
    dynamic_shared = shared_memory(shared_bytes);
  }
};

// The running thread: its block and its number there.
struct Running {
  BlockState* block = nullptr;
  int thread = 0;
};

inline Running& running() {
  static thread_local Running instance;
  return instance;
}

inline int lane_of_thread() {
  return running().thread % warpSize;
}

inline void* dynamic_shared() {
  return running().block->dynamic_shared.get();
}

inline void block_barrier(const char* file, int line) {
  running().block->barrier.wait(true, {file, line});
}

inline std::uint64_t warp_collective(Collective kind, unsigned mask, std::uint64_t value,
                                     int source, Site site) {
  WarpState& warp = running().block->warps[running().thread / warpSize];
  const int lanes = warp.meeting.size;
  const unsigned all = lanes == warpSize ? ~0u : (1u << lanes) - 1u;
  if ((mask & all) != all) give_up("a collective without all lanes of its warp", site);
  if (source >= lanes) give_up("a shuffle reads a lane that does not exist", site);
  const auto relaxed = std::memory_order_relaxed;
  auto& brought = warp.brought[warp.meeting.round.load(relaxed) % 2];
  brought[lane_of_thread()].store(value, relaxed);
  warp.meeting.wait(kind == Collective::sync, site);
  if (kind != Collective::ballot) return brought[source].load(relaxed);
  std::uint64_t ballot = 0;
  for (int lane = 0; lane < lanes; ++lane)
    ballot |= static_cast<std::uint64_t>(brought[lane].load(relaxed) != 0) << lane;
  return ballot;
}

inline void run_thread(BlockState* block, uint3 block_index, int thread,
                       const std::function<void()>& kernel) {
  const unsigned i = static_cast<unsigned>(thread);
  running() = {block, thread};
  blockIdx = block_index;
  threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  kernel();
}

// Runs the blocks of a launch, as many side by side as kThreadsAtOnce allows.
inline void run_grid(const LaunchShape& shape, std::function<void()> kernel) {
  const int size = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
  const unsigned at_once = static_cast<unsigned>(std::max(1, kThreadsAtOnce / size));
  for (unsigned first = 0; first < blocks; first += at_once) {
    std::vector<std::unique_ptr<BlockState>> states;
    std::vector<std::thread> threads;
    for (unsigned b = first; b < std::min(blocks, first + at_once); ++b) {
      const uint3 index = {b % gridDim.x, b / gridDim.x % gridDim.y, b / (gridDim.x * gridDim.y)};
      states.push_back(std::make_unique<BlockState>(size, shape.shared_bytes));
      for (int i = 0; i < size; ++i)
        threads.emplace_back(run_thread, states.back().get(), index, i, std::cref(kernel));
    }
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace cuda_emulation
