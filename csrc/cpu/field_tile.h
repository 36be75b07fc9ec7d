// The field at a tile of points, lanes over points: look-up, decoder, and the gradients of both.
// One tile is one or two vectors wide; its activations stay in the first-level cache.
//
// Legend: P points of a tile, C plane channels, I inputs and O outputs of a layer. Rows of
// activations are [width][P]; "turned" ones are [P][width], rounded up to whole vectors.
#pragma once

#include <algorithm>
#include <vector>

#include "arena.h"
#include "epigraf/render.h"
#include "simd.h"
#include "tile_taps.h"

namespace epigraf {

template <typename T, int kBytes>
struct FieldTile {
  using S = Simd<T, kBytes>;
  using V = typename S::Vector;
  using Taps = TileTaps<T, kBytes>;
  static constexpr int kLanes = S::kLanes, kVectors = Taps::kVectors, kPoints = Taps::kPoints;
  static constexpr int kOutBlock = kBytes == 64 ? 16 : 4;  // times kVectors registers of sums
  static constexpr int kGradBlock = kBytes == 64 ? 8 : 4;  // times two
  static constexpr int kFoldTiles = 16;

  const RenderField<T>& field;
  const T* planes;  // of the batch element
  Taps taps[2];     // of this tile and the next
  Taps *now = &taps[0], *next = &taps[1];
  bool fits;                      // the planes, into the index type of the taps
  bool aimed = false;             // whether `next` is where the next tile falls
  T* turned;                      // [P][widest]
  T* rows[kMaxLayers + 1];        // activations: rows[0] features, rows[layers] outputs
  T* grad_rows[2];                // of the present layer's outputs and inputs
  T* weights_turned[kMaxLayers];  // [I][O], for the backward pass
  T* grad_weights[kMaxLayers];    // [O][I rounded up], sum over the last tiles,
  T* grad_biases[kMaxLayers];     // [O]; and over all that this thread has seen
  std::vector<double> all_weights[kMaxLayers], all_biases[kMaxLayers];
  int tiles = 0;  // in grad_weights

  static EPIGRAF_HD int64_t whole(int64_t width) { return (width + kLanes - 1) / kLanes * kLanes; }
  EPIGRAF_HD int64_t width(int layer) const { return field.decoder.widths[layer]; }

  static int64_t widest(const DecoderLayers<T>& d) {
    return whole(*std::max_element(d.widths, d.widths + d.layers + 1));
  }

  // Elements of the arena that a tile needs.
  static int64_t memory(const DecoderLayers<T>& d, bool backward) {
    const int64_t activations = widest(d) * kPoints;
    int64_t total = (d.layers + 2) * activations;
    if (!backward) return total;
    total += 2 * activations;
    for (int i = 0; i < d.layers; ++i) {
      total += Arena<T>::round(d.widths[i] * d.widths[i + 1]);
      total += Arena<T>::round(d.widths[i + 1] * whole(d.widths[i]));
      total += Arena<T>::round(d.widths[i + 1]);
    }
    return total;
  }

  FieldTile(const RenderField<T>& f, Arena<T>& arena, bool backward)
      : field(f), planes(f.planes), fits(Taps::fits(f.shape, f.shape.plane_stride)) {
    const DecoderLayers<T>& d = f.decoder;
    const int64_t activations = widest(d) * kPoints;
    turned = arena.take(activations);
    for (int i = 0; i <= d.layers; ++i) rows[i] = arena.take(activations);
    if (!backward) return;
    for (T*& piece : grad_rows) piece = arena.take(activations);
    for (int i = 0; i < d.layers; ++i) {
      const int64_t in = d.widths[i], out = d.widths[i + 1];
      weights_turned[i] = arena.take(in * out);
      grad_weights[i] = arena.take(out * whole(in));
      grad_biases[i] = arena.take(out);
      all_weights[i].resize(out * whole(in));
      all_biases[i].resize(out);
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t k = 0; k < in; ++k) weights_turned[i][k * out + o] = d.weights[i][o * in + k];
      }
    }
  }

  // (triplane 3): features of `count` points into turned [P][C], zeros for the rest of the tile.
  EPIGRAF_HD void look_up(int count) {
    const TriplaneShape& shape = field.shape;
    const int64_t channels = shape.channels, stride = whole(channels);
    for (int p = 0; p < kPoints; ++p) {
      T* out = turned + p * stride;
      if (p >= count) {
        std::fill_n(out, stride, T(0));
      } else if (now->inside[p] != T(0)) {
        look_up_inside(p, out);
      } else {
        const T point[3] = {now->coords[0][p], now->coords[1][p], now->coords[2][p]};
        for (int64_t c = 0; c < channels; ++c) triplane_point<1>(planes + c, point, shape, out + c);
      }
    }
  }

  EPIGRAF_HD void look_up_inside(int p, T* out) const {
    const TriplaneShape& shape = field.shape;
    const int64_t right = shape.pixel_stride, below = shape.row_stride;
    const T* tap[kPlanes];
    EPIGRAF_UNROLL
    for (int plane = 0; plane < kPlanes; ++plane) tap[plane] = planes + now->corner[plane][p];
    const int64_t blocks = shape.channels / kLanes;
    for_blocks<2>(blocks, [&](auto block, int64_t first) EPIGRAF_INLINE_LAMBDA {
      constexpr int kBlock = decltype(block)::value;
      V sum[kPlanes][kBlock] = {};
      EPIGRAF_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        EPIGRAF_UNROLL
        for (int c = 0; c < 4; ++c) {
          const T weight = now->weight[plane][c][p];
          const T* from = tap[plane] + (c & 2 ? below : 0) + (c & 1 ? right : 0) + first * kLanes;
          EPIGRAF_UNROLL
          for (int b = 0; b < kBlock; ++b) sum[plane][b] += S::load(from + b * kLanes) * weight;
        }
      }
      EPIGRAF_UNROLL
      for (int b = 0; b < kBlock; ++b) {
        const V all = sum[0][b] + sum[1][b] + sum[2][b];
        S::store(out + (first + b) * kLanes, all * T(1.0 / kPlanes));
      }
    });
    for (int64_t k = blocks * kLanes; k < shape.channels; ++k) {
      T sum = 0;
      EPIGRAF_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        EPIGRAF_UNROLL
        for (int c = 0; c < 4; ++c) {
          sum +=
              tap[plane][(c & 2 ? below : 0) + (c & 1 ? right : 0) + k] * now->weight[plane][c][p];
        }
      }
      out[k] = sum * T(1.0 / kPlanes);
    }
  }

  // from [P][width rounded up] to [width rounded up][P].
  EPIGRAF_HD void turn_to_rows(const T* from, T* to, int64_t width) const {
    const int64_t stride = whole(width);
    for (int64_t k = 0; k < width; k += kLanes) {
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        V block[kLanes];
        EPIGRAF_UNROLL
        for (int i = 0; i < kLanes; ++i) block[i] = S::load(from + (v * kLanes + i) * stride + k);
        transpose<S>(block);
        EPIGRAF_UNROLL
        for (int i = 0; i < kLanes; ++i) S::store(to + (k + i) * kPoints + v * kLanes, block[i]);
      }
    }
  }

  // from [width rounded up][P] to [P][width rounded up]. Rows beyond the width hold anything.
  EPIGRAF_HD void turn_to_points(const T* from, T* to, int64_t width) const {
    const int64_t stride = whole(width);
    for (int64_t k = 0; k < width; k += kLanes) {
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        V block[kLanes];
        EPIGRAF_UNROLL
        for (int i = 0; i < kLanes; ++i) block[i] = S::load(from + (k + i) * kPoints + v * kLanes);
        transpose<S>(block);
        EPIGRAF_UNROLL
        for (int i = 0; i < kLanes; ++i) S::store(to + (v * kLanes + i) * stride + k, block[i]);
      }
    }
  }

  // kOut rows of y = W x (+ bias): W [.., in] contiguous, x [in][P].
  template <int kOut>
  static EPIGRAF_HD void multiply_block(const T* weight, const T* bias, int64_t in, const T* x,
                                        V (&sum)[kOut][kVectors]) {
    EPIGRAF_UNROLL
    for (int o = 0; o < kOut; ++o) {
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[o][v] = bias ? S::splat(bias[o]) : V{};
    }
    for (int64_t k = 0; k < in; ++k) {
      V row[kVectors];
      EPIGRAF_UNROLL
      for (int v = 0; v < kVectors; ++v) row[v] = S::load(x + k * kPoints + v * kLanes);
      EPIGRAF_UNROLL
      for (int o = 0; o < kOut; ++o) {
        const T w = weight[o * in + k];
        EPIGRAF_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[o][v] += row[v] * w;
      }
    }
  }

  // Calls the caches for the taps of points [first, last) of the next tile, line by line.
  EPIGRAF_HD void call(int first, int last) const {
    if (!aimed) return;
    constexpr int64_t kLine = 64 / sizeof(T);
    const TriplaneShape& s = field.shape;
    const int64_t pixels = s.pixel_stride + s.channels;
    for (int plane = 0; plane < kPlanes; ++plane) {
      for (int p = first; p < last; ++p) {
        const T* tap = planes + next->corner[plane][p];
        for (int64_t k = 0; k < pixels; k += kLine) {
          __builtin_prefetch(tap + k);
          __builtin_prefetch(tap + s.row_stride + k);
        }
      }
    }
  }

  // The share of outputs [first, first + count) of `all` in the calls: spread over the decoder's
  // work, none of them waits for a free line buffer.
  EPIGRAF_HD void call_share(int64_t first, int64_t count, int64_t all) const {
    call(static_cast<int>(first * kPoints / all),
         static_cast<int>((first + count) * kPoints / all));
  }

  // (decoder 2-4): all layers, from rows[0] to rows[layers].
  EPIGRAF_HD void decode() {
    const DecoderLayers<T>& d = field.decoder;
    for (int i = 0; i < d.layers; ++i) {
      const int64_t in = d.widths[i];
      const bool last = i + 1 == d.layers;
      for_blocks<kOutBlock>(d.widths[i + 1], [&](auto block, int64_t o) EPIGRAF_INLINE_LAMBDA {
        constexpr int kOut = decltype(block)::value;
        V sum[kOut][kVectors];
        if (i == 0) call_share(o, kOut, d.widths[1]);
        multiply_block<kOut>(d.weights[i] + o * in, d.biases[i] + o, in, rows[i], sum);
        EPIGRAF_UNROLL
        for (int k = 0; k < kOut; ++k) {
          EPIGRAF_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            V y = sum[k][v];
            if (!last) y = choose(y > V{}, y, y * d.slope);
            S::store(rows[i + 1] + (o + k) * kPoints + v * kLanes, y);
          }
        }
      });
    }
  }

  void enter(const T* planes_of_element) { planes = planes_of_element; }

  EPIGRAF_HD const T* output(int o) const { return rows[field.decoder.layers] + o * kPoints; }

  // Finds where the points of the next tile fall, `upcoming().coords`, and calls the caches.
  EPIGRAF_HD void aim() {
    const TriplaneShape& s = field.shape;
    next->find(s,
               {{0, s.row_stride, s.pixel_stride},
                {s.plane_stride, s.row_stride, s.pixel_stride},
                {2 * s.plane_stride, s.row_stride, s.pixel_stride}},
               fits);
    aimed = true;
  }

  // The tile that was aimed at becomes the present one.
  EPIGRAF_HD void advance() {
    std::swap(now, next);
    aimed = false;
  }

  EPIGRAF_HD Taps& upcoming() { return *next; }

  // The decoder's outputs at `count` points, in rows[layers].
  EPIGRAF_HD void evaluate(int count) {
    look_up(count);
    turn_to_rows(turned, rows[0], field.shape.channels);
    decode();
    T* raw = rows[field.decoder.layers] + (kOutputs - 1) * kPoints;
    add_density_prior(field, now->coords, raw, kPoints);
  }

  // (decoder 6): adds grad [O][P] x^T to the layer's sums; x turned is [P][I].
  EPIGRAF_HD void add_weight_grad(int layer, const T* grad, const T* x) {
    const int64_t stride = whole(width(layer));
    for_blocks<kGradBlock>(width(layer + 1), [&](auto block, int64_t o) EPIGRAF_INLINE_LAMBDA {
      constexpr int kOut = decltype(block)::value;
      for_blocks<2>(stride / kLanes, [&](auto parts, int64_t first) EPIGRAF_INLINE_LAMBDA {
        constexpr int kParts = decltype(parts)::value;
        T* total = grad_weights[layer] + o * stride + first * kLanes;
        V sum[kOut][kParts];
        EPIGRAF_UNROLL
        for (int k = 0; k < kOut; ++k) {
          EPIGRAF_UNROLL
          for (int b = 0; b < kParts; ++b) sum[k][b] = S::load(total + k * stride + b * kLanes);
        }
        for (int p = 0; p < kPoints; ++p) {
          V part[kParts];
          EPIGRAF_UNROLL
          for (int b = 0; b < kParts; ++b) {
            part[b] = S::load(x + p * stride + (first + b) * kLanes);
          }
          EPIGRAF_UNROLL
          for (int k = 0; k < kOut; ++k) {
            const T g = grad[(o + k) * kPoints + p];
            EPIGRAF_UNROLL
            for (int b = 0; b < kParts; ++b) sum[k][b] += part[b] * g;
          }
        }
        EPIGRAF_UNROLL
        for (int k = 0; k < kOut; ++k) {
          EPIGRAF_UNROLL
          for (int b = 0; b < kParts; ++b) S::store(total + k * stride + b * kLanes, sum[k][b]);
        }
      });
      EPIGRAF_UNROLL
      for (int k = 0; k < kOut; ++k) {
        V sum{};
        EPIGRAF_UNROLL
        for (int v = 0; v < kVectors; ++v) sum += S::load(grad + (o + k) * kPoints + v * kLanes);
        grad_biases[layer][o + k] += S::sum(sum);
      }
    });
  }

  // (decoder 7): gradient of the inputs of `layer`, through the leaky ReLU that made them.
  EPIGRAF_HD void input_grad(int layer, const T* grad, T* out) {
    const int64_t count = width(layer + 1);
    for_blocks<kOutBlock>(width(layer), [&](auto block, int64_t k) EPIGRAF_INLINE_LAMBDA {
      constexpr int kOut = decltype(block)::value;
      V sum[kOut][kVectors];
      multiply_block<kOut>(weights_turned[layer] + k * count, nullptr, count, grad, sum);
      EPIGRAF_UNROLL
      for (int i = 0; i < kOut; ++i) {
        EPIGRAF_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          V g = sum[i][v];
          if (layer > 0) {
            const V h = S::load(rows[layer] + (k + i) * kPoints + v * kLanes);
            g = choose(h > V{}, g, g * field.decoder.slope);
          }
          S::store(out + (k + i) * kPoints + v * kLanes, g);
        }
      }
    });
  }

  // After `decode`, with the features turned: gradients of the parameters from those of the outputs
  // in grad_rows[0] [O][P], and of the features, if wanted, in grad_rows[layers % 2] [C][P].
  EPIGRAF_HD void decode_vjp(bool want_features) {
    if (++tiles == kFoldTiles) fold();
    const int layers = field.decoder.layers;
    for (int i = layers - 1; i >= 0; --i) {
      const T* grad = grad_rows[(layers - 1 - i) % 2];
      T* grad_in = grad_rows[(layers - i) % 2];
      if (i > 0) turn_to_points(rows[i], turned_hidden(), width(i));
      add_weight_grad(i, grad, i > 0 ? turned_hidden() : turned);
      if (i > 0 || want_features) input_grad(i, grad, grad_in);
    }
  }

  // After `evaluate` (which leaves the features turned): gradients of everything from those of the
  // outputs in grad_rows[0] [4][P] (zeros beyond `count`). `grad_planes` is that of the batch
  // element, or null.
  EPIGRAF_HD void backward(int count, T* grad_planes) {
    decode_vjp(grad_planes != nullptr);
    if (!grad_planes) return;
    const int layers = field.decoder.layers;
    turn_to_points(grad_rows[layers % 2], turned, field.shape.channels);
    for (int p = 0; p < count; ++p)
      scatter(p, turned + p * whole(field.shape.channels), grad_planes);
  }

  // Sums in two steps, the second in double: thousands of tiles in a row would lose digits.
  EPIGRAF_HD void fold() {
    tiles = 0;
    for (int i = 0; i < field.decoder.layers; ++i) {
      const int64_t out = width(i + 1), count = out * whole(width(i));
      for (int64_t k = 0; k < count; ++k) all_weights[i][k] += grad_weights[i][k];
      for (int64_t o = 0; o < out; ++o) all_biases[i][o] += grad_biases[i][o];
      std::fill_n(grad_weights[i], count, T(0));
      std::fill_n(grad_biases[i], out, T(0));
    }
  }

  // Adds the sums of this thread's gradients to the results; null ones are not wanted.
  void add_to(T* const (&to_weights)[kMaxLayers], T* const (&to_biases)[kMaxLayers]) {
    fold();
    for (int i = 0; i < field.decoder.layers; ++i) {
      const int64_t in = width(i), out = width(i + 1), stride = whole(in);
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t k = 0; to_weights[i] && k < in; ++k) {
          to_weights[i][o * in + k] += static_cast<T>(all_weights[i][o * stride + k]);
        }
        if (to_biases[i]) to_biases[i][o] += static_cast<T>(all_biases[i][o]);
      }
    }
  }

  // The outputs of the decoder are of no use once the backward pass has begun.
  EPIGRAF_HD T* turned_hidden() { return rows[field.decoder.layers]; }

  // (triplane 4): adds the gradient of one point's features to the planes.
  EPIGRAF_HD void scatter(int p, T* grad, T* grad_planes) const {
    const TriplaneShape& shape = field.shape;
    const int64_t channels = shape.channels;
    for (int64_t c = 0; c < channels; ++c) grad[c] *= T(1.0 / kPlanes);
    EPIGRAF_UNROLL
    for (int plane = 0; plane < kPlanes; ++plane) {
      if (now->inside[p] != T(0)) {
        T* tap = grad_planes + now->corner[plane][p];
        EPIGRAF_UNROLL
        for (int c = 0; c < 4; ++c) {
          T* to = tap + (c & 1 ? shape.pixel_stride : 0) + (c & 2 ? shape.row_stride : 0);
          add_scaled(to, grad, now->weight[plane][c][p], channels);
        }
      } else {
        scatter_outside(p, plane, grad, grad_planes + plane * shape.plane_stride);
      }
    }
  }

  EPIGRAF_HD void scatter_outside(int p, int plane, const T* grad, T* grad_plane) const {
    const T point[3] = {now->coords[0][p], now->coords[1][p], now->coords[2][p]};
    const PlaneTaps<T> where = plane_taps_of_point(point, plane, field.shape);
    for (int64_t c = 0; c < field.shape.channels; ++c) {
      plane_read_vjp_plane<1>(grad_plane + c, where, field.shape, grad + c,
                              [](T* to, const auto& share)
                                  EPIGRAF_INLINE_LAMBDA { *to += share[0]; });
    }
  }

  static EPIGRAF_HD void add_scaled(T* to, const T* grad, T weight, int64_t channels) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      S::store(to + c, S::load(to + c) + S::load(grad + c) * weight);
    }
    for (; c < channels; ++c) to[c] += grad[c] * weight;
  }
};

}  // namespace epigraf
