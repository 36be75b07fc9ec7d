// The engine of cuda_emulation.h that the tests use: one fiber stands for one CUDA thread.
//
// A fiber runs until it reaches __syncthreads(), a warp collective or its end, so a run is
// deterministic; `set_order` replays it with the threads (and the blocks) reversed or shuffled,
// which brings out a missing barrier as a wrong answer.
//
// Reported by an exception out of the launch: a barrier that not every thread of the block reaches,
// a warp collective that a lane named in its mask never joins, a shuffle that reads a lane outside
// the mask. Not modelled: races between unordered plain accesses (see `set_order`, and
// cuda_threads.h).
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

#include "cuda_types.h"
#include "fiber.h"

inline uint3 threadIdx, blockIdx;

namespace cuda_emulation {

enum class Order { forward, reversed, shuffled };
enum class Wait { none, block, warp, finished };

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

inline int lane_of_thread() {
  return state().running % warpSize;
}

inline void* dynamic_shared() {
  return state().dynamic_shared.get();
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

// Runs the blocks of a launch, one after another.
inline void run_grid(const LaunchShape& shape, std::function<void()> kernel) {
  State& s = state();
  s.kernel = std::move(kernel);
  s.failure.clear();
  s.threads.resize(std::size_t{shape.block.x} * shape.block.y * shape.block.z);
  for (int i : visiting_order(static_cast<int>(gridDim.x * gridDim.y * gridDim.z))) {
    const unsigned b = static_cast<unsigned>(i);
    blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / (gridDim.x * gridDim.y)};
    s.dynamic_shared = shared_memory(shape.shared_bytes);
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
