// A small fully connected network at many points (docs/math/decoder.md, cited as "(decoder n)"):
// a few neighbouring outputs, inputs or weights of one layer at a time.
//
// Legend: I inputs and O outputs of the layer. A layer's weights are [O, I]; its values at the
// points of a tile are rows: value k of point p lies at k * stride + p.
#pragma once

#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

// (decoder 2).
template <typename T>
EPIGRAF_HD T leaky_relu(T a, T slope) {
  return a > T(0) ? a : slope * a;
}

// (decoder 7): the gradient before the leaky ReLU, by the sign of its result h.
template <typename T>
EPIGRAF_HD T leaky_relu_vjp(T grad, T h, T slope) {
  return h > T(0) ? grad : slope * grad;
}

// The layer's sizes, and `rows` of kRows outputs (or inputs) from `first` on: fewer at its end.
struct DecoderRows {
  int64_t inputs, outputs, first;
  int rows;
};

// (decoder 3, 4) before the nonlinearity: outputs first ... of one point, into sum[].
template <int kRows, typename T>
EPIGRAF_HD void decoder_outputs(const DecoderRows& r, const T* weights, const T* biases, const T* x,
                                int64_t stride, T (&sum)[kRows]) {
  const T* row[kRows];
  for (int j = 0; j < kRows; ++j) {
    const int64_t output = r.first + (j < r.rows ? j : 0);
    row[j] = weights + output * r.inputs;
    sum[j] = biases[output];
  }
  for (int64_t k = 0; k < r.inputs; ++k) {
    const T value = x[k * stride];
    for (int j = 0; j < kRows; ++j) sum[j] += row[j][k] * value;
  }
}

// (decoder 7, 8) without the nonlinearity: the gradient of inputs first ... of one point from that
// of all outputs.
template <int kRows, typename T>
EPIGRAF_HD void decoder_outputs_vjp_inputs(const DecoderRows& r, const T* weights, const T* grad,
                                           int64_t stride, T (&sum)[kRows]) {
  int64_t input[kRows];
  for (int j = 0; j < kRows; ++j) {
    input[j] = r.first + (j < r.rows ? j : 0);
    sum[j] = T(0);
  }
  for (int64_t o = 0; o < r.outputs; ++o) {
    const T value = grad[o * stride];
    for (int j = 0; j < kRows; ++j) sum[j] += weights[o * r.inputs + input[j]] * value;
  }
}

// (decoder 6): over `points` points, the gradient of the weights from `input` to outputs first ...;
// that of the biases where `input` is I.
template <int kRows, typename T>
EPIGRAF_HD void decoder_outputs_vjp_params(const DecoderRows& r, const T* x, int64_t input,
                                           const T* grad, int64_t stride, int64_t points,
                                           T (&sum)[kRows]) {
  for (int j = 0; j < kRows; ++j) sum[j] = T(0);
  for (int64_t p = 0; p < points; ++p) {
    const T value = input < r.inputs ? x[input * stride + p] : T(1);
    for (int j = 0; j < kRows; ++j)
      sum[j] += grad[(r.first + (j < r.rows ? j : 0)) * stride + p] * value;
  }
}

}  // namespace epigraf
