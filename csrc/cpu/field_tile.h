// The field at a tile of points, lanes over points: look-up, decoder, and the gradients of both.
// One tile is two vectors wide; its activations stay in the first-level cache.
//
// Legend: P points of a tile, C plane channels, I inputs and O outputs of a layer. Rows of
// activations are [width][P]; "turned" ones are [P][width], rounded up to whole vectors.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "clones.h"
#include "epigraf/render.h"
#include "simd.h"

namespace epigraf {

// Calls body(block, first) for blocks of kBlock, then of half of it, down to 1.
template <int kBlock, typename Body>
EPIGRAF_HD void for_blocks(int64_t count, Body body, int64_t first = 0) {
  for (; first + kBlock <= count; first += kBlock) {
    body(std::integral_constant<int, kBlock>{}, first);
  }
  if constexpr (kBlock > 1) for_blocks<kBlock / 2>(count, body, first);
}

// Aligned memory of one thread, handed out piece by piece.
template <typename T>
class Arena {
 public:
  explicit Arena(int64_t count)
      : memory_(static_cast<T*>(std::aligned_alloc(kAlignment, round(count) * sizeof(T)))) {
    if (!memory_) throw std::bad_alloc();
    std::fill_n(memory_.get(), round(count), T(0));
  }
  T* take(int64_t count) {
    T* piece = memory_.get() + used_;
    used_ += round(count);
    return piece;
  }
  static int64_t round(int64_t count) {
    constexpr int64_t unit = kAlignment / sizeof(T);
    return (count + unit - 1) / unit * unit;
  }

 private:
  static constexpr int64_t kAlignment = 64;
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t used_ = 0;
};

template <typename T, int kBytes>
struct FieldTile {
  using S = Simd<T, kBytes>;
  using V = typename S::Vector;
  using Int = typename S::Int;
  static constexpr int kLanes = S::kLanes, kVectors = 2, kPoints = kLanes * kVectors;
  static constexpr int kOutBlock = kBytes == 64 ? 8 : 4;

  // Where the points of a tile fall: weights and upper left corners of the cells, and which points
  // have all their cells inside (the others take the careful path of triplane.h).
  struct Taps {
    alignas(64) T weight[kPlanes][4][kPoints];
    alignas(64) Int row[kPlanes][kPoints], column[kPlanes][kPoints];
    alignas(64) Int inside[kPoints];
  };

  const RenderField<T>& field;
  const T* planes;  // of the batch element
  Taps taps;
  alignas(64) T coords[3][kPoints];  // in plane coordinates
  T* turned;                         // [P][widest]
  T* rows[kMaxLayers + 1];           // activations: rows[0] features, rows[layers] outputs
  T* grad_rows[2];                   // of the present layer's outputs and inputs
  T* weights_turned[kMaxLayers];     // [I][O], for the backward pass
  T* grad_weights[kMaxLayers];       // [O][I rounded up], this thread's sum
  T* grad_biases[kMaxLayers];        // [O]

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

  FieldTile(const RenderField<T>& f, Arena<T>& arena, bool backward) : field(f), planes(f.planes) {
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
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t k = 0; k < in; ++k) weights_turned[i][k * out + o] = d.weights[i][o * in + k];
      }
    }
  }

  // (triplane 1, 2) for the tile's points, on one plane.
  EPIGRAF_HD void find_taps(int plane, int v, typename S::IntVector& inside) {
    const TriplaneShape& shape = field.shape;
    const V x = pixel_positions(coords[plane_u(plane)] + v * kLanes, shape.width);
    const V y = pixel_positions(coords[plane_v(plane)] + v * kLanes, shape.height);
    const auto in = (x >= V{}) & (x < T(shape.width - 1)) & (y >= V{}) & (y < T(shape.height - 1));
    inside &= in;
    const V column = choose(in, x, V{}), row = choose(in, y, V{});
    const auto x0 = __builtin_convertvector(column, typename S::IntVector);
    const auto y0 = __builtin_convertvector(row, typename S::IntVector);
    const V right = column - __builtin_convertvector(x0, V), left = T(1) - right;
    const V below = row - __builtin_convertvector(y0, V), above = T(1) - below;
    const V corners[4] = {left * above, right * above, left * below, right * below};
    EPIGRAF_UNROLL
    for (int c = 0; c < 4; ++c) S::store(taps.weight[plane][c] + v * kLanes, corners[c]);
    S::store(taps.row[plane] + v * kLanes, y0);
    S::store(taps.column[plane] + v * kLanes, x0);
  }

  EPIGRAF_HD V pixel_positions(const T* coordinate, int64_t size) const {
    return (S::load(coordinate) + T(1)) / T(2) * T(size - 1);
  }

  EPIGRAF_HD void find_all_taps() {
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      auto inside = S::splat(0) == S::splat(0);
      EPIGRAF_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) find_taps(plane, v, inside);
      S::store(taps.inside + v * kLanes, inside);
    }
  }

  // The upper left tap of point p.
  template <typename U>
  EPIGRAF_HD U* corner(U* base, int plane, int p) const {
    const TriplaneShape& s = field.shape;
    return base + plane * s.plane_stride + static_cast<int64_t>(taps.row[plane][p]) * s.row_stride +
           static_cast<int64_t>(taps.column[plane][p]) * s.pixel_stride;
  }

  // (triplane 3): features of `count` points into turned [P][C], zeros for the rest of the tile.
  EPIGRAF_HD void look_up(int count) {
    const TriplaneShape& shape = field.shape;
    const int64_t channels = shape.channels, stride = whole(channels);
    for (int p = 0; p < kPoints; ++p) {
      T* out = turned + p * stride;
      if (p >= count) {
        std::fill_n(out, stride, T(0));
      } else if (taps.inside[p]) {
        look_up_inside(p, out);
      } else {
        const T point[3] = {coords[0][p], coords[1][p], coords[2][p]};
        for (int64_t c = 0; c < channels; ++c) triplane_point<1>(planes + c, point, shape, out + c);
      }
    }
  }

  EPIGRAF_HD void look_up_inside(int p, T* out) const {
    const TriplaneShape& shape = field.shape;
    const T* base[kPlanes];
    EPIGRAF_UNROLL
    for (int plane = 0; plane < kPlanes; ++plane) base[plane] = corner(planes, plane, p);
    const int64_t steps[4] = {0, shape.pixel_stride, shape.row_stride,
                              shape.row_stride + shape.pixel_stride};
    const int64_t blocks = shape.channels / kLanes;
    for_blocks<2>(blocks, [&](auto block, int64_t first) EPIGRAF_INLINE_LAMBDA {
      constexpr int kBlock = decltype(block)::value;
      V sum[kBlock] = {};
      EPIGRAF_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        EPIGRAF_UNROLL
        for (int c = 0; c < 4; ++c) {
          const T weight = taps.weight[plane][c][p];
          const T* tap = base[plane] + steps[c] + first * kLanes;
          EPIGRAF_UNROLL
          for (int b = 0; b < kBlock; ++b) sum[b] += S::load(tap + b * kLanes) * weight;
        }
      }
      EPIGRAF_UNROLL
      for (int b = 0; b < kBlock; ++b) {
        S::store(out + (first + b) * kLanes, sum[b] * T(1.0 / kPlanes));
      }
    });
    for (int64_t k = blocks * kLanes; k < shape.channels; ++k) {
      T sum = 0;
      EPIGRAF_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        EPIGRAF_UNROLL
        for (int c = 0; c < 4; ++c) sum += base[plane][steps[c] + k] * taps.weight[plane][c][p];
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

  // (decoder 2-4): all layers, from rows[0] to rows[layers].
  EPIGRAF_HD void decode() {
    const DecoderLayers<T>& d = field.decoder;
    for (int i = 0; i < d.layers; ++i) {
      const int64_t in = d.widths[i];
      const bool last = i + 1 == d.layers;
      for_blocks<kOutBlock>(d.widths[i + 1], [&](auto block, int64_t o) EPIGRAF_INLINE_LAMBDA {
        constexpr int kOut = decltype(block)::value;
        V sum[kOut][kVectors];
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

  // The prior of the raw densities.
  EPIGRAF_HD void add_prior() {
    if (field.prior_strength == T(0)) return;
    T* raw = rows[field.decoder.layers] + (kOutputs - 1) * kPoints;
    const T scale = field.cube_scale;
    for (int p = 0; p < kPoints; ++p) {
      const T x = coords[0][p] * scale, y = coords[1][p] * scale, z = coords[2][p] * scale;
      raw[p] += field.prior_strength - std::sqrt(x * x + y * y + z * z) * field.prior_slope;
    }
  }

  // The decoder's outputs at `count` points, in rows[layers].
  EPIGRAF_HD void evaluate(int count) {
    find_all_taps();
    look_up(count);
    turn_to_rows(turned, rows[0], field.shape.channels);
    decode();
    add_prior();
  }

  // (decoder 6): adds grad [O][P] x^T to the layer's sums; x turned is [P][I].
  EPIGRAF_HD void add_weight_grad(int layer, const T* grad, const T* x) {
    const int64_t stride = whole(width(layer));
    for_blocks<kOutBlock>(width(layer + 1), [&](auto block, int64_t o) EPIGRAF_INLINE_LAMBDA {
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

  // After `evaluate` (which leaves the features turned): gradients of everything from those of the
  // outputs in grad_rows[0] [4][P] (zeros beyond `count`). `grad_planes` is that of the batch
  // element, or null.
  EPIGRAF_HD void backward(int count, T* grad_planes) {
    const int layers = field.decoder.layers;
    for (int i = layers - 1; i >= 0; --i) {
      const T* grad = grad_rows[(layers - 1 - i) % 2];
      T* grad_in = grad_rows[(layers - i) % 2];
      if (i > 0) turn_to_points(rows[i], turned_hidden(), width(i));
      add_weight_grad(i, grad, i > 0 ? turned_hidden() : turned);
      if (i > 0 || grad_planes) input_grad(i, grad, grad_in);
    }
    if (!grad_planes) return;
    turn_to_points(grad_rows[layers % 2], turned, field.shape.channels);
    for (int p = 0; p < count; ++p)
      scatter(p, turned + p * whole(field.shape.channels), grad_planes);
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
      if (taps.inside[p]) {
        T* tap = corner(grad_planes, plane, p);
        EPIGRAF_UNROLL
        for (int c = 0; c < 4; ++c) {
          T* to = tap + (c & 1 ? shape.pixel_stride : 0) + (c & 2 ? shape.row_stride : 0);
          add_scaled(to, grad, taps.weight[plane][c][p], channels);
        }
      } else {
        scatter_outside(p, plane, grad, grad_planes + plane * shape.plane_stride);
      }
    }
  }

  EPIGRAF_HD void scatter_outside(int p, int plane, const T* grad, T* grad_plane) const {
    const T point[3] = {coords[0][p], coords[1][p], coords[2][p]};
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
