// Winograd's transforms: products at the points are the convolution, and adjoints are adjoints.
#include "check.h"
#include "epigraf/launch.h"
#include "random_values.h"

using namespace epigraf;

namespace {

constexpr int64_t kBatch = 2, kHeight = 9, kWidth = 6, kChannels = 19;  // not whole tiles, vectors

// Values of a kernel of `taps` at the finite points, over the product of their distances; its last
// tap at infinity.
std::vector<double> kernel_values(const std::vector<double>& points, const double* kernel,
                                  int taps) {
  std::vector<double> values;
  for (const double p : points) {
    double value = 0, distances = 1;
    for (int k = taps - 1; k >= 0; --k) value = value * p + kernel[k];
    for (const double q : points) distances *= p == q ? 1 : p - q;
    values.push_back(value / distances);
  }
  values.push_back(kernel[taps - 1]);
  return values;
}

// The values of three taps at the points of stride 1, or of stride 2: outer taps at five points,
// then the middle tap, `odd` times.
std::vector<double> line_values(const double* kernel, int stride, size_t odd = 4) {
  if (stride == 1) return kernel_values({0, 2.0 / 3, -2.0 / 3, 1.5, -1.5}, kernel, 3);
  const double outer[2] = {kernel[0], kernel[2]};
  std::vector<double> values = kernel_values({0.5, -0.5, 1.5, -1.5}, outer, 2);
  values.insert(values.end(), odd, kernel[1]);
  return values;
}

template <template <typename> class Transform, typename T>
std::vector<T> applied(const std::vector<T>& from, size_t count) {
  std::vector<T> to(count);
  Transform<T>::apply(from.data(), to.data());
  return to;
}

struct Tiles {
  int64_t rows, columns;
  int64_t count() const { return kBatch * rows * columns; }
};

template <typename T>
void transform(WinogradTransform kind, Tiles tiles, int64_t padding, int64_t first, int64_t count,
               int threads, std::vector<T>& pixels, std::vector<T>& points, int64_t between = 0) {
  const int64_t step = count * kChannels + between;
  winograd_cpu(
      WinogradTiles<T>{kind, kHeight, kWidth, kChannels, kChannels, kChannels, tiles.rows,
                       tiles.columns, padding, first, count, step, pixels.data(), points.data()},
      threads);
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

TEST(a_line_of_stride_1_is_a_convolution) {
  const auto d = random_values<double>(6, -1, 1, 1), kernel = random_values<double>(3, -1, 1, 2);
  auto products = applied<Stride1Input>(d, 6);
  const auto values = line_values(kernel.data(), 1);
  for (int i = 0; i < 6; ++i) products[i] *= values[i];
  const auto y = applied<Stride1Output>(products, 4);
  for (int i = 0; i < 4; ++i)
    CHECK_NEAR(y[i], kernel[0] * d[i] + kernel[1] * d[i + 1] + kernel[2] * d[i + 2], 1e-13);
}

TEST(the_output_of_stride_1_and_its_adjoint) {
  const auto points = random_values<double>(6, -1, 1, 3),
             pixels = random_values<double>(4, -1, 1, 4);
  CHECK_NEAR(dot(applied<Stride1Output>(points, 4), pixels),
             dot(points, applied<Stride1OutputAdjoint>(pixels, 6)), 1e-13);
}

// sum_i y_i (conv d)_i = sum over points of adjoint(y) values(kernel) input(d), for any kernel.
TEST(a_line_of_stride_2_is_a_convolution) {
  const auto d = random_values<double>(9, -1, 1, 5), kernel = random_values<double>(3, -1, 1, 6);
  const auto y = random_values<double>(4, -1, 1, 7);
  const auto of_d = applied<Stride2Input>(d, 9), of_y = applied<Stride2OutputAdjoint>(y, 9);
  const auto values = line_values(kernel.data(), 2);
  double sum = 0, expected = 0;
  for (int i = 0; i < 9; ++i) sum += of_d[i] * of_y[i] * values[i];
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 3; ++k) expected += y[i] * kernel[k] * d[2 * i + k];
  CHECK_NEAR(sum, expected, 1e-13);
}

TEST(a_line_of_stride_2_is_written) {
  const auto d = random_values<double>(9, -1, 1, 16), kernel = random_values<double>(3, -1, 1, 17);
  auto products = applied<Stride2Input>(d, 9);
  const auto values = line_values(kernel.data(), 2);
  for (int i = 0; i < 9; ++i) products[i] *= values[i];
  const auto y = applied<Stride2Output>(products, 4);
  for (int i = 0; i < 4; ++i)
    CHECK_NEAR(y[i], kernel[0] * d[2 * i] + kernel[1] * d[2 * i + 1] + kernel[2] * d[2 * i + 2],
               1e-13);
}

// Pixels 2m and 2m + 1 of a transposed convolution of y, whose y[0] lies before the tile.
TEST(a_line_of_a_transposed_convolution) {
  const auto y = random_values<double>(5, -1, 1, 18), kernel = random_values<double>(3, -1, 1, 19);
  const std::vector<double> turned(kernel.rbegin(), kernel.rend());
  auto products = applied<TransposedInput>(y, 9);
  const auto values = line_values(turned.data(), 2);
  for (int i = 0; i < 9; ++i) products[i] *= values[i];
  const auto pixels = applied<TransposedOutput>(products, 8);
  for (int m = 0; m < 4; ++m) {
    CHECK_NEAR(pixels[2 * m], kernel[0] * y[m + 1] + kernel[2] * y[m], 1e-13);
    CHECK_NEAR(pixels[2 * m + 1], kernel[1] * y[m + 1], 1e-13);
  }
}

template <typename Places>
void places_are_taken_once() {
  constexpr int n = Places::kPoints;
  std::vector<int> taken(n * n);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) ++taken[Places::place(i, j)];
  for (const int times : taken) CHECK_EQUAL(times, 1);
}

TEST(points_have_places_of_their_own) {
  places_are_taken_once<Stride1Points>();
  places_are_taken_once<Stride2Points>();
  places_are_taken_once<Stride2Weights>();
  CHECK_EQUAL(Stride1Points::place(2, 3), 15);
}

// Every point lies in the group of its weight: 25 weights of one point, 5 of four, 5 of four, 1
// of 16.
TEST(points_that_share_a_weight_are_neighbours) {
  const auto weight_of = [](int place) {
    if (place < 25) return place;
    return place < 65 ? 25 + (place - 25) / 4 : 35;
  };
  for (int i = 0; i < 9; ++i)
    for (int j = 0; j < 9; ++j)
      CHECK_EQUAL(weight_of(Stride2Points::place(i, j)),
                  Stride2Weights::place(std::min(i, 5), std::min(j, 5)));
}

// Rows then columns of a tile that hangs over the border, channel by channel.
TEST(tiles_are_windows_with_zeros_outside) {
  const Tiles tiles{3, 2};
  auto pixels = random_values<double>(kBatch * kHeight * kWidth * kChannels, -1, 1, 8);
  const int64_t between = 7, step = tiles.count() * kChannels + between;
  std::vector<double> points(36 * step, 9.0);
  transform(WinogradTransform::stride1_input, tiles, 1, 0, tiles.count(), 2, pixels, points,
            between);
  for (int64_t i = 0; i < between; ++i) CHECK_EQUAL(points[tiles.count() * kChannels + i], 9.0);
  const int64_t batch = 1, row = 2, column = 1, channel = 17;
  std::vector<double> lines[6];
  for (int64_t i = 0; i < 6; ++i) {
    std::vector<double> d(6);
    for (int64_t j = 0; j < 6; ++j) {
      const int64_t y = 4 * row - 1 + i, x = 4 * column - 1 + j;
      if (y < kHeight && x < kWidth)
        d[j] = pixels[((batch * kHeight + y) * kWidth + x) * kChannels + channel];
    }
    lines[i] = applied<Stride1Input>(d, 6);
  }
  const int64_t tile = (batch * tiles.rows + row) * tiles.columns + column;
  for (int j = 0; j < 6; ++j) {
    std::vector<double> d(6);
    for (int i = 0; i < 6; ++i) d[i] = lines[i][j];
    const auto expected = applied<Stride1Input>(d, 6);
    for (int i = 0; i < 6; ++i)
      CHECK_NEAR(points[(i * 6 + j) * step + tile * kChannels + channel], expected[i], 1e-13);
  }
}

TEST(runs_of_tiles_and_threads_change_nothing) {
  const Tiles tiles{3, 2};
  const int64_t half = 5, rest = tiles.count() - half;
  auto points = random_values<float>(36 * tiles.count() * kChannels, -1, 1, 9);
  std::vector<float> whole(kBatch * kHeight * kWidth * kChannels, 7), parts = whole;
  transform(WinogradTransform::stride1_output, tiles, 0, 0, tiles.count(), 1, whole, points);
  std::vector<float> some(36 * half * kChannels), others(36 * rest * kChannels);
  for (int64_t k = 0; k < 36; ++k) {
    const auto at = points.begin() + k * tiles.count() * kChannels;
    std::copy(at, at + half * kChannels, some.begin() + k * half * kChannels);
    std::copy(at + half * kChannels, at + tiles.count() * kChannels,
              others.begin() + k * rest * kChannels);
  }
  transform(WinogradTransform::stride1_output, tiles, 0, half, rest, 2, parts, others);
  transform(WinogradTransform::stride1_output, tiles, 0, 0, half, 2, parts, some);
  for (size_t i = 0; i < whole.size(); ++i) CHECK_EQUAL(parts[i], whole[i]);
}

// Kernels [rows, columns] to points in panels, of a layout with columns outermost, turned or not.
template <typename T>
void kernels_have_the_values_of_their_polynomials(int stride, int64_t width, bool turned,
                                                  double tolerance) {
  constexpr int64_t kRows = 19, kColumns = 66;
  const auto weight = random_values<T>(kColumns * kRows * 9, -1, 1, 11);
  const int64_t step = kRows * kColumns + 5;
  std::vector<T> points(36 * step), taps(weight);
  winograd_kernels_cpu(WinogradKernels<T>{stride, turned, kRows, kColumns, 9, 9 * kRows, width,
                                          step, T(0.5), taps.data(), points.data()},
                       3);
  const auto place = stride == 1 ? Stride1Points::place : Stride2Weights::place;
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t column = 0; column < kColumns; ++column) {
      const T* kernel = weight.data() + (column * kRows + row) * 9;
      std::vector<double> lines[3];
      for (int i = 0; i < 3; ++i) {
        double line[3];
        for (int j = 0; j < 3; ++j)
          line[j] = 0.5 * (turned ? kernel[8 - i * 3 - j] : kernel[i * 3 + j]);
        lines[i] = line_values(line, stride, 1);
      }
      const int64_t at = (column / width * kRows + row) * width + column % width;
      for (int j = 0; j < 6; ++j) {
        const double down[3] = {lines[0][j], lines[1][j], lines[2][j]};
        const auto values = line_values(down, stride, 1);
        for (int i = 0; i < 6; ++i)
          CHECK_NEAR(points[place(i, j) * step + at], values[i], tolerance);
      }
    }
}

TEST(kernels_of_stride_1) {
  kernels_have_the_values_of_their_polynomials<double>(1, 66, false, 1e-13);
  kernels_have_the_values_of_their_polynomials<double>(1, 22, true, 1e-13);
  kernels_have_the_values_of_their_polynomials<float>(1, 33, true, 1e-5);
}
TEST(kernels_of_stride_2) {
  kernels_have_the_values_of_their_polynomials<double>(2, 66, true, 1e-13);
  kernels_have_the_values_of_their_polynomials<double>(2, 22, false, 1e-13);
  kernels_have_the_values_of_their_polynomials<float>(2, 66, false, 1e-5);
}

// <points of taps, other> = <taps, adjoint of other>, lanes and the columns that are left.
TEST(the_points_of_kernels_and_their_adjoint) {
  constexpr int64_t kRows = 17, kColumns = 37;
  for (const int stride : {1, 2}) {
    auto taps = random_values<double>(kRows * kColumns * 9, -1, 1, 20);
    auto other = random_values<double>(36 * kRows * kColumns, -1, 1, 21);
    std::vector<double> points(other.size()), back(taps.size());
    WinogradKernels<double> p{stride,       false,       kRows,        kColumns,
                              9 * kColumns, 9,           kColumns,     kRows * kColumns,
                              3.0,          taps.data(), points.data()};
    winograd_kernels_cpu(p, 2);
    p.taps = back.data();
    p.points = other.data();
    winograd_kernels_adjoint_cpu(p, 2);
    CHECK_NEAR(dot(points, other), dot(taps, back), 1e-9);
  }
}

// Rows that are no whole register tiles, two panels, threads that share a point.
template <typename T>
void products_are_sums(double tolerance) {
  constexpr int64_t kPoints = 3, kRows = 53, kDepth = 7, kColumns = 2 * kPanel;
  const ProductSteps steps{kRows * kDepth + 1, kDepth * kColumns + 2, kRows * kColumns + 3};
  const auto left = random_values<T>(kPoints * steps.left, -1, 1, 12);
  const auto right = random_values<T>(kPoints * steps.right, -1, 1, 13);
  std::vector<T> result(kPoints * steps.result, T(9));
  panel_products_cpu(PanelProducts<T>{kPoints, kRows, kDepth, kColumns, steps, left.data(),
                                      right.data(), result.data()},
                     3);
  for (int64_t point = 0; point < kPoints; ++point) {
    const T* here = result.data() + point * steps.result;
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t column = 0; column < kColumns; ++column) {
        double sum = 0;
        for (int64_t k = 0; k < kDepth; ++k) {
          const int64_t line = (column / kPanel * kDepth + k) * kPanel;
          sum += static_cast<double>(left[point * steps.left + row * kDepth + k]) *
                 right[point * steps.right + line + column % kPanel];
        }
        CHECK_NEAR(here[row * kColumns + column], sum, tolerance);
      }
    CHECK_EQUAL(here[kRows * kColumns], T(9));  // between the matrices
  }
}

TEST(products_of_float) {
  products_are_sums<float>(1e-6);
}
TEST(products_of_double) {
  products_are_sums<double>(1e-14);
}

// Two blocks of the depth, rows that are no whole register tiles, two panels; once more, added.
template <typename T>
void sums_run_down_the_depth(double tolerance) {
  constexpr int64_t kPoints = 3, kRows = 53, kDepth = 131, kColumns = 128;
  const ProductSteps steps{kDepth * kRows + 1, kDepth * kColumns + 2, kRows * kColumns + 3};
  const auto left = random_values<T>(kPoints * steps.left, -1, 1, 14);
  const auto right = random_values<T>(kPoints * steps.right, -1, 1, 15);
  std::vector<T> result(kPoints * steps.result, std::nan(""));
  for (const int threads : {3, 1}) {
    const bool again = threads == 1;
    product_sums_cpu(ProductSums<T>{kPoints, kRows, kDepth, kColumns, steps, again, left.data(),
                                    right.data(), result.data()},
                     threads);
    for (int64_t point = 0; point < kPoints; ++point)
      for (int64_t row = 0; row < kRows; ++row)
        for (int64_t column = 0; column < kColumns; ++column) {
          double sum = 0;
          for (int64_t k = 0; k < kDepth; ++k)
            sum += static_cast<double>(left[point * steps.left + k * kRows + row]) *
                   right[point * steps.right + k * kColumns + column];
          const double expected = again ? 2 * sum : sum;
          CHECK_NEAR(result[point * steps.result + row * kColumns + column], expected, tolerance);
        }
    CHECK(std::isnan(result[kRows * kColumns]));  // between the matrices
  }
}

TEST(sums_of_float) {
  sums_run_down_the_depth<float>(2e-5);
}
TEST(sums_of_double) {
  sums_run_down_the_depth<double>(1e-13);
}

// Whole convolutions: pictures [2, kSide, kSide] of few and many channels that are no whole panels.
namespace {

constexpr int64_t kRead = 70, kWritten = 67;
const int64_t kWays[] = {0, 5};  // few tiles; runs of five

struct Shape {
  int stride;
  bool transposed;
  int64_t height, width;  // of what is read
  int64_t out_height() const {
    return transposed ? 2 * height + 1 : (stride == 1 ? height : (height - 3) / 2 + 1);
  }
  int64_t out_width() const {
    return transposed ? 2 * width + 1 : (stride == 1 ? width : (width - 3) / 2 + 1);
  }
  int64_t padding() const { return stride == 1 ? 1 : 0; }
};

template <typename T>
WinogradTiles<T> whole(WinogradTransform transform, int64_t height, int64_t width, int64_t channels,
                       int64_t rows, int64_t columns, int64_t padding, T* pixels) {
  return {transform,
          height,
          width,
          channels,
          channels,
          channels,
          rows,
          columns,
          padding,
          0,
          kBatch * rows * columns,
          0,
          pixels,
          nullptr};
}

// y[b, h, w, o] = sum x[b, h', w', i] kernel[o, i, k, l] over all places that meet.
template <typename Body>
void for_meetings(const Shape& s, Body body) {
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t h = 0; h < s.out_height(); ++h)
      for (int64_t w = 0; w < s.out_width(); ++w)
        for (int k = 0; k < 3; ++k)
          for (int l = 0; l < 3; ++l) {
            int64_t y = h * s.stride + k - s.padding(), x = w * s.stride + l - s.padding();
            if (s.transposed) {
              if ((h - k) % 2 || (w - l) % 2 || h < k || w < l) continue;
              y = (h - k) / 2, x = (w - l) / 2;
            }
            if (y < 0 || x < 0 || y >= s.height || x >= s.width) continue;
            body((b * s.out_height() + h) * s.out_width() + w, (b * s.height + y) * s.width + x,
                 k * 3 + l);
          }
}

void equals_the_direct_convolution(const Shape& s) {
  auto x = random_values<double>(kBatch * s.height * s.width * kRead, -1, 1, 30);
  auto taps = random_values<double>(kRead * kWritten * 9, -1, 1, 31);  // [read, written]
  const int64_t pixels = kBatch * s.out_height() * s.out_width();
  std::vector<double> expected(pixels * kWritten);
  for_meetings(s, [&](int64_t to, int64_t from, int tap) {
    for (int64_t i = 0; i < kRead; ++i)
      for (int64_t o = 0; o < kWritten; ++o)
        expected[to * kWritten + o] +=
            0.5 * x[from * kRead + i] * taps[(i * kWritten + o) * 9 + tap];
  });
  const int64_t height = s.transposed ? s.height : s.out_height();
  const int64_t width = s.transposed ? s.width : s.out_width();
  const int64_t rows = (height + 3) / 4, columns = (width + 3) / 4;
  const auto read = s.transposed    ? WinogradTransform::transposed_input
                    : s.stride == 1 ? WinogradTransform::stride1_input
                                    : WinogradTransform::stride2_input;
  const auto write = s.transposed    ? WinogradTransform::transposed_output
                     : s.stride == 1 ? WinogradTransform::stride1_output
                                     : WinogradTransform::stride2_output;
  for (const int64_t run : kWays) {
    std::vector<double> y(expected.size(), std::nan(""));
    WinogradConvolution<double> p{
        whole(read, s.height, s.width, kRead, rows, columns, s.transposed ? 1 : s.padding(),
              x.data()),
        whole(write, s.out_height(), s.out_width(), kWritten, rows, columns, 0, y.data()),
        {s.transposed ? 2 : s.stride, s.transposed, kRead, kWritten, kWritten * 9, 9, 0, 0, 0.5,
         taps.data(), nullptr},
        run,
        nullptr};
    std::vector<double> scratch(winograd_scratch(p, 3), std::nan(""));
    p.scratch = scratch.data();
    winograd_whole_cpu(p, 3);
    for (size_t i = 0; i < y.size(); ++i) CHECK_NEAR(y[i], expected[i], 1e-11);
  }
}

}  // namespace

TEST(whole_convolutions_of_stride_1) {
  equals_the_direct_convolution({1, false, 9, 6});
}
TEST(whole_convolutions_of_stride_2) {
  equals_the_direct_convolution({2, false, 13, 17});
  equals_the_direct_convolution({2, false, 17, 9});
}
TEST(whole_transposed_convolutions_and_their_last_lines) {
  equals_the_direct_convolution({1, true, 8, 5});
  equals_the_direct_convolution({1, true, 3, 4});
  equals_the_direct_convolution({1, true, 4, 8});
}

// Two uses of a weight, whose gradients are summed up.
TEST(gradients_of_whole_convolutions) {
  for (const Shape& s : {Shape{1, false, 9, 6}, Shape{2, false, 13, 17}}) {
    const int64_t pixels = kBatch * s.out_height() * s.out_width();
    std::vector<double> expected(kRead * kWritten * 9), x[2], y[2];
    for (int use = 0; use < 2; ++use) {
      x[use] = random_values<double>(kBatch * s.height * s.width * kRead, -1, 1, 40 + use);
      y[use] = random_values<double>(pixels * kWritten, -1, 1, 50 + use);
      for_meetings(s, [&](int64_t to, int64_t from, int tap) {
        for (int64_t o = 0; o < kWritten; ++o)
          for (int64_t i = 0; i < kRead; ++i)
            expected[(o * kRead + i) * 9 + tap] +=
                2 * y[use][to * kWritten + o] * x[use][from * kRead + i];
      });
    }
    const int64_t rows = (s.out_height() + 3) / 4, columns = (s.out_width() + 3) / 4;
    const bool one = s.stride == 1;
    double* const pictures[] = {y[0].data(), x[0].data(), y[1].data(), x[1].data()};
    for (const int64_t run : kWays) {
      std::vector<double> taps(expected.size(), std::nan(""));
      WinogradGradient<double> p{
          whole<double>(one ? WinogradTransform::stride1_output_adjoint
                            : WinogradTransform::stride2_output_adjoint,
                        s.out_height(), s.out_width(), kWritten, rows, columns, 0, nullptr),
          whole<double>(one ? WinogradTransform::stride1_input : WinogradTransform::stride2_input,
                        s.height, s.width, kRead, rows, columns, s.padding(), nullptr),
          2,
          pictures,
          {s.stride, false, kWritten, kRead, kRead * 9, 9, 0, 0, 2.0, taps.data(), nullptr},
          run,
          nullptr};
      std::vector<double> scratch(winograd_scratch(p, 3), std::nan(""));
      p.scratch = scratch.data();
      winograd_whole_cpu(p, 3);
      for (size_t i = 0; i < taps.size(); ++i) CHECK_NEAR(taps[i], expected[i], 1e-10);
    }
  }
}
