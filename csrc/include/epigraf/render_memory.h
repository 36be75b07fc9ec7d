// The shared memory of the fused renderer on a GPU: what a block of warps keeps there, counted in
// elements of the floating-point type. The kernels lay it out by this, the launchers choose the
// number of warps by it, and `epigraf.ops.render.why_not` asks it what fits.
#pragma once

#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

constexpr int kRayWarp = 32;  // lanes to a ray, samples to a chunk

// kUnits hidden units are computed at a time, in registers.
struct RenderMemory {
  int64_t channels, hidden, coarse, fine;
  int64_t units;  // 16 floats or 8 doubles: 64 bytes

  EPIGRAF_HD static int64_t whole(int64_t count, int64_t unit) {
    return (count + unit - 1) / unit * unit;
  }
  EPIGRAF_HD int64_t samples() const { return coarse + fine; }

  // The decoder: weights of the first layer turned [C][hidden], its biases [hidden], weights of the
  // second turned [hidden][4], its biases [4]; hidden rounded up to whole blocks of units.
  EPIGRAF_HD int64_t padded_hidden() const { return whole(hidden, units); }
  EPIGRAF_HD int64_t decoder() const { return padded_hidden() * (channels + 5) + 4; }

  // Sums of the decoder's gradients, in the order of its parameters [hidden][C], [hidden],
  // [4][hidden], [4].
  EPIGRAF_HD int64_t decoder_grads() const { return whole(hidden * (channels + 5) + 4, units); }

  // Features of 32 points, and their gradients: rows of odd length, so that equal channels of
  // neighbouring rows lie in different banks.
  EPIGRAF_HD int64_t tile_row() const { return channels | 1; }
  EPIGRAF_HD int64_t tile() const { return whole(kRayWarp * tile_row(), units); }

  // The draws of a ray are sorted in a row whose length is a power of two.
  EPIGRAF_HD int64_t draws() const {
    int64_t length = 1;
    while (length < fine) length *= 2;
    return fine > 0 ? length : 0;
  }

  // What a tile's memory holds while there is no tile in it: a distribution function and draws,
  // later the merged depths and a count for each fine sample.
  EPIGRAF_HD int64_t between_tiles() const {
    const int64_t refining = coarse + draws(), merging = samples() + fine;
    return refining > merging ? refining : merging;
  }
  EPIGRAF_HD int64_t scratch() const {
    const int64_t between = fine > 0 ? whole(between_tiles(), units) : 0;
    return tile() > between ? tile() : between;
  }

  // Per warp, forward: scratch, depths, four outputs and an order of the samples.
  EPIGRAF_HD int64_t forward_warp() const { return scratch() + whole(6 * samples(), units); }

  // Per warp, backward: two tiles, a block of hidden units of 32 points in rows of kUnits and 16
  // bytes, depths and four gradients of the samples.
  EPIGRAF_HD int64_t units_row() const { return units + units / 4; }
  EPIGRAF_HD int64_t backward_warp() const {
    return 2 * tile() + kRayWarp * units_row() + whole(5 * samples(), units);
  }

  EPIGRAF_HD int64_t forward(int64_t warps) const {
    return whole(decoder(), units) + warps * forward_warp();
  }
  EPIGRAF_HD int64_t backward(int64_t warps, bool sums) const {
    return whole(decoder(), units) + (sums ? decoder_grads() : 0) + warps * backward_warp();
  }
};

// Bytes that a block of one warp needs at least.
inline int64_t render_shared_bytes(int64_t channels, int64_t hidden, int64_t coarse, int64_t fine,
                                   bool is_double) {
  const RenderMemory memory{channels, hidden, coarse, fine, is_double ? 8 : 16};
  const int64_t forward = memory.forward(1), backward = memory.backward(1, false);
  return (forward > backward ? forward : backward) * (is_double ? 8 : 4);
}

}  // namespace epigraf
