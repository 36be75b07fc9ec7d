// Planes in 16 bits: float16 (IEEE 754 binary16) and bfloat16, converted to float where they are
// read and rounded to nearest, ties to even, where they are written. No arithmetic of their own.
#pragma once

#include <cstdint>
#include <cstring>

#include "epigraf/macros.h"

namespace epigraf {

EPIGRAF_HD float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

EPIGRAF_HD uint32_t bits_of_float(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// The bits of a float16. Below 2^-14 its exponent does not move: the product (the sum, in the other
// direction) with a power of two scales such a number as it does the others.
EPIGRAF_HD float float_of_half(uint16_t bits) {
#if defined(__CUDA_ARCH__)
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
#else
  const uint32_t sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  const uint32_t finite = bits_of_float(float_of_bits(rest << 13) * 0x1p112f);
  return float_of_bits(sign | finite | (rest >= 0x7c00u ? 0x7f800000u : 0u));
#endif
}

EPIGRAF_HD uint16_t half_of_float(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  const uint32_t all = bits_of_float(x), sign = all >> 16 & 0x8000u, rest = all & 0x7fffffffu;
  const uint32_t normal = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
  const uint32_t small = bits_of_float(float_of_bits(rest) + 0.5f) - bits_of_float(0.5f);
  const uint32_t large = rest > 0x7f800000u ? 0x7e00u : 0x7c00u;  // NaN, infinity
  const uint32_t finite = rest < 0x38800000u ? small : normal;
  return static_cast<uint16_t>(sign | (rest >= 0x47800000u ? large : finite));
#endif
}

struct Half {
  uint16_t bits;

  Half() = default;
  EPIGRAF_HD explicit Half(float x) : bits(half_of_float(x)) {}
  EPIGRAF_HD operator float() const { return float_of_half(bits); }
};

// The upper half of a float.
struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  EPIGRAF_HD explicit BFloat16(float x) {
    const uint32_t all = bits_of_float(x);
    const uint32_t rounded = (all + 0x7fffu + (all >> 16 & 1u)) >> 16;
    bits = static_cast<uint16_t>((all & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
  }
  EPIGRAF_HD operator float() const { return float_of_bits(static_cast<uint32_t>(bits) << 16); }
};

}  // namespace epigraf
