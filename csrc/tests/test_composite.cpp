// Compositing: the header's maths, the CPU code around it, and the CUDA code on the CPU.
#include <algorithm>
#include <limits>
#include <numeric>

#include "check.h"
#include "cuda_emulation.h"
#include "epigraf/launch.h"
#include "random_values.h"

using namespace epigraf;
using cuda_emulation::in_every_order;

namespace {

const Stream kStream = {0, nullptr};
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// A set of arrays with one entry for each output of the op.
template <typename T>
struct Outputs {
  std::vector<T> features, depth, weights, transmittance, opacity;
};

template <typename T>
struct Inputs {
  std::vector<T> colors, densities, t, last_delta;
};

template <typename T>
struct Problem {
  CompositeShape shape;
  Inputs<T> in;
  Outputs<T> grad;  // the gradients of the outputs; an empty array is none at all

  Problem(int64_t rays, int64_t samples, int64_t channels, bool last_back, unsigned seed = 1)
      : shape{rays, samples, channels, last_back} {
    const auto values = [&](int64_t n, double low, double high) {
      return random_values<T>(n, T(low), T(high), ++seed);
    };
    const int64_t all = rays * samples;
    in = {values(all * channels, -1, 1), values(all, 0, 6), values(all, 0.02, 0.2),
          values(rays, 0.1, 0.3)};
    for (int64_t i = 0; i < all; ++i) in.t[i] += i % samples == 0 ? T(1) : in.t[i - 1];
    grad = {values(rays * channels, -1, 1), values(rays, -1, 1), values(all, -1, 1),
            values(rays, -1, 1), values(rays, -1, 1)};
  }
};

template <typename T>
struct Answer {
  Outputs<T> out;
  Inputs<T> grad;

  // Filled with rubbish: everything is overwritten.
  explicit Answer(const CompositeShape& s) {
    const auto n = [](int64_t count) { return std::vector<T>(size_t(count), T(7)); };
    const int64_t all = s.rays * s.samples;
    out = {n(s.rays * s.channels), n(s.rays), n(all), n(s.rays), n(s.rays)};
    grad = {n(all * s.channels), n(all), n(all), n(s.rays)};
  }
};

template <typename T>
CompositeForward<T> forward_params(const Problem<T>& p, Answer<T>& a) {
  return {p.shape,
          p.in.colors.data(),
          p.in.densities.data(),
          p.in.t.data(),
          p.in.last_delta.data(),
          {a.out.features.data(), a.out.depth.data(), a.out.weights.data(),
           a.out.transmittance.data(), a.out.opacity.data()}};
}

template <typename T>
const T* or_null(const std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}

template <typename T>
CompositeBackward<T> backward_params(const Problem<T>& p, Answer<T>& a) {
  return {
      p.shape,
      p.in.colors.data(),
      p.in.densities.data(),
      p.in.t.data(),
      p.in.last_delta.data(),
      {or_null(p.grad.features), or_null(p.grad.depth), or_null(p.grad.weights),
       or_null(p.grad.transmittance), or_null(p.grad.opacity)},
      {a.grad.colors.data(), a.grad.densities.data(), a.grad.t.data(), a.grad.last_delta.data()}};
}

template <typename T>
Answer<T> on_cpu(const Problem<T>& p, int threads = 1) {
  Answer<T> a(p.shape);
  composite_forward_cpu(forward_params(p, a), threads);
  composite_backward_cpu(backward_params(p, a), threads);
  return a;
}

template <typename T>
Answer<T> on_cuda(const Problem<T>& p) {
  Answer<T> a(p.shape);
  composite_forward_cuda(forward_params(p, a), kStream);
  composite_backward_cuda(backward_params(p, a), kStream);
  return a;
}

// The formulas of the op, each product and sum written out; nothing in common with the code.
Outputs<double> brute_force(const Problem<double>& p) {
  const int64_t n = p.shape.samples, channels = p.shape.channels;
  Outputs<double> out = Answer<double>(p.shape).out;
  for (int64_t r = 0; r < p.shape.rays; ++r) {
    const double *t = &p.in.t[r * n], *colors = &p.in.colors[r * n * channels];
    const auto alpha = [&](int64_t k) {
      const double delta = k == n - 1 ? p.in.last_delta[r] : t[k + 1] - t[k];
      return 1 - std::exp(-delta * p.in.densities[r * n + k]);
    };
    const auto reaching = [&](int64_t k) {
      double product = 1;
      for (int64_t j = 0; j < k; ++j) product *= 1 - alpha(j) + 1e-10;
      return product;
    };
    double* weights = &out.weights[r * n];
    for (int64_t k = 0; k < n; ++k) weights[k] = alpha(k) * reaching(k);
    out.opacity[r] = std::accumulate(weights, weights + n, 0.0);
    if (p.shape.last_back) weights[n - 1] += 1 - out.opacity[r];
    out.depth[r] = std::inner_product(weights, weights + n, t, 0.0);
    out.transmittance[r] = reaching(n - 1);
    for (int64_t c = 0; c < channels; ++c) {
      out.features[r * channels + c] = 0;
      for (int64_t k = 0; k < n; ++k)
        out.features[r * channels + c] += weights[k] * colors[k * channels + c];
    }
  }
  return out;
}

double dot(const std::vector<double>& grad, const std::vector<double>& value) {
  return grad.empty() ? 0.0 : std::inner_product(grad.begin(), grad.end(), value.begin(), 0.0);
}

// The scalar whose gradient the backward pass gives.
double loss(const Problem<double>& p) {
  Answer<double> a(p.shape);
  composite_forward_cpu(forward_params(p, a), 1);
  return dot(p.grad.features, a.out.features) + dot(p.grad.depth, a.out.depth) +
         dot(p.grad.weights, a.out.weights) + dot(p.grad.transmittance, a.out.transmittance) +
         dot(p.grad.opacity, a.out.opacity);
}

void check_against_finite_differences(Problem<double> p) {
  const Inputs<double> grad = on_cpu(p).grad;
  const double step = 1e-6;
  const auto check = [&](std::vector<double>& values, const std::vector<double>& gradient) {
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = values[i];
      values[i] = value + step;
      const double above = loss(p);
      values[i] = value - step;
      const double below = loss(p);
      values[i] = value;
      CHECK_NEAR(gradient[i], (above - below) / (2 * step), 2e-8);
    }
  };
  check(p.in.colors, grad.colors);
  check(p.in.densities, grad.densities);
  check(p.in.t, grad.t);
  check(p.in.last_delta, grad.last_delta);
}

template <typename A, typename B>
void check_equal(const std::vector<A>& a, const std::vector<B>& b, double tolerance) {
  CHECK_EQUAL(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    CHECK_NEAR(double(a[i]), double(b[i]), tolerance * std::fmax(1.0, std::fabs(double(b[i]))));
}

template <typename A, typename B>
void check_equal(const Outputs<A>& a, const Outputs<B>& b, double tolerance) {
  check_equal(a.features, b.features, tolerance);
  check_equal(a.depth, b.depth, tolerance);
  check_equal(a.weights, b.weights, tolerance);
  check_equal(a.transmittance, b.transmittance, tolerance);
  check_equal(a.opacity, b.opacity, tolerance);
}

template <typename A, typename B>
void check_equal(const Answer<A>& a, const Answer<B>& b, double tolerance) {
  check_equal(a.out, b.out, tolerance);
  check_equal(a.grad.colors, b.grad.colors, tolerance);
  check_equal(a.grad.densities, b.grad.densities, tolerance);
  check_equal(a.grad.t, b.grad.t, tolerance);
  check_equal(a.grad.last_delta, b.grad.last_delta, tolerance);
}

// Products and sums of up to a hundred terms of size one, in another order.
template <typename T>
constexpr double kRounding = 100 * double(std::numeric_limits<T>::epsilon());

// Two samples that absorb half of what reaches them: weights 1/2 and 1/4.
Problem<double> worked_problem(bool last_back) {
  Problem<double> p(1, 2, 1, last_back);
  p.in = {{2, 4}, {std::log(2.0), std::log(2.0)}, {1, 2}, {1}};
  return p;
}

}  // namespace

TEST(worked_values) {
  const Problem<double> p = worked_problem(false);
  for (const Answer<double>& a : {on_cpu(p), on_cuda(p)}) {
    CHECK_NEAR(a.out.weights[0], 0.5, 1e-9);
    CHECK_NEAR(a.out.weights[1], 0.25, 1e-9);
    CHECK_NEAR(a.out.features[0], 0.5 * 2 + 0.25 * 4, 1e-9);
    CHECK_NEAR(a.out.depth[0], 0.5 * 1 + 0.25 * 2, 1e-9);
    CHECK_NEAR(a.out.opacity[0], 0.75, 1e-9);
    CHECK_NEAR(a.out.transmittance[0], 0.5, 1e-9);  // before the last sample absorbs
  }
}

TEST(worked_values_with_last_back) {
  const Problem<double> p = worked_problem(true);
  for (const Answer<double>& a : {on_cpu(p), on_cuda(p)}) {
    CHECK_NEAR(a.out.weights[1], 0.25 + 0.25, 1e-9);
    CHECK_NEAR(a.out.features[0], 0.5 * 2 + 0.5 * 4, 1e-9);
    CHECK_NEAR(a.out.depth[0], 0.5 * 1 + 0.5 * 2, 1e-9);
    CHECK_NEAR(a.out.opacity[0], 0.75, 1e-9);
  }
}

TEST(worked_values_with_an_infinite_last_interval) {
  Problem<float> p(1, 2, 1, false);
  p.in = {{2, 4}, {std::log(2.0f), 1e-3f}, {1, 2}, {1e10f}};
  p.grad = {{1}, {}, {}, {}, {}};
  for (const Answer<float>& a : {on_cpu(p), on_cuda(p)}) {
    CHECK_NEAR(a.out.weights[1], 0.5, 1e-6);  // takes all that is left
    CHECK_NEAR(a.out.opacity[0], 1.0, 1e-6);
    CHECK_NEAR(a.grad.densities[0], -1.0, 1e-6);  // -0.5 delta (4 - 2): w_0 grows, w_1 shrinks
    CHECK_EQUAL(a.grad.densities[1], 0.0f);       // saturated
  }
}

TEST(worked_gradients) {
  Problem<double> p = worked_problem(false);
  p.grad = {{1}, {}, {}, {}, {}};
  // features = 2 (1 - e^-s0) + 4 e^-s0 (1 - e^-s1) at e^-s = 1/2, and delta = 1, sigma = ln 2.
  for (const Answer<double>& a : {on_cpu(p), on_cuda(p)}) {
    CHECK_NEAR(a.grad.colors[0], 0.5, 1e-9);
    CHECK_NEAR(a.grad.colors[1], 0.25, 1e-9);
    CHECK_NEAR(a.grad.densities[0], 2 * 0.5 - 4 * 0.5 * 0.5, 1e-9);
    CHECK_NEAR(a.grad.densities[1], 4 * 0.5 * 0.5, 1e-9);
    CHECK_NEAR(a.grad.t[0], 0.0, 1e-9);
    CHECK_NEAR(a.grad.last_delta[0], std::log(2.0), 1e-9);
  }
}

TEST(step_vjp_against_finite_differences) {
  const double step = 1e-6, grad_weight = 0.7, grad_after = -0.3;
  for (double thickness : {0.0, 0.1, 1.0, 5.0}) {
    for (double transmittance : {1.0, 0.4, 1e-3}) {
      const auto loss = [&](double thickness_, double after) {
        const double weight = composite_step(thickness_, after);
        return grad_weight * weight + grad_after * after;
      };
      double grad_transmittance = grad_after;
      const double grad_thickness =
          composite_step_vjp(thickness, transmittance, grad_weight, grad_transmittance);
      CHECK_NEAR(grad_thickness,
                 (loss(thickness + step, transmittance) - loss(thickness - step, transmittance)) /
                     (2 * step),
                 1e-9);
      CHECK_NEAR(grad_transmittance,
                 (loss(thickness, transmittance + step) - loss(thickness, transmittance - step)) /
                     (2 * step),
                 1e-9);
    }
  }
}

TEST(ray_vjp_against_finite_differences) {
  for (bool last_back : {false, true}) {
    check_against_finite_differences(Problem<double>(2, 9, 3, last_back));
    check_against_finite_differences(Problem<double>(1, 1, 2, last_back));
  }
}

TEST(ray_vjp_of_each_output_alone) {
  for (bool last_back : {false, true}) {
    for (int output = 0; output < 5; ++output) {
      Problem<double> p(2, 6, 2, last_back);
      std::vector<double>* grads[] = {&p.grad.features, &p.grad.depth, &p.grad.weights,
                                      &p.grad.transmittance, &p.grad.opacity};
      for (int other = 0; other < 5; ++other)
        if (other != output) grads[other]->clear();
      check_against_finite_differences(p);
      check_equal(on_cuda(p), on_cpu(p), kRounding<double>);
    }
  }
}

TEST(only_the_gradients_asked_for) {
  const Problem<double> p(33, 40, 3, true);
  const Answer<double> all = on_cpu(p);
  for (bool cuda : {false, true}) {
    Answer<double> a(p.shape);
    CompositeBackward<double> params = backward_params(p, a);
    params.grad_in.colors = params.grad_in.t = params.grad_in.last_delta = nullptr;
    if (cuda)
      composite_backward_cuda(params, kStream);
    else
      composite_backward_cpu(params, 1);
    check_equal(a.grad.densities, all.grad.densities, kRounding<double>);
  }
}

TEST(cpu_equals_brute_force) {
  for (bool last_back : {false, true}) {
    for (int64_t samples : {1, 2, 48}) {
      const Problem<double> p(17, samples, 3, last_back);
      check_equal(on_cpu(p).out, brute_force(p), 1e-12);
    }
  }
}

TEST(cpu_does_not_depend_on_threads) {
  const Problem<float> p(1000, 48, 3, true);
  check_equal(on_cpu(p, 3), on_cpu(p, 1), 0.0);
}

template <typename T>
void compare_cuda_with_cpu(int64_t rays, int64_t samples, int64_t channels) {
  for (bool last_back : {false, true}) {
    const Problem<T> p(rays, samples, channels, last_back);
    check_equal(on_cuda(p), on_cpu(p), kRounding<T>);
  }
}

TEST(cuda_equals_cpu_at_all_sizes) {
  for (int64_t samples : {0, 1, 31, 32, 33, 64, 97}) {
    for (int64_t rays : {0, 1, 7, 33}) {
      compare_cuda_with_cpu<float>(rays, samples, 3);
      compare_cuda_with_cpu<double>(rays, samples, 3);
    }
    for (int64_t channels : {0, 1, 3, 8, 16, 32, 33}) {
      compare_cuda_with_cpu<float>(3, samples, channels);
      compare_cuda_with_cpu<double>(3, samples, channels);
    }
  }
}

TEST(cuda_equals_cpu_in_every_order) {
  const Problem<double> p(19, 70, 4, true);
  const Answer<double> expected = on_cpu(p);
  in_every_order([&] { check_equal(on_cuda(p), expected, kRounding<double>); });
}

TEST(a_ray_without_samples) {
  const Problem<double> p(2, 0, 3, true);
  for (const Answer<double>& a : {on_cpu(p), on_cuda(p)}) {
    for (double feature : a.out.features) CHECK_EQUAL(feature, 0.0);
    for (int r = 0; r < 2; ++r) {
      CHECK_EQUAL(a.out.depth[r], 0.0);
      CHECK_EQUAL(a.out.opacity[r], 0.0);
      CHECK_EQUAL(a.out.transmittance[r], 1.0);
      CHECK_EQUAL(a.grad.last_delta[r], 0.0);
    }
  }
}

// An opaque wall: what lies behind it neither shows nor breaks anything.
TEST(opaque_and_empty_rays) {
  Problem<float> p(2, 80, 3, false);
  for (int64_t k = 0; k < 160; ++k) p.in.densities[k] = k < 80 ? 1e8f : 0.0f;
  p.in.last_delta = {1e10f, 1e10f};
  for (const Answer<float>& a : {on_cpu(p), on_cuda(p)}) {
    CHECK_NEAR(a.out.weights[0], 1.0, 1e-6);
    CHECK_NEAR(a.out.opacity[0], 1.0, 1e-6);
    CHECK_NEAR(a.out.opacity[1], 0.0, 0.0);
    CHECK_NEAR(a.out.transmittance[1], 1.0, 1e-6);
    for (const auto* grad : {&a.grad.colors, &a.grad.densities, &a.grad.t})
      for (float value : *grad) CHECK(std::isfinite(value));
  }
}

TEST(bad_samples_stay_in_their_ray_and_behind) {
  const Problem<double> clean(5, 70, 2, false);
  Problem<double> p = clean;
  p.in.densities[2 * 70 + 40] = kNan;  // ray 2, sample 40
  p.in.colors[(4 * 70 + 10) * 2] = kInf;
  const Answer<double> good = on_cpu(clean);
  for (const Answer<double>& a : {on_cpu(p), on_cuda(p)}) {
    for (int64_t i = 0; i < 5 * 70; ++i) {
      const bool bad = i / 70 == 2 && i % 70 >= 40;
      CHECK_NEAR(a.out.weights[i], bad ? kNan : good.out.weights[i], 1e-13);
      if (i / 70 != 2 && i / 70 != 4)
        CHECK_NEAR(a.grad.densities[i], good.grad.densities[i], 1e-12);
    }
    CHECK_EQUAL(a.out.features[4 * 2], kInf);
    CHECK_NEAR(a.out.features[4 * 2 + 1], good.out.features[4 * 2 + 1], 1e-13);
    CHECK_NEAR(a.out.depth[2], kNan, 0.0);
    for (int r : {0, 1, 3, 4}) CHECK_NEAR(a.out.depth[r], good.out.depth[r], 1e-12);
  }
}

TEST(launch_errors_are_reported) {
  const Problem<float> p(1, 1, 1, false);
  Answer<float> a(p.shape);
  CHECK_THROWS(composite_forward_cuda(forward_params(p, a), Stream{1, nullptr}),
               "composite_forward: CUDA error 101, invalid device ordinal");
  CHECK_THROWS(composite_backward_cuda(backward_params(p, a), Stream{1, nullptr}),
               "composite_backward: CUDA error 101");
}

// Two samples that each let half through, then one that absorbs nothing, then one more.
TEST(early_stop_by_hand) {
  for (const bool last_back : {false, true}) {
    Problem<double> p(1, 4, 1, last_back);
    p.in = {{2, 4, kNan, 8}, {std::log(2.0), std::log(2.0), 0, 5}, {1, 2, 3, 4}, {1}};
    p.shape.early_stop_eps = 0.3;  // 1/4 reaches the third sample
    Answer<double> cpu(p.shape), cuda(p.shape);
    composite_forward_cpu(forward_params(p, cpu), 1);
    composite_forward_cuda(forward_params(p, cuda), kStream);
    for (const Answer<double>* a : {&cpu, &cuda}) {
      const double rest = last_back ? 0.25 : 0.0;
      const double weights[] = {0.5, 0.25, 0, rest};
      for (int k = 0; k < 4; ++k) CHECK_NEAR(a->out.weights[k], weights[k], 1e-9);
      CHECK_NEAR(a->out.features[0], 2 + rest * 8, 1e-9);  // the NaN is not read
      CHECK_NEAR(a->out.depth[0], 1 + rest * 4, 1e-9);
      CHECK_NEAR(a->out.opacity[0], 0.75, 1e-9);
      CHECK_NEAR(a->out.transmittance[0], 0.25, 1e-9);
    }
  }
}

TEST(early_stop_leaves_out_at_most_eps) {
  for (const int64_t samples : {1, 31, 32, 33, 64, 100}) {
    for (const bool last_back : {false, true}) {
      for (const double eps : {0.0, 1e-3, 0.1, 0.9}) {
        Problem<double> p(20, samples, 3, last_back);
        Answer<double> exact(p.shape), cpu(p.shape), cuda(p.shape);
        composite_forward_cpu(forward_params(p, exact), 1);
        p.shape.early_stop_eps = eps;
        composite_forward_cpu(forward_params(p, cpu), 2);
        composite_forward_cuda(forward_params(p, cuda), kStream);
        check_equal(cuda.out, cpu.out, 1e-12);
        const double bound = (last_back ? 2 : 1) * eps + 1e-8;  // colours are at most 1
        check_equal(cpu.out.features, exact.out.features, bound);
        check_equal(cpu.out.opacity, exact.out.opacity, eps + 1e-8);
        check_equal(cpu.out.transmittance, exact.out.transmittance, eps + 1e-8);
      }
    }
  }
}

TEST(early_stop_in_every_order) {
  Problem<float> p(40, 70, 3, true);
  p.shape.early_stop_eps = 0.05;
  Answer<float> cpu(p.shape);
  composite_forward_cpu(forward_params(p, cpu), 1);
  in_every_order([&] {
    Answer<float> cuda(p.shape);
    composite_forward_cuda(forward_params(p, cuda), kStream);
    check_equal(cuda.out, cpu.out, kRounding<float>);
  });
}
