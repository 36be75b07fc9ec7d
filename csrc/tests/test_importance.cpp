// Importance samples and the merge by depth: the header's maths, the CPU code around it, and the
// CUDA code on the CPU.
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

template <typename T>
struct Problem {
  int64_t rays, samples, draws;
  std::vector<T> t, weights, u;

  Problem(int64_t rays_, int64_t samples_, int64_t draws_)
      : rays(rays_), samples(samples_), draws(draws_) {
    t = random_values<T>(rays * samples, T(0.02), T(0.2), 1);
    for (int64_t i = 0; i < rays * samples; ++i) t[i] += i % samples == 0 ? T(1) : t[i - 1];
    weights = random_values<T>(rays * samples, T(0), T(0.4), 2);
    u = random_values<T>(rays * draws, T(0), T(1), 3);
  }
};

// threads 0: the CUDA code.
template <typename T>
std::vector<T> depths_of(const Problem<T>& p, int threads) {
  std::vector<T> depths(static_cast<size_t>(p.rays * p.draws), T(7));
  const ImportanceForward<T> params{p.rays,           p.samples,  p.draws, p.t.data(),
                                    p.weights.data(), p.u.data(), p.draws, depths.data()};
  threads > 0 ? importance_forward_cpu(params, threads) : importance_forward_cuda(params, kStream);
  return depths;
}

// (render 4, 5) once more: the bin is found by walking along the distribution function.
double brute_force_depth(const Problem<double>& p, int64_t ray, double u) {
  const double* t = p.t.data() + ray * p.samples;
  const double* weights = p.weights.data() + ray * p.samples;
  const auto middle = [&](int64_t k) { return (t[k] + t[k + 1]) / 2; };
  double sum = 0, reached = 0;
  for (int64_t k = 1; k < p.samples - 1; ++k) sum += weights[k] + 2e-5;
  for (int64_t k = 1; k < p.samples - 1; ++k) {
    const double next = reached + (weights[k] + 2e-5) / sum;
    if (next >= u) {
      const double width = next - reached < 1e-5 ? 1 : next - reached;
      return middle(k - 1) + (u - reached) / width * (middle(k) - middle(k - 1));
    }
    reached = next;
  }
  return middle(p.samples - 2);
}

template <typename T>
struct Samples {
  std::vector<T> colors, densities, t;

  Samples(int64_t count, int64_t channels, unsigned seed)
      : colors(random_values<T>(count * channels, T(-1), T(1), seed)),
        densities(random_values<T>(count, T(0), T(5), seed + 1)),
        t(random_values<T>(count, T(1), T(2), seed + 2)) {}
  MergeSamples<const T*> in() const { return {colors.data(), densities.data(), t.data()}; }
  MergeSamples<T*> out() { return {colors.data(), densities.data(), t.data()}; }
};

template <typename T>
struct Merge {
  MergeShape shape;
  Samples<T> fine, coarse, merged;
  std::vector<int32_t> order;

  explicit Merge(const MergeShape& s)
      : shape(s),
        fine(s.rays * s.fine, s.channels, 1),
        coarse(s.rays * s.coarse, s.channels, 11),
        merged(s.rays * (s.fine + s.coarse), s.channels, 21),
        order(static_cast<size_t>(s.rays * (s.fine + s.coarse)), -1) {}
  void run(int threads) {
    const MergeForward<T> params{shape, fine.in(), coarse.in(), merged.out(), order.data()};
    threads > 0 ? merge_forward_cpu(params, threads) : merge_forward_cuda(params, kStream);
  }
};

// The order by std::stable_sort; NaN last.
template <typename T>
std::vector<int32_t> sorted_order(const Merge<T>& m) {
  const int64_t all = m.shape.fine + m.shape.coarse;
  std::vector<int32_t> result;
  for (int64_t ray = 0; ray < m.shape.rays; ++ray) {
    const T* fine = m.fine.t.data() + ray * m.shape.fine;
    const T* coarse = m.coarse.t.data() + ray * m.shape.coarse;
    std::vector<T> row(fine, fine + m.shape.fine);
    row.insert(row.end(), coarse, coarse + m.shape.coarse);
    for (T& t : row) t = std::isnan(t) ? std::numeric_limits<T>::infinity() : t;
    std::vector<int32_t> order(static_cast<size_t>(all));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return row[a] < row[b]; });
    result.insert(result.end(), order.begin(), order.end());
  }
  return result;
}

template <typename T>
void check_merge(const MergeShape& shape, int threads) {
  Merge<T> m(shape);
  m.run(threads);
  CHECK(m.order == sorted_order(m));
  const int64_t all = shape.fine + shape.coarse;
  for (int64_t i = 0; i < shape.rays * all; ++i) {
    const int64_t ray = i / all, number = m.order[i];
    const bool fine = number < shape.fine;
    const Samples<T>& from = fine ? m.fine : m.coarse;
    const int64_t k = fine ? ray * shape.fine + number : ray * shape.coarse + number - shape.fine;
    CHECK_EQUAL(m.merged.t[i], from.t[k]);
    CHECK_EQUAL(m.merged.densities[i], from.densities[k]);
    for (int64_t c = 0; c < shape.channels; ++c)
      CHECK_EQUAL(m.merged.colors[i * shape.channels + c], from.colors[k * shape.channels + c]);
  }
}

}  // namespace

TEST(worked_depths) {
  Problem<double> p(1, 4, 4);
  p.t = {0, 1, 2, 3};
  p.weights = {9, 0.3 - 2e-5, 0.1 - 2e-5, 9};  // the outer ones are not read: cdf 0, 3/4, 1
  p.u = {0.75, 0, 0.375, 1};
  const double expected[] = {1.5, 0.5, 1.0, 2.5};
  for (const int threads : {0, 1}) {
    const auto depths = depths_of(p, threads);
    for (int i = 0; i < 4; ++i) CHECK_NEAR(depths[i], expected[i], 1e-12);
  }
}

TEST(depths_equal_brute_force) {
  for (const int64_t samples : {3, 4, 31, 33, 34, 66, 100}) {
    const Problem<double> p(5, samples, 33);
    for (const int threads : {0, 1, 3}) {
      const auto depths = depths_of(p, threads);
      for (int64_t i = 0; i < 5 * 33; ++i)
        CHECK_NEAR(depths[i], brute_force_depth(p, i / 33, p.u[i]), 1e-11);
    }
  }
}

TEST(depths_in_every_order) {
  const Problem<float> p(77, 48, 40);
  const auto expected = depths_of(p, 1);
  in_every_order([&] {
    const auto depths = depths_of(p, 0);
    for (size_t i = 0; i < depths.size(); ++i) CHECK_NEAR(depths[i], expected[i], 1e-5);
  });
}

TEST(many_samples_take_fewer_warps) {
  const Problem<double> p(3, 3000, 5);
  const auto gpu = depths_of(p, 0), cpu = depths_of(p, 1);
  for (size_t i = 0; i < cpu.size(); ++i) CHECK_NEAR(gpu[i], cpu[i], 1e-9);
  CHECK_THROWS(depths_of(Problem<double>(1, 7000, 1), 0),
               "importance_forward: too many samples for one ray: 7000");
}

TEST(one_row_of_draws_for_all_rays) {
  Problem<double> p(4, 12, 6);
  const ImportanceForward<double> shared{4,          12, 6,      p.t.data(), p.weights.data(),
                                         p.u.data(), 0,  nullptr};
  for (int64_t i = 6; i < 24; ++i) p.u[i] = p.u[i - 6];
  const auto expected = depths_of(p, 1);
  for (const bool cuda : {false, true}) {
    std::vector<double> depths(24);
    auto params = shared;
    params.depths = depths.data();
    cuda ? importance_forward_cuda(params, kStream) : importance_forward_cpu(params, 2);
    for (int i = 0; i < 24; ++i) CHECK_NEAR(depths[i], expected[i], 1e-12);
  }
}

TEST(bad_values_stay_in_their_ray) {
  const Problem<double> clean(3, 20, 8);
  Problem<double> p = clean;
  p.weights[20 + 5] = kNan;
  p.u[2 * 8 + 3] = kNan;
  for (const int threads : {0, 1}) {
    const auto expected = depths_of(clean, threads), depths = depths_of(p, threads);
    for (int i = 0; i < 24; ++i) {
      const bool bad = i / 8 == 1 || i == 2 * 8 + 3;
      CHECK_NEAR(depths[i], bad ? kNan : expected[i], 0);
    }
  }
}

TEST(merge_at_all_sizes) {
  for (const int threads : {0, 1, 3}) {
    for (const int64_t fine : {0, 1, 31, 33}) {
      for (const int64_t coarse : {0, 1, 32, 47}) {
        check_merge<float>({3, fine, coarse, 3}, threads);
        check_merge<double>({2, fine, coarse, 1}, threads);
      }
    }
    check_merge<float>({0, 4, 4, 3}, threads);
    check_merge<float>({200, 4, 4, 5}, threads);
  }
}

TEST(merge_takes_fine_samples_first_and_nan_last) {
  Merge<double> m({1, 3, 4, 1});
  m.fine.t = {2, kNan, 1};
  m.coarse.t = {1, 2, kInf, 2};
  const std::vector<int32_t> expected = {2, 3, 0, 4, 6, 5, 1};
  for (const int threads : {0, 1}) {
    m.run(threads);
    CHECK(m.order == expected);
  }
}

TEST(merge_in_every_order) {
  in_every_order([] { check_merge<float>({70, 24, 24, 3}, 0); });
}

// <grad, merged> is linear in the samples: its derivative is the difference of two values.
TEST(merge_gradient_is_that_of_a_permutation) {
  Merge<double> m({3, 5, 7, 2});
  m.run(1);
  const Samples<double> grad(3 * 12, 2, 41);
  for (const bool cuda : {false, true}) {
    Samples<double> fine(15, 2, 51), coarse(21, 2, 61);
    const MergeBackward<double> params{m.shape, m.order.data(), grad.in(), fine.out(),
                                       coarse.out()};
    cuda ? merge_backward_cuda(params, kStream) : merge_backward_cpu(params, 2);
    const auto loss = [&] {
      m.run(1);
      const auto dot = [](const auto& a, const auto& b) {
        return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
      };
      return dot(grad.colors, m.merged.colors) + dot(grad.densities, m.merged.densities) +
             dot(grad.t, m.merged.t);
    };
    const auto check = [&](std::vector<double>& values, const std::vector<double>& gradient) {
      for (size_t i = 0; i < values.size(); ++i) {
        const double value = values[i], before = loss();
        values[i] = value + 1e-7;  // less than the distance of two depths
        CHECK_NEAR((loss() - before) / 1e-7, gradient[i], 1e-5);
        values[i] = value;
      }
    };
    check(m.fine.colors, fine.colors);
    check(m.fine.densities, fine.densities);
    check(m.fine.t, fine.t);
    check(m.coarse.colors, coarse.colors);
    check(m.coarse.densities, coarse.densities);
    check(m.coarse.t, coarse.t);
  }
}

TEST(missing_gradients_are_zero_and_unwanted_ones_untouched) {
  Merge<float> m({2, 3, 4, 3});
  m.run(1);
  const Samples<float> grad(14, 3, 41);
  for (const bool cuda : {false, true}) {
    Samples<float> fine(6, 3, 51);
    const auto before = fine.t;
    MergeBackward<float> params{m.shape, m.order.data(), grad.in(), fine.out(), {}};
    params.grad.colors = nullptr;
    params.grad_fine.t = nullptr;
    cuda ? merge_backward_cuda(params, kStream) : merge_backward_cpu(params, 1);
    for (const float value : fine.colors) CHECK_EQUAL(value, 0.0f);
    CHECK(fine.t == before);
  }
}

TEST(launch_errors_are_reported) {
  const Problem<float> p(1, 3, 1);
  float depth;
  const ImportanceForward<float> params{1,          3, 1,     p.t.data(), p.weights.data(),
                                        p.u.data(), 1, &depth};
  CHECK_THROWS(importance_forward_cuda(params, Stream{1, nullptr}),
               "importance_forward: CUDA error 101, invalid device ordinal");
}
