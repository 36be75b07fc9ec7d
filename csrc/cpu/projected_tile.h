// The field at a tile of points on projected planes: a look-up gives the hidden units, lanes over
// units; the second layer follows in registers. For decoders of two layers, without gradients.
//
// Legend: P points of a tile, H hidden units, O outputs.
#pragma once

#include "projected_planes.h"
#include "tile_taps.h"

namespace epigraf {

// Adds the lanes of kLanes vectors: lane i of the result is the sum of rows[i].
template <typename S, int kStep = S::kLanes / 2>
EPIGRAF_HD typename S::Vector sum_rows(typename S::Vector (&rows)[S::kLanes]) {
  typename S::IntVector low{}, high{};
  for (int j = 0; j < S::kLanes; ++j) {
    low[j] = (j & kStep) ? S::kLanes + j - kStep : j;
    high[j] = (j & kStep) ? S::kLanes + j : j + kStep;
  }
  EPIGRAF_UNROLL
  for (int i = 0; i < kStep; ++i) {
    const typename S::Vector a = rows[i], b = rows[i + kStep];
    rows[i] = shuffle(a, b, low) + shuffle(a, b, high);
  }
  if constexpr (kStep > 1) return sum_rows<S, kStep / 2>(rows);
  return rows[0];
}

template <typename T, int kBytes>
struct ProjectedTile {
  using Taps = TileTaps<T, kBytes>;
  using S = typename Taps::S;
  using V = typename S::Vector;
  static constexpr int kLanes = S::kLanes, kPoints = Taps::kPoints;

  const RenderField<T>& field;
  ProjectedPlanes<T> planes;  // of the batch element
  Taps taps[2];               // of this tile and the next
  Taps *now = &taps[0], *next = &taps[1];
  typename Taps::Layout layout[kPlanes];  // in pixels
  int64_t width;                          // H rounded up to whole vectors
  T* bias;                                // [H]
  T* weight[kOutputs];                    // [H] each
  T* sums[kOutputs];                      // [P][kLanes]: what each lane has of an output
  T* outputs[kOutputs];                   // [P]

  static int64_t whole(int64_t units) { return (units + kLanes - 1) / kLanes * kLanes; }

  static int64_t memory(const DecoderLayers<T>& d, bool) {
    return (1 + kOutputs) * Arena<T>::round(whole(d.widths[1])) +
           kOutputs * (kPoints * kLanes + Arena<T>::round(kPoints));
  }

  ProjectedTile(const RenderField<T>& f, Arena<T>& arena, bool)
      : field(f), planes{}, width(whole(f.decoder.widths[1])) {
    const int64_t units = f.decoder.widths[1];
    bias = arena.take(width);
    std::copy_n(f.decoder.biases[0], units, bias);
    for (int o = 0; o < kOutputs; ++o) {
      weight[o] = arena.take(width);
      std::copy_n(f.decoder.weights[1] + o * units, units, weight[o]);
      sums[o] = arena.take(kPoints * kLanes);
      outputs[o] = arena.take(kPoints);
    }
  }

  void enter(const ProjectedPlanes<T>& projected) {
    planes = projected;
    for (int plane = 0; plane < kPlanes; ++plane) {
      const PlaneBox& b = planes.boxes.box[plane];
      layout[plane] = {b.start - b.row * b.columns - b.column, b.columns, 1};
    }
  }

  EPIGRAF_HD Taps& upcoming() { return *next; }
  EPIGRAF_HD void aim() { next->find(field.shape, layout, true); }
  EPIGRAF_HD void advance() { std::swap(now, next); }
  EPIGRAF_HD const T* output(int o) const { return outputs[o]; }

  // (render 9): the decoder's outputs at `count` points.
  EPIGRAF_HD void evaluate(int count) {
    const T* data = planes.data;
    for_blocks<most_vectors(kBytes)>(width / kLanes,
                                     [&](auto block, int64_t first) EPIGRAF_INLINE_LAMBDA {
                                       constexpr int kVectors = decltype(block)::value;
                                       for (int p = 0; p < count; ++p)
                                         add_group<kVectors>(data, p, first * kLanes);
                                       data += planes.boxes.pixels * kVectors * kLanes;
                                     });
    EPIGRAF_UNROLL
    for (int o = 0; o < kOutputs; ++o) add_up(o);
    add_density_prior(field, now->coords, outputs[kOutputs - 1], kPoints);
  }

  // What the units of one group, from `first` on, give to the outputs of a point.
  template <int kVectors>
  EPIGRAF_HD void add_group(const T* data, int p, int64_t first) {
    V h[kVectors];
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) h[v] = S::load(bias + first + v * kLanes);
    if (now->inside[p] != T(0)) {
      read<kVectors>(data, p, h);
    } else {
      read_at_edge<kVectors>(data, p, h);
    }
    V total[kOutputs] = {};
    if (first > 0) {
      EPIGRAF_UNROLL
      for (int o = 0; o < kOutputs; ++o) total[o] = S::load(sums[o] + p * kLanes);
    }
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const V active = choose(h[v] > V{}, h[v], h[v] * field.decoder.slope);
      EPIGRAF_UNROLL
      for (int o = 0; o < kOutputs; ++o) {
        total[o] += active * S::load(weight[o] + first + v * kLanes);
      }
    }
    EPIGRAF_UNROLL
    for (int o = 0; o < kOutputs; ++o) S::store(sums[o] + p * kLanes, total[o]);
  }

  template <int kVectors>
  EPIGRAF_HD void read(const T* data, int p, V (&h)[kVectors]) const {
    constexpr int kWidth = kVectors * kLanes;
    V sum[kPlanes][kVectors] = {};
    EPIGRAF_UNROLL
    for (int plane = 0; plane < kPlanes; ++plane) {
      const T* top = data + static_cast<int64_t>(now->corner[plane][p]) * kWidth;
      const T* bottom = top + layout[plane].row * kWidth;
      EPIGRAF_UNROLL
      for (int c = 0; c < 4; ++c) {
        const T w = now->weight[plane][c][p];
        const T* tap = (c & 2 ? bottom : top) + (c & 1 ? kWidth : 0);
        EPIGRAF_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[plane][v] += S::load(tap + v * kLanes) * w;
      }
    }
    EPIGRAF_UNROLL
    for (int v = 0; v < kVectors; ++v) h[v] += sum[0][v] + sum[1][v] + sum[2][v];
  }

  // A point that is not inside all planes.
  template <int kVectors>
  EPIGRAF_HD void read_at_edge(const T* data, int p, V (&h)[kVectors]) const {
    constexpr int kWidth = kVectors * kLanes;
    const T point[3] = {now->coords[0][p], now->coords[1][p], now->coords[2][p]};
    T sum[kWidth] = {};
    for (int plane = 0; plane < kPlanes; ++plane) {
      TriplaneShape shape = field.shape;
      shape.row_stride = layout[plane].row * kWidth;
      shape.pixel_stride = kWidth;
      plane_read(data + layout[plane].start * kWidth, plane_taps_of_point(point, plane, shape),
                 shape, sum);
    }
    for (int v = 0; v < kVectors; ++v) h[v] += S::load(sum + v * kLanes);
  }

  EPIGRAF_HD void add_up(int o) {
    EPIGRAF_UNROLL
    for (int v = 0; v < Taps::kVectors; ++v) {
      V rows[kLanes];
      EPIGRAF_UNROLL
      for (int i = 0; i < kLanes; ++i) rows[i] = S::load(sums[o] + (v * kLanes + i) * kLanes);
      S::store(outputs[o] + v * kLanes, sum_rows<S>(rows) + field.decoder.biases[1][o]);
    }
  }
};

}  // namespace epigraf
