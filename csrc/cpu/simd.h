// Vectors of kBytes bytes (16, 32, 64: one register of the baseline, AVX2, AVX-512), by the
// compiler's vector extension, and the elementary functions on them. Everything is inlined into the
// clone that uses it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "epigraf/macros.h"

namespace epigraf {

template <typename T, int kBytes>
struct Simd {
  using Scalar = T;
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Vector __attribute__((vector_size(kBytes)));
  typedef Int IntVector __attribute__((vector_size(kBytes)));
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(T));

  static EPIGRAF_HD Vector load(const T* from) {
    Vector v;
    std::memcpy(&v, from, kBytes);
    return v;
  }
  static EPIGRAF_HD void store(T* to, Vector v) { std::memcpy(to, &v, kBytes); }
  static EPIGRAF_HD void store(Int* to, IntVector v) { std::memcpy(to, &v, kBytes); }
  static EPIGRAF_HD Vector splat(T x) { return Vector{} + x; }
  static EPIGRAF_HD T sum(Vector v) {
    T total = 0;
    for (int i = 0; i < kLanes; ++i) total += v[i];
    return total;
  }
};

// a where the lanes of `mask` are all ones, else b. The mask must be a comparison that is used here
// only: of any other GCC makes a vector, lane by lane where the processor has no such instruction.
template <typename M, typename V>
EPIGRAF_HD V choose(M mask, V a, V b) {
  return mask ? a : b;
}

// exp(x), relative error below 2e-7 (float; measured over [-87, 0]), a few ulp of libm (double).
// Results below the smallest normal number are 0; NaN stays NaN.
template <typename S>
EPIGRAF_HD typename S::Vector exp_vector(typename S::Vector x) {
  using V = typename S::Vector;
  if constexpr (sizeof(typename S::Scalar) == 8) {
    for (int i = 0; i < S::kLanes; ++i) x[i] = std::exp(x[i]);
    return x;
  } else {
    // exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2; Taylor-like minimax of degree 7.
    const V low = S::splat(-87.33654f), high = S::splat(88.37626f);
    V c = choose(x < low, low, x);  // NaN passes both comparisons
    c = choose(c > high, high, c);
    const V magic = S::splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const V n = (c * 1.44269504f + magic) - magic;
    const V r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const auto exponent = __builtin_convertvector(choose(n == n, n, V{}), typename S::IntVector);
    V scale;
    const typename S::IntVector bits = (exponent + 127) << 23;
    std::memcpy(&scale, &bits, sizeof(scale));
    return choose(c <= low, V{}, p * scale);
  }
}

// log(1 + z) for z in [0, 1]; relative error below 2e-7 (float). 2 atanh(s), s = z / (2 + z).
template <typename S>
EPIGRAF_HD typename S::Vector log1p_vector(typename S::Vector z) {
  using V = typename S::Vector;
  if constexpr (sizeof(typename S::Scalar) == 8) {
    for (int i = 0; i < S::kLanes; ++i) z[i] = std::log1p(z[i]);
    return z;
  } else {
    const V s = z / (z + 2.0f), q = s * s;
    V p = q * (1 / 13.0f) + 1 / 11.0f;
    p = p * q + 1 / 9.0f;
    p = p * q + 1 / 7.0f;
    p = p * q + 1 / 5.0f;
    p = p * q + 1 / 3.0f;
    p = p * q + 1.0f;
    return (s + s) * p;
  }
}

// log(1 + exp(x)) for any x.
template <typename S>
EPIGRAF_HD typename S::Vector softplus_vector(typename S::Vector x) {
  using V = typename S::Vector;
  const V positive = choose(x < V{}, V{}, x);
  return positive + log1p_vector<S>(exp_vector<S>(choose(x < -x, x, -x)));
}

// 1 / (1 + exp(-x)), the derivative of softplus.
template <typename S>
EPIGRAF_HD typename S::Vector sigmoid_vector(typename S::Vector x) {
  using V = typename S::Vector;
  const V one = S::splat(1), e = exp_vector<S>(choose(x < -x, x, -x));
  return choose(x < V{}, e, one) / (one + e);
}

// result[j] = the lane order[j] of a and b, one after the other.
template <typename V, typename M>
EPIGRAF_HD V shuffle(V a, V b, M order) {
#if defined(__GNUC__) && !defined(__clang__)
  return __builtin_shuffle(a, b, order);
#else
  constexpr int kLanes = sizeof(V) / sizeof(a[0]);
  V result;
  for (int j = 0; j < kLanes; ++j) {
    result[j] = order[j] < kLanes ? a[order[j]] : b[order[j] - kLanes];
  }
  return result;
#endif
}

// Transposes kLanes vectors of kLanes lanes in place: log2(kLanes) rounds of exchanges.
template <typename S, int kStep = S::kLanes / 2>
EPIGRAF_HD void transpose(typename S::Vector (&rows)[S::kLanes]) {
  typename S::IntVector low{}, high{};
  for (int j = 0; j < S::kLanes; ++j) {
    low[j] = (j & kStep) ? S::kLanes + j - kStep : j;
    high[j] = (j & kStep) ? S::kLanes + j : j + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < S::kLanes; ++i) {
    if (i & kStep) continue;
    const typename S::Vector a = rows[i], b = rows[i + kStep];
    rows[i] = shuffle(a, b, low);
    rows[i + kStep] = shuffle(a, b, high);
  }
  if constexpr (kStep > 1) transpose<S, kStep / 2>(rows);
}

}  // namespace epigraf
