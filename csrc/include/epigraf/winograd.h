// 3x3 convolutions with fewer multiplications (docs/math/winograd.md, cited as "(winograd n)").
//
// Pictures become points: a window of pixels is taken, row by row and column by column, to the
// values of a polynomial product at a few points, where the convolution is one multiplication a
// point; a tile of pixels is interpolated from the products. All of it a channel at a time. V is a
// number or a vector of them, T the number.
#pragma once

#include <cstdint>

#include "epigraf/macros.h"

namespace epigraf {

// The points 0, +-2/3, +-3/2, infinity of stride 1, and +-1/2, +-3/2, infinity of stride 2: of
// those tried, the ones whose float32 results are nearest to exact ones (winograd 3).
template <typename T>
struct NearPoints {
  static constexpr T a = T(2) / T(3), b = T(3) / T(2);
};
template <typename T>
struct FarPoints {
  static constexpr T a = T(1) / T(2), b = T(3) / T(2);
};

// Four pixels from the sums and differences of the values at +-a and +-b; `last` at infinity.
template <typename Points, typename V>
EPIGRAF_HD void pixels_of_pairs(const V* at, V zero, V last, V* pixels) {
  const auto a = Points::a, b = Points::b;
  const V sum_a = at[0] + at[1], difference_a = at[0] - at[1];
  const V sum_b = at[2] + at[3], difference_b = at[2] - at[3];
  pixels[0] = zero + sum_a + sum_b;
  pixels[1] = difference_a * a + difference_b * b;
  pixels[2] = sum_a * (a * a) + sum_b * (b * b);
  pixels[3] = difference_a * (a * a * a) + difference_b * (b * b * b) + last;
}

// Its adjoint: the values at +-a and +-b of the polynomial whose coefficients are the pixels.
template <typename Points, typename V>
EPIGRAF_HD void pairs_of_pixels(const V* pixels, V* at) {
  const auto a = Points::a, b = Points::b;
  const V even_a = pixels[0] + pixels[2] * (a * a);
  const V odd_a = (pixels[1] + pixels[3] * (a * a)) * a;
  const V even_b = pixels[0] + pixels[2] * (b * b);
  const V odd_b = (pixels[1] + pixels[3] * (b * b)) * b;
  at[0] = even_a + odd_a;
  at[1] = even_a - odd_a;
  at[2] = even_b + odd_b;
  at[3] = even_b - odd_b;
}

// (winograd 4): a window of 5 to the 5 points of stride 2.
template <typename T, typename V>
EPIGRAF_HD void five_points(const V* d, V* points) {
  constexpr T a = FarPoints<T>::a, b = FarPoints<T>::b;
  const V u_a = d[3] - d[1] * (b * b), v_a = (d[2] - d[0] * (b * b)) * a;
  const V u_b = d[3] - d[1] * (a * a), v_b = (d[2] - d[0] * (a * a)) * b;
  points[0] = u_a + v_a;
  points[1] = u_a - v_a;
  points[2] = u_b + v_b;
  points[3] = u_b - v_b;
  points[4] = d[0] * (a * a * b * b) - d[2] * (a * a + b * b) + d[4];
}

// Where point (i, j) lies among all,
struct Stride1Points {
  static constexpr int kPoints = 6;
  EPIGRAF_HD static constexpr int place(int i, int j) { return i * 6 + j; }
};

// ... with stride 2: those that share a weight are neighbours: (even, even), then (even, odd),
// (odd, even) and (odd, odd), the odd ones innermost (winograd 6).
struct Stride2Points {
  static constexpr int kPoints = 9;
  EPIGRAF_HD static constexpr int place(int i, int j) {
    if (i < 5) return j < 5 ? i * 5 + j : 25 + i * 4 + (j - 5);
    return j < 5 ? 45 + j * 4 + (i - 5) : 65 + (i - 5) * 4 + (j - 5);
  }
};

// ... and their weights: the outer taps at five points, then the middle one.
struct Stride2Weights {
  static constexpr int kPoints = 6;
  EPIGRAF_HD static constexpr int place(int i, int j) {
    if (i < 5) return j < 5 ? i * 5 + j : 25 + i;
    return 30 + j;
  }
};

// The transforms of one row or column. Those to points read a window of kPixels, the next one kStep
// further; those from points (kToPixels) write a tile. A kernel is a picture of 3x3 pixels.

// (winograd 1): what a convolution with stride 1 reads.
template <typename T>
struct Stride1Input : Stride1Points {
  static constexpr bool kToPixels = false;
  static constexpr int kPixels = 6, kStep = 4;
  template <typename V>
  EPIGRAF_HD static void apply(const V* d, V* points) {
    constexpr T a = NearPoints<T>::a, b = NearPoints<T>::b;
    const V u_a = d[4] - d[2] * (b * b), v_a = (d[3] - d[1] * (b * b)) * a;
    const V u_b = d[4] - d[2] * (a * a), v_b = (d[3] - d[1] * (a * a)) * b;
    points[0] = d[0] * (a * a * b * b) - d[2] * (a * a + b * b) + d[4];
    points[1] = u_a + v_a;
    points[2] = u_a - v_a;
    points[3] = u_b + v_b;
    points[4] = u_b - v_b;
    points[5] = d[1] * (a * a * b * b) - d[3] * (a * a + b * b) + d[5];
  }
};

// (winograd 2): ... and what it writes,
template <typename T>
struct Stride1Output : Stride1Points {
  static constexpr bool kToPixels = true;
  static constexpr int kPixels = 4, kStep = 4;
  template <typename V>
  EPIGRAF_HD static void apply(const V* points, V* pixels) {
    pixels_of_pairs<NearPoints<T>>(points + 1, points[0], points[5], pixels);
  }
};

// ... and the adjoint of that.
template <typename T>
struct Stride1OutputAdjoint : Stride1Points {
  static constexpr bool kToPixels = false;
  static constexpr int kPixels = 4, kStep = 4;
  template <typename V>
  EPIGRAF_HD static void apply(const V* pixels, V* points) {
    points[0] = pixels[0];
    pairs_of_pixels<NearPoints<T>>(pixels, points + 1);
    points[5] = pixels[3];
  }
};

// (winograd 5): what a convolution with stride 2 reads. Even pixels meet the outer taps, at five
// points; odd pixels meet the tap in the middle, each by itself.
template <typename T>
struct Stride2Input : Stride2Points {
  static constexpr bool kToPixels = false;
  static constexpr int kPixels = 9, kStep = 8;
  template <typename V>
  EPIGRAF_HD static void apply(const V* d, V* points) {
    const V even[5] = {d[0], d[2], d[4], d[6], d[8]};
    five_points<T>(even, points);
    for (int i = 0; i < 4; ++i) points[5 + i] = d[2 * i + 1];
  }
};

// (winograd 6): ... and what it writes,
template <typename T>
struct Stride2Output : Stride2Points {
  static constexpr bool kToPixels = true;
  static constexpr int kPixels = 4, kStep = 4;
  template <typename V>
  EPIGRAF_HD static void apply(const V* points, V* pixels) {
    pixels_of_pairs<FarPoints<T>>(points, V{}, points[4], pixels);
    for (int i = 0; i < 4; ++i) pixels[i] += points[5 + i];
  }
};

// ... and the adjoint of that.
template <typename T>
struct Stride2OutputAdjoint : Stride2Points {
  static constexpr bool kToPixels = false;
  static constexpr int kPixels = 4, kStep = 4;
  template <typename V>
  EPIGRAF_HD static void apply(const V* pixels, V* points) {
    pairs_of_pixels<FarPoints<T>>(pixels, points);
    points[4] = pixels[3];
    for (int i = 0; i < 4; ++i) points[5 + i] = pixels[i];
  }
};

// (winograd 10): what a transposed convolution with stride 2 reads, a pixel before its tile
// included,
template <typename T>
struct TransposedInput : Stride2Points {
  static constexpr bool kToPixels = false;
  static constexpr int kPixels = 5, kStep = 4;
  template <typename V>
  EPIGRAF_HD static void apply(const V* y, V* points) {
    five_points<T>(y, points);
    for (int i = 0; i < 4; ++i) points[5 + i] = y[1 + i];
  }
};

// ... and what it writes: even pixels from the five points, odd ones as they are.
template <typename T>
struct TransposedOutput : Stride2Points {
  static constexpr bool kToPixels = true;
  static constexpr int kPixels = 8, kStep = 8;
  template <typename V>
  EPIGRAF_HD static void apply(const V* points, V* pixels) {
    V even[4];
    pixels_of_pairs<FarPoints<T>>(points, V{}, points[4], even);
    for (int i = 0; i < 4; ++i) {
      pixels[2 * i] = even[i];
      pixels[2 * i + 1] = points[5 + i];
    }
  }
};

// (winograd 1): the values of three taps, each over the product of its point's distances from the
// other ones,
template <typename T>
struct Stride1Kernel : Stride1Points {
  static constexpr bool kToPixels = false;
  static constexpr int kPixels = 3;
  static constexpr T a = NearPoints<T>::a, b = NearPoints<T>::b, between = a * a - b * b;
  static constexpr T at_0 = 1 / (a * a * b * b);
  static constexpr T at_a = 1 / (2 * a * a * between), at_b = -1 / (2 * b * b * between);
  template <typename V>
  EPIGRAF_HD static void apply(const V* taps, V* values) {
    const V even_a = taps[0] * at_a + taps[2] * (a * a * at_a), odd_a = taps[1] * (a * at_a);
    const V even_b = taps[0] * at_b + taps[2] * (b * b * at_b), odd_b = taps[1] * (b * at_b);
    values[0] = taps[0] * at_0;
    values[1] = even_a + odd_a;
    values[2] = even_a - odd_a;
    values[3] = even_b + odd_b;
    values[4] = even_b - odd_b;
    values[5] = taps[2];
  }
};

// ... and the adjoint of that;
template <typename T>
struct Stride1KernelAdjoint : Stride1Points {
  using Of = Stride1Kernel<T>;
  static constexpr bool kToPixels = true;
  static constexpr int kPixels = 3;
  template <typename V>
  EPIGRAF_HD static void apply(const V* values, V* taps) {
    constexpr T a = Of::a, b = Of::b;
    const V sum_a = (values[1] + values[2]) * Of::at_a, sum_b = (values[3] + values[4]) * Of::at_b;
    const V odd_a = (values[1] - values[2]) * (a * Of::at_a);
    const V odd_b = (values[3] - values[4]) * (b * Of::at_b);
    taps[0] = values[0] * Of::at_0 + sum_a + sum_b;
    taps[1] = odd_a + odd_b;
    taps[2] = sum_a * (a * a) + sum_b * (b * b) + values[5];
  }
};

// (winograd 5): with stride 2,
template <typename T>
struct Stride2Kernel : Stride2Weights {
  static constexpr bool kToPixels = false;
  static constexpr int kPixels = 3;
  static constexpr T a = FarPoints<T>::a, b = FarPoints<T>::b;
  static constexpr T at_a = 1 / (2 * a * (a * a - b * b)), at_b = 1 / (2 * b * (b * b - a * a));
  template <typename V>
  EPIGRAF_HD static void apply(const V* taps, V* values) {
    values[0] = taps[0] * at_a + taps[2] * (a * at_a);
    values[1] = taps[2] * (a * at_a) - taps[0] * at_a;
    values[2] = taps[0] * at_b + taps[2] * (b * at_b);
    values[3] = taps[2] * (b * at_b) - taps[0] * at_b;
    values[4] = taps[2];
    values[5] = taps[1];
  }
};

// ... and the adjoint of that.
template <typename T>
struct Stride2KernelAdjoint : Stride2Weights {
  using Of = Stride2Kernel<T>;
  static constexpr bool kToPixels = true;
  static constexpr int kPixels = 3;
  template <typename V>
  EPIGRAF_HD static void apply(const V* values, V* taps) {
    constexpr T a = Of::a, b = Of::b;
    taps[0] = (values[0] - values[1]) * Of::at_a + (values[2] - values[3]) * Of::at_b;
    taps[1] = values[5];
    taps[2] = (values[0] + values[1]) * (a * Of::at_a) + (values[2] + values[3]) * (b * Of::at_b) +
              values[4];
  }
};

// Pixels [kPixels, kPixels] to points [kPoints, kPoints], by rows, then by columns: read(i, j) is a
// pixel, write(place, v) takes a point. Between the two only the transformed rows are kept. Lines
// are unrolled, so that they live in registers.
template <typename Transform, typename V, typename Read, typename Write>
EPIGRAF_HD void square_to_points(Read read, Write write) {
  constexpr int m = Transform::kPixels, n = Transform::kPoints;
  V rows[n][m];  // transposed: [point, row]
  for (int i = 0; i < m; ++i) {
    V pixels[m], line[n];
    EPIGRAF_UNROLL
    for (int j = 0; j < m; ++j) pixels[j] = read(i, j);
    Transform::apply(pixels, line);
    EPIGRAF_UNROLL
    for (int j = 0; j < n; ++j) rows[j][i] = line[j];
  }
  EPIGRAF_UNROLL
  for (int j = 0; j < n; ++j) {
    V line[n];
    Transform::apply(rows[j], line);
    EPIGRAF_UNROLL
    for (int i = 0; i < n; ++i) write(Transform::place(i, j), line[i]);
  }
}

// The other way, by columns, then by rows: read(place) is a point, write(i, j, v) takes a pixel.
template <typename Transform, typename V, typename Read, typename Write>
EPIGRAF_HD void square_from_points(Read read, Write write) {
  constexpr int m = Transform::kPixels, n = Transform::kPoints;
  V columns[m][n];  // [row, point]
  for (int j = 0; j < n; ++j) {
    V points[n], line[m];
    EPIGRAF_UNROLL
    for (int i = 0; i < n; ++i) points[i] = read(Transform::place(i, j));
    Transform::apply(points, line);
    EPIGRAF_UNROLL
    for (int i = 0; i < m; ++i) columns[i][j] = line[i];
  }
  EPIGRAF_UNROLL
  for (int i = 0; i < m; ++i) {
    V line[m];
    Transform::apply(columns[i], line);
    EPIGRAF_UNROLL
    for (int j = 0; j < m; ++j) write(i, j, line[j]);
  }
}

// Which of the transforms of pictures, in the order of the structs above.
enum class WinogradTransform : int {
  stride1_input,
  stride1_output,
  stride1_output_adjoint,
  stride2_input,
  stride2_output,
  stride2_output_adjoint,
  transposed_input,
  transposed_output,
};

// A picture with its channels last, and a run of its tiles as points.
template <typename T>
struct WinogradTiles {
  WinogradTransform transform;
  int64_t height, width, channels;
  int64_t taken;                    // of the channels, from that on which `pixels` points to
  int64_t line;                     // numbers from a tile to the next one at a point
  int64_t tile_rows, tile_columns;  // of a picture
  int64_t padding;                  // by which a window begins before the picture
  int64_t first, count;             // the run of tiles, counted over the batch
  int64_t step;                     // numbers from a point to the next one
  T* pixels;                        // [B, H, W, C]; written where the transform is an output
  T* points;                        // [points, count, line]
};

// Kernels of 3x3 taps, and the matrices of their values at the 36 points of a stride.
template <typename T>
struct WinogradKernels {
  int stride;
  bool turned;  // by 180 degrees (winograd 8)
  int64_t rows, columns;
  int64_t row_step, column_step;  // from a kernel to its neighbours; its own taps are a run of nine
  int64_t width;                  // of a panel of columns; the last one may be begun only
  int64_t step;                   // numbers from a point to the next one
  T gain;                         // of every tap
  T* taps;
  T* points;  // [36, panels, rows, width]
};

// A convolution or, with stride 1 turned, with stride 2 transposed, its adjoint in the input.
// Points of pictures and kernels lie in scratch, winograd_scratch() numbers.
template <typename T>
struct WinogradConvolution {
  WinogradTiles<T> read, write;  // of the same tiles, all of them
  WinogradKernels<T> kernels;    // rows are channels that are read, columns those that are written
  int64_t run;                   // tiles at a time; 0 where they are few
  T* scratch;
};

// The adjoint in the weight, of one use of it or the sum over several, whose pictures are equal in
// size: rows of the kernels, which are written, are the channels of `left`, columns those of
// `right`.
template <typename T>
struct WinogradGradient {
  WinogradTiles<T> left, right;  // but for their pixels
  int64_t uses;
  T* const* pixels;  // [uses, 2], left and right
  WinogradKernels<T> kernels;
  int64_t run;
  T* scratch;

  EPIGRAF_HD WinogradTiles<T> tiles(int64_t use, int side) const {
    WinogradTiles<T> of = side == 0 ? left : right;
    of.pixels = pixels[2 * use + side];
    return of;
  }
};

// Calls body(first weight, weights, first point, copies): points that share a weight are
// neighbours (winograd 6).
template <typename Body>
EPIGRAF_HD void for_groups(int stride, Body body) {
  if (stride == 1) return body(int64_t{0}, int64_t{36}, int64_t{0}, int64_t{1});
  body(int64_t{0}, int64_t{25}, int64_t{0}, int64_t{1});
  body(int64_t{25}, int64_t{5}, int64_t{25}, int64_t{4});
  body(int64_t{30}, int64_t{5}, int64_t{45}, int64_t{4});
  body(int64_t{35}, int64_t{1}, int64_t{65}, int64_t{16});
}

// Where a tile begins.
struct TilePlace {
  int64_t batch, row, column;
};

template <typename Transform, typename T>
EPIGRAF_HD TilePlace tile_place(const WinogradTiles<T>& p, int64_t tile) {
  const int64_t area = p.tile_rows * p.tile_columns, within = tile % area;
  return {tile / area, within / p.tile_columns * Transform::kStep - p.padding,
          within % p.tile_columns * Transform::kStep - p.padding};
}

}  // namespace epigraf
