// Resampling by two with the filter [1, 3, 3, 1] along an axis (docs/math/resample.md, cited as
// "(resample n)"); a map of pictures is that of their rows after that of their columns.
#pragma once

#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

enum class ResampleMap { blur, down, up };

// An axis of a map, cut into steps: each sees a window of pixels, which begins kAdvance pixels
// behind that of the step before, and makes kMade pixels. The first window begins `pad` pixels in
// front of the picture (1, with blur 1 or 2); there are zeros outside.
template <int kPixels, int kStride, int kResults>
struct ResampleSteps {
  static constexpr int kWindow = kPixels, kAdvance = kStride, kMade = kResults;

  // Steps for `pixels` of the result; the first and the last one of `up` make one outside of it.
  EPIGRAF_HD static int64_t count(int64_t pixels) { return pixels / kMade + (kMade - 1); }
  // The first pixel that a step makes.
  EPIGRAF_HD static int64_t place(int64_t step) { return step * kMade - (kMade - 1); }
  // Pixels that so many steps see.
  EPIGRAF_HD static int64_t seen(int64_t steps) { return (steps - 1) * kAdvance + kWindow; }
};

struct Blur : ResampleSteps<4, 1, 1> {};
struct Down : ResampleSteps<4, 2, 1> {};
struct Up : ResampleSteps<2, 1, 2> {};

// Weights of the pixels of a window that are farther and nearer.
template <typename T>
struct ResampleTaps {
  T far, near;
};

template <typename Map, typename T>
EPIGRAF_HD ResampleTaps<T> resample_taps(T gain) {
  const T far = gain / T(2 * Map::kWindow);
  return {far, T(3) * far};
}

// (resample 1-3): pixel number `made` of a step, from its window.
template <typename Map, typename T>
EPIGRAF_HD T resample_pixel(ResampleTaps<T> taps, const T* window, int made) {
  if constexpr (Map::kMade == 2) {
    return taps.near * window[made] + taps.far * window[1 - made];
  } else {
    return taps.far * (window[0] + window[3]) + taps.near * (window[1] + window[2]);
  }
}

// Pictures [B, C, H, W], or channels-last in memory, [B, H, W, C]. Either way they are planes of
// rows of pixels of `lanes` numbers.
struct ResampleShape {
  ResampleMap map;
  int64_t batch, channels, height, width;  // of what is read
  int64_t pad;
  bool channels_last;

  EPIGRAF_HD int64_t planes() const { return channels_last ? batch : batch * channels; }
  EPIGRAF_HD int64_t lanes() const { return channels_last ? channels : 1; }
  // Pixels along an axis of the result.
  EPIGRAF_HD int64_t made(int64_t pixels) const {
    if (map == ResampleMap::blur) return pixels + 2 * pad - 3;
    return map == ResampleMap::down ? pixels / 2 : 2 * pixels;
  }
};

}  // namespace epigraf
