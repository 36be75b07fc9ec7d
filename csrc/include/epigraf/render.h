// The fused field renderer: what it reads and writes, and its maths per sample and per ray
// (docs/math/render.md, cited as "(render n)"). Tri-plane look-up, decoder, importance sampling and
// compositing come from their own headers.
//
// Legend: B batch, R rays of a batch element, S coarse and F fine samples, N = S + F.
#pragma once

#include <cstdint>

#include "epigraf/composite.h"
#include "epigraf/importance.h"
#include "epigraf/macros.h"
#include "epigraf/occupancy.h"
#include "epigraf/philox.h"
#include "epigraf/triplane.h"

namespace epigraf {

constexpr int kMaxLayers = 8;
constexpr int kOutputs = 4;           // of the decoder: three colours, raw density
constexpr int kSaved = kOutputs + 1;  // per sample, for the backward pass: these and t

// A fully connected network with leaky ReLUs between its layers; weights[i] is [O, I], contiguous.
template <typename T>
struct DecoderLayers {
  int layers;
  int64_t widths[kMaxLayers + 1];  // input, hidden ..., kOutputs
  const T* weights[kMaxLayers];
  const T* biases[kMaxLayers];
  T slope;
};

// A field: planes [B, 3, H, W, C] in the shape's strides fill the cube of half edge cube_scale;
// prior_strength - prior_slope |x| joins the raw density at x.
template <typename T>
struct RenderField {
  TriplaneShape shape;  // `points` is not used
  const T* planes;
  DecoderLayers<T> decoder;
  T cube_scale, prior_strength, prior_slope;
  bool project;  // apply the first layer to the planes, not to the samples (render 8); in any
                 // strides
};

// From raw densities to weights.
template <typename T>
struct RenderMarch {
  T shift, gain, noise_std;
  bool relu;             // instead of softplus
  bool finite_interval;  // the last interval ends at `far`; else it is last_delta long
  bool last_back;
  T early_stop_eps;  // of the final pass (composite 10); 0 where there will be gradients
  T background;      // what every channel shows where nothing absorbs (render 10); 0: nothing
};

// Streams of a seed (philox 2), one for each kind of random number.
constexpr uint32_t kJitterStream = 0, kImportanceStream = 1, kCoarseNoiseStream = 2,
                   kFinalNoiseStream = 3;

// Random numbers that are computed where they are used, from a seed: those with a flag. Ray r of
// batch element b is ray b * total + first + r of its streams, however the rays are cut into calls.
struct RenderSeeds {
  const uint64_t* seed;  // one, where the rays are: a captured graph draws anew when it is replayed
  int64_t first, total;
  bool jitter, u, coarse_noise, final_noise;
};

// Rays and their random numbers; a null pointer without a flag in `seeds` is a number that is not
// wanted.
template <typename T>
struct RenderRays {
  int64_t rays, coarse, fine;  // R, S, F
  const T* origins;            // [B, R, 3]
  const T* directions;         // [B, R, 3], unit length
  const T* near;               // [B, R]
  const T* far;                // [B, R]
  const T* last_delta;         // [B, R]
  const T* even;               // [S], from 0 to 1
  const T* jitter;             // [B, R, S] in [0, 1), or null
  const T* coarse_noise;       // [B, R, S], or null
  const T* u;                  // [B, R, F] in [0, 1]; rows u_stride apart
  const T* final_noise;        // [B, R, N], or null
  int64_t u_stride;
  RenderSeeds seeds;
  int64_t row_length;  // of the picture whose rows the rays are, or 0: speed depends on it only

  // The place of ray `ray` (of [B * R]) in the streams of the seed.
  EPIGRAF_HD uint64_t place_in_stream(int64_t ray) const {
    return static_cast<uint64_t>(ray / rays * seeds.total + seeds.first + ray % rays);
  }
};

template <typename T>
struct RenderForward {
  RenderField<T> field;
  RenderMarch<T> march;
  RenderRays<T> rays;
  T* features;             // [B, R, 3]
  T* depth;                // [B, R]
  T* opacity;              // [B, R], before the last_back edit
  T* transmittance;        // [B, R], of the last sample
  T* saved;                // [B, R, kSaved, N]: colours, raw density with its prior, t; or null
  OccupancyCells<T> grid;  // of all batch elements, or without words: nothing is known to be empty
  const T* projected;      // planes behind the first layer (render_project), on a CPU; or null
};

// Gradients of the four outputs (null: zero). grad_planes (dense [B, 3, H, W, C], in the shape's
// strides) and the gradients of the decoder are added to: the caller zeroes them.
template <typename T>
struct RenderBackward {
  RenderField<T> field;
  RenderMarch<T> march;
  RenderRays<T> rays;
  const T* saved;
  const T* grad_features;
  const T* grad_depth;
  const T* grad_opacity;
  const T* grad_transmittance;
  T* grad_planes;
  T* grad_weights[kMaxLayers];
  T* grad_biases[kMaxLayers];
};

// (render 1): the position in [0, 1] of sample k, moved within its stratum by jitter in [0, 1).
template <typename T>
EPIGRAF_HD T jittered_position(const T* even, int64_t k, int64_t samples, T jitter) {
  const T lower = k > 0 ? T(0.5) * (even[k - 1] + even[k]) : even[0];
  const T upper = k + 1 < samples ? T(0.5) * (even[k] + even[k + 1]) : even[k];
  return lower + (upper - lower) * jitter;
}

// (render 1): depth of sample k, spaced evenly or moved within its stratum by jitter in [0, 1).
template <typename T>
EPIGRAF_HD T stratified_depth(const T* even, int64_t k, int64_t samples, const T* jitter, T near,
                              T far) {
  const T position = jitter ? jittered_position(even, k, samples, jitter[k]) : even[k];
  return near + (far - near) * position;
}

// The length of interval k of samples at t, the last one by the march's rule (render 3).
template <typename T>
EPIGRAF_HD T render_delta(const T* t, int64_t k, int64_t samples, bool finite, T far,
                          T last_delta) {
  if (k + 1 < samples) return t[k + 1] - t[k];
  if (!finite) return last_delta;
  return far > t[k] ? far - t[k] : (far <= t[k] ? T(0) : far - t[k]);  // NaN stays NaN
}

}  // namespace epigraf
