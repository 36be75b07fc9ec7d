// What follows a convolution: worked values, the header's derivatives, the CPU code around it, and
// the CUDA code on the CPU.
#include <limits>

#include "check.h"
#include "cuda_emulation.h"
#include "epigraf/half.h"
#include "epigraf/launch.h"
#include "random_values.h"

using namespace epigraf;

namespace {

const Stream kStream = {0, nullptr};
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// How a problem differs from bias alone.
struct Options {
  bool channels_last = true, scale = true, noise = true, one_map = false;
  int64_t run = 5;
};

template <typename T, typename P = T>
struct Problem {
  ActivationShape shape;
  ActivationCurve<T> curve = {T(0.2), T(1.5), T(1.25)};
  Options options;
  std::vector<P> x, grad_y;
  std::vector<T> bias, scale, noise, strength = {T(0.7)};

  Problem(int64_t batch, int64_t channels, int64_t pixels, Options o = {})
      : shape{batch, channels, pixels, o.channels_last, o.one_map ? 0 : pixels, o.run}, options(o) {
    for (const float v : random_values<float>(batch * channels * pixels, -2, 2, 1))
      x.push_back(P(v));
    for (const float v : random_values<float>(x.size(), -1, 1, 2)) grad_y.push_back(P(v));
    bias = random_values<T>(channels, -1, 1, 3);
    scale = random_values<T>(batch * channels, T(0.5), T(1.5), 4);
    noise = random_values<T>((o.one_map ? 1 : batch) * pixels, -1, 1, 5);
  }
  int kinds() const { return activation_sums(options.noise, options.scale); }
  ActivationForward<T, P> forward(P* y) const {
    return {shape,
            curve,
            x.data(),
            bias.data(),
            options.scale ? scale.data() : nullptr,
            options.noise ? noise.data() : nullptr,
            strength.data(),
            y};
  }
  ActivationBackward<T, P> backward(const P* y, P* grad_x, T* sums) const {
    return {shape,
            curve,
            grad_y.data(),
            y,
            options.scale ? scale.data() : nullptr,
            options.noise ? noise.data() : nullptr,
            grad_x,
            sums};
  }
  double u(int64_t b, int64_t pixel, int64_t c) const {
    double u =
        double(x[shape.place(b, pixel, c)]) * (options.scale ? scale[b * shape.channels + c] : 1);
    u += bias[c];
    return options.noise ? u + double(strength[0]) * noise[b * shape.noise_stride + pixel] : u;
  }
};

template <typename T, typename P = T>
struct Answer {
  std::vector<P> y, grad_x;
  std::vector<T> sums;  // [B, runs, kinds, C]
};

// threads 0: the CUDA code.
template <typename T, typename P>
Answer<T, P> answer_of(const Problem<T, P>& p, int threads) {
  const ActivationShape& s = p.shape;
  Answer<T, P> a{std::vector<P>(p.x.size(), P(7)), std::vector<P>(p.x.size(), P(7)),
                 std::vector<T>(s.batch * s.runs() * p.kinds() * s.channels, T(7))};
  const auto forward = p.forward(a.y.data());
  threads > 0 ? activation_forward_cpu(forward, threads)
              : activation_forward_cuda(forward, kStream);
  const auto backward = p.backward(a.y.data(), a.grad_x.data(), a.sums.data());
  threads > 0 ? activation_backward_cpu(backward, threads)
              : activation_backward_cuda(backward, kStream);
  return a;
}

// The formulas, number by number; grad_u by a central difference of the function itself.
Answer<double> brute_force(const Problem<double>& p) {
  const ActivationShape& s = p.shape;
  const int kinds = p.kinds();
  Answer<double> a{std::vector<double>(p.x.size()), std::vector<double>(p.x.size()),
                   std::vector<double>(s.batch * s.runs() * kinds * s.channels)};
  const auto y_of = [&](double u) {
    return std::fmin(std::fmax((u > 0 ? u : 0.2 * u) * 1.5, -1.25), 1.25);
  };
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t i = 0; i < s.pixels; ++i)
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t at = s.place(b, i, c);
        const double u = p.u(b, i, c);
        const double grad = p.grad_y[at] * (y_of(u + 1e-6) - y_of(u - 1e-6)) / 2e-6;
        a.y[at] = y_of(u);
        a.grad_x[at] = grad * (p.options.scale ? p.scale[b * s.channels + c] : 1);
        double* sums = &a.sums[(b * s.runs() + i / s.run) * kinds * s.channels + c];
        sums[0] += grad;
        if (p.options.noise) sums[s.channels] += grad * p.noise[b * s.noise_stride + i];
        if (p.options.scale) sums[(kinds - 1) * s.channels] += grad * u;
      }
  return a;
}

template <typename A, typename B>
void check_all_near(const std::vector<A>& a, const std::vector<B>& b, double tolerance) {
  CHECK_EQUAL(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK_NEAR(double(a[i]), double(b[i]), tolerance);
}

template <typename A, typename B>
void check_equal(const A& a, const B& b, double tolerance) {
  check_all_near(a.y, b.y, tolerance);
  check_all_near(a.grad_x, b.grad_x, tolerance);
  check_all_near(a.sums, b.sums, tolerance);
}

template <typename Body>
void for_all_options(Body body) {
  for (const bool last : {false, true})
    for (const bool scale : {false, true})
      for (const bool noise : {false, true})
        for (const int64_t run : {1, 3, 64}) body(Options{last, scale, noise, run == 3, run});
}

}  // namespace

TEST(worked_values) {
  const ActivationCurve<double> curve = {0.2, 2, 3};
  CHECK_EQUAL(activate(curve, 1.0), 2.0);
  CHECK_NEAR(activate(curve, -1.0), -0.4, 1e-15);
  CHECK_EQUAL(activate(curve, 5.0), 3.0);
  CHECK_EQUAL(activate(curve, -kInf), -3.0);
  CHECK(std::isnan(activate(curve, kNan)));
  CHECK_EQUAL(activate_vjp(curve, 2.0, 7.0), 14.0);
  CHECK_NEAR(activate_vjp(curve, -0.4, 7.0), 2.8, 1e-15);
  CHECK_NEAR(activate_vjp(curve, 0.0, 7.0), 2.8, 1e-15);
  CHECK_EQUAL(activate_vjp(curve, 3.0, 7.0), 0.0);
  CHECK_EQUAL(activate_vjp(curve, -3.0, 7.0), 0.0);
  CHECK_EQUAL(grad_times_input(curve, 2.0, 7.0), 14.0);  // u = 1, grad_u = 14
  CHECK_EQUAL(grad_times_input(curve, 3.0, 7.0), 0.0);
  const ActivationCurve<double> open = {0.2, 2, kNan};
  CHECK_EQUAL(activate(open, 1e300), 2e300);
  CHECK_EQUAL(activate_vjp(open, 2e300, 7.0), 14.0);
}

TEST(all_sizes_equal_brute_force) {
  for_all_options([](Options options) {
    for (const int64_t batch : {1, 2})
      for (const int64_t channels : {1, 4, 31, 33})
        for (const int64_t pixels : {1, 7, 32}) {
          const Problem<double> p(batch, channels, pixels, options);
          const auto expected = brute_force(p);
          for (const int threads : {0, 1, 3}) check_equal(answer_of(p, threads), expected, 1e-7);
        }
  });
}

TEST(many_channels_and_long_runs) {
  for (const int64_t channels : {3, 160, 512}) {
    for (const bool last : {false, true}) {
      const Problem<double> p(1, channels, 300, {last, true, true, false, 200});
      for (const int threads : {0, 2}) check_equal(answer_of(p, threads), brute_force(p), 1e-6);
    }
  }
}

TEST(nothing_of_nothing) {
  for (const bool last : {false, true}) {
    answer_of(Problem<float>(0, 3, 4, {last}), 0);
    answer_of(Problem<float>(2, 0, 4, {last}), 0);
    answer_of(Problem<float>(2, 3, 0, {last}), 0);
    answer_of(Problem<float>(2, 3, 0, {last}), 2);
  }
}

TEST(in_place_and_without_sums) {
  for (const bool last : {false, true}) {
    const Problem<float> p(2, 20, 9, {last, false, false});
    const auto expected = answer_of(p, 1);
    for (const int threads : {0, 2}) {
      auto y = p.x;
      auto forward = p.forward(y.data());
      forward.x = y.data();
      threads ? activation_forward_cpu(forward, threads)
              : activation_forward_cuda(forward, kStream);
      check_all_near(y, expected.y, 0);
      std::vector<float> grad_x(y.size());
      const auto backward = p.backward(y.data(), grad_x.data(), nullptr);
      threads ? activation_backward_cpu(backward, threads)
              : activation_backward_cuda(backward, kStream);
      check_all_near(grad_x, expected.grad_x, 0);
    }
  }
}

// Where vectors of 16 bytes do not fit, numbers are read one by one.
TEST(unaligned_pictures) {
  const Problem<float> p(1, 8, 6);
  const auto expected = answer_of(p, 1);
  std::vector<float> x(p.x.size() + 1), y(p.x.size() + 1);
  std::copy(p.x.begin(), p.x.end(), x.begin() + 1);
  auto forward = p.forward(y.data() + 1);
  forward.x = x.data() + 1;
  activation_forward_cuda(forward, kStream);
  y.erase(y.begin());
  check_all_near(y, expected.y, 1e-6);
}

// Against float on the same numbers; backwards from the y that was stored, which may have been
// rounded to the clamp.
template <typename P>
void sixteen_bits(double tolerance) {
  for (const bool last : {false, true}) {
    const Problem<float, P> p(2, 40, 9, {last, true, true, false, 4});
    Problem<float> wide(2, 40, 9, p.options);
    for (size_t i = 0; i < p.x.size(); ++i) wide.x[i] = p.x[i], wide.grad_y[i] = p.grad_y[i];
    for (const int threads : {0, 1}) {
      const auto a = answer_of(p, threads);
      auto expected = answer_of(wide, 1);
      check_all_near(a.y, expected.y, tolerance);
      for (size_t i = 0; i < a.y.size(); ++i) expected.y[i] = a.y[i];
      activation_backward_cpu(
          wide.backward(expected.y.data(), expected.grad_x.data(), expected.sums.data()), 1);
      check_all_near(a.grad_x, expected.grad_x, tolerance);
      check_all_near(a.sums, expected.sums, 1e-5);
    }
  }
}

TEST(float16) {
  sixteen_bits<Half>(1e-3);
}
TEST(bfloat16) {
  sixteen_bits<BFloat16>(8e-3);
}

TEST(nan_stays_where_it_is) {
  for (const bool last : {false, true}) {
    Problem<float> p(1, 8, 6, {last, true, true, false, 6});
    const int64_t at = p.shape.place(0, 2, 3);
    p.x[at] = float(kNan);
    for (const int threads : {0, 1}) {
      const auto a = answer_of(p, threads);
      for (int64_t i = 0; i < int64_t(a.y.size()); ++i) CHECK_EQUAL(std::isnan(a.y[i]), i == at);
    }
  }
}

TEST(kernels_in_every_order) {
  for (const bool last : {false, true}) {
    const Problem<float> p(2, 36, 40, {last, true, true, false, 33});
    const auto expected = answer_of(p, 1), first = answer_of(p, 0);
    cuda_emulation::in_every_order([&] {
      const auto a = answer_of(p, 0);
      check_equal(a, expected, 1e-5);
      check_equal(a, first, 0);  // sums in a fixed order
    });
  }
}

TEST(threads_change_no_bit) {
  for (const bool last : {false, true}) {
    const Problem<float> p(3, 33, 50, {last});
    check_equal(answer_of(p, 1), answer_of(p, 4), 0);
  }
}

TEST(launch_errors_are_reported) {
  const Problem<float> p(1, 1, 1);
  std::vector<float> y(1);
  CHECK_THROWS((activation_forward_cuda(p.forward(y.data()), Stream{1, nullptr})),
               "activation_forward: CUDA error 101, invalid device ordinal");
  CHECK_THROWS(
      (activation_backward_cuda(p.backward(y.data(), y.data(), nullptr), Stream{1, nullptr})),
      "activation_backward: CUDA error 101, invalid device ordinal");
}
