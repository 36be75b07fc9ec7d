// The emulation itself: what it computes, and which mistakes in a kernel it reports.
#include "cuda_emulation.h"

#include "check.h"

using cuda_emulation::in_every_order;
using cuda_emulation::Order;
using cuda_emulation::set_order;

namespace {

const cudaStream_t stream = nullptr;

__global__ void write_index(int* out) {
  const int block = static_cast<int>(blockIdx.x + gridDim.x * blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * threadIdx.y);
  const int i = block * static_cast<int>(blockDim.x * blockDim.y) + thread;
  out[i] = i;
}

// Every thread gives its value to its left neighbour through shared memory.
__global__ void rotate_block(const float* in, float* out) {
  EPIGRAF_DYNAMIC_SHARED(float, shared);
  shared[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

__global__ void rotate_block_without_barrier(const float* in, float* out) {
  EPIGRAF_DYNAMIC_SHARED(float, shared);
  shared[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

__global__ void barrier_in_a_branch(int limit) {
  if (static_cast<int>(threadIdx.x) < limit) __syncthreads();
}

__global__ void two_barriers(int limit) {
  if (static_cast<int>(threadIdx.x) < limit) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

template <typename T>
__global__ void warp_sum(const T* in, T* out) {
  T value = in[threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  out[threadIdx.x] = value;
}

__global__ void shuffle_kinds(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __shfl_sync(~0u, lane, 3, 8);             // lane 3 of each group of 8
  out[32 + lane] = __shfl_up_sync(~0u, lane, 1, 16);    // the first of each 16 keeps its own
  out[64 + lane] = __shfl_down_sync(~0u, lane, 2, 16);  // so do the last two
  out[96 + lane] = static_cast<int>(__ballot_sync(~0u, lane % 2 == 0) & 0xffffu);
  out[128 + lane] = __any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane < 31);
  __syncwarp();
}

__global__ void half_warp(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < 16)
    out[lane] = __shfl_xor_sync(0xffffu, lane, 1);
  else
    out[lane] = __shfl_xor_sync(0xffff0000u, lane, 2);
}

__global__ void missing_lane(int* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
}

__global__ void reads_outside_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}

__global__ void add_to_one(int* sum) {
  atomicAdd(sum, static_cast<int>(threadIdx.x + blockIdx.x));
}

__global__ void log_order(std::vector<int>* log) {
  log->push_back(static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
}

__global__ void copy_shared(float* out) {
  EPIGRAF_DYNAMIC_SHARED(float, shared);
  out[threadIdx.x] = shared[threadIdx.x];
}

}  // namespace

TEST(every_thread_of_every_block_runs_once) {
  in_every_order([] {
    std::vector<int> out(3 * 2 * 8 * 4, -1);
    EPIGRAF_LAUNCH(write_index, dim3(3, 2), dim3(8, 4), 0, stream, out.data());
    for (int i = 0; i < static_cast<int>(out.size()); ++i) CHECK_EQUAL(out[i], i);
  });
}

TEST(orders_are_what_they_say) {
  std::vector<int> log;
  set_order(Order::reversed);
  EPIGRAF_LAUNCH(log_order, 2, 3, 0, stream, &log);
  CHECK(log == (std::vector<int>{5, 4, 3, 2, 1, 0}));
  log.clear();
  set_order(Order::forward);
  EPIGRAF_LAUNCH(log_order, 2, 3, 0, stream, &log);
  CHECK(log == (std::vector<int>{0, 1, 2, 3, 4, 5}));
}

TEST(barrier_and_shared_memory) {
  in_every_order([] {
    std::vector<float> in(70), out(70);
    for (int i = 0; i < 70; ++i) in[i] = static_cast<float>(i);
    EPIGRAF_LAUNCH(rotate_block, 1, 70, 70 * sizeof(float), stream, in.data(), out.data());
    for (int i = 0; i < 70; ++i) CHECK_EQUAL(out[i], in[(i + 1) % 70]);
  });
}

TEST(missing_barrier_gives_a_wrong_answer_in_some_order) {
  int wrong = 0;
  in_every_order([&wrong] {
    std::vector<float> in(64, 1.0f), out(64);
    EPIGRAF_LAUNCH(rotate_block_without_barrier, 1, 64, 64 * sizeof(float), stream, in.data(),
                   out.data());
    wrong += out != in;
  });
  CHECK(wrong > 0);
}

TEST(divergent_barrier_is_reported) {
  CHECK_THROWS(EPIGRAF_LAUNCH(barrier_in_a_branch, 1, 64, 0, stream, 40),
               "divergent barrier or collective: thread 0 waits at");
  CHECK_THROWS(EPIGRAF_LAUNCH(two_barriers, 1, 64, 0, stream, 40), "divergent");
  EPIGRAF_LAUNCH(barrier_in_a_branch, 1, 64, 0, stream, 64);  // and the next launch is clean
  EPIGRAF_LAUNCH(barrier_in_a_branch, 1, 64, 0, stream, 0);
}

TEST(warp_sums) {
  in_every_order([] {
    std::vector<double> in(64), out(64);
    for (int i = 0; i < 64; ++i) in[i] = i;
    EPIGRAF_LAUNCH(warp_sum<double>, 1, 64, 0, stream, in.data(), out.data());
    for (int i = 0; i < 64; ++i) CHECK_EQUAL(out[i], i < 32 ? 496.0 : 496.0 + 32 * 32);
  });
}

TEST(shuffle_semantics) {
  in_every_order([] {
    std::vector<int> out(160);
    EPIGRAF_LAUNCH(shuffle_kinds, 1, 32, 0, stream, out.data());
    for (int lane = 0; lane < 32; ++lane) {
      CHECK_EQUAL(out[lane], lane / 8 * 8 + 3);
      CHECK_EQUAL(out[32 + lane], lane % 16 == 0 ? lane : lane - 1);
      CHECK_EQUAL(out[64 + lane], lane % 16 >= 14 ? lane : lane + 2);
      CHECK_EQUAL(out[96 + lane], 0x5555);
      CHECK_EQUAL(out[128 + lane], 1);
    }
  });
}

TEST(partial_masks) {
  in_every_order([] {
    std::vector<int> out(32);
    EPIGRAF_LAUNCH(half_warp, 1, 32, 0, stream, out.data());
    for (int lane = 0; lane < 32; ++lane) CHECK_EQUAL(out[lane], lane ^ (lane < 16 ? 1 : 2));
  });
  std::vector<int> out(32);
  CHECK_THROWS(EPIGRAF_LAUNCH(missing_lane, 1, 32, 0, stream, out.data()), "thread 5 has returned");
  CHECK_THROWS(EPIGRAF_LAUNCH(missing_lane, 1, 4, 0, stream, out.data()),
               "names a lane that never comes");
  CHECK_THROWS(EPIGRAF_LAUNCH(reads_outside_mask, 1, 32, 0, stream, out.data()),
               "shuffle reads lane 20");
}

TEST(atomics) {
  in_every_order([] {
    int sum = 0;
    EPIGRAF_LAUNCH(add_to_one, 4, 100, 0, stream, &sum);
    CHECK_EQUAL(sum, 4 * 4950 + 100 * (0 + 1 + 2 + 3));
  });
}

TEST(shared_memory_starts_as_nan) {
  std::vector<float> out(8, 0.0f);
  EPIGRAF_LAUNCH(copy_shared, 1, 8, 8 * sizeof(float), stream, out.data());
  for (float value : out) CHECK(std::isnan(value));
}

TEST(impossible_launches_set_the_error) {
  std::vector<int> out(1);
  EPIGRAF_LAUNCH(write_index, 0, 32, 0, stream, out.data());
  CHECK_EQUAL(cudaGetLastError(), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);
  EPIGRAF_LAUNCH(write_index, 1, 1025, 0, stream, out.data());
  CHECK_EQUAL(cudaGetLastError(), cudaErrorInvalidConfiguration);
  EPIGRAF_LAUNCH(write_index, dim3(1, 65536), 1, 0, stream, out.data());
  CHECK_EQUAL(cudaGetLastError(), cudaErrorInvalidConfiguration);
  EPIGRAF_LAUNCH(write_index, 1, 1, 64 * 1024, stream, out.data());
  CHECK_EQUAL(std::string(cudaGetErrorString(cudaGetLastError())),
              "invalid configuration argument");
}

TEST(more_shared_memory_must_be_asked_for) {
  std::vector<int> out(1);
  const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
  CHECK_EQUAL(cudaFuncSetAttribute(write_index, attribute, 100 * 1024), cudaErrorInvalidValue);
  CHECK_EQUAL(cudaFuncSetAttribute(write_index, attribute, 64 * 1024), cudaSuccess);
  EPIGRAF_LAUNCH(write_index, 1, 1, 64 * 1024, stream, out.data());
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);
  EPIGRAF_LAUNCH(write_index, 1, 1, 64 * 1024 + 1, stream, out.data());
  CHECK_EQUAL(cudaGetLastError(), cudaErrorInvalidConfiguration);
}
