// Resampling by two: worked values, the CPU code against loops over taps, and the CUDA code on the
// CPU.
#include <limits>

#include "check.h"
#include "cuda_emulation.h"
#include "epigraf/half.h"
#include "epigraf/launch.h"
#include "random_values.h"

using namespace epigraf;

namespace {

const Stream kStream = {0, nullptr};
constexpr ResampleMap kBlur = ResampleMap::blur, kDown = ResampleMap::down, kUp = ResampleMap::up;

template <typename T, typename P = T>
struct Problem {
  ResampleShape shape;
  T gain = T(1.5);
  std::vector<P> x;

  explicit Problem(const ResampleShape& s) : shape(s) {
    for (const float v : random_values<float>(numbers(s.height, s.width), -2, 2, 1))
      x.push_back(P(v));
  }
  int64_t numbers(int64_t height, int64_t width) const {
    return shape.batch * shape.channels * height * width;
  }
  int64_t size() const { return numbers(shape.made(shape.height), shape.made(shape.width)); }
};

// threads 0: the CUDA code.
template <typename T, typename P>
std::vector<P> answer_of(const Problem<T, P>& p, int threads) {
  std::vector<P> y(p.size(), P(7));
  const Resample<T, P> params = {p.shape, p.gain, p.x.data(), y.data()};
  threads > 0 ? resample_cpu(params, threads) : resample_cuda(params, kStream);
  return y;
}

// Where number c of pixel (row, column) of picture b lies.
int64_t place(const ResampleShape& s, int64_t height, int64_t width, int64_t b, int64_t c,
              int64_t row, int64_t column) {
  return s.channels_last ? ((b * height + row) * width + column) * s.channels + c
                         : ((b * s.channels + c) * height + row) * width + column;
}

// Zero insertion (up), the filter, every second pixel (down), tap by tap in the plainest form.
template <typename T, typename P>
std::vector<double> brute_force(const Problem<T, P>& p) {
  const ResampleShape& s = p.shape;
  const int64_t height = s.made(s.height), width = s.made(s.width);
  const int64_t stride = s.map == kDown ? 2 : 1, insert = s.map == kUp ? 2 : 1;
  const int64_t pad = s.map == kUp ? 2 : s.pad;
  const double taps[4] = {1, 3, 3, 1}, gain = double(p.gain) * (s.map == kUp ? 4 : 1) / 64;
  std::vector<double> y(p.size());
  const auto read = [&](int64_t b, int64_t c, int64_t row, int64_t column) {
    if (row < 0 || column < 0 || row % insert || column % insert) return 0.0;
    row /= insert, column /= insert;
    if (row >= s.height || column >= s.width) return 0.0;
    return double(p.x[place(s, s.height, s.width, b, c, row, column)]);
  };
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t row = 0; row < height; ++row)
        for (int64_t column = 0; column < width; ++column)
          for (int i = 0; i < 16; ++i)
            y[place(s, height, width, b, c, row, column)] +=
                gain * taps[i / 4] * taps[i % 4] *
                read(b, c, row * stride - pad + i / 4, column * stride - pad + i % 4);
  return y;
}

template <typename A, typename B>
void check_all_near(const std::vector<A>& a, const std::vector<B>& b, double tolerance) {
  CHECK_EQUAL(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK_NEAR(double(a[i]), double(b[i]), tolerance);
}

// Every map of pictures of about this size, in both orders of memory; down halves even sizes.
template <typename Body>
void for_all_maps(int64_t batch, int64_t channels, int64_t height, int64_t width, Body body) {
  for (const bool last : {false, true}) {
    if (height > 1 && width > 1)
      body(ResampleShape{kBlur, batch, channels, height, width, 1, last});
    body(ResampleShape{kBlur, batch, channels, height, width, 2, last});
    body(ResampleShape{kDown, batch, channels, 2 * height, 2 * width, 1, last});
    body(ResampleShape{kUp, batch, channels, height, width, 1, last});
  }
}

}  // namespace

// An impulse of 64 in the corner of a picture of 2 x 2.
TEST(worked_values) {
  Problem<double> p({kBlur, 1, 1, 2, 2, 2, false});
  p.gain = 1;
  p.x = {64, 0, 0, 0};
  for (const int threads : {0, 1}) {
    p.shape.map = kBlur, p.shape.pad = 2;
    check_all_near(answer_of(p, threads), std::vector<double>{9, 9, 3, 9, 9, 3, 3, 3, 1}, 0);
    p.shape.pad = 1;
    check_all_near(answer_of(p, threads), std::vector<double>{9}, 0);
    p.shape.map = kDown;
    check_all_near(answer_of(p, threads), std::vector<double>{9}, 0);
    p.shape.map = kUp;
    check_all_near(answer_of(p, threads),
                   std::vector<double>{36, 36, 12, 0, 36, 36, 12, 0, 12, 12, 4, 0, 0, 0, 0, 0}, 0);
  }
}

TEST(all_sizes_equal_brute_force) {
  for (const int64_t channels : {1, 4, 33})
    for (const int64_t height : {1, 2, 5, 9})
      for (const int64_t width : {1, 2, 3, 8})
        for_all_maps(2, channels, height, width, [](const ResampleShape& shape) {
          const Problem<double> p(shape);
          const auto expected = brute_force(p);
          for (const int threads : {0, 1, 3})
            check_all_near(answer_of(p, threads), expected, 1e-13);
        });
}

// More channels, and wider rows, than a line of the CPU code holds.
TEST(long_lines) {
  for_all_maps(1, 1030, 2, 3, [](const ResampleShape& shape) {
    const Problem<double> p(shape);
    for (const int threads : {0, 2}) check_all_near(answer_of(p, threads), brute_force(p), 1e-13);
  });
  for (const int64_t width : {125, 126, 127, 252, 253, 254, 255, 256, 600})
    for_all_maps(1, 2, 2, width, [](const ResampleShape& shape) {
      const Problem<double> p(shape);
      check_all_near(answer_of(p, 2), brute_force(p), 1e-13);
    });
}

// A blur with two zeros makes a pixel of no pixels.
TEST(nothing_of_nothing) {
  for (const int threads : {0, 2}) {
    for_all_maps(0, 3, 4, 4, [&](const auto& s) { answer_of(Problem<float>(s), threads); });
    for_all_maps(2, 0, 4, 4, [&](const auto& s) { answer_of(Problem<float>(s), threads); });
    for (const bool last : {false, true})
      for (const ResampleMap map : {kBlur, kDown, kUp}) {
        const int64_t pad = map == kBlur ? 2 : 1;
        for (const auto& shape :
             {ResampleShape{map, 1, 3, 0, 4, pad, last}, ResampleShape{map, 1, 3, 4, 0, pad, last},
              ResampleShape{map, 1, 3, 0, 0, pad, last}})
          for (const float y : answer_of(Problem<float>(shape), threads)) CHECK_EQUAL(y, 0.0f);
      }
  }
}

// Where vectors of 16 bytes do not fit, numbers are read one by one.
TEST(unaligned_pictures) {
  const Problem<float> p({kBlur, 1, 8, 5, 6, 2, true});
  const auto expected = answer_of(p, 0);
  std::vector<float> x(p.x.size() + 1), y(expected.size() + 1);
  std::copy(p.x.begin(), p.x.end(), x.begin() + 1);
  resample_cuda(Resample<float>{p.shape, p.gain, x.data() + 1, y.data() + 1}, kStream);
  y.erase(y.begin());
  check_all_near(y, expected, 0);
}

template <typename P>
void sixteen_bits(double tolerance) {
  for_all_maps(2, 40, 3, 5, [&](const ResampleShape& shape) {
    const Problem<float, P> p(shape);
    for (const int threads : {0, 1})
      check_all_near(answer_of(p, threads), brute_force(p), tolerance);
  });
}

TEST(float16) {
  sixteen_bits<Half>(2e-3);
}
TEST(bfloat16) {
  sixteen_bits<BFloat16>(1.6e-2);
}

TEST(nan_reaches_what_sees_it) {
  for_all_maps(2, 3, 6, 6, [](const ResampleShape& shape) {
    Problem<float> p(shape);
    p.x[place(shape, shape.height, shape.width, 1, 2, 0, 3)] =
        std::numeric_limits<float>::quiet_NaN();
    const auto expected = brute_force(p);
    for (const int threads : {0, 1}) check_all_near(answer_of(p, threads), expected, 1e-5);
  });
}

TEST(kernels_in_every_order) {
  for_all_maps(2, 36, 7, 6, [](const ResampleShape& shape) {
    const Problem<float> p(shape);
    const auto first = answer_of(p, 0);
    check_all_near(first, answer_of(p, 1), 1e-5);
    cuda_emulation::in_every_order([&] { check_all_near(answer_of(p, 0), first, 0); });
  });
}

TEST(threads_change_no_bit) {
  for_all_maps(3, 33, 9, 10, [](const ResampleShape& shape) {
    const Problem<float> p(shape);
    check_all_near(answer_of(p, 1), answer_of(p, 4), 0);
  });
}

TEST(launch_errors_are_reported) {
  const Problem<float> p({kUp, 1, 1, 2, 2, 1, true});
  std::vector<float> y(p.size());
  CHECK_THROWS(
      (resample_cuda(Resample<float>{p.shape, 1, p.x.data(), y.data()}, Stream{1, nullptr})),
      "resample: CUDA error 101, invalid device ordinal");
}
