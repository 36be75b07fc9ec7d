// What happens along one ray outside the field (docs/math/render.md, cited as "(render n)"):
// depths, densities, weights, finer depths, compositing, and the gradient of the last. Lanes over
// samples.
//
// Legend: S coarse and F fine samples, N = S + F, n samples of the set at hand.
#pragma once

#include <algorithm>

#include "arena.h"
#include "epigraf/render.h"
#include "philox_blocks.h"
#include "ray_order.h"
#include "simd.h"

namespace epigraf {

template <typename T, int kBytes>
struct RayMarch {
  using S = Simd<T, kBytes>;
  using V = typename S::Vector;
  static constexpr int kLanes = S::kLanes;
  static constexpr int kRows = 8;

  const RenderMarch<T>& march;
  const RenderRays<T>& rays;
  T* lower;    // [S]: where the strata begin, in [0, 1],
  T* span;     // [S]: and how long they are
  T* raw;      // [n], with noise and shift, then densities
  T* decay;    // [n]
  T* weights;  // [n]
  T* cdf;      // [S], or [n] transmittances
  T* draws;    // [F], ascending
  T* random;   // [N], numbers of a seed
  RayOrder<T, kBytes> order;

  static int64_t row_memory(const RenderRays<T>& r) {
    return Arena<T>::round(r.coarse + r.fine + 2 * kLanes);
  }
  static int64_t memory(const RenderRays<T>& r) {
    return kRows * row_memory(r) + RayOrder<T, kBytes>::memory(r.coarse, r.fine);
  }

  RayMarch(const RenderMarch<T>& m, const RenderRays<T>& r, Arena<T>& arena)
      : march(m), rays(r), order(r.coarse, r.fine, arena) {
    for (T** row : {&lower, &span, &raw, &decay, &weights, &cdf, &draws, &random}) {
      *row = arena.take(row_memory(r));
    }
    for (int64_t k = 0; k < r.coarse; ++k) {
      const T below = k > 0 ? r.even[k - 1] : r.even[k];
      const T above = k + 1 < r.coarse ? r.even[k + 1] : r.even[k];
      lower[k] = k > 0 ? T(0.5) * (below + r.even[k]) : r.even[0];
      span[k] = (k + 1 < r.coarse ? T(0.5) * (r.even[k] + above) : r.even[k]) - lower[k];
    }
  }

  // `count` numbers of a ray: its row of `given`, or of a stream of the seed, or null.
  EPIGRAF_HD const T* uniforms(const T* given, int64_t stride, bool seeded, uint32_t stream,
                               int64_t ray, int64_t count) const {
    if (given) return given + ray * stride;
    if (!seeded) return nullptr;
    fill_random(stream, ray, count, [](const uint32_t (&words)[4], T* to) EPIGRAF_INLINE_LAMBDA {
      for (int i = 0; i < 4; ++i) to[i] = philox_unit<T>(words[i]);
    });
    return random;
  }

  EPIGRAF_HD const T* normals(const T* given, bool seeded, uint32_t stream, int64_t ray,
                              int64_t count) const {
    if (given) return given + ray * count;
    if (!seeded) return nullptr;
    fill_random(stream, ray, count, [](const uint32_t (&words)[4], T* to) EPIGRAF_INLINE_LAMBDA {
      philox_normal_pair(words[0], words[1], to[0], to[1]);
      philox_normal_pair(words[2], words[3], to[2], to[3]);
    });
    return random;
  }

  // Four numbers a block, a few blocks side by side; a row may begin within one.
  template <typename Numbers>
  EPIGRAF_HD void fill_random(uint32_t stream, int64_t ray, int64_t count, Numbers numbers) const {
    using Blocks = PhiloxBlocks<kBytes>;
    const uint64_t begin = rays.place_in_stream(ray) * static_cast<uint64_t>(count);
    const int64_t skipped = static_cast<int64_t>(begin % 4);
    for (int64_t k = -skipped; k < count; k += 4 * Blocks::kCount) {
      const Blocks blocks(*rays.seeds.seed, stream, (begin + k) / 4);
      T some[4 * Blocks::kCount];
      EPIGRAF_UNROLL
      for (int i = 0; i < Blocks::kCount; ++i) {
        numbers({blocks.word(0, i), blocks.word(1, i), blocks.word(2, i), blocks.word(3, i)},
                some + 4 * i);
      }
      const int64_t from = std::max<int64_t>(k, 0), to = std::min(k + 4 * Blocks::kCount, count);
      std::copy(some + (from - k), some + (to - k), random + from);
    }
  }

  // (render 1): depths of the first pass.
  EPIGRAF_HD void stratify(int64_t ray, T* t) const {
    const int64_t n = rays.coarse;
    const T near = rays.near[ray], length = rays.far[ray] - rays.near[ray];
    const T* jitter = uniforms(rays.jitter, n, rays.seeds.jitter, kJitterStream, ray, n);
    if (!jitter) {
      for (int64_t k = 0; k < n; ++k) t[k] = near + length * rays.even[k];
      return;
    }
    for (int64_t k = 0; k < n; ++k) t[k] = near + length * (lower[k] + span[k] * jitter[k]);
  }

  // (render 2): raw densities, `step` apart, with noise (or null) and shift, into raw.
  EPIGRAF_HD void shift(const T* from, int64_t step, const T* noise, int64_t n) const {
    for (int64_t k = 0; k < n; ++k) {
      const T x = from[k * step];
      raw[k] = (noise ? x + march.noise_std * noise[k] : x) + march.shift;
    }
  }

  // (render 2, 3; composite 1, 2): densities from raw, then exp(-delta sigma) into decay.
  EPIGRAF_HD void find_decay(int64_t ray, const T* t, int64_t n) const {
    const T last =
        render_delta(t, n - 1, n, march.finite_interval, rays.far[ray], rays.last_delta[ray]);
    for (int64_t k = 0; k + 1 < n; ++k) decay[k] = t[k] - t[k + 1];
    decay[n - 1] = -last;
    decay_by_density(n);
  }

  // From -delta in decay and raw densities.
  EPIGRAF_HD void decay_by_density(int64_t n) const {
    for (int64_t k = 0; k < n; k += kLanes) {
      const V x = S::load(raw + k);
      const V sigma = march.relu ? choose(x < V{}, V{}, x) : softplus_vector<S>(x);
      S::store(decay + k, exp_vector<S>(S::load(decay + k) * (sigma * march.gain)));
    }
  }

  // (render 2'): the derivative of the densities at raw, into raw.
  EPIGRAF_HD void find_slope(int64_t n) const {
    for (int64_t k = 0; k < n; k += kLanes) {
      const V x = S::load(raw + k);
      const V slope = march.relu ? choose(x > V{}, S::splat(1), x - x) : sigmoid_vector<S>(x);
      S::store(raw + k, slope * march.gain);
    }
  }

  // What of `light`, which reaches the first of n samples, reaches the one behind them at t[n];
  // densities are `step` apart.
  EPIGRAF_HD Carry dim(const T* t, int64_t n, const T* density, int64_t step, Carry light) const {
    shift(density, step, nullptr, n);
    for (int64_t k = 0; k < n; ++k) decay[k] = t[k] - t[k + 1];
    decay_by_density(n);
    for (int64_t k = 0; k < n; ++k) composite_step_decay(decay[k], light);
    return light;
  }

  // (render 4, 5): depths of the second pass, ascending, from the raw densities of the first, which
  // are `step` apart.
  EPIGRAF_HD void refine(int64_t ray, const T* t, const T* density, int64_t step, T* t_fine) {
    const int64_t n = rays.coarse, fresh = rays.fine;
    const T* noise =
        normals(rays.coarse_noise, rays.seeds.coarse_noise, kCoarseNoiseStream, ray, n);
    shift(density, step, noise, n);
    find_decay(ray, t, n);
    Carry transmittance = 1;
    for (int64_t k = 0; k < n; ++k) weights[k] = composite_step_decay(decay[k], transmittance);
    importance_cdf(weights, n, cdf);
    order.sort(uniforms(rays.u, rays.u_stride, rays.seeds.u, kImportanceStream, ray, fresh), draws);
    order.place(t, cdf, draws, t_fine);
  }

  // (composite 2-5) of one ray: features, depth, opacity, transmittance. t [n], colours and raw
  // density out[kOutputs] [n].
  EPIGRAF_HD void integrate(const RenderForward<T>& p, int64_t ray, const T* t,
                            const T* const (&out)[kOutputs], int64_t n) const {
    const T* noise = normals(rays.final_noise, rays.seeds.final_noise, kFinalNoiseStream, ray, n);
    shift(out[kOutputs - 1], 1, noise, n);
    find_decay(ray, t, n);
    Carry depth = 0, opacity = 0, transmittance = 1, before_last = 1, sum[3] = {};
    for (int64_t k = 0; k < n; ++k) {
      before_last = transmittance;
      T weight = 0;
      if (transmittance < march.early_stop_eps) {  // (composite 10)
        if (!march.last_back) break;
        k = n - 1;
      } else {
        weight = composite_step_decay(decay[k], transmittance);
      }
      opacity += weight;
      if (march.last_back && k + 1 == n) weight += static_cast<T>(1 - opacity);
      depth += static_cast<Carry>(weight) * t[k];
      for (int c = 0; c < 3; ++c) sum[c] += static_cast<Carry>(weight) * out[c][k];
    }
    const Carry behind = march.background * (1 - opacity);  // (render 10)
    for (int c = 0; c < 3; ++c) p.features[3 * ray + c] = static_cast<T>(sum[c] + behind);
    p.depth[ray] = static_cast<T>(depth);
    p.opacity[ray] = static_cast<T>(opacity);
    p.transmittance[ray] = static_cast<T>(before_last);
  }

  // (render 7; composite 6-9): the gradient of a ray's outputs with respect to its samples', into
  // grad[kOutputs] [n]; `saved` is the ray's own.
  EPIGRAF_HD void integrate_vjp(const RenderBackward<T>& p, int64_t ray, const T* saved,
                                T* const (&grad)[kOutputs], int64_t n) const {
    const T* t = saved + kOutputs * n;
    const T* noise = normals(rays.final_noise, rays.seeds.final_noise, kFinalNoiseStream, ray, n);
    shift(saved + (kOutputs - 1) * n, 1, noise, n);
    find_decay(ray, t, n);
    find_slope(n);
    const T* gf = p.grad_features ? p.grad_features + 3 * ray : nullptr;
    const T grad_depth = p.grad_depth ? p.grad_depth[ray] : T(0);
    Carry opacity = 0, transmittance = 1;
    for (int64_t k = 0; k < n; ++k) {
      cdf[k] = static_cast<T>(transmittance);  // T_k
      T weight = composite_step_decay(decay[k], transmittance);
      opacity += weight;
      if (march.last_back && k + 1 == n) weight += static_cast<T>(1 - opacity);
      T slope = grad_depth * t[k];
      for (int c = 0; c < 3; ++c) {
        grad[c][k] = gf ? weight * gf[c] : T(0);
        if (gf) slope += gf[c] * saved[c * n + k];
      }
      weights[k] = slope;  // dL/d weight k
    }
    const T grad_last = march.last_back ? weights[n - 1] : T(0);
    const T grad_behind = gf ? march.background * (gf[0] + gf[1] + gf[2]) : T(0);  // (render 10)
    const T grad_opacity = (p.grad_opacity ? p.grad_opacity[ray] : T(0)) - grad_last - grad_behind;
    Carry carry = 0;
    for (int64_t k = n - 1; k >= 0; --k) {
      const T delta =
          render_delta(t, k, n, march.finite_interval, rays.far[ray], rays.last_delta[ray]);
      const T slope = composite_step_decay_vjp(decay[k], cdf[k], weights[k] + grad_opacity, carry);
      if (k + 1 == n && p.grad_transmittance) carry += p.grad_transmittance[ray];
      grad[kOutputs - 1][k] = slope * delta * raw[k];
    }
  }
};

}  // namespace epigraf
