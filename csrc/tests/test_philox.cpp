// Counter-based random numbers: published answers, the CPU code, and the CUDA code on the CPU.
#include <vector>

#include "check.h"
#include "cuda_emulation.h"
#include "epigraf/launch.h"

using namespace epigraf;

namespace {

const Stream kStream = {0, nullptr};

void check_rounds(PhiloxBlock counter, uint64_t key, PhiloxBlock expected) {
  const PhiloxBlock block = philox_rounds(counter, key);
  for (int i = 0; i < 4; ++i) CHECK_EQUAL(block.words[i], expected.words[i]);
}

// The numbers [offset, offset + count), with a sentinel behind them that must stay.
template <typename T>
std::vector<T> filled(uint64_t offset, int64_t count, bool normal, int threads) {
  std::vector<T> numbers(static_cast<size_t>(count) + 1, T(7));
  const PhiloxFill<T> params{0x123456789abcdef0u, 5, offset, count, normal, numbers.data()};
  threads > 0 ? philox_fill_cpu(params, threads) : philox_fill_cuda(params, kStream);
  CHECK_EQUAL(numbers.back(), T(7));
  numbers.pop_back();
  return numbers;
}

template <typename T>
void check_fill(uint64_t offset, int64_t count) {
  for (const int threads : {0, 1, 3}) {
    const auto uniform = filled<T>(offset, count, false, threads);
    const auto normal = filled<T>(offset, count, true, threads);
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t index = offset + static_cast<uint64_t>(i);
      CHECK_EQUAL(uniform[i], philox_uniform<T>(0x123456789abcdef0u, 5, index));
      // A vectorised cosine may round otherwise than libm's.
      CHECK_NEAR(normal[i], philox_normal<T>(0x123456789abcdef0u, 5, index),
                 sizeof(T) == 4 ? 4e-6 : 1e-14);
    }
  }
}

}  // namespace

// kat_vectors of Random123 (Salmon et al.), philox4x32 with 10 rounds.
TEST(known_answers) {
  check_rounds({{0, 0, 0, 0}}, 0, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}});
  const uint32_t ones = 0xffffffffu;
  check_rounds({{ones, ones, ones, ones}}, ~uint64_t{0},
               {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}});
  check_rounds({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0x299f31d0a4093822u,
               {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}});
}

TEST(fill_is_the_number_at_each_index) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{254}}) {
    for (const int64_t count : {0, 1, 2, 3, 5, 31, 33, 1027}) check_fill<float>(offset, count);
  }
  check_fill<double>(2, 515);
  check_fill<float>((uint64_t{1} << 34) - 6, 20);  // the block's number passes 2^32
  check_fill<float>(1, 4 * 4096 * 2 + 9);          // several tasks
}

TEST(float_and_double_are_the_same_numbers) {
  const auto single = filled<float>(0, 4000, false, 1);
  const auto both = filled<double>(0, 4000, false, 1);
  for (size_t i = 0; i < single.size(); ++i) CHECK_EQUAL(double(single[i]), both[i]);
}

TEST(kernels_in_every_order) {
  const auto expected = filled<float>(3, 3000, true, 1);
  cuda_emulation::in_every_order([&] {
    const auto numbers = filled<float>(3, 3000, true, 0);
    for (size_t i = 0; i < numbers.size(); ++i) CHECK_NEAR(numbers[i], expected[i], 4e-6);
  });
}

TEST(extreme_words_stay_in_range) {
  CHECK_EQUAL(philox_unit<float>(0xffffffffu), 1.0f - 1.0f / 16777216.0f);
  CHECK_EQUAL(philox_unit<double>(0), 0.0);
  float a, b;
  philox_normal_pair<float>(0, 0, a, b);  // the farthest there is: sqrt(-2 ln 2^-24)
  CHECK_NEAR(a, 5.768108, 1e-5);
  philox_normal_pair<float>(0xffffffffu, 0, a, b);
  CHECK_EQUAL(std::fabs(a), 0.0f);
}

TEST(launch_errors_are_reported) {
  float number;
  CHECK_THROWS((philox_fill_cuda<float>({0, 0, 0, 1, false, &number}, Stream{1, nullptr})),
               "philox_fill: CUDA error 101, invalid device ordinal");
}
