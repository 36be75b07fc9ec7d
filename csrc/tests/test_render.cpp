// The fused renderer on the CPU: its vector functions against libm, every vector width against the
// others, gradients against finite differences. (That it computes what the composable path computes
// is tests/ops/test_render.py's business.)
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "../cpu/render.cpp"
#include "check.h"
#include "random_values.h"

namespace {

using epigraf::Simd;

// Calls body(bytes) for every vector width that this processor has.
template <typename Body>
void for_widths(Body body) {
  body(std::integral_constant<int, 16>{});
#if defined(EPIGRAF_HAS_CLONES)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v3")) body(std::integral_constant<int, 32>{});
  if (__builtin_cpu_supports("x86-64-v4")) body(std::integral_constant<int, 64>{});
#endif
}

// A field, its rays and all results, in memory.
template <typename T>
struct Scene {
  static constexpr int64_t kBatch = 2, kChannels = 5, kHeight = 6, kWidth = 4, kHidden = 37;
  int64_t rays, coarse, fine;
  bool project = false;
  int64_t row_length = 0;
  std::vector<T> planes, weight0, bias0, weight1, bias1, origins, directions, near, far, last, even,
      jitter, u, noise;

  Scene(int64_t r, int64_t s, int64_t f) : rays(r), coarse(s), fine(f) {
    auto fill = [seed = 1u](int64_t count, double low, double high) mutable {
      return random_values<T>(count, T(low), T(high), seed++);
    };
    const int64_t all = kBatch * rays;
    planes = fill(kBatch * 3 * kHeight * kWidth * kChannels, -1, 1);
    weight0 = fill(kHidden * kChannels, -1, 1);
    bias0 = fill(kHidden, -1, 1);
    weight1 = fill(4 * kHidden, -1, 1);
    bias1 = fill(4, -1, 1);
    origins = fill(all * 3, -0.3, 0.3);
    directions = fill(all * 3, -0.9, 0.9);  // some samples fall outside the planes
    near.assign(all, T(0.1));
    far.assign(all, T(1.4));
    last.assign(all, T(0.3));
    even.resize(coarse);
    for (int64_t k = 0; k < coarse; ++k) even[k] = T(k) / T(coarse - 1);
    jitter = fill(all * coarse, 0, 1);
    u = fill(all * fine, 0, 1);
    noise = fill(all * (coarse + fine), -1, 1);
  }

  epigraf::RenderField<T> field() const {
    epigraf::RenderField<T> f{};
    f.shape = {kBatch,
               0,
               kChannels,
               kHeight,
               kWidth,
               3 * kHeight * kWidth * kChannels,
               kHeight * kWidth * kChannels,
               kWidth * kChannels,
               kChannels};
    f.planes = planes.data();
    f.decoder = {2,
                 {kChannels, kHidden, 4},
                 {weight0.data(), weight1.data()},
                 {bias0.data(), bias1.data()},
                 T(0.2)};
    f.cube_scale = T(1.1);
    f.prior_strength = T(0.4);
    f.prior_slope = T(0.8);
    f.project = project;
    return f;
  }
  epigraf::RenderMarch<T> march() const {
    return {T(0.1), T(1.5), T(0.3), false, false, true, T(0), T(-0.4)};
  }
  epigraf::RenderRays<T> marched() const {
    return {rays,         coarse,      fine,        origins.data(), directions.data(), near.data(),
            far.data(),   last.data(), even.data(), jitter.data(),  nullptr,           u.data(),
            noise.data(), fine,        {},          row_length};
  }

  // features, depth, opacity, transmittance and what is saved, one after another.
  template <int kBytes>
  std::vector<std::vector<T>> forward(int threads) const {
    return forward_of<kBytes>(marched(), threads);
  }
  template <int kBytes>
  std::vector<std::vector<T>> forward_seeded(const epigraf::RenderSeeds& seeds) const {
    auto r = marched();
    r.jitter = r.u = r.final_noise = nullptr;
    r.seeds = seeds;
    return forward_of<kBytes>(r, 2);
  }
  template <int kBytes>
  std::vector<std::vector<T>> forward_of(const epigraf::RenderRays<T>& r, int threads) const {
    const int64_t all = kBatch * rays, n = coarse + fine;
    std::vector<std::vector<T>> out = {std::vector<T>(all * 3), std::vector<T>(all),
                                       std::vector<T>(all), std::vector<T>(all),
                                       std::vector<T>(all * epigraf::kSaved * n)};
    epigraf::forward_all<T, kBytes>({field(),
                                     march(),
                                     r,
                                     out[0].data(),
                                     out[1].data(),
                                     out[2].data(),
                                     out[3].data(),
                                     out[4].data(),
                                     {},
                                     {}},
                                    threads);
    return out;
  }

  // Gradients of planes, weights and biases of the weighted sum `loss`.
  template <int kBytes>
  std::vector<std::vector<T>> backward(int threads) const {
    const auto out = forward<kBytes>(1);
    std::vector<std::vector<T>> slopes, grads;
    for (int i = 0; i < 4; ++i) slopes.push_back(slope(out[i].size(), i));
    for (size_t size : {planes.size(), weight0.size(), weight1.size(), bias0.size(), bias1.size()})
      grads.emplace_back(size);
    epigraf::RenderBackward<T> p{field(),
                                 march(),
                                 marched(),
                                 out[4].data(),
                                 slopes[0].data(),
                                 slopes[1].data(),
                                 slopes[2].data(),
                                 slopes[3].data(),
                                 grads[0].data(),
                                 {grads[1].data(), grads[2].data()},
                                 {grads[3].data(), grads[4].data()}};
    epigraf::backward_all<T, kBytes>(p, threads);
    return grads;
  }

  static std::vector<T> slope(size_t count, int seed) {
    std::vector<T> values(count);
    for (size_t k = 0; k < count; ++k) values[k] = static_cast<T>(std::sin(1.0 + 3 * seed + k));
    return values;
  }

  double loss() const {
    const auto out = forward<16>(1);
    double total = 0;
    for (int i = 0; i < 4; ++i) {
      const auto weights = slope(out[i].size(), i);
      total += std::inner_product(out[i].begin(), out[i].end(), weights.begin(), 0.0);
    }
    return total;
  }
};

template <typename T>
void check_near(const std::vector<std::vector<T>>& a, const std::vector<std::vector<T>>& b,
                double tolerance) {
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK_EQUAL(a[i].size(), b[i].size());
    for (size_t k = 0; k < a[i].size(); ++k) CHECK_NEAR(a[i][k], b[i][k], tolerance);
  }
}

}  // namespace

TEST(exp_is_within_its_bound) {
  using S = Simd<float, 16>;
  double worst = 0;
  for (float x = -87.3f; x < 88.3f; x += 0.00137f) {
    const double exact = std::exp(static_cast<double>(x));
    const S::Vector result = epigraf::exp_vector<S>(S::splat(x));
    worst = std::max(worst, std::fabs(result[0] - exact) / exact);
  }
  CHECK(worst < 2e-7);
  const float inf = std::numeric_limits<float>::infinity();
  CHECK_EQUAL(epigraf::exp_vector<S>(S::splat(-inf))[0], 0.0f);
  CHECK_EQUAL(epigraf::exp_vector<S>(S::splat(-100.0f))[3], 0.0f);
  CHECK_EQUAL(epigraf::exp_vector<S>(S::splat(0.0f))[1], 1.0f);
  CHECK(std::isnan(epigraf::exp_vector<S>(S::splat(std::nanf("")))[2]));
}

TEST(softplus_and_its_slope_are_within_their_bounds) {
  using S = Simd<float, 16>;
  double worst = 0, worst_slope = 0;
  for (float x = -80.0f; x < 80.0f; x += 0.00113f) {
    const double exact = std::max<double>(x, 0) + std::log1p(std::exp(-std::fabs(x)));
    const double slope = 1 / (1 + std::exp(-static_cast<double>(x)));
    const S::Vector v = S::splat(x);
    worst = std::max(worst, std::fabs(epigraf::softplus_vector<S>(v)[0] - exact) / exact);
    worst_slope =
        std::max(worst_slope, std::fabs(epigraf::sigmoid_vector<S>(v)[0] - slope) / slope);
  }
  CHECK(worst < 4e-7);
  CHECK(worst_slope < 4e-7);
  CHECK(std::isnan(epigraf::softplus_vector<S>(S::splat(std::nanf("")))[0]));
}

TEST(transpose_turns_rows_into_columns) {
  using S = Simd<float, 32>;
  S::Vector rows[8];
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) rows[i][j] = static_cast<float>(10 * i + j);
  }
  epigraf::transpose<S>(rows);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) CHECK_EQUAL(rows[i][j], static_cast<float>(10 * j + i));
  }
}

// Calls body(order) with the memory of a ray of S and F samples, for every width and type.
template <typename Body>
void for_orders(int64_t coarse, int64_t fine, Body body) {
  for_widths([&](auto bytes) {
    const auto with = [&](auto zero) {
      using T = decltype(zero);
      using Order = epigraf::RayOrder<T, decltype(bytes)::value>;
      epigraf::Arena<T> arena(Order::memory(coarse, fine));
      body(Order(coarse, fine, arena), zero);
    };
    with(0.0f), with(0.0);
  });
}

TEST(importance_depths_worked) {
  // Weights 1 in the middle of five samples at 0 1 2 3 4: midpoints .5 1.5 2.5 3.5, inner weights
  // 0 1 0, each + 2e-5.
  const double weights[] = {0, 0, 1, 0, 0};
  double exact[4];
  epigraf::importance_cdf(weights, 5, exact);
  CHECK_NEAR(exact[1], 2e-5 / 1.00006, 1e-12);
  CHECK_NEAR(exact[2], 1.00004 / 1.00006, 1e-12);
  CHECK_NEAR(exact[3], 1, 1e-12);
  for_orders(5, 3, [&](auto order, auto zero) {
    using T = decltype(zero);
    const T t[] = {0, 1, 2, 3, 4};
    const T cdf[] = {T(exact[0]), T(exact[1]), T(exact[2]), T(exact[3])};
    T draws[32] = {0, T(0.5), 1}, depths[32];
    order.place(t, cdf, draws, depths);
    CHECK_NEAR(depths[0], 0.5, 1e-6);
    CHECK_NEAR(depths[1], 2, 1e-6);
    CHECK_NEAR(depths[2], 3.5, 1e-6);
  });
}

// Sorted draws give the depths of single draws, each found by bisection.
TEST(draws_are_sorted_and_placed) {
  for (int64_t fine : {1, 15, 16, 33}) {
    for_orders(9, fine, [&](auto order, auto zero) {
      using T = decltype(zero);
      auto u = random_values<T>(fine, T(0), T(1), 3);
      for (int64_t i = 1; i < fine; i += 4) u[i] = u[i - 1];  // equal ones
      const auto weights = random_values<T>(9, T(0), T(1), 4);
      auto t = random_values<T>(9, T(0), T(1), 5);
      std::sort(t.begin(), t.end());
      T cdf[8];
      epigraf::importance_cdf(weights.data(), 9, cdf);
      std::vector<T> draws(fine + 16), depths(fine + 16);
      order.sort(u.data(), draws.data());
      order.place(t.data(), cdf, draws.data(), depths.data());
      std::sort(u.begin(), u.end());
      for (int64_t i = 0; i < fine; ++i) {
        CHECK_EQUAL(draws[i], u[i]);
        const int64_t above = epigraf::importance_above(cdf, 9, u[i]);
        CHECK_NEAR(depths[i], epigraf::importance_depth(t.data(), cdf, 9, above, u[i]), 1e-6);
        if (i > 0) CHECK(depths[i - 1] <= depths[i]);
      }
    });
  }
}

// Fine samples are 0, 1, ... in a stable sort, so that of equal depths they come first.
TEST(merge_is_a_stable_sort) {
  for (int64_t fine : {0, 1, 16, 37}) {
    for_orders(21, fine, [&](auto order, auto zero) {
      using T = decltype(zero);
      auto t = random_values<T>(fine + 21, T(0), T(8), 6);
      for (T& x : t) x = std::floor(x);  // many equal depths
      std::sort(t.begin(), t.begin() + fine);
      std::sort(t.begin() + fine, t.end());
      std::vector<T> padded(t.begin(), t.begin() + fine), merged(fine + 21);
      padded.resize(fine + 16);
      std::vector<int32_t> found(fine + 21);
      order.merge(t.data() + fine, padded.data(), found.data(), merged.data());
      std::vector<int32_t> expected(fine + 21);
      std::iota(expected.begin(), expected.end(), 0);
      std::stable_sort(expected.begin(), expected.end(), [&](int a, int b) { return t[a] < t[b]; });
      for (size_t k = 0; k < expected.size(); ++k) {
        CHECK_EQUAL(merged[k], t[expected[k]]);
        CHECK_EQUAL(found[k], expected[k] < fine ? 21 + expected[k] : expected[k] - fine);
      }
    });
  }
}

TEST(order_is_a_permutation_whatever_comes) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  for_orders(3, 18, [&](auto order, auto zero) {
    using T = decltype(zero);
    std::vector<T> fine(32, T(1)), coarse = {T(kNan), 2, 0}, draws(32), merged(21);
    fine[0] = fine[7] = T(kNan), fine[3] = 5;
    order.sort(fine.data(), draws.data());
    CHECK_EQUAL(draws[0], T(1));
    CHECK_EQUAL(draws[15], T(5));
    CHECK(draws[16] > T(5) && draws[17] > T(5));
    std::vector<int32_t> found(21), sorted(21);
    order.merge(coarse.data(), fine.data(), found.data(), merged.data());
    std::iota(sorted.begin(), sorted.end(), 0);
    std::sort(found.begin(), found.end());
    CHECK(found == sorted);
  });
}

TEST(philox_blocks_are_those_of_single_blocks) {
  for_widths([&](auto bytes) {
    using Blocks = epigraf::PhiloxBlocks<decltype(bytes)::value>;
    for (const uint64_t first : {uint64_t{0}, uint64_t{12345678901}, uint64_t{0xFFFFFFFEu}}) {
      const Blocks blocks(0xFEDCBA9876543210u, 3, first);
      for (int i = 0; i < Blocks::kCount; ++i) {
        const auto expected = epigraf::philox_block(0xFEDCBA9876543210u, 3, first + i);
        for (int w = 0; w < 4; ++w) CHECK_EQUAL(blocks.word(w, i), expected.words[w]);
      }
    }
  });
}

TEST(all_widths_agree) {
  for (int64_t fine : {0, 5}) {
    const Scene<double> scene(37, 6, fine);
    const auto out = scene.forward<16>(1);
    const auto grads = scene.backward<16>(1);
    for_widths([&](auto bytes) {
      constexpr int kBytes = decltype(bytes)::value;
      check_near(scene.forward<kBytes>(2), out, 1e-12);
      check_near(scene.backward<kBytes>(3), grads, 1e-10);
      const Scene<float> single(37, 6, fine);
      CHECK_NEAR((single.forward<kBytes>(1)[0][0]), out[0][0], 1e-4);
    });
  }
}

TEST(projected_planes_give_the_same) {
  for (int64_t fine : {0, 5}) {
    Scene<double> scene(37, 6, fine);
    const auto out = scene.forward<16>(1);
    scene.project = true;
    for_widths([&](auto bytes) {
      constexpr int kBytes = decltype(bytes)::value;
      check_near(scene.forward<kBytes>(1), out, 1e-12);
      check_near(scene.forward<kBytes>(3), scene.forward<kBytes>(1), 0);
    });
  }
}

TEST(blocks_of_a_picture_give_the_same) {
  Scene<double> scene(36, 6, 5);  // 3 rows of 12
  const auto out = scene.forward<16>(1);
  const auto grads = scene.backward<16>(1);
  scene.row_length = 12;
  check_near(scene.forward<16>(2), out, 0);
  check_near(scene.backward<16>(1), grads, 1e-12);
}

// Every ray is in one bundle.
TEST(bundles_cover_all_rays) {
  epigraf::RenderRays<float> r{};
  for (int64_t length : {0, 1, 5, 10, 40, 7}) {  // 7 does not divide 40: as 0
    for (int64_t most : {1, 3, 8, 64}) {
      r.rays = 40;
      r.row_length = length;
      std::vector<int> seen(3 * 40);
      for (const auto& bundle : epigraf::bundles_of(1, 2, r, most)) {
        CHECK(bundle.count() >= 1 && bundle.count() <= most);
        for (int64_t i = 0; i < bundle.count(); ++i) ++seen[bundle.ray(i)];
      }
      for (int64_t ray = 0; ray < 3 * 40; ++ray) CHECK_EQUAL(seen[ray], ray >= 40 ? 1 : 0);
    }
  }
}

// The random numbers of a seed against the same numbers given, ray by ray and in two calls.
TEST(seeds_are_the_numbers_of_their_streams) {
  Scene<double> scene(10, 6, 5);
  const int64_t all = Scene<double>::kBatch * scene.rays;
  for (int64_t i = 0; i < all * 6; ++i) {
    scene.jitter[i] = epigraf::philox_uniform<double>(5, epigraf::kJitterStream, i);
  }
  for (int64_t i = 0; i < all * 5; ++i) {
    scene.u[i] = epigraf::philox_uniform<double>(5, epigraf::kImportanceStream, i);
  }
  for (int64_t i = 0; i < all * 11; ++i) {
    scene.noise[i] = epigraf::philox_normal<double>(5, epigraf::kFinalNoiseStream, i);
  }
  const auto out = scene.forward<16>(1);
  const uint64_t seed = 5;
  const auto seeded = scene.forward_seeded<16>({&seed, 0, scene.rays, true, true, false, true});
  check_near(seeded, out, 0);
}

TEST(gradients_by_finite_differences) {
  Scene<double> scene(5, 4, 0);  // importance samples move with the weights, but carry no gradient
  const auto grads = scene.backward<16>(2);
  std::vector<double>* inputs[] = {&scene.planes, &scene.weight0, &scene.weight1, &scene.bias0,
                                   &scene.bias1};
  for (int i = 0; i < 5; ++i) {
    const size_t step = std::max<size_t>(inputs[i]->size() / 23, 1);
    for (size_t k = 0; k < inputs[i]->size(); k += step) {
      double& x = (*inputs[i])[k];
      const double kept = x, h = 1e-6;
      x = kept + h;
      const double above = scene.loss();
      x = kept - h;
      const double below = scene.loss();
      x = kept;
      CHECK_NEAR(grads[i][k], (above - below) / (2 * h), 1e-6);
    }
  }
}

TEST(no_rays_is_nothing_to_do) {
  const Scene<float> scene(0, 4, 2);
  for_widths([&](auto bytes) {
    constexpr int kBytes = decltype(bytes)::value;
    CHECK_EQUAL(scene.forward<kBytes>(2)[0].size(), 0u);
    const auto grads = scene.backward<kBytes>(2);
    for (float x : grads[0]) CHECK_EQUAL(x, 0.0f);
  });
}
