// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011, section 3.3; docs/math/philox.md, cited as "(philox n)").
//
// The number at (seed, stream, index) is a function of these three, so that any thread of any
// device can compute it: no state, no order. Streams are independent sequences of one seed.
#pragma once

#include <cmath>
#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

constexpr uint32_t kPhiloxMultiplierA = 0xD2511F53u, kPhiloxMultiplierB = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeylA = 0x9E3779B9u, kPhiloxWeylB = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

struct PhiloxBlock {
  uint32_t words[4];
};

// (philox 1): ten rounds of the counter under the key.
EPIGRAF_HD PhiloxBlock philox_rounds(PhiloxBlock counter, uint64_t key) {
  uint32_t a = static_cast<uint32_t>(key), b = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t first = static_cast<uint64_t>(kPhiloxMultiplierA) * counter.words[0];
    const uint64_t second = static_cast<uint64_t>(kPhiloxMultiplierB) * counter.words[2];
    counter = {
        {static_cast<uint32_t>(second >> 32) ^ counter.words[1] ^ a, static_cast<uint32_t>(second),
         static_cast<uint32_t>(first >> 32) ^ counter.words[3] ^ b, static_cast<uint32_t>(first)}};
    a += kPhiloxWeylA;
    b += kPhiloxWeylB;
  }
  return counter;
}

// (philox 2): the four words that hold the numbers 4 block ... 4 block + 3 of a stream.
EPIGRAF_HD PhiloxBlock philox_block(uint64_t seed, uint32_t stream, uint64_t block) {
  return philox_rounds(
      {{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), stream, 0u}}, seed);
}

// (philox 3): 24 bits as a number in [0, 1), the same in float and double.
template <typename T>
EPIGRAF_HD T philox_unit(uint32_t word) {
  return static_cast<T>(word >> 8) * T(1.0 / 16777216.0);
}

// (philox 4): two independent normal numbers from two words (Box and Muller 1958); the first unit
// is taken in (0, 1], so that its logarithm is finite.
template <typename T>
EPIGRAF_HD void philox_normal_pair(uint32_t first, uint32_t second, T& a, T& b) {
  const T radius = std::sqrt(T(-2) * std::log(philox_unit<T>(first) + T(1.0 / 16777216.0)));
  const T angle = T(6.283185307179586) * philox_unit<T>(second);
  a = radius * std::cos(angle);
  b = radius * std::sin(angle);
}

// The uniform number in [0, 1) at (seed, stream, index).
template <typename T>
EPIGRAF_HD T philox_uniform(uint64_t seed, uint32_t stream, uint64_t index) {
  return philox_unit<T>(philox_block(seed, stream, index / 4).words[index % 4]);
}

// The normal number at (seed, stream, index): words 0 and 1 of a block make its numbers 0 and 1,
// words 2 and 3 its numbers 2 and 3.
template <typename T>
EPIGRAF_HD T philox_normal(uint64_t seed, uint32_t stream, uint64_t index) {
  const PhiloxBlock block = philox_block(seed, stream, index / 4);
  const int pair = static_cast<int>(index % 4) / 2 * 2;
  T a, b;
  philox_normal_pair(block.words[pair], block.words[pair + 1], a, b);
  return index % 2 ? b : a;
}

}  // namespace epigraf
