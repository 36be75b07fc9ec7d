// The CUDA kernels with one real thread for each CUDA thread, for ThreadSanitizer: a reduced run of
// every kernel, whose results must still be the CPU's. `./test_races broken` runs a kernel with a
// race instead, which the sanitizer must report.
#define CHECK_OWN_MAIN
#include <cstring>

#include "check.h"
#include "cuda_emulation.h"
#include "render_scene.h"

using namespace epigraf;

namespace {

const Stream kStream = {0, nullptr};

template <typename T>
void check_near(const std::vector<T>& ours, const std::vector<T>& expected, double tolerance) {
  CHECK_EQUAL(ours.size(), expected.size());
  for (size_t k = 0; k < expected.size(); ++k)
    CHECK_NEAR(double(ours[k]), double(expected[k]), tolerance);
}

// Each lane hands its left neighbour a value; without a barrier in between.
__global__ void rotate_without_barrier(int* out) {
  EPIGRAF_DYNAMIC_SHARED(int, shared);
  const int lane = int(threadIdx.x);
  shared[lane] = lane;
  __shfl_sync(~0u, lane, 0);  // meets, but orders no memory
  out[lane] = shared[(lane + 1) % warpSize];
}

__global__ void rotate(int* out) {
  EPIGRAF_DYNAMIC_SHARED(int, shared);
  const int lane = int(threadIdx.x);
  shared[lane] = lane;
  __syncwarp();
  out[lane] = shared[(lane + 1) % warpSize];
}

template <typename Kernel>
void run_rotation(Kernel kernel) {
  std::vector<int> out(warpSize);
  EPIGRAF_LAUNCH(kernel, 1, warpSize, warpSize * sizeof(int), nullptr, out.data());
  for (int lane = 0; lane < warpSize; ++lane) CHECK_EQUAL(out[lane], (lane + 1) % warpSize);
}

template <typename T>
struct TriplaneArrays {
  TriplaneShape shape = {2, 33, 8, 3, 4, 3 * 3 * 4 * 8, 3 * 4 * 8, 4 * 8, 8};
  std::vector<T> planes = random_values<T>(2 * 3 * 3 * 4 * 8, -1, 1, 1);
  std::vector<T> points = random_values<T>(2 * 33 * 3, T(-1.2), T(1.2), 2);
  std::vector<T> grad_features = random_values<T>(2 * 33 * 8, -1, 1, 3);

  template <typename Forward, typename Backward>
  std::vector<T> run(Forward forward, Backward backward) const {
    std::vector<T> features(grad_features.size()), grad_planes(planes.size()),
        grad_points(points.size());
    forward(TriplaneForward<T>{shape, planes.data(), points.data(), features.data()});
    backward(TriplaneBackward<T>{shape, planes.data(), points.data(), grad_features.data(),
                                 grad_planes.data(), grad_points.data()});
    features.insert(features.end(), grad_planes.begin(), grad_planes.end());
    features.insert(features.end(), grad_points.begin(), grad_points.end());
    return features;
  }
};

struct ActivationArrays {
  ActivationShape shape;
  std::vector<float> x = random_values<float>(2 * 36 * 40, -1, 1, 1),
                     bias = random_values<float>(36, -1, 1, 2),
                     scale = random_values<float>(2 * 36, 0.5, 1, 3),
                     noise = random_values<float>(2 * 40, -1, 1, 4), strength = {0.5};

  explicit ActivationArrays(bool channels_last) : shape{2, 36, 40, channels_last, 40, 33} {}

  template <typename Forward, typename Backward>
  std::vector<float> run(Forward forward, Backward backward) const {
    const ActivationCurve<float> curve = {0.2f, 1.4f, 1.0f};
    const size_t n = x.size();
    std::vector<float> all(2 * n + 2 * 2 * 3 * 36);
    float* y = all.data();
    forward(ActivationForward<float>{shape, curve, x.data(), bias.data(), scale.data(),
                                     noise.data(), strength.data(), y});
    backward(ActivationBackward<float>{shape, curve, x.data(), y, scale.data(), noise.data(), y + n,
                                       y + 2 * n});
    return all;
  }
};

template <typename T>
struct CompositeArrays {
  CompositeShape shape = {3, 40, 3, true};
  std::vector<T> colors = random_values<T>(360, -1, 1, 1),
                 densities = random_values<T>(120, 0, 3, 2), t = random_values<T>(120, 1, 2, 3),
                 last = {1, 1, 1};

  template <typename Forward, typename Backward>
  std::vector<T> run(Forward forward, Backward backward) const {
    std::vector<T> all(9 + 3 + 120 + 3 + 3 + 360 + 120 + 120 + 3);
    T *out = all.data(), *grad = out + 138;
    forward(CompositeForward<T>{shape,
                                colors.data(),
                                densities.data(),
                                t.data(),
                                last.data(),
                                {out, out + 9, out + 12, out + 132, out + 135}});
    backward(CompositeBackward<T>{shape,
                                  colors.data(),
                                  densities.data(),
                                  t.data(),
                                  last.data(),
                                  {colors.data(), last.data(), t.data(), last.data(), last.data()},
                                  {grad, grad + 360, grad + 480, grad + 600}});
    return all;
  }
};

}  // namespace

TEST(barriers_order_memory) {
  run_rotation(rotate);
}

TEST(triplane) {
  const TriplaneArrays<float> arrays;
  check_near(arrays.run([](const auto& p) { triplane_forward_cuda<float>(p, kStream); },
                        [](const auto& p) { triplane_backward_cuda<float>(p, kStream); }),
             arrays.run([](const auto& p) { triplane_forward_cpu<float>(p, 1); },
                        [](const auto& p) { triplane_backward_cpu<float>(p, 1); }),
             1e-4);
}

TEST(activation) {
  for (const bool last : {false, true}) {
    const ActivationArrays arrays(last);
    check_near(arrays.run([](const auto& p) { activation_forward_cuda(p, kStream); },
                          [](const auto& p) { activation_backward_cuda(p, kStream); }),
               arrays.run([](const auto& p) { activation_forward_cpu(p, 1); },
                          [](const auto& p) { activation_backward_cpu(p, 1); }),
               1e-4);
  }
}

TEST(resample) {
  for (const ResampleMap map : {ResampleMap::blur, ResampleMap::down, ResampleMap::up}) {
    for (const bool last : {false, true}) {
      const ResampleShape shape = {map, 2, 36, 6, 8, 1, last};
      const auto x = random_values<float>(2 * 36 * 6 * 8, -1, 1, 1);
      std::vector<float> ours(2 * 36 * shape.made(6) * shape.made(8)), expected(ours.size());
      resample_cuda(Resample<float>{shape, 1.5f, x.data(), ours.data()}, kStream);
      resample_cpu(Resample<float>{shape, 1.5f, x.data(), expected.data()}, 1);
      check_near(ours, expected, 1e-5);
    }
  }
}

TEST(composite) {
  const CompositeArrays<double> arrays;
  check_near(arrays.run([](const auto& p) { composite_forward_cuda<double>(p, kStream); },
                        [](const auto& p) { composite_backward_cuda<double>(p, kStream); }),
             arrays.run([](const auto& p) { composite_forward_cpu<double>(p, 1); },
                        [](const auto& p) { composite_backward_cpu<double>(p, 1); }),
             1e-10);
}

// More rays than warps, in several blocks, so that blocks and rays meet in the sums.
template <typename T>
void render_races(int64_t coarse, int64_t fine, double tolerance) {
  SceneSizes sizes;
  sizes.batch = 1;
  sizes.rays = 9;
  sizes.coarse = coarse;
  sizes.fine = fine;
  sizes.channels = 8;
  const Scene<T> scene(sizes);
  const Rendered<T> ours = scene.on_cuda(), expected = scene.on_cpu();
  for (size_t i = 0; i < 5; ++i) {
    check_near(ours.outputs[i], expected.outputs[i], tolerance);
    check_near(ours.grads[i], expected.grads[i], tolerance);
  }
}

TEST(render_two_passes) {
  render_races<double>(34, 3, 1e-10);
}

TEST(render_one_pass) {
  render_races<float>(5, 0, 1e-3);
}

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "broken") == 0) {
    run_rotation(rotate_without_barrier);
    return 0;
  }
  return check::run(argc > 1 ? argv[1] : nullptr);
}
