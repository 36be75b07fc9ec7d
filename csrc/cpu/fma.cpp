// How fast this machine multiplies and adds: chains of fused multiply-adds in registers, the roof
// of every kernel here. For `epigraf bench` alone.
#include <stdexcept>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "simd.h"

namespace epigraf {
namespace {

template <int kBytes>
float fma_chains(int64_t steps) {
  using S = Simd<float, kBytes>;
  typename S::Vector sum[kFmaChains] = {};
  Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA {
    typename S::Vector chain[kFmaChains];
    EPIGRAF_UNROLL
    for (int c = 0; c < kFmaChains; ++c) chain[c] = S::splat(static_cast<float>(c));
    for (int64_t i = 0; i < steps; ++i) {
      EPIGRAF_UNROLL
      for (int c = 0; c < kFmaChains; ++c) chain[c] = chain[c] * 0.5f + 0.25f;
    }
    EPIGRAF_UNROLL
    for (int c = 0; c < kFmaChains; ++c) sum[c] = chain[c];
  });
  float total = 0;
  for (const auto& vector : sum) total += S::sum(vector);
  return total;
}

}  // namespace

std::vector<int> vector_widths() {
  std::vector<int> widths = {16};
#if defined(EPIGRAF_HAS_CLONES)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v3")) widths.push_back(32);
  if (__builtin_cpu_supports("x86-64-v4")) widths.push_back(64);
#endif
  return widths;
}

double fma_loop(int bytes, int64_t steps, int threads) {
  if (bytes > vector_widths().back() || (bytes != 16 && bytes != 32 && bytes != 64)) {
    throw std::runtime_error("fma_loop: this processor has no vectors of " + std::to_string(bytes) +
                             " bytes");
  }
  double total = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : total)
  for (int i = 0; i < threads; ++i) {
    if (bytes == 16) total += fma_chains<16>(steps);
#if defined(EPIGRAF_HAS_CLONES)
    if (bytes == 32) total += fma_chains<32>(steps);
    if (bytes == 64) total += fma_chains<64>(steps);
#endif
  }
  return total;
}

}  // namespace epigraf
