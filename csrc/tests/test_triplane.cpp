// Tri-plane look-up: the header's maths, the CPU code around it, and the CUDA code on the CPU.
#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

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

// Unused elements after every pixel, row, plane and batch element.
struct Padding {
  int64_t pixel = 0, row = 0, plane = 0, batch = 0;
};

TriplaneShape make_shape(int64_t batch, int64_t points, int64_t channels, int64_t height,
                         int64_t width, Padding padding = {}) {
  TriplaneShape s = {batch, points, channels, height, width, 0, 0, 0, 0};
  s.pixel_stride = channels + padding.pixel;
  s.row_stride = s.pixel_stride * width + padding.row;
  s.plane_stride = s.row_stride * height + padding.plane;
  s.batch_stride = s.plane_stride * 3 + padding.batch;
  return s;
}

// Unused elements in front of an array, which spoil its alignment.
struct Offsets {
  int64_t planes = 0, grad_planes = 0, features = 0, grad_features = 0;
};

template <typename T>
struct Problem {
  TriplaneShape shape;
  Offsets offset;
  std::vector<T> planes, points, grad_features;

  explicit Problem(const TriplaneShape& s, Offsets o = {}) : shape(s), offset(o) {
    planes = random_values<T>(s.batch * s.batch_stride + o.planes, T(-1), T(1), 1);
    points = random_values<T>(s.batch * s.points * 3, T(-1.4), T(1.4), 2);
    grad_features = random_values<T>(feature_elements() + o.grad_features, T(-1), T(1), 3);
  }
  int64_t feature_elements() const { return shape.batch * shape.points * shape.channels; }

  // The place of the first channel of a pixel in planes, without their offset.
  int64_t pixel(int64_t b, int64_t plane, int64_t y, int64_t x) const {
    return b * shape.batch_stride + plane * shape.plane_stride + y * shape.row_stride +
           x * shape.pixel_stride;
  }
};

template <typename T>
struct Answer {
  std::vector<T> features, grad_planes, grad_points;

  explicit Answer(const Problem<T>& p)
      : features(p.feature_elements() + p.offset.features, T(7)),
        grad_planes(p.shape.batch * p.shape.batch_stride + p.offset.grad_planes, T(0)),
        grad_points(p.points.size(), T(7)) {}
};

template <typename T>
TriplaneForward<T> forward_params(const Problem<T>& p, Answer<T>& a) {
  return {p.shape, p.planes.data() + p.offset.planes, p.points.data(),
          a.features.data() + p.offset.features};
}

template <typename T>
TriplaneBackward<T> backward_params(const Problem<T>& p, Answer<T>& a) {
  return {p.shape,
          p.planes.data() + p.offset.planes,
          p.points.data(),
          p.grad_features.data() + p.offset.grad_features,
          a.grad_planes.data() + p.offset.grad_planes,
          a.grad_points.data()};
}

template <typename T>
Answer<T> on_cpu(const Problem<T>& p, int threads = 1) {
  Answer<T> a(p);
  triplane_forward_cpu(forward_params(p, a), threads);
  triplane_backward_cpu(backward_params(p, a), threads);
  return a;
}

template <typename T>
Answer<T> on_cuda(const Problem<T>& p) {
  Answer<T> a(p);
  triplane_forward_cuda(forward_params(p, a), kStream);
  triplane_backward_cuda(backward_params(p, a), kStream);
  return a;
}

// The bilinear read as a sum over all pixels of a product of hats, and its gradients; none of it in
// common with the code under test.
double hat(double x) {
  return std::fmax(0.0, 1.0 - std::fabs(x));
}
double hat_slope(double x) {
  return std::fabs(x) >= 1.0 ? 0.0 : (x > 0.0 ? -1.0 : 1.0);
}

Answer<double> brute_force(const Problem<double>& p) {
  const TriplaneShape& s = p.shape;
  const int first[3] = {0, 0, 1}, second[3] = {1, 2, 2};
  Answer<double> a(p);
  std::fill(a.features.begin(), a.features.end(), 0.0);
  std::fill(a.grad_points.begin(), a.grad_points.end(), 0.0);
  for (int64_t i = 0; i < s.batch * s.points * 3 * s.height * s.width; ++i) {
    const int64_t x = i % s.width, y = i / s.width % s.height;
    const int64_t plane = i / (s.width * s.height) % 3, point = i / (s.width * s.height * 3);
    const double half_width = double(s.width - 1) / 2, half_height = double(s.height - 1) / 2;
    const double u = (p.points[point * 3 + first[plane]] + 1) * half_width - double(x);
    const double v = (p.points[point * 3 + second[plane]] + 1) * half_height - double(y);
    const int64_t pixel = p.pixel(point / s.points, plane, y, x);
    for (int64_t c = 0; c < s.channels; ++c) {
      const double grad = p.grad_features[point * s.channels + c] / 3, value = p.planes[pixel + c];
      a.features[point * s.channels + c] += hat(u) * hat(v) * value / 3;
      a.grad_planes[pixel + c] += hat(u) * hat(v) * grad;
      a.grad_points[point * 3 + first[plane]] += hat_slope(u) * hat(v) * half_width * value * grad;
      a.grad_points[point * 3 + second[plane]] +=
          hat(u) * hat_slope(v) * half_height * value * grad;
    }
  }
  return a;
}

template <typename A, typename B>
void check_equal(const std::vector<A>& a, const std::vector<B>& b, double tolerance) {
  CHECK_EQUAL(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK_NEAR(double(a[i]), double(b[i]), tolerance);
}

template <typename A, typename B>
void check_equal(const Answer<A>& a, const Answer<B>& b, double tolerance) {
  check_equal(a.features, b.features, tolerance);
  check_equal(a.grad_planes, b.grad_planes, tolerance);
  check_equal(a.grad_points, b.grad_points, tolerance);
}

// Rounding: sums of up to `terms` values of size one, in another order; slopes are in half pixels.
template <typename T>
double rounding(double terms) {
  return 4 * terms * double(std::numeric_limits<T>::epsilon());
}

// One channel; plane 0 [[1, 2], [3, 4]], plane 1 ten times, plane 2 a hundred times that.
Problem<double> worked_problem(std::vector<double> points) {
  Problem<double> p(make_shape(1, int64_t(points.size()) / 3, 1, 2, 2));
  p.planes = {1, 2, 3, 4, 10, 20, 30, 40, 100, 200, 300, 400};
  p.points = std::move(points);
  return p;
}

}  // namespace

TEST(worked_values) {
  const Problem<double> p = worked_problem({-1, -1, -1,  // the first pixel of each plane
                                            1,  -1, -1,  // x runs along the width of planes 0 and 1
                                            -1, 1,  -1,  // y along the height of 0, the width of 2
                                            -1, -1, 1,   // z along the height of planes 1 and 2
                                            0,  0,  0,   // the middle of all
                                            2,  0,  0,   // half a pixel outside planes 0 and 1
                                            3,  0,  0,   // a pixel outside: nothing left of them
                                            9,  9,  9});  // far outside
  const double expected[] = {111, 122, 213, 331, 277.5, 1.5 + 15 + 250, 250, 0};
  const Answer<double> cpu = on_cpu(p), cuda = on_cuda(p);
  for (int i = 0; i < 8; ++i) {
    CHECK_NEAR(cpu.features[i], expected[i] / 3, 1e-12);
    CHECK_NEAR(cuda.features[i], expected[i] / 3, 1e-12);
  }
}

TEST(worked_gradients) {
  Problem<double> p = worked_problem({0.5, 0, 0});  // column 0.75, row 0.5
  p.grad_features = {3};
  for (const Answer<double>& a : {on_cpu(p), on_cuda(p)}) {
    // Planes 0 and 1 read (x, .), so one pixel right is worth 1 and 10; a pixel is two units.
    CHECK_NEAR(a.grad_points[0], (1 + 10) / 2.0, 1e-12);
    CHECK_NEAR(a.grad_points[1], (2 + 100) / 2.0, 1e-12);
    CHECK_NEAR(a.grad_points[2], (20 + 200) / 2.0, 1e-12);
    const double weights[] = {0.125, 0.375, 0.125, 0.375, 0.125, 0.375,
                              0.125, 0.375, 0.25,  0.25,  0.25,  0.25};
    for (int i = 0; i < 12; ++i) CHECK_NEAR(a.grad_planes[i], weights[i], 1e-12);
  }
}

TEST(vjp_of_point_against_finite_differences) {
  const Problem<double> p(make_shape(1, 40, 4, 5, 7));
  const double step = 1e-6;
  for (int64_t i = 0; i < p.shape.points; ++i) {
    double grad[3] = {}, q[3] = {p.points[3 * i], p.points[3 * i + 1], p.points[3 * i + 2]};
    const double* grad_features = p.grad_features.data() + 4 * i;
    triplane_point_vjp_point<4>(p.planes.data(), q, p.shape, grad_features, grad);
    for (int axis = 0; axis < 3; ++axis) {
      double loss[2] = {}, features[4], moved[3] = {q[0], q[1], q[2]};
      for (int side = 0; side < 2; ++side) {
        moved[axis] = q[axis] + (side == 0 ? -step : step);
        triplane_point<4>(p.planes.data(), moved, p.shape, features);
        loss[side] = std::inner_product(features, features + 4, grad_features, 0.0);
      }
      CHECK_NEAR(grad[axis], (loss[1] - loss[0]) / (2 * step), 1e-8);
    }
  }
}

TEST(vjp_of_plane_against_finite_differences) {
  const Problem<double> p(make_shape(1, 25, 4, 3, 4));
  const int64_t plane_elements = 3 * 4 * 4;
  std::vector<double> plane(p.planes.begin(), p.planes.begin() + plane_elements);
  for (int64_t i = 0; i < p.shape.points; ++i) {
    const double* grad_read = p.grad_features.data() + 4 * i;
    const auto taps = plane_taps(p.points[3 * i], p.points[3 * i + 1], p.shape);
    std::vector<double> grad(plane_elements, 0.0);
    plane_read_vjp_plane<4>(grad.data(), taps, p.shape, grad_read, [](double* where, auto& share) {
      for (int c = 0; c < 4; ++c) where[c] += share[c];
    });
    for (int64_t k = 0; k < plane_elements; ++k) {
      double loss[2];
      const double value = plane[k];
      for (int side = 0; side < 2; ++side) {
        double read[4] = {};
        plane[k] = value + (side == 0 ? -1.0 : 1.0);  // the read is linear in the plane
        plane_read<4>(plane.data(), taps, p.shape, read);
        loss[side] = std::inner_product(read, read + 4, grad_read, 0.0);
      }
      plane[k] = value;
      CHECK_NEAR(grad[k], (loss[1] - loss[0]) / 2, 1e-12);
    }
  }
}

TEST(plane_read_vjp_point_against_finite_differences) {
  const Problem<double> p(make_shape(1, 40, 4, 5, 7));
  const double step = 1e-6, half_width = 3, half_height = 2;  // pixels to a unit
  for (int64_t i = 0; i < p.shape.points; ++i) {
    const double u = p.points[3 * i], v = p.points[3 * i + 1];
    const double* grad_read = p.grad_features.data() + 4 * i;
    const auto loss = [&](double u_, double v_) {
      double read[4] = {};
      plane_read<4>(p.planes.data(), plane_taps(u_, v_, p.shape), p.shape, read);
      return std::inner_product(read, read + 4, grad_read, 0.0);
    };
    double slope_x = 0, slope_y = 0;
    plane_read_vjp_point<4>(p.planes.data(), plane_taps(u, v, p.shape), p.shape, grad_read, slope_x,
                            slope_y);
    CHECK_NEAR(slope_x * half_width, (loss(u + step, v) - loss(u - step, v)) / (2 * step), 1e-8);
    CHECK_NEAR(slope_y * half_height, (loss(u, v + step) - loss(u, v - step)) / (2 * step), 1e-8);
  }
}

TEST(cpu_equals_brute_force) {
  for (const Padding& padding : {Padding{}, Padding{1, 2, 3, 4}}) {
    const Problem<double> p(make_shape(2, 33, 5, 6, 9, padding));
    check_equal(on_cpu(p), brute_force(p), 1e-11);
  }
}

TEST(cpu_does_not_depend_on_threads) {
  const Problem<float> p(make_shape(2, 1500, 33, 11, 13));
  check_equal(on_cpu(p, 3), on_cpu(p, 1), 0.0);
}

template <typename T>
void compare_cuda_with_cpu(const TriplaneShape& shape, Offsets offsets = {}) {
  const Problem<T> p(shape, offsets);
  check_equal(on_cuda(p), on_cpu(p), rounding<T>(33));
}

TEST(cuda_equals_cpu_at_all_sizes) {
  for (int64_t points : {0, 1, 31, 33}) {
    for (int64_t channels : {0, 1, 3, 8, 16, 32, 33}) {
      compare_cuda_with_cpu<float>(make_shape(2, points, channels, 4, 6));
      compare_cuda_with_cpu<double>(make_shape(2, points, channels, 4, 6));
    }
  }
}

// Loads of 16 bytes where the strides allow it, and only there (UBSan sees a misaligned one).
TEST(cuda_takes_any_strides_and_alignment) {
  for (const Padding& padding : {Padding{4, 4, 4, 4}, Padding{1, 1, 1, 1}, Padding{1, 2, 0, 0},
                                 Padding{0, 1, 0, 0}, Padding{0, 0, 1, 1}, Padding{0, 0, 0, 1}}) {
    compare_cuda_with_cpu<float>(make_shape(2, 33, 8, 4, 6, padding));
    compare_cuda_with_cpu<double>(make_shape(2, 33, 8, 4, 6, padding));
  }
  for (const Offsets& offsets : {Offsets{1, 0, 0, 0}, Offsets{0, 1, 0, 0}, Offsets{0, 0, 1, 0},
                                 Offsets{0, 0, 0, 1}, Offsets{4, 4, 4, 4}}) {
    compare_cuda_with_cpu<float>(make_shape(2, 33, 8, 4, 6), offsets);
    compare_cuda_with_cpu<double>(make_shape(2, 33, 8, 4, 6), offsets);
  }
}

TEST(cuda_equals_cpu_in_every_order) {
  const Problem<float> odd(make_shape(2, 100, 33, 3, 5)), even(make_shape(2, 300, 32, 9, 5));
  const Answer<float> odd_cpu = on_cpu(odd), even_cpu = on_cpu(even);
  in_every_order([&] {
    check_equal(on_cuda(odd), odd_cpu, rounding<float>(100));
    check_equal(on_cuda(even), even_cpu, rounding<float>(100));
  });
}

// Samples of one ray that stay in a cell for a while, leave it and come back: what the run gathers.
TEST(cuda_gathers_runs_of_points) {
  Problem<double> p(make_shape(1, 64, 8, 4, 4));
  for (int64_t i = 0; i < 64; ++i)
    for (int axis = 0; axis < 3; ++axis)
      p.points[3 * i + axis] = std::sin(0.05 * double(i) * (axis + 1)) * (i == 20 ? 3.0 : 1.0);
  check_equal(on_cuda(p), brute_force(p), 1e-12);
}

TEST(only_what_is_asked_for) {
  const Problem<float> p(make_shape(1, 33, 8, 4, 6));
  const Answer<float> all = on_cpu(p);
  for (const bool planes : {false, true}) {
    Answer<float> cpu(p), cuda(p);
    auto cpu_params = backward_params(p, cpu), cuda_params = backward_params(p, cuda);
    (planes ? cpu_params.grad_points : cpu_params.grad_planes) = nullptr;
    (planes ? cuda_params.grad_points : cuda_params.grad_planes) = nullptr;
    triplane_backward_cpu(cpu_params, 1);
    triplane_backward_cuda(cuda_params, kStream);
    for (const Answer<float>* a : {&cpu, &cuda}) {
      if (planes) check_equal(a->grad_planes, all.grad_planes, rounding<float>(33));
      if (!planes) check_equal(a->grad_points, all.grad_points, rounding<float>(33));
    }
  }
}

TEST(gradients_of_planes_are_added) {
  const Problem<double> p(make_shape(1, 10, 4, 4, 6));
  const Answer<double> once = on_cpu(p);
  Answer<double> twice(p);
  triplane_backward_cuda(backward_params(p, twice), kStream);
  triplane_backward_cpu(backward_params(p, twice), 1);
  for (size_t i = 0; i < once.grad_planes.size(); ++i)
    CHECK_NEAR(twice.grad_planes[i], 2 * once.grad_planes[i], 1e-12);
}

TEST(edges_and_degenerate_planes) {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {1, 5}, {5, 1}, {2, 2}}) {
    Problem<double> p(make_shape(1, 8, 4, height, width));
    p.points = {-1, -1, -1, 1, 1, 1, 1, -1, 1, -1, 1, 1, 0, 0, 0, 0.5, 1, -1, -1, 0, 1, 1, 0, -0.5};
    const Answer<double> expected = brute_force(p);
    check_equal(on_cpu(p).features, expected.features, 1e-12);
    check_equal(on_cpu(p).grad_planes, expected.grad_planes, 1e-12);
    check_equal(on_cuda(p), on_cpu(p), 1e-12);
  }
}

TEST(far_outside_is_zero) {
  Problem<float> p(make_shape(1, 4, 8, 4, 6));
  p.points = {1e30f, 0, 5e9f, -1e30f, 5e9f, 1e20f, 0, -1e19f, 7, 3.5f, -3.5f, 1e10f};
  for (const Answer<float>& a : {on_cpu(p), on_cuda(p)}) {
    for (float feature : a.features) CHECK_EQUAL(feature, 0.0f);
    for (float grad : a.grad_points) CHECK_EQUAL(grad, 0.0f);
    for (float grad : a.grad_planes) CHECK_EQUAL(grad, 0.0f);
  }
}

TEST(bad_points_stay_local) {
  Problem<double> p(make_shape(1, 40, 8, 4, 6));
  const int64_t bad[] = {3, 17, 18, 39};
  const double values[] = {kNan, kInf, -kInf, kNan};
  for (int i = 0; i < 4; ++i) p.points[3 * bad[i] + i % 3] = values[i];
  Problem<double> clean = p;  // the bad points far outside instead
  for (int64_t i : bad)
    for (int axis = 0; axis < 3; ++axis)
      if (!std::isfinite(clean.points[3 * i + axis])) clean.points[3 * i + axis] = 1e9;
  const Answer<double> expected = on_cpu(clean);
  for (const Answer<double>& a : {on_cpu(p), on_cuda(p)}) {
    check_equal(a.grad_planes, expected.grad_planes, 1e-12);
    for (int64_t i = 0; i < 40; ++i) {
      const bool is_bad = std::count(bad, bad + 4, i) > 0;
      for (int64_t c = 8 * i; c < 8 * i + 8; ++c)
        CHECK_NEAR(a.features[c], is_bad ? kNan : expected.features[c], 1e-12);
      for (int64_t k = 3 * i; k < 3 * i + 3; ++k)
        CHECK(is_bad || std::fabs(a.grad_points[k] - expected.grad_points[k]) < 1e-12);
      CHECK(!is_bad || std::isnan(a.grad_points[3 * i]) || std::isnan(a.grad_points[3 * i + 1]));
    }
  }
}

TEST(a_bad_pixel_reaches_only_its_neighbours) {
  Problem<double> p(make_shape(1, 200, 3, 6, 6));
  const Answer<double> clean = on_cpu(p);
  p.planes[p.pixel(0, 1, 2, 3)] = kNan;  // plane (x, z), row 2, column 3, channel 0
  for (const Answer<double>& a : {on_cpu(p), on_cuda(p)}) {
    check_equal(a.grad_planes, clean.grad_planes, 1e-12);
    for (int64_t i = 0; i < 200; ++i) {
      const double column = (p.points[3 * i] + 1) * 2.5, row = (p.points[3 * i + 2] + 1) * 2.5;
      const bool near = std::fabs(column - 3) < 1 && std::fabs(row - 2) < 1;
      CHECK_NEAR(a.features[3 * i], near ? kNan : clean.features[3 * i], 1e-12);
      CHECK_NEAR(a.features[3 * i + 1], clean.features[3 * i + 1], 1e-12);
    }
  }
}

// Pixels, rows and planes that lie so far apart that their places need more than 32 bits, in memory
// that is reserved but hardly touched.
TEST(indices_beyond_32_bits) {
  const Problem<float> p(make_shape(1, 20, 8, 4, 6));
  TriplaneShape sparse = p.shape;
  sparse.pixel_stride = (int64_t{1} << 29) + 1024;
  sparse.row_stride = (int64_t{1} << 30) + 64;
  sparse.plane_stride = (int64_t{1} << 32) + 32768;
  const size_t bytes = sizeof(float) * (size_t{1} << 34);
  void* memory[2];
  for (void*& block : memory)
    block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory[0] == MAP_FAILED || memory[1] == MAP_FAILED) return;  // address space is limited here
  auto* planes = static_cast<float*>(memory[0]);
  auto* grad_planes = static_cast<float*>(memory[1]);
  const auto for_each_pixel = [&](auto body) {
    for (int64_t i = 0; i < 3 * 4 * 6; ++i) {
      const int64_t plane = i / 24, y = i / 6 % 4, x = i % 6;
      body(plane * sparse.plane_stride + y * sparse.row_stride + x * sparse.pixel_stride,
           p.pixel(0, plane, y, x));
    }
  };
  for_each_pixel([&](int64_t far, int64_t near) { std::copy_n(&p.planes[near], 8, planes + far); });
  Answer<float> a(p);
  triplane_forward_cuda(TriplaneForward<float>{sparse, planes, p.points.data(), a.features.data()},
                        kStream);
  triplane_backward_cuda(
      TriplaneBackward<float>{sparse, planes, p.points.data(), p.grad_features.data(), grad_planes,
                              a.grad_points.data()},
      kStream);
  for_each_pixel(
      [&](int64_t far, int64_t near) { std::copy_n(grad_planes + far, 8, &a.grad_planes[near]); });
  check_equal(a, on_cpu(p), rounding<float>(33));
  for (void* block : memory) munmap(block, bytes);
}

TEST(more_batch_elements_than_the_grid_is_high) {
  compare_cuda_with_cpu<float>(make_shape(1024 + 3, 1, 1, 2, 2));
}

TEST(launch_errors_are_reported) {
  const Problem<float> p(make_shape(1, 1, 1, 1, 1));
  Answer<float> a(p);
  CHECK_THROWS(triplane_forward_cuda(forward_params(p, a), Stream{1, nullptr}),
               "triplane_forward: CUDA error 101, invalid device ordinal");
}

// Every float16 there is, and every float between and on two of them, against the definition:
// sign, 5 bits of exponent (bias 15), 10 bits of fraction.
TEST(half_is_binary16) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const int exponent = int(bits >> 10 & 31u), fraction = int(bits & 1023u);
    const double sign = bits & 0x8000u ? -1 : 1;
    double expected =
        sign * std::ldexp(1024.0 * (exponent > 0) + fraction, std::max(exponent, 1) - 25);
    if (exponent == 31) expected = fraction ? kNan : sign * kInf;
    CHECK_NEAR(float_of_half(uint16_t(bits)), expected, 0);
    if (exponent == 31) continue;
    CHECK_EQUAL(half_of_float(float(expected)), uint16_t(bits));
    const double step = std::ldexp(1.0, std::max(exponent, 1) - 25);  // to the next one
    const uint32_t next = bits + 1;  // away from zero; from the largest on, infinity
    const float middle = float(expected + sign * step / 2);
    CHECK_EQUAL(half_of_float(middle), uint16_t(bits % 2 ? next : bits));  // ties to even
    CHECK_EQUAL(half_of_float(std::nextafterf(middle, float(sign) * 1e9f)), uint16_t(next));
    CHECK_EQUAL(half_of_float(std::nextafterf(middle, 0.0f)), uint16_t(bits));
  }
  CHECK_EQUAL(half_of_float(float(kInf)), uint16_t(0x7c00));
  CHECK_EQUAL(half_of_float(-1e30f), uint16_t(0xfc00));
  CHECK(std::isnan(float_of_half(half_of_float(float(kNan)))));
}

TEST(bfloat16_is_the_upper_half) {
  const std::pair<float, float> known[] = {{1.0f, 1.0f},
                                           {1.00390625f, 1.0f},
                                           {1.01171875f, 1.015625f},
                                           {-3.3895e38f, -3.3895314e38f},
                                           {3.4e38f, float(kInf)}};
  for (const auto& [x, rounded] : known) CHECK_EQUAL(float(BFloat16(x)), rounded);
  CHECK(std::isnan(float(BFloat16(float(kNan)))));
}

// Planes, features and their gradients in 16 bits against the same numbers in float.
template <typename P>
void compare_16_bits(const TriplaneShape& shape, double epsilon) {
  Problem<float> p(shape);
  std::vector<P> planes, grads, cpu(p.feature_elements()), cuda(p.feature_elements());
  for (float& x : p.planes) planes.push_back(P(x)), x = planes.back();
  for (float& x : p.grad_features) grads.push_back(P(x)), x = grads.back();
  const Answer<float> expected = on_cpu(p);
  Answer<float> a(p), b(p);
  triplane_forward_cpu(TriplaneForward<float, P>{shape, planes.data(), p.points.data(), cpu.data()},
                       2);
  triplane_forward_cuda(
      TriplaneForward<float, P>{shape, planes.data(), p.points.data(), cuda.data()}, kStream);
  const auto backward = [&](Answer<float>& to) {
    return TriplaneBackward<float, P>{shape,        planes.data(),         p.points.data(),
                                      grads.data(), to.grad_planes.data(), to.grad_points.data()};
  };
  triplane_backward_cpu(backward(a), 2);
  triplane_backward_cuda(backward(b), kStream);
  for (size_t i = 0; i < cpu.size(); ++i) {
    CHECK_NEAR(cpu[i], expected.features[i], epsilon * std::fabs(expected.features[i]) + 1e-6);
    CHECK_NEAR(cuda[i], expected.features[i], epsilon * std::fabs(expected.features[i]) + 1e-6);
  }
  a.features = b.features = expected.features;
  check_equal(a, expected, rounding<float>(33));
  check_equal(b, expected, rounding<float>(33));
}

TEST(planes_of_16_bits) {
  for (const int64_t channels : {1, 8, 33, 40}) {
    for (const int64_t points : {0, 1, 33}) {
      compare_16_bits<Half>(make_shape(2, points, channels, 4, 6), 1.0 / 2048);
      compare_16_bits<BFloat16>(make_shape(2, points, channels, 4, 6), 1.0 / 256);
    }
  }
  in_every_order([] { compare_16_bits<Half>(make_shape(1, 90, 16, 3, 5), 1.0 / 2048); });
}

// Planes [B, 3, F, H, W] read where they lie.
TEST(channels_that_lie_apart) {
  const Problem<double> p(make_shape(2, 33, 9, 4, 6));
  Problem<double> apart = p;
  apart.shape.pixel_stride = 1;
  apart.shape.row_stride = 6;
  apart.shape.channel_stride = 24;
  const auto place = [&](int64_t i) {  // of element i of p.planes
    return i / (24 * 9) * (24 * 9) + i % 9 * 24 + i / 9 % 24;
  };
  for (size_t i = 0; i < p.planes.size(); ++i) apart.planes[place(int64_t(i))] = p.planes[i];
  const Answer<double> expected = on_cpu(p);
  for (Answer<double> a : {on_cpu(apart, 3), on_cuda(apart)}) {
    const std::vector<double> grads = a.grad_planes;
    for (size_t i = 0; i < grads.size(); ++i) a.grad_planes[i] = grads[place(int64_t(i))];
    check_equal(a, expected, 1e-13);
  }
}
