// Rays of a patch: worked values, the CPU code, and the CUDA code on the CPU.
#include "check.h"
#include "cuda_emulation.h"
#include "epigraf/launch.h"
#include "random_values.h"

using namespace epigraf;

namespace {

const Stream kStream = {0, nullptr};

template <typename T>
struct Problem {
  int64_t batch, height, width;
  std::vector<T> cam2world, fov, scales, offsets;

  Problem(int64_t b, int64_t h, int64_t w)
      : batch(b),
        height(h),
        width(w),
        cam2world(random_values<T>(b * 16, T(-1), T(1), 1)),
        fov(random_values<T>(b, T(10), T(90), 2)),
        scales(random_values<T>(2 * b, T(0.2), T(1), 3)),
        offsets(random_values<T>(2 * b, T(0), T(0.5), 4)) {}
  int64_t rays() const { return batch * height * width; }
};

template <typename T>
struct Answer {
  std::vector<T> origins, directions;
};

// threads 0: the CUDA code.
template <typename T>
Answer<T> rays_of(const Problem<T>& p, int threads, int64_t fov_stride = 1, bool patch = true) {
  Answer<T> a{std::vector<T>(p.rays() * 3, T(7)), std::vector<T>(p.rays() * 3, T(7))};
  const PatchRays<T> params{p.batch,
                            p.height,
                            p.width,
                            p.cam2world.data(),
                            p.fov.data(),
                            fov_stride,
                            patch ? p.scales.data() : nullptr,
                            patch ? p.offsets.data() : nullptr,
                            a.origins.data(),
                            a.directions.data()};
  threads > 0 ? patch_rays_cpu(params, threads) : patch_rays_cuda(params, kStream);
  return a;
}

// The formulas in other words: the point on the image plane, moved and turned, made a unit vector.
Answer<double> brute_force(const Problem<double>& p) {
  Answer<double> a;
  for (int64_t i = 0; i < p.rays(); ++i) {
    const int64_t column = i % p.width, row = i / p.width % p.height;
    const int64_t b = i / (p.width * p.height);
    const auto unit = [](int64_t k, int64_t n) { return n == 1 ? 0.0 : double(k) / double(n - 1); };
    const double from_bottom = 1 - unit(row, p.height);
    const double x = 2 * (unit(column, p.width) * p.scales[2 * b] + p.offsets[2 * b]) - 1;
    const double y = 2 * (from_bottom * p.scales[2 * b + 1] + p.offsets[2 * b + 1]) - 1;
    const double d[3] = {x, y, -1 / std::tan(std::acos(-1.0) / 180 * p.fov[b] / 2)};
    const double length = std::hypot(d[0], d[1], d[2]);
    for (int k = 0; k < 3; ++k) {
      const double* m = &p.cam2world[16 * b + 4 * k];
      a.origins.push_back(m[3]);
      a.directions.push_back((m[0] * d[0] + m[1] * d[1] + m[2] * d[2]) / length);
    }
  }
  return a;
}

template <typename A, typename B>
void check_equal(const Answer<A>& a, const Answer<B>& b, double tolerance) {
  CHECK_EQUAL(a.origins.size(), b.origins.size());
  for (size_t i = 0; i < a.origins.size(); ++i) {
    CHECK_NEAR(a.origins[i], b.origins[i], tolerance);
    CHECK_NEAR(a.directions[i], b.directions[i], tolerance);
  }
}

}  // namespace

TEST(worked_directions) {
  Problem<double> p(1, 2, 3);
  p.cam2world = {0, 0, 1, 5, 1, 0, 0, 6, 0, 1, 0, 7, 0, 0, 0, 1};  // (x, y, z) -> (z, x, y)
  p.fov = {90};
  for (const int threads : {0, 1}) {
    const auto a = rays_of(p, threads, 1, false);
    const double x[] = {-1, 0, 1, -1, 0, 1}, y[] = {1, 1, 1, -1, -1, -1};
    for (int i = 0; i < 6; ++i) {
      const double length = std::sqrt(x[i] * x[i] + 2);
      CHECK_NEAR(a.directions[3 * i], -1 / length, 1e-15);
      CHECK_NEAR(a.directions[3 * i + 1], x[i] / length, 1e-15);
      CHECK_NEAR(a.directions[3 * i + 2], y[i] / length, 1e-15);
      for (int k = 0; k < 3; ++k) CHECK_EQUAL(a.origins[3 * i + k], 5.0 + k);
    }
  }
}

TEST(all_sizes_equal_brute_force) {
  for (const int64_t batch : {0, 1, 3}) {
    for (const int64_t height : {0, 1, 2, 31}) {
      for (const int64_t width : {0, 1, 2, 33}) {
        const Problem<double> p(batch, height, width);
        for (const int threads : {0, 1, 3}) check_equal(rays_of(p, threads), brute_force(p), 1e-14);
      }
    }
  }
}

TEST(one_field_of_view_for_all) {
  Problem<double> p(3, 4, 5);
  const auto shared = rays_of(p, 0, 0), cpu = rays_of(p, 2, 0);
  p.fov[1] = p.fov[2] = p.fov[0];
  check_equal(shared, brute_force(p), 1e-14);
  check_equal(cpu, brute_force(p), 1e-14);
}

TEST(kernels_in_every_order) {
  const Problem<float> p(2, 17, 19);
  const auto expected = rays_of(p, 1);
  cuda_emulation::in_every_order([&] { check_equal(rays_of(p, 0), expected, 1e-6); });
}

TEST(the_grid_is_symmetric) {
  for (int64_t n = 2; n < 200; ++n) {
    for (int64_t i = 0; i < n / 2; ++i)
      CHECK_EQUAL(grid_position<float>(i, n), -grid_position<float>(n - 1 - i, n));
    CHECK_EQUAL(grid_position<float>(n - 1, n), 1.0f);
  }
}

namespace {

template <typename T>
struct Segments {
  std::vector<T> near, far;
  std::vector<char> hit;  // vector<bool> has no memory of bools

  bool operator==(const Segments& other) const {
    return near == other.near && far == other.far && hit == other.hit;
  }
};

// threads 0: the CUDA code.
template <typename T>
Segments<T> segments_of(const std::vector<T>& origins, const std::vector<T>& directions, T radius,
                        T near, T far, int threads) {
  const int64_t rays = static_cast<int64_t>(origins.size()) / 3;
  Segments<T> s{std::vector<T>(rays, T(7)), std::vector<T>(rays, T(7)), std::vector<char>(rays, 7)};
  const BallSegments<T> params{rays,
                               origins.data(),
                               directions.data(),
                               radius * radius,
                               near,
                               far,
                               s.near.data(),
                               s.far.data(),
                               reinterpret_cast<bool*>(s.hit.data())};
  threads > 0 ? ball_segments_cpu(params, threads) : ball_segments_cuda(params, kStream);
  return s;
}

}  // namespace

// By hand, along x at different heights, from x = -5: a ball of radius 5 is entered and left at
// distances 0 and 10 (height 0), 1 and 9 (height 3), 2 and 8 (height 4), and missed at height 6.
TEST(worked_segments) {
  const std::vector<double> origins = {-5, 0, 0, -5, 3, 0, -5, 0, 4, -5, 6, 0},
                            directions = {1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0};
  for (const int threads : {0, 1}) {
    const auto s = segments_of<double>(origins, directions, 5, 1.5, 8.5, threads);
    const double near[] = {1.5, 1.5, 2, 5}, far[] = {8.5, 8.5, 8, 5};
    for (int i = 0; i < 4; ++i) {
      CHECK_NEAR(s.near[i], near[i], 1e-14);
      CHECK_NEAR(s.far[i], far[i], 1e-14);
      CHECK_EQUAL(int(s.hit[i]), int(i < 3));
    }
    const auto before = segments_of<double>(origins, directions, 5, 20, 30, threads);
    for (int i = 0; i < 4; ++i) {  // the ball ends before the segment begins
      CHECK_EQUAL(before.near[i], 20.0);
      CHECK_EQUAL(before.far[i], 20.0);
      CHECK_EQUAL(int(before.hit[i]), 0);
    }
  }
}

TEST(segments_are_the_same_with_any_threads_and_in_every_order) {
  for (const int64_t rays : {0, 1, 31, 4096, 9001}) {
    const auto origins = random_values<float>(3 * rays, -1.0f, 1.0f, 5);
    const auto directions = random_values<float>(3 * rays, -0.6f, 0.6f, 6);
    const auto one = segments_of(origins, directions, 0.7f, -1.0f, 1.0f, 1);
    CHECK(segments_of(origins, directions, 0.7f, -1.0f, 1.0f, 3) == one);
    cuda_emulation::in_every_order([&] {
      const auto cuda = segments_of(origins, directions, 0.7f, -1.0f, 1.0f, 0);
      for (int64_t i = 0; i < rays; ++i) {
        CHECK_NEAR(cuda.near[i], one.near[i], 2e-3);  // a chord near 0 is a root of rounding
        CHECK_NEAR(cuda.far[i], one.far[i], 2e-3);
      }
    });
  }
}

TEST(what_is_not_a_number_hits_nothing) {
  const double nan = std::nan("");
  for (const int threads : {0, 1}) {
    const auto s =
        segments_of<double>({nan, 0, 0, -1, 0, 0}, {1, 0, 0, nan, 0, 0}, 1, 0, 2, threads);
    for (int i = 0; i < 2; ++i) {
      CHECK(std::isnan(s.near[i]) && std::isnan(s.far[i]));
      CHECK_EQUAL(int(s.hit[i]), 0);
    }
  }
}

TEST(launch_errors_are_reported) {
  const Problem<float> p(1, 1, 1);
  std::vector<float> out(3);
  CHECK_THROWS((patch_rays_cuda<float>({1, 1, 1, p.cam2world.data(), p.fov.data(), 1, nullptr,
                                        nullptr, out.data(), out.data()},
                                       Stream{1, nullptr})),
               "patch_rays: CUDA error 101, invalid device ordinal");
}
