// Neighbouring blocks of a stream of random numbers (docs/math/philox.md, cited as "(philox n)"),
// one in each lane.
#pragma once

#include "epigraf/philox.h"
#include "simd.h"

namespace epigraf {

template <int kBytes, typename Word = uint64_t>
struct PhiloxBlocks {
  typedef Word Words __attribute__((vector_size(kBytes)));  // of 32 bits each
  static constexpr int kCount = kBytes / 8;

  Words words[4];

  // (philox 1, 2): blocks first, first + 1, ...
  EPIGRAF_HD PhiloxBlocks(uint64_t seed, uint32_t stream, uint64_t first) {
    constexpr Word kLow = 0xFFFFFFFFu;
    Words index{};
    for (int i = 0; i < kCount; ++i) index[i] = first + static_cast<uint64_t>(i);
    Words c0 = index & kLow, c1 = index >> 32, c2 = Words{} + stream, c3{};
    uint32_t a = static_cast<uint32_t>(seed), b = static_cast<uint32_t>(seed >> 32);
    EPIGRAF_UNROLL
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const Words one = c0 * Word{kPhiloxMultiplierA}, two = c2 * Word{kPhiloxMultiplierB};
      c0 = (two >> 32) ^ c1 ^ Word{a};
      c1 = two & kLow;
      c2 = (one >> 32) ^ c3 ^ Word{b};
      c3 = one & kLow;
      a += kPhiloxWeylA;
      b += kPhiloxWeylB;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
  }

  EPIGRAF_HD uint32_t word(int w, int block) const {
    return static_cast<uint32_t>(words[w][block]);
  }
};

}  // namespace epigraf
