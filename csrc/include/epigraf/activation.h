// What follows a convolution, on one number: leaky ReLU, gain, clamp (docs/math/activation.md); and
// how a picture's numbers lie in memory. scale, bias and noise come in where the number is read.
#pragma once

#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

// y(u) = clamp(gain * leaky_relu(u)) with gain > 0, slope >= 0 and clamp > 0, or NaN for no clamp:
// no number is beyond it.
template <typename T>
struct ActivationCurve {
  T slope, gain, clamp;
};

// (activation 2). NaN stays NaN.
template <typename T>
EPIGRAF_HD T activate(const ActivationCurve<T>& curve, T u) {
  const T v = curve.gain * (u > T(0) ? u : curve.slope * u);
  const T below = v > curve.clamp ? curve.clamp : v;
  return below < -curve.clamp ? -curve.clamp : below;
}

// (activation 3): `factor`, or 0 where y is the clamp itself. Chosen before the gradient is read:
// on a CPU a load that waits for the comparison of another one runs at half the speed of memory.
template <typename T>
EPIGRAF_HD T unclamped(const ActivationCurve<T>& curve, T y, T factor) {
  const T below = y >= curve.clamp ? T(0) : factor;
  return y <= -curve.clamp ? T(0) : below;
}

// (activation 3): grad_y * dy/du, from y alone. Linear in grad_y and its own adjoint.
template <typename T>
EPIGRAF_HD T activate_vjp(const ActivationCurve<T>& curve, T y, T grad_y) {
  return grad_y * unclamped(curve, y, y > T(0) ? curve.gain : curve.gain * curve.slope);
}

// (activation 5): grad_u * u, which needs no u: y is homogeneous in it.
template <typename T>
EPIGRAF_HD T grad_times_input(const ActivationCurve<T>& curve, T y, T grad_y) {
  return grad_y * unclamped(curve, y, y);
}

// Pictures [B, C, P] of P pixels, or channels-last in memory, [B, P, C]. Work is split into runs of
// `run` pixels of a batch element, whose sums are kept apart.
struct ActivationShape {
  int64_t batch, channels, pixels;
  bool channels_last;
  int64_t noise_stride;  // between the noise of batch elements: P, or 0 for one map
  int64_t run;

  EPIGRAF_HD int64_t runs() const { return (pixels + run - 1) / run; }
  EPIGRAF_HD int64_t end_of_run(int64_t first) const {
    return first + run < pixels ? first + run : pixels;
  }
  EPIGRAF_HD int64_t place(int64_t b, int64_t pixel, int64_t channel) const {
    return channels_last ? (b * pixels + pixel) * channels + channel
                         : (b * channels + channel) * pixels + pixel;
  }
};

// The sums of a run (activation 4, 5): of grad_u, then, where there is noise, of grad_u * noise,
// then, where there is a scale, of grad_u * u.
EPIGRAF_HD int activation_sums(bool noise, bool scale) {
  return 1 + noise + scale;
}

}  // namespace epigraf
