// Importance sampling along one ray (docs/math/render.md, cited as "(render n)"): the inverse of
// the piecewise linear distribution function that the weights of a first pass give, and the order
// of both passes by depth.
//
// Legend: S samples of the first pass, F draws, N = S + F. All pointers are the ray's own rows.
#pragma once

#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

constexpr double kPdfEpsilon = 1e-5;

// The unnormalised probability of the bin around a sample of this weight (render 4).
template <typename T>
EPIGRAF_HD T importance_mass(T weight) {
  return (weight + T(kPdfEpsilon)) + T(kPdfEpsilon);
}

// (render 4): cdf [S - 1] over the midpoints of t, from the weights of the inner samples. S >= 3.
// Summed in double: a bin may be only 1e-5 wide, where a rounding of float moves a depth visibly.
template <typename T>
EPIGRAF_HD void importance_cdf(const T* weights, int64_t samples, T* cdf) {
  double sum = 0, total = 0;
  for (int64_t k = 1; k + 1 < samples; ++k) sum += importance_mass(weights[k]);
  cdf[0] = T(0);
  for (int64_t k = 1; k + 1 < samples; ++k) {
    total += importance_mass(weights[k]) / sum;
    cdf[k] = static_cast<T>(total);
  }
}

// The first entry of the cdf that is not below u, S - 1 where there is none.
template <typename T>
EPIGRAF_HD int64_t importance_above(const T* cdf, int64_t samples, T u) {
  int64_t first = 0, count = samples - 1;
  while (count > 0) {  // without branches: a draw goes either way
    const int64_t half = count / 2;
    const bool below = !(cdf[first + half] >= u);
    first += below ? half + 1 : 0;
    count = below ? count - half - 1 : half;
  }
  return first;
}

// (render 5): the depth at u; `above` is the first entry of the cdf that is not below u, S - 1
// where there is none.
template <typename T>
EPIGRAF_HD T importance_depth(const T* t, const T* cdf, int64_t samples, int64_t above, T u) {
  const int64_t below = above > 0 ? above - 1 : 0;
  if (above > samples - 2) above = samples - 2;
  const T bin_below = T(0.5) * (t[below] + t[below + 1]);
  const T bin_above = T(0.5) * (t[above] + t[above + 1]);
  T width = cdf[above] - cdf[below];
  if (width < T(kPdfEpsilon)) width = T(1);
  return bin_below + (u - cdf[below]) / width * (bin_above - bin_below);
}

// The order of depth: NaN after every number.
template <typename T>
EPIGRAF_HD bool depth_before(T a, T b) {
  return a < b || (a == a && b != b);
}

// (render 6): how many of N samples come before sample k where both sets are sorted by depth, equal
// depths in the order fine, coarse, and within a set in the order of the row. Fine samples have the
// numbers 0 ... F - 1, coarse ones F ... N - 1.
template <typename T>
EPIGRAF_HD int64_t merge_rank(const T* fine, int64_t draws, const T* coarse, int64_t samples,
                              int64_t k) {
  const T t = k < draws ? fine[k] : coarse[k - draws];
  int64_t rank = 0;
  for (int64_t j = 0; j < draws + samples; ++j) {
    const T other = j < draws ? fine[j] : coarse[j - draws];
    rank += depth_before(other, t) || (j < k && !depth_before(t, other));
  }
  return rank;
}

// Stable insertion sort of sample numbers by t[number - first]; fast where the row is nearly sorted
// or short.
template <typename T>
EPIGRAF_HD void sort_by_depth(const T* t, int32_t first, int64_t count, int32_t* order) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t k = i;
    for (; k > 0 && depth_before(t[i], t[order[k - 1] - first]); --k) order[k] = order[k - 1];
    order[k] = first + static_cast<int32_t>(i);
  }
}

// (render 6): the sample numbers [N] in the order that merge_rank gives, by sorting both sets and
// merging; `scratch` [N] is overwritten.
template <typename T>
EPIGRAF_HD void merge_order(const T* fine, int64_t draws, const T* coarse, int64_t samples,
                            int32_t* scratch, int32_t* order) {
  int32_t *a = scratch, *b = scratch + draws;
  const int32_t *a_end = b, *b_end = b + samples;
  const int32_t first = static_cast<int32_t>(draws);
  sort_by_depth(fine, 0, draws, a);
  sort_by_depth(coarse, first, samples, b);
  while (a < a_end || b < b_end) {
    const bool take_fine = a < a_end && (b >= b_end || !depth_before(coarse[*b - first], fine[*a]));
    *order++ = take_fine ? *a++ : *b++;
  }
}

}  // namespace epigraf
