// Volume compositing along one ray (docs/math/composite.md, cited as "(composite n)").
//
//   alpha_k = 1 - exp(-delta_k sigma_k),  T_k = prod_{j<k} (1 - alpha_j + 1e-10),  w_k = alpha_k
//   T_k features = sum_k w_k c_k,  depth = sum_k w_k t_k,  opacity = sum_k w_k,  transmittance =
//   T_{S-1}
//
// `last_back` adds what the ray has not absorbed, 1 - sum w, to the last weight before the sums of
// features and depth. Legend: S samples of the ray, C channels. All pointers are the ray's own
// rows.
#pragma once

#include <cmath>
#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

// Rays are the flattened [B, R]; every array is contiguous.
struct CompositeShape {
  int64_t rays, samples, channels;
  bool last_back;
  double early_stop_eps = 0;  // (composite 10), of the forward pass
};

template <typename T>
struct CompositeRay {
  const T* colors;     // [S, C]
  const T* densities;  // [S], activated, >= 0
  const T* t;          // [S], distance along the ray, ascending
  T last_delta;        // length of the last interval
};

template <typename T>
struct CompositeOut {
  T* features;       // [C]
  T* depth;          // [1]
  T* weights;        // [S], after the last_back edit
  T* transmittance;  // [1]
  T* opacity;        // [1], before the last_back edit
};

// Gradients of the five outputs; a null pointer is a gradient of zero.
template <typename T>
struct CompositeGradOut {
  const T* features;
  const T* depth;
  const T* weights;
  const T* transmittance;
  const T* opacity;
};

// Gradients of the inputs. densities is always wanted (it also holds T_k in between); the rest may
// be null.
template <typename T>
struct CompositeGradIn {
  T* colors;      // [S, C]
  T* densities;   // [S]
  T* t;           // [S]
  T* last_delta;  // [1]
};

// (composite 1): the length of interval k.
template <typename T>
EPIGRAF_HD T composite_delta(const CompositeRay<T>& ray, int64_t k, int64_t samples) {
  return k + 1 < samples ? ray.t[k + 1] - ray.t[k] : ray.last_delta;
}

// Long products and sums along a ray are carried in double, as torch does on a CPU. (The GPU
// kernels split them over the lanes of a warp instead, and carry them in T.)
using Carry = double;

// (composite 2, 3): absorbs one interval that lets `decay` = exp(-delta sigma) through. Returns its
// weight and lowers the transmittance.
template <typename T, typename C>
EPIGRAF_HD T composite_step_decay(T decay, C& transmittance) {
  const T weight = static_cast<T>((T(1) - decay) * transmittance);
  transmittance *= decay + C(1e-10);
  return weight;
}

// (composite 7): the step's gradient. `transmittance` is T_k, `grad_weight` dL/dw_k;
// `grad_transmittance` holds dL/dT_{k+1} on entry and dL/dT_k on return. Returns dL/d thickness_k,
// where the thickness is delta sigma.
template <typename T, typename C>
EPIGRAF_HD T composite_step_decay_vjp(T decay, T transmittance, T grad_weight,
                                      C& grad_transmittance) {
  const C grad_thickness = decay * transmittance * (grad_weight - grad_transmittance);
  grad_transmittance = grad_weight * (T(1) - decay) + grad_transmittance * (decay + C(1e-10));
  return static_cast<T>(grad_thickness);
}

// The same from the optical thickness of the interval.
template <typename T, typename C>
EPIGRAF_HD T composite_step(T thickness, C& transmittance) {
  return composite_step_decay<T>(std::exp(-thickness), transmittance);
}

template <typename T, typename C>
EPIGRAF_HD T composite_step_vjp(T thickness, T transmittance, T grad_weight,
                                C& grad_transmittance) {
  return composite_step_decay_vjp<T>(std::exp(-thickness), transmittance, grad_weight,
                                     grad_transmittance);
}

// (composite 4): features from the finished weights of the `lit` samples in front, kBlock channels
// at a time; behind those only the last weight can be more than 0, by last_back.
template <int kBlock, typename T>
EPIGRAF_HD void composite_features(const CompositeRay<T>& ray, const CompositeShape& shape,
                                   const CompositeOut<T>& out, int64_t lit, int64_t first) {
  Carry sum[kBlock] = {};
  const int64_t steps = lit < shape.samples && shape.last_back ? lit + 1 : lit;
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t k = i < lit ? i : shape.samples - 1;
    const T* color = ray.colors + k * shape.channels + first;
    for (int c = 0; c < kBlock; ++c) sum[c] += static_cast<Carry>(out.weights[k]) * color[c];
  }
  for (int c = 0; c < kBlock; ++c) out.features[first + c] = static_cast<T>(sum[c]);
}

// Forward of one ray. A ray without samples gives features, depth and opacity 0, transmittance 1.
template <typename T>
EPIGRAF_HD void composite_ray(const CompositeRay<T>& ray, const CompositeShape& shape,
                              const CompositeOut<T>& out) {
  const int64_t samples = shape.samples, channels = shape.channels;
  Carry depth = 0, opacity = 0, transmittance = 1, before_last = 1;
  int64_t lit = 0;  // samples in front of the early stop
  for (int64_t k = 0; k < samples; ++k) {
    before_last = transmittance;
    if (transmittance < shape.early_stop_eps) break;
    ++lit;
    T weight = composite_step(composite_delta(ray, k, samples) * ray.densities[k], transmittance);
    opacity += weight;
    if (shape.last_back && k + 1 == samples)
      weight += static_cast<T>(1 - opacity);  // (composite 5)
    out.weights[k] = weight;
    depth += static_cast<Carry>(weight) * ray.t[k];
  }
  for (int64_t k = lit; k < samples; ++k) {
    out.weights[k] = shape.last_back && k + 1 == samples ? static_cast<T>(1 - opacity) : T(0);
    depth += static_cast<Carry>(out.weights[k]) * ray.t[k];
  }
  *out.depth = static_cast<T>(depth);
  *out.transmittance = static_cast<T>(before_last);
  *out.opacity = static_cast<T>(opacity);
  int64_t c = 0;
  for (; c + 3 <= channels; c += 3) composite_features<3>(ray, shape, out, lit, c);
  for (; c < channels; ++c) composite_features<1>(ray, shape, out, lit, c);
}

// (composite 6): dL/d(weight k after the last_back edit).
template <typename T>
EPIGRAF_HD T composite_grad_weight(const CompositeRay<T>& ray, const CompositeGradOut<T>& grad,
                                   int64_t k, int64_t channels) {
  T sum = grad.weights ? grad.weights[k] : T(0);
  if (grad.depth) sum += *grad.depth * ray.t[k];
  if (grad.features) {
    for (int64_t c = 0; c < channels; ++c) sum += grad.features[c] * ray.colors[k * channels + c];
  }
  return sum;
}

// First pass of the gradient: T_k into grad_in.densities, and the gradients that only need the
// weights (those of colors and the direct part of t). Overwrites all three.
template <typename T>
EPIGRAF_HD void composite_ray_vjp_weights(const CompositeRay<T>& ray, const CompositeShape& shape,
                                          const CompositeGradOut<T>& grad,
                                          const CompositeGradIn<T>& grad_in) {
  const int64_t samples = shape.samples, channels = shape.channels;
  Carry opacity = 0, transmittance = 1;
  for (int64_t k = 0; k < samples; ++k) {
    grad_in.densities[k] = static_cast<T>(transmittance);
    T weight = composite_step(composite_delta(ray, k, samples) * ray.densities[k], transmittance);
    opacity += weight;
    if (shape.last_back && k + 1 == samples) weight += static_cast<T>(1 - opacity);
    if (grad_in.t) grad_in.t[k] = grad.depth ? weight * *grad.depth : T(0);
    if (!grad_in.colors) continue;
    for (int64_t c = 0; c < channels; ++c) {
      grad_in.colors[k * channels + c] = grad.features ? weight * grad.features[c] : T(0);
    }
  }
}

// Gradient of one ray (composite 6-9): a forward pass that recomputes T_k, then a backward pass.
template <typename T>
EPIGRAF_HD void composite_ray_vjp(const CompositeRay<T>& ray, const CompositeShape& shape,
                                  const CompositeGradOut<T>& grad,
                                  const CompositeGradIn<T>& grad_in) {
  const int64_t samples = shape.samples, channels = shape.channels;
  if (grad_in.last_delta) *grad_in.last_delta = T(0);
  if (samples == 0) return;
  composite_ray_vjp_weights(ray, shape, grad, grad_in);
  const T grad_last =
      shape.last_back ? composite_grad_weight(ray, grad, samples - 1, channels) : T(0);
  const T grad_opacity = (grad.opacity ? *grad.opacity : T(0)) - grad_last;
  Carry grad_transmittance = 0;
  for (int64_t k = samples - 1; k >= 0; --k) {
    const bool last = k + 1 == samples;
    const T delta = composite_delta(ray, k, samples), density = ray.densities[k];
    const T grad_weight = composite_grad_weight(ray, grad, k, channels) + grad_opacity;
    const T grad_thickness =
        composite_step_vjp(delta * density, grad_in.densities[k], grad_weight, grad_transmittance);
    if (last && grad.transmittance) grad_transmittance += *grad.transmittance;
    grad_in.densities[k] = delta * grad_thickness;
    const T grad_delta = density * grad_thickness;
    if (grad_in.t && !last) grad_in.t[k] -= grad_delta;
    if (grad_in.t && !last) grad_in.t[k + 1] += grad_delta;
    if (grad_in.last_delta && last) *grad_in.last_delta = grad_delta;
  }
}

}  // namespace epigraf
