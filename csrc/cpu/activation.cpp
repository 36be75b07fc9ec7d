// Threads and SIMD around activation.h: a task is a run of pixels of a batch element, which writes
// sums of its own, so no result depends on the number of threads.
#include "epigraf/activation.h"

#include <algorithm>
#include <type_traits>

#include "clones.h"
#include "epigraf/half.h"
#include "epigraf/launch.h"

namespace epigraf {
namespace {

// Calls body(std::true_type) or body(std::false_type).
template <typename Body>
EPIGRAF_HD void with_flag(bool flag, Body body) {
  if (flag) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

// One pixel of a channels-last picture.
template <bool kScale, typename T, typename P>
EPIGRAF_HD void forward_pixel(const ActivationCurve<T>& curve, const P* x, const T* scale,
                              const T* bias, T noise, P* y, int64_t channels) {
  EPIGRAF_SIMD
  for (int64_t c = 0; c < channels; ++c) {
    T u = T(x[c]);
    if constexpr (kScale) u *= scale[c];
    y[c] = P(activate(curve, u + bias[c] + noise));
  }
}

// One channel of a run, neighbours in memory.
template <bool kNoise, typename T, typename P>
EPIGRAF_HD void forward_channel(const ActivationCurve<T>& curve, const P* x, T scale, T bias,
                                const T* noise, T strength, P* y, int64_t pixels) {
  EPIGRAF_SIMD
  for (int64_t i = 0; i < pixels; ++i) {
    T u = T(x[i]) * scale + bias;
    if constexpr (kNoise) u += strength * noise[i];
    y[i] = P(activate(curve, u));
  }
}

template <typename T, typename P>
EPIGRAF_HD void forward_run(const ActivationForward<T, P>& p, int64_t task) {
  const ActivationShape& s = p.shape;
  const ActivationCurve<T> curve = p.curve;
  const int64_t b = task / s.runs(), first = task % s.runs() * s.run, end = s.end_of_run(first);
  const T* scale = p.scale ? p.scale + b * s.channels : nullptr;
  const T* noise = p.noise ? p.noise + b * s.noise_stride : nullptr;
  const T strength = p.noise ? *p.strength : T(0);
  if (s.channels_last) {
    with_flag(scale != nullptr, [&](auto has_scale) EPIGRAF_INLINE_LAMBDA {
      for (int64_t i = first; i < end; ++i) {
        const int64_t at = s.place(b, i, 0);
        forward_pixel<has_scale()>(curve, p.x + at, scale, p.bias,
                                   noise ? strength * noise[i] : T(0), p.y + at, s.channels);
      }
    });
    return;
  }
  with_flag(noise != nullptr, [&](auto has_noise) EPIGRAF_INLINE_LAMBDA {
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t at = s.place(b, first, c);
      forward_channel<has_noise()>(curve, p.x + at, scale ? scale[c] : T(1), p.bias[c],
                                   noise ? noise + first : nullptr, strength, p.y + at,
                                   end - first);
    }
  });
}

// One pixel of a channels-last picture; adds to sums, rows of C numbers. Several pixels at once
// read the sums less often, and are slower: memory likes one stream each.
template <bool kScale, bool kNoise, bool kSums, typename T, typename P>
EPIGRAF_HD void backward_pixel(const ActivationBackward<T, P>& p, int64_t at, const T* scale,
                               T noise, T* sums) {
  const ActivationCurve<T> curve = p.curve;
  const int64_t channels = p.shape.channels;
  const P *grad_y = p.grad_y + at, *y = p.y + at;
  P* grad_x = p.grad_x + at;
  T* sums_noise = sums + channels;
  T* sums_input = sums + (kNoise ? 2 : 1) * channels;
  EPIGRAF_SIMD
  for (int64_t c = 0; c < channels; ++c) {
    const T grad = T(grad_y[c]), out = T(y[c]), grad_u = activate_vjp(curve, out, grad);
    grad_x[c] = P(kScale ? grad_u * scale[c] : grad_u);
    if constexpr (kSums) sums[c] += grad_u;
    if constexpr (kSums && kNoise) sums_noise[c] += grad_u * noise;
    if constexpr (kSums && kScale) sums_input[c] += grad_times_input(curve, out, grad);
  }
}

// One channel of a run, neighbours in memory; overwrites sums, `channels` apart.
template <bool kNoise, typename T, typename P>
EPIGRAF_HD void backward_channel(const ActivationBackward<T, P>& p, int64_t at, const T* scale,
                                 const T* noise, T* sums, int64_t pixels) {
  const ActivationCurve<T> curve = p.curve;
  const P *grad_y = p.grad_y + at, *y = p.y + at;
  P* grad_x = p.grad_x + at;
  const T factor = scale ? *scale : T(1);
  T sum = 0, sum_noise = 0, sum_input = 0;
  EPIGRAF_SIMD_SUMS(sum, sum_noise, sum_input)
  for (int64_t i = 0; i < pixels; ++i) {
    const T grad = T(grad_y[i]), out = T(y[i]), grad_u = activate_vjp(curve, out, grad);
    grad_x[i] = P(grad_u * factor);
    sum += grad_u;
    if constexpr (kNoise) sum_noise += grad_u * noise[i];
    sum_input += grad_times_input(curve, out, grad);
  }
  if (!sums) return;
  sums[0] = sum;
  if constexpr (kNoise) sums[p.shape.channels] = sum_noise;
  if (scale) sums[(kNoise ? 2 : 1) * p.shape.channels] = sum_input;
}

template <bool kScale, bool kNoise, bool kSums, typename T, typename P>
EPIGRAF_HD void backward_last(const ActivationBackward<T, P>& p, int64_t b, int64_t first,
                              const T* scale, const T* noise, T* sums) {
  const int64_t end = p.shape.end_of_run(first);
  if (kSums) std::fill(sums, sums + activation_sums(kNoise, kScale) * p.shape.channels, T(0));
  for (int64_t i = first; i < end; ++i) {
    backward_pixel<kScale, kNoise, kSums>(p, p.shape.place(b, i, 0), scale,
                                          kNoise ? noise[i] : T(0), sums);
  }
}

template <typename T, typename P>
EPIGRAF_HD void backward_run(const ActivationBackward<T, P>& p, int64_t task) {
  const ActivationShape& s = p.shape;
  const int64_t b = task / s.runs(), first = task % s.runs() * s.run;
  const T* scale = p.scale ? p.scale + b * s.channels : nullptr;
  const T* noise = p.sums && p.noise ? p.noise + b * s.noise_stride : nullptr;
  const int kinds = activation_sums(noise != nullptr, scale != nullptr);
  T* sums = p.sums ? p.sums + task * kinds * s.channels : nullptr;
  with_flag(noise != nullptr, [&](auto has_noise) EPIGRAF_INLINE_LAMBDA {
    constexpr bool kNoise = has_noise();
    if (!s.channels_last) {
      for (int64_t c = 0; c < s.channels; ++c) {
        backward_channel<kNoise>(p, s.place(b, first, c), scale ? scale + c : nullptr,
                                 kNoise ? noise + first : noise, sums ? sums + c : nullptr,
                                 s.end_of_run(first) - first);
      }
      return;
    }
    with_flag(scale != nullptr, [&](auto has_scale) EPIGRAF_INLINE_LAMBDA {
      if (sums) {
        backward_last<has_scale(), kNoise, true>(p, b, first, scale, noise, sums);
      } else {
        backward_last<has_scale(), false, false>(p, b, first, scale, noise, sums);
      }
    });
  });
}

// target_clones does not apply to templates: one function for each type.
#define EPIGRAF_ACTIVATION_CLONES(T, P)                                                  \
  EPIGRAF_CLONES void forward_clones(const ActivationForward<T, P>& p, int64_t task) {   \
    forward_run(p, task);                                                                \
  }                                                                                      \
  EPIGRAF_CLONES void backward_clones(const ActivationBackward<T, P>& p, int64_t task) { \
    backward_run(p, task);                                                               \
  }

EPIGRAF_ACTIVATION_CLONES(float, float)
EPIGRAF_ACTIVATION_CLONES(double, double)
EPIGRAF_ACTIVATION_CLONES(float, Half)
EPIGRAF_ACTIVATION_CLONES(float, BFloat16)

}  // namespace

template <typename T, typename P>
void activation_forward_cpu(const ActivationForward<T, P>& params, int threads) {
  const int64_t tasks = params.shape.batch * params.shape.runs();
#pragma omp parallel for num_threads(threads) schedule(static) if (tasks > 1)
  for (int64_t task = 0; task < tasks; ++task) forward_clones(params, task);
}

template <typename T, typename P>
void activation_backward_cpu(const ActivationBackward<T, P>& params, int threads) {
  const int64_t tasks = params.shape.batch * params.shape.runs();
#pragma omp parallel for num_threads(threads) schedule(static) if (tasks > 1)
  for (int64_t task = 0; task < tasks; ++task) backward_clones(params, task);
}

template void activation_forward_cpu(const ActivationForward<float, float>&, int);
template void activation_forward_cpu(const ActivationForward<double, double>&, int);
template void activation_forward_cpu(const ActivationForward<float, Half>&, int);
template void activation_forward_cpu(const ActivationForward<float, BFloat16>&, int);
template void activation_backward_cpu(const ActivationBackward<float, float>&, int);
template void activation_backward_cpu(const ActivationBackward<double, double>&, int);
template void activation_backward_cpu(const ActivationBackward<float, Half>&, int);
template void activation_backward_cpu(const ActivationBackward<float, BFloat16>&, int);

}  // namespace epigraf
