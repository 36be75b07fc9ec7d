// What the two ways of a whole convolution share: where points lie, and the edge of a transposed
// one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "clone_run.h"
#include "epigraf/products.h"
#include "epigraf/winograd.h"
#include "product_tiles.h"

namespace epigraf {
namespace {

constexpr int64_t kWeights = 36;    // points of kernels
constexpr int64_t kApart = 80;      // numbers between matrices: see docs/math/winograd.md
constexpr int64_t kBlock = kPanel;  // channels that are read at a time

inline int64_t count_points(int stride) {
  return stride == 1 ? 36 : 81;
}

// Tiles that the matrix of a point has room for. Those that share a weight are one matrix, so that
// nothing lies between them but, for an odd number, a tile.
inline int64_t room_of(int stride, int64_t tiles) {
  return stride == 1 ? tiles : tiles | 1;
}

// Numbers from a point to the next one.
inline int64_t step_of(int stride, int64_t room, int64_t line) {
  return room * line + (stride == 1 ? kApart : 0);
}

// Calls body(task, worker) for all tasks, runs of them in parallel.
template <typename Body>
void share_out(int64_t tasks, int threads, Body body) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int worker = 0; worker < threads; ++worker)
    for (int64_t task = tasks * worker / threads; task < tasks * (worker + 1) / threads; ++task)
      body(task, worker);
}

// The last row and column of a transposed convolution, where they lie beyond whole tiles
// (winograd 10): 2m + k of a line takes pixel m times tap k, the outer ones of neighbours together.
// One panel of channels at a time.
template <typename T>
class Strips {
 public:
  Strips(const WinogradConvolution<T>& p, T* scratch)
      : batch_(p.read.count / std::max<int64_t>(1, p.read.tile_rows * p.read.tile_columns)),
        height_(p.read.height),
        width_(p.read.width),
        scratch_(scratch) {
    if (p.write.transform != WinogradTransform::transposed_output) return;
    wanted_[0] = p.write.height > p.read.tile_rows * TransposedOutput<T>::kStep;
    wanted_[1] = p.write.width > p.read.tile_columns * TransposedOutput<T>::kStep;
  }

  // Numbers that a thread needs.
  int64_t scratch() const { return any() ? kTapNumbers + lines() * (kBlock + 6 * kPanel) : 0; }
  bool any() const { return wanted_[0] || wanted_[1]; }

  // Adds what a block of channels gives: pixels [B, H, W] from its first one on, and its kernels.
  template <int kBytes>
  void add(const T* pixels, int64_t channels, const WinogradKernels<T>& k, bool more) const {
    for (int64_t row = 0; row < k.rows; ++row)
      for (int64_t column = 0; column < k.columns; ++column) {
        const T* taps = k.taps + row * k.row_step + column * k.column_step;
        for (int i = 0; i < kStripTaps; ++i)
          scratch_[(i * kBlock + row) * kPanel + column] = taps[kPlaces[i]] * k.gain;
      }
    T* const gathered = scratch_ + kTapNumbers;
    for (int line = 0; line < 2; ++line) {
      if (!wanted_[line]) continue;
      for (int64_t i = 0; i < batch_ * length(line); ++i)
        std::copy_n(pixels + pixel(line, i, height_, width_) * channels, k.rows,
                    gathered + i * k.rows);
      const Matrix<T> left{gathered, k.rows, 1};
      for (int tap = 0; tap < 3; ++tap) {
        const T* panel = scratch_ + kOf[line][tap] * kBlock * kPanel;
        Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA {
          panel_rows<kBytes>(left, batch_ * length(line), panel, k.rows, more, sums(line, tap),
                             kPanel);
        });
      }
    }
  }

  // Writes them to the pictures, from the first channel of the panel on.
  void write(const WinogradTiles<T>& to) const {
    for (int line = 0; line < 2; ++line) {
      if (!wanted_[line]) continue;
      const int64_t length = this->length(line);
      for (int64_t i = 0; i < batch_ * (2 * length + 1); ++i) {
        const int64_t b = i / (2 * length + 1), at = i % (2 * length + 1), m = at / 2;
        T* written = to.pixels + pixel(line, i, to.height, to.width) * to.channels;
        const T* here = sums(line, at % 2) + (b * length + m) * kPanel;
        const T* before = sums(line, 2) + (b * length + m - 1) * kPanel;
        for (int64_t c = 0; c < to.taken; ++c) {
          T sum = m < length ? here[c] : T(0);
          if (at % 2 == 0 && m > 0) sum += before[c];
          written[c] = sum;
        }
      }
    }
  }

 private:
  static constexpr int kStripTaps = 5;  // the last row of them, then the rest of the last column
  static constexpr int64_t kTapNumbers = kStripTaps * kBlock * kPanel;
  static constexpr int kPlaces[kStripTaps] = {6, 7, 8, 2, 5};
  static constexpr int kOf[2][3] = {{0, 1, 2}, {3, 4, 2}};

  int64_t length(int line) const { return line == 0 ? width_ : height_; }
  int64_t lines() const { return batch_ * std::max(height_, width_); }
  T* sums(int line, int tap) const {
    return scratch_ + kTapNumbers + lines() * (kBlock + (line * 3 + tap) * kPanel);
  }
  // Where pixel i, counted over the batch, of the last row or column lies.
  static int64_t pixel(int line, int64_t i, int64_t height, int64_t width) {
    const int64_t length = line == 0 ? width : height, b = i / length, at = i % length;
    return b * height * width + (line == 0 ? (height - 1) * width + at : at * width + width - 1);
  }

  int64_t batch_, height_, width_;  // of the pictures that are read
  bool wanted_[2] = {};             // a row; a column
  T* scratch_;                      // taps, gathered pixels, sums
};

}  // namespace
}  // namespace epigraf
