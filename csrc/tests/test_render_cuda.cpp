// The fused renderer's CUDA kernels, run on the CPU, against its CPU kernels.
#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "../cuda/ray.cuh"
#include "check.h"
#include "render_scene.h"

using namespace epigraf;
using cuda_emulation::in_every_order;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
const Stream kStream = {0, nullptr};

template <typename T>
double largest(const std::vector<T>& values) {
  double most = 0;
  for (T x : values) most = std::fmax(most, std::fabs(double(x)));
  return most;
}

// All arrays to `tolerance` of their own largest value; two NaNs are equal.
template <typename T>
void check_near(const std::vector<std::vector<T>>& ours,
                const std::vector<std::vector<T>>& expected, double tolerance) {
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK_EQUAL(ours[i].size(), expected[i].size());
    const double scale = largest(expected[i]);
    for (size_t k = 0; k < expected[i].size(); ++k)
      CHECK_NEAR(double(ours[i][k]), double(expected[i][k]), tolerance * scale);
  }
}

template <typename T>
void check_near(const Rendered<T>& ours, const Rendered<T>& expected, double tolerance) {
  check_near(ours.outputs, expected.outputs, tolerance);
  check_near(ours.grads, expected.grads, tolerance);
}

constexpr double kDouble = 1e-12;  // of the largest value; sums in another order

void compare(const SceneSizes& sizes) {
  const Scene<double> scene(sizes);
  check_near(scene.on_cuda(), scene.on_cpu(), kDouble);
}

SceneSizes sized(int64_t rays, int64_t coarse, int64_t fine) {
  SceneSizes s;
  s.rays = rays;
  s.coarse = coarse;
  s.fine = fine;
  return s;
}

// Merges the depths `t` of one ray, `fine` of them of the second pass, with one warp.
__global__ void merge_kernel(const double* t, int coarse, int fine, int* order, double* sorted) {
  EPIGRAF_DYNAMIC_SHARED(int, counts);
  merge(t, coarse, fine, counts, order, sorted);
}

__global__ void sort_kernel(RenderRays<double> rays, double* draws, int length) {
  sort_draws(rays, 0, draws, length);
}

}  // namespace

TEST(equals_the_cpu_for_any_number_of_rays) {
  for (int64_t rays : {0, 1, 31, 33}) compare(sized(rays, 7, 5));
}

TEST(equals_the_cpu_for_any_number_of_samples) {
  for (int64_t coarse : {2, 3, 31, 32, 33, 70}) {
    compare(sized(5, coarse, 0));
    if (coarse < 3) continue;
    for (int64_t fine : {1, 31, 32, 40}) compare(sized(5, coarse, fine));
  }
}

TEST(equals_the_cpu_for_any_width) {
  for (int64_t channels : {1, 2, 4, 8, 31, 32, 33, 40, 64}) {
    for (int64_t hidden : {1, 8, 17}) {
      SceneSizes s = sized(4, 5, 3);
      s.channels = channels;
      s.hidden = hidden;
      compare(s);
    }
  }
}

TEST(equals_the_cpu_on_planes_of_any_size) {
  for (int64_t height : {1, 2, 9}) {
    for (int64_t width : {1, 3, 16}) {
      SceneSizes s = sized(9, 5, 3);
      s.height = height;
      s.width = width;
      compare(s);
    }
  }
}

TEST(equals_the_cpu_on_strided_planes) {
  for (int64_t pixel : {0, 1, 2, 4}) {
    for (int64_t row : {0, 1, 4}) {
      SceneSizes s = sized(9, 5, 3);
      s.channels = 8;
      s.pixel_padding = pixel;
      s.row_padding = row;
      s.batch_padding = pixel + row;
      compare(s);
    }
  }
}

TEST(equals_the_cpu_with_all_flags) {
  for (int flags = 0; flags < 8; ++flags) {
    for (int64_t fine : {0, 5}) {
      Scene<double> scene(sized(9, 40, fine));
      scene.march.relu = flags & 1;
      scene.march.finite_interval = flags & 2;
      scene.march.last_back = flags & 4;
      scene.prior = flags == 3 ? 0.0 : 0.4;
      check_near(scene.on_cuda(), scene.on_cpu(), kDouble);
    }
  }
}

TEST(equals_the_cpu_without_some_of_the_draws) {
  for (int missing = 0; missing < 8; ++missing) {
    Scene<double> scene(sized(5, 7, 5));
    if (missing & 1) scene.jitter.clear();
    if (missing & 2) scene.coarse_noise.clear();
    if (missing & 4) scene.final_noise.clear();
    check_near(scene.on_cuda(), scene.on_cpu(), kDouble);
  }
}

TEST(equals_the_cpu_with_some_of_the_gradients) {
  for (int given = 0; given < 16; ++given) {
    Scene<double> scene(sized(5, 7, 5));
    scene.march.last_back = given % 3 == 0;
    for (int i = 0; i < 4; ++i) scene.grad_given[i] = given >> i & 1;
    scene.grad_of_planes = given % 2 == 0;
    check_near(scene.on_cuda(), scene.on_cpu(), kDouble);
  }
}

// The forward pass is exact in any order; sums by atomics are not.
TEST(equals_the_cpu_in_every_order) {
  SceneSizes sizes = sized(13, 33, 9);
  sizes.channels = 8;
  const Scene<double> scene(sizes);
  const Rendered<double> cpu = scene.on_cpu(), cuda = scene.on_cuda();
  in_every_order([&] {
    const Rendered<double> again = scene.on_cuda();
    check_near(again, cpu, kDouble);
    CHECK(again.outputs == cuda.outputs);
  });
}

// Rounding moves draws over the edges of bins and hidden units over zero, so the measure of an
// error in float is that of the CPU's own kernel.
TEST(float_is_as_near_to_double_as_the_cpu_is) {
  for (int64_t fine : {0, 16}) {
    SceneSizes sizes = sized(40, 17, fine);
    sizes.channels = 32;
    sizes.hidden = 64;
    const Scene<float> scene(sizes);
    const Scene<double> exact_scene(sizes);
    const Rendered<float> cuda = scene.on_cuda(), cpu = scene.on_cpu();
    const Rendered<double> exact = exact_scene.on_cpu();
    const auto check = [](const auto& ours, const auto& theirs, const auto& truth) {
      for (size_t i = 0; i < truth.size(); ++i) {
        double error = 0, allowed = 0;
        for (size_t k = 0; k < truth[i].size(); ++k) {
          error += std::pow(ours[i][k] - truth[i][k], 2);
          allowed += std::pow(theirs[i][k] - truth[i][k], 2);
        }
        const double count = double(truth[i].size());
        CHECK(std::sqrt(error / count) <=
              3 * std::sqrt(allowed / count) + 1e-6 * largest(truth[i]));
      }
    };
    check(cuda.outputs, cpu.outputs, exact.outputs);
    check(cuda.grads, cpu.grads, exact.grads);
  }
}

TEST(seeds_are_the_numbers_of_their_streams) {
  for (int64_t fine : {0, 5}) {
    Scene<double> scene(sized(9, 7, fine));
    const uint64_t seed = 0x123456789abcdef;
    scene.seeds = {&seed, 1000, 5000, true, true, true, true};
    Scene<double> given = scene;
    given.seeds = {};
    const auto numbers = [&](std::vector<double>& to, uint32_t stream, int64_t count, bool normal) {
      for (int64_t i = 0; i < int64_t(to.size()); ++i) {
        const int64_t ray = i / count, b = ray / 9, r = ray % 9;
        const uint64_t index = uint64_t((b * 5000 + 1000 + r) * count + i % count);
        to[i] = normal ? philox_normal<double>(seed, stream, index)
                       : philox_uniform<double>(seed, stream, index);
      }
    };
    numbers(given.jitter, kJitterStream, 7, false);
    numbers(given.u, kImportanceStream, fine, false);
    numbers(given.coarse_noise, kCoarseNoiseStream, 7, true);
    numbers(given.final_noise, kFinalNoiseStream, 7 + fine, true);
    for (auto* x : {&scene.jitter, &scene.u, &scene.coarse_noise, &scene.final_noise}) x->clear();
    check_near(scene.on_cuda(), given.on_cpu(), kDouble);
  }
}

TEST(draws_may_be_one_row_for_all_rays) {
  Scene<double> scene(sized(9, 7, 5));
  for (size_t i = 0; i < scene.u.size(); ++i) scene.u[i] = double(i % 5) / 4;
  const Rendered<double> expected = scene.on_cpu();
  Rendered<double> ours = scene.nothing();
  auto params = scene.forward_params(ours);
  params.rays.u_stride = 0;
  render_forward_cuda(params, kStream);
  check_near(ours.outputs, expected.outputs, kDouble);
}

TEST(nothing_is_saved_where_nothing_is_wanted) {
  const Scene<double> scene(sized(9, 7, 5));
  Rendered<double> ours = scene.nothing();
  auto params = scene.forward_params(ours);
  params.saved = nullptr;
  render_forward_cuda(params, kStream);
  for (double x : ours.outputs[4]) CHECK_EQUAL(x, 7.0);
  ours.outputs[4] = scene.on_cpu().outputs[4];
  check_near(ours.outputs, scene.on_cpu().outputs, kDouble);
}

// Samples behind the stop are not evaluated where there is one pass; 70 samples are three chunks.
TEST(early_stop_equals_the_cpu) {
  for (int64_t fine : {0, 33}) {
    for (bool last_back : {false, true}) {
      for (double eps : {0.5, 0.05, 1e-9}) {
        Scene<double> scene(sized(9, 70, fine));
        scene.march.gain = 20;
        scene.march.last_back = last_back;
        scene.march.early_stop_eps = eps;
        Rendered<double> ours = scene.nothing(), expected = scene.nothing();
        for (Rendered<double>* r : {&ours, &expected}) r->outputs[4].clear();
        render_forward_cuda(scene.forward_params(ours), kStream);
        render_forward_cpu(scene.forward_params(expected), 1);
        check_near(ours.outputs, expected.outputs, kDouble);
      }
    }
  }
}

TEST(occupancy_equals_the_cpu) {
  for (int flags = 0; flags < 8; ++flags) {
    for (int64_t fine : {0, 5}) {
      Scene<double> scene(sized(9, 40, fine));
      scene.march.relu = flags & 1;
      scene.march.finite_interval = flags & 2;
      scene.march.last_back = flags & 4;
      scene.final_noise.clear();
      const auto values = random_values<double>(scene.sizes.batch * 1024, 0, 1, 9);
      std::vector<uint32_t> words;
      for (double x : values) words.push_back(x < 0.7 ? 0u : uint32_t(x * 4e9));
      const auto run = [&](auto forward) {
        Rendered<double> r = scene.nothing();
        RenderForward<double> p = scene.forward_params(r);
        p.saved = nullptr;
        p.grid = {32, words.data(), 0.9};
        forward(p);
        return r.outputs;
      };
      const auto cpu = run([](const auto& p) { render_forward_cpu<double>(p, 2); });
      const auto cuda = run([](const auto& p) { render_forward_cuda<double>(p, kStream); });
      check_near(cuda, cpu, 1e-7);  // an empty sample adds 1e-10 to the transmittance, or nothing
      CHECK(cpu[0] != scene.on_cpu().outputs[0]);  // something was left out
    }
  }
}

// By hand: densities of ln 2 and steps of one, so that each interval takes half of the light; a
// quarter is left for the third sample, which is less than eps.
TEST(early_stop_by_hand) {
  SceneSizes sizes = sized(1, 40, 0);
  sizes.batch = 1;
  Scene<double> scene(sizes);
  std::fill(scene.weight1.begin(), scene.weight1.end(), 0.0);
  scene.bias1 = {1, 2, 3, std::log(2.0)};
  scene.prior = 0;
  scene.march = {0, 1, 0, true, false, false, 0.3, 8};  // a quarter of 8 shows behind
  scene.jitter.clear();
  scene.final_noise.clear();
  scene.near[0] = 0;
  scene.far[0] = 39;
  Rendered<double> r = scene.nothing();
  r.outputs[4].clear();
  render_forward_cuda(scene.forward_params(r), kStream);
  const std::vector<double> features = {2.75, 3.5, 4.25};
  for (int c = 0; c < 3; ++c) CHECK_NEAR(r.outputs[0][c], features[c], 1e-9);
  CHECK_NEAR(r.outputs[1][0], 0.25, 1e-9);  // 1/2 at 0, 1/4 at 1
  CHECK_NEAR(r.outputs[2][0], 0.75, 1e-9);
  CHECK_NEAR(r.outputs[3][0], 0.25, 1e-9);
}

TEST(gradients_are_added) {
  const Scene<double> scene(sized(5, 7, 5));
  const Rendered<double> once = scene.on_cuda();
  Rendered<double> twice = scene.run([](const auto& p) { render_forward_cuda<double>(p, kStream); },
                                     [](const auto& p) {
                                       render_backward_cuda<double>(p, kStream);
                                       render_backward_cuda<double>(p, kStream);
                                     });
  for (size_t i = 0; i < once.grads.size(); ++i)
    for (size_t k = 0; k < once.grads[i].size(); ++k) twice.grads[i][k] /= 2;
  check_near(twice.grads, once.grads, kDouble);
}

TEST(points_far_outside) {
  Scene<double> scene(sized(9, 7, 5));
  scene.prior = 0;
  scene.origins[0] = 1e30;
  scene.origins[4] = -1e19;
  scene.origins[8] = 5e9;
  check_near(scene.on_cuda(), scene.on_cpu(), kDouble);
}

// One bad texel: the rays that do not read it are as they were, to the last bit; those that do are
// not numbers, as on the CPU, and so is every gradient that they have a part in.
TEST(what_is_not_finite_stays_in_its_rays) {
  for (double bad : {kNan, kInf, -kInf}) {
    Scene<double> scene(sized(33, 7, 5));
    const Rendered<double> clean = scene.on_cuda();
    const int64_t pixel = 2 * scene.sizes.row() + 2 * scene.sizes.pixel();
    std::fill_n(scene.planes.begin() + pixel, scene.sizes.channels, bad);
    const Rendered<double> cuda = scene.on_cuda(), cpu = scene.on_cpu();
    int touched = 0;
    for (size_t i = 0; i < cuda.outputs[0].size(); ++i) {
      const bool finite = std::isfinite(cpu.outputs[0][i]);
      CHECK_EQUAL(std::isfinite(cuda.outputs[0][i]), finite);
      if (finite) CHECK_EQUAL(cuda.outputs[0][i], clean.outputs[0][i]);
      touched += !finite;
    }
    CHECK(touched > 0 && touched < int(cuda.outputs[0].size()) / 2);
    for (size_t k = 0; k < cuda.grads[0].size(); ++k)
      CHECK_EQUAL(std::isfinite(cuda.grads[0][k]), std::isfinite(cpu.grads[0][k]));
  }
}

TEST(merge_takes_the_fine_one_first_and_is_a_permutation_whatever_comes) {
  struct Case {
    std::vector<double> coarse, fine;
    std::vector<int> order;
  };
  const Case cases[] = {{{1, 2, 3}, {0.5, 2, 2, 4}, {3, 0, 4, 5, 1, 2, 6}},
                        {{1, 2, 3}, {kNan, kNan}, {3, 4, 0, 1, 2}},
                        {{1, 2, 3}, {1.5, kNan}, {0, 3, 4, 1, 2}},
                        {{kNan, kNan}, {1, 2}, {2, 3, 0, 1}},
                        {{1, 2}, {2, 1}, {0, 2, 3, 1}}};
  for (const Case& c : cases) {
    std::vector<double> t = c.coarse, sorted(c.order.size());
    t.insert(t.end(), c.fine.begin(), c.fine.end());
    std::vector<int> order(c.order.size(), -1);
    const int coarse = int(c.coarse.size()), fine = int(c.fine.size());
    EPIGRAF_LAUNCH(merge_kernel, 1, 32, size_t(fine) * sizeof(int), nullptr, t.data(), coarse, fine,
                   order.data(), sorted.data());
    for (size_t k = 0; k < order.size(); ++k) {
      CHECK_EQUAL(order[k], c.order[k]);
      CHECK_NEAR(sorted[k], t[order[k]], 0);
    }
  }
}

TEST(draws_are_sorted) {
  for (int count : {1, 2, 5, 33, 100}) {
    const std::vector<double> u = random_values<double>(count, 0, 1, unsigned(count));
    int length = 1;
    while (length < count) length *= 2;
    std::vector<double> draws(length), expected = u;
    RenderRays<double> rays{};
    rays.rays = 1;
    rays.fine = rays.u_stride = count;
    rays.u = u.data();
    EPIGRAF_LAUNCH(sort_kernel, 1, 32, 0, nullptr, rays, draws.data(), length);
    std::sort(expected.begin(), expected.end());
    draws.resize(count);
    CHECK(draws == expected);
  }
}

// Pixels, rows, planes and rows of draws so far apart that their places need more than 32 bits, in
// memory that is reserved but hardly touched.
TEST(indices_beyond_32_bits) {
  SceneSizes sizes = sized(3, 5, 4);
  sizes.batch = 1;
  sizes.channels = 8;
  const Scene<float> scene(sizes);
  const size_t bytes = sizeof(float) * (size_t{1} << 34);
  float* memory[3];
  for (float*& block : memory) {
    void* reserved = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) return;  // address space is limited here
    block = static_cast<float*>(reserved);
  }
  const auto [planes, grad_planes, u] = memory;
  TriplaneShape sparse = scene.field().shape;
  sparse.pixel_stride = (int64_t{1} << 29) + 1024;
  sparse.row_stride = (int64_t{1} << 30) + 64;
  sparse.plane_stride = (int64_t{1} << 32) + 32768;
  const int64_t u_stride = (int64_t{1} << 32) + 3;
  const auto for_each_pixel = [&](auto body) {
    for (int64_t i = 0; i < 3 * 6 * 4; ++i) {
      const int64_t plane = i / 24, y = i / 4 % 6, x = i % 4;
      body(plane * sparse.plane_stride + y * sparse.row_stride + x * sparse.pixel_stride,
           plane * sizes.plane() + y * sizes.row() + x * sizes.pixel());
    }
  };
  for_each_pixel([&](int64_t a, int64_t b) { std::copy_n(&scene.planes[b], 8, planes + a); });
  for (int64_t ray = 0; ray < 3; ++ray) std::copy_n(&scene.u[4 * ray], 4, u + ray * u_stride);
  const auto spread = [&](auto params) {
    params.field.shape = sparse;
    params.field.planes = planes;
    params.rays.u = u;
    params.rays.u_stride = u_stride;
    return params;
  };
  Rendered<float> ours =
      scene.run([&](const auto& p) { render_forward_cuda<float>(spread(p), kStream); },
                [&](auto p) {
                  p.grad_planes = grad_planes;
                  render_backward_cuda<float>(spread(p), kStream);
                });
  for_each_pixel([&](int64_t a, int64_t b) { std::copy_n(grad_planes + a, 8, &ours.grads[0][b]); });
  check_near(ours, scene.on_cuda(), 1e-5);
  for (float* block : memory) munmap(block, bytes);
}

// A decoder whose gradients find no room in shared memory beside a warp: they go straight to
// memory.
TEST(wide_decoders_are_summed_in_memory) {
  SceneSizes sizes = sized(5, 5, 3);
  sizes.channels = 64;
  sizes.hidden = 72;
  const RenderMemory memory{64, 72, 5, 3, 8};
  CHECK(memory.backward(1, true) * 8 > 99 * 1024 && memory.backward(1, false) * 8 <= 99 * 1024);
  compare(sizes);
}

TEST(what_cannot_be_launched_is_said) {
  SceneSizes wide = sized(1, 5, 3);
  wide.channels = 128;
  wide.hidden = 256;
  CHECK_THROWS(Scene<float>(wide).on_cuda(), "render_forward: a ray needs 152960 bytes of shared");
  CHECK_EQUAL(render_shared_bytes(128, 256, 5, 3, false) > 152960, true);
  CHECK_EQUAL(render_shared_bytes(32, 64, 48, 48, false), 22464);
  const Scene<float> scene(sized(1, 5, 3));
  Rendered<float> r = scene.nothing();
  auto params = scene.forward_params(r);
  CHECK_THROWS(render_forward_cuda(params, Stream{1, nullptr}),
               "render_forward: CUDA error 101, invalid device ordinal");
  params.field.decoder.layers = 3;
  CHECK_THROWS(render_forward_cuda(params, kStream), "render_forward: two decoder layers, got 3");
}
