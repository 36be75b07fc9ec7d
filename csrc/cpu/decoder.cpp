// The decoder on tiles of points, one or two vectors of them: features are turned so that lanes are
// points, all layers follow in the first-level cache, and the backward pass computes a tile again.
#include "epigraf/decoder.h"

#include <memory>
#include <vector>

#include "clone_run.h"
#include "epigraf/launch.h"
#include "field_tile.h"

namespace epigraf {
namespace {

constexpr int64_t kTilesPerTurn = 64;  // that a thread takes at a time

// What a thread works with.
template <typename T, int kBytes>
struct DecoderTiles {
  using Tile = FieldTile<T, kBytes>;
  static constexpr int kTile = Tile::kPoints;

  RenderField<T> field;
  Arena<T> arena;
  Tile tile;
  int64_t channels, outputs;

  DecoderTiles(const DecoderLayers<T>& net, bool backward)
      : field{},
        arena(Tile::memory(net, backward)),
        tile(with_decoder(field, net), arena, backward),
        channels(net.widths[0]),
        outputs(net.widths[net.layers]) {}

  static const RenderField<T>& with_decoder(RenderField<T>& f, const DecoderLayers<T>& net) {
    f.decoder = net;
    f.shape.channels = net.widths[0];
    return f;
  }

  // (decoder 2-4): the outputs of `count` points from `first` on, in the tile.
  EPIGRAF_HD void decode(const T* features, int64_t first, int64_t count) {
    const int64_t stride = Tile::whole(channels);
    for (int64_t p = 0; p < kTile; ++p) {
      T* to = tile.turned + p * stride;
      if (p < count) {
        std::copy_n(features + (first + p) * channels, channels, to);
      } else {
        std::fill_n(to, channels, T(0));
      }
    }
    tile.turn_to_rows(tile.turned, tile.rows[0], channels);
    tile.decode();
  }

  EPIGRAF_HD void forward(const DecoderForward<T>& p, int64_t first, int64_t count) {
    decode(p.features, first, count);
    const T* out = tile.rows[field.decoder.layers];
    for (int64_t k = 0; k < count; ++k) {
      T* rest = p.rest + (first + k) * (outputs - 1);
      for (int64_t o = 0; o + 1 < outputs; ++o) rest[o] = out[o * kTile + k];
      p.last[first + k] = out[(outputs - 1) * kTile + k];
    }
  }

  // (decoder 5-8).
  EPIGRAF_HD void backward(const DecoderBackward<T>& p, int64_t first, int64_t count) {
    decode(p.features, first, count);
    T* grad = tile.grad_rows[0];
    std::fill_n(grad, outputs * kTile, T(0));
    for (int64_t k = 0; k < count; ++k) {
      const T* rest = p.grad_rest ? p.grad_rest + (first + k) * (outputs - 1) : nullptr;
      for (int64_t o = 0; rest && o + 1 < outputs; ++o) grad[o * kTile + k] = rest[o];
      if (p.grad_last) grad[(outputs - 1) * kTile + k] = p.grad_last[first + k];
    }
    tile.decode_vjp(p.grad_features != nullptr);
    if (!p.grad_features) return;
    tile.turn_to_points(tile.grad_rows[field.decoder.layers % 2], tile.turned, channels);
    for (int64_t k = 0; k < count; ++k) {
      std::copy_n(tile.turned + k * Tile::whole(channels), channels,
                  p.grad_features + (first + k) * channels);
    }
  }
};

// body(first, count) for the tiles of points [first, last).
template <int kTile, typename Body>
EPIGRAF_HD void for_tiles(int64_t first, int64_t last, Body body) {
  for (; first < last; first += kTile) body(first, std::min<int64_t>(kTile, last - first));
}

template <typename T, int kBytes>
void forward_tiles(const DecoderForward<T>& p, int threads) {
  using Tiles = DecoderTiles<T, kBytes>;
  constexpr int64_t kTurn = kTilesPerTurn * Tiles::kTile;
  FirstError error;
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<Tiles> tiles;
    error.run([&] { tiles = std::make_unique<Tiles>(p.net, false); });
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < p.points; first += kTurn) {
      if (!tiles) continue;
      Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA {
        for_tiles<Tiles::kTile>(first, std::min(first + kTurn, p.points),
                                [&](int64_t at, int64_t count)
                                    EPIGRAF_INLINE_LAMBDA { tiles->forward(p, at, count); });
      });
    }
  }
  error.rethrow();
}

// Each thread owns a share of the points, and its sums are added in the order of the threads.
template <typename T, int kBytes>
void backward_tiles(const DecoderBackward<T>& p, int threads) {
  using Tiles = DecoderTiles<T, kBytes>;
  std::vector<std::unique_ptr<Tiles>> shares(threads);
  FirstError error;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; ++i) {
    error.run([&] { shares[i] = std::make_unique<Tiles>(p.net, true); });
    if (!shares[i]) continue;
    const int64_t first = p.points * i / threads, last = p.points * (i + 1) / threads;
    Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA {
      for_tiles<Tiles::kTile>(first, last, [&](int64_t at, int64_t count) EPIGRAF_INLINE_LAMBDA {
        shares[i]->backward(p, at, count);
      });
    });
  }
  error.rethrow();
  for (const auto& share : shares) share->tile.add_to(p.grad_weights, p.grad_biases);
}

}  // namespace

template <typename T>
void decoder_forward_cpu(const DecoderForward<T>& params, int threads) {
  with_vectors([&](auto bytes) { forward_tiles<T, decltype(bytes)::value>(params, threads); });
}

template <typename T>
void decoder_backward_cpu(const DecoderBackward<T>& params, int threads) {
  with_vectors([&](auto bytes) { backward_tiles<T, decltype(bytes)::value>(params, threads); });
}

template void decoder_forward_cpu(const DecoderForward<float>&, int);
template void decoder_forward_cpu(const DecoderForward<double>&, int);
template void decoder_backward_cpu(const DecoderBackward<float>&, int);
template void decoder_backward_cpu(const DecoderBackward<double>&, int);

}  // namespace epigraf
