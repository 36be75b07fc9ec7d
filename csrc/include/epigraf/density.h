// From a decoder's raw density to a density (docs/math/render.md, cited as "(render n)"), one
// sample at a time.
#pragma once

#include <cmath>

#include "epigraf/macros.h"

namespace epigraf {

// (render 2): gain phi(x), where x is the raw density with its noise and shift, phi a softplus or a
// ReLU. NaN stays NaN.
template <typename T>
EPIGRAF_HD T activate_density(T x, T gain, bool relu) {
  const T positive = x < T(0) ? T(0) : x;
  if (relu) return gain * positive;
  return gain * (positive + std::log1p(std::exp(x < T(0) ? x : -x)));
}

// (render 7): its derivative at x.
template <typename T>
EPIGRAF_HD T activate_density_vjp(T x, T gain, bool relu) {
  if (relu) return gain * (x > T(0) ? T(1) : x - x);
  const T e = std::exp(x < T(0) ? x : -x);
  return gain * (x < T(0) ? e : T(1)) / (T(1) + e);
}

}  // namespace epigraf
