// Importance sampling along one ray (docs/math/render.md, cited as "(render n)"): the inverse of
// the piecewise linear distribution function that the weights of a first pass give.
//
// Legend: S samples of the first pass, F draws. All pointers are the ray's own rows.
#pragma once

#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

constexpr double kPdfEpsilon = 1e-5;

// (render 4): cdf [S - 1] over the midpoints of t, from the weights of the inner samples. S >= 3.
template <typename T>
EPIGRAF_HD void importance_cdf(const T* weights, int64_t samples, T* cdf) {
  const T epsilon = T(kPdfEpsilon);
  double sum = 0, total = 0;
  for (int64_t k = 1; k + 1 < samples; ++k) sum += (weights[k] + epsilon) + epsilon;
  cdf[0] = T(0);
  for (int64_t k = 1; k + 1 < samples; ++k) {
    total += ((weights[k] + epsilon) + epsilon) / sum;
    cdf[k] = static_cast<T>(total);
  }
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

// Depths [F], ascending, of ascending draws u [F]; cdf as `importance_cdf` leaves it.
template <typename T>
EPIGRAF_HD void importance_depths(const T* t, const T* cdf, int64_t samples, const T* u,
                                  int64_t draws, T* depths) {
  int64_t above = 0;
  for (int64_t i = 0; i < draws; ++i) {
    while (above < samples - 1 && cdf[above] < u[i]) ++above;
    T depth = importance_depth(t, cdf, samples, above, u[i]);
    if (i > 0 && depth < depths[i - 1]) depth = depths[i - 1];  // rounding at a bin's end
    depths[i] = depth;
  }
}

// Ascending insertion sort: rows of a few dozen, nearly sorted after `bucket_order`.
template <typename T>
EPIGRAF_HD void insertion_sort(T* values, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    const T value = values[i];
    int64_t k = i;
    for (; k > 0 && value < values[k - 1]; --k) values[k] = values[k - 1];
    values[k] = value;
  }
}

}  // namespace epigraf
