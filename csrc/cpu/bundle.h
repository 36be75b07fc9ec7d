// Which rays are worked on together: blocks of a picture, whose samples of one depth are neighbours
// in space and share the lines of the planes that they read.
//
// Legend: R rays of a batch element.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "epigraf/macros.h"
#include "epigraf/render.h"

namespace epigraf {

// `rows` runs of `columns` neighbouring rays, `pitch` apart, of one batch element.
struct Bundle {
  int64_t first, rows, columns, pitch;

  EPIGRAF_HD int64_t count() const { return rows * columns; }
  EPIGRAF_HD int64_t ray(int64_t i) const { return first + i / columns * pitch + i % columns; }
};

constexpr int64_t kBundlePoints = 6144;  // whose depths and outputs stay in the second level
constexpr int64_t kBundleSide = 8;

// The most rays of a bundle, of `samples` samples each.
inline int64_t rays_in_bundle(int64_t samples) {
  return std::clamp<int64_t>(kBundlePoints / std::max<int64_t>(samples, 1), 1,
                             kBundleSide * kBundleSide);
}

// Bundles of at most `most` rays that cover those of `batch` elements from `element` on, one after
// another. Where the rays are rows of a picture they are blocks of it, else runs.
template <typename T>
std::vector<Bundle> bundles_of(int64_t element, int64_t batch, const RenderRays<T>& r,
                               int64_t most) {
  const int64_t rays = r.rays, row_length = r.row_length;
  const bool picture = row_length > 0 && rays % row_length == 0;
  const int64_t width = picture ? row_length : rays, height = picture ? rays / row_length : 1;
  const int64_t columns =
      std::min({picture ? kBundleSide : most, most, std::max<int64_t>(width, 1)});
  const int64_t rows = std::max<int64_t>(most / columns, 1);
  std::vector<Bundle> bundles;
  for (int64_t b = element; b < element + batch; ++b) {
    for (int64_t y = 0; y < height; y += rows) {
      for (int64_t x = 0; x < width; x += columns) {
        bundles.push_back({b * rays + y * width + x, std::min(rows, height - y),
                           std::min(columns, width - x), width});
      }
    }
  }
  return bundles;
}

}  // namespace epigraf
