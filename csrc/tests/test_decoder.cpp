// The decoder: the CUDA code on the CPU against a plain loop and finite differences.
#include <algorithm>
#include <numeric>

#include "check.h"
#include "cuda_emulation.h"
#include "epigraf/decoder.h"
#include "epigraf/launch.h"
#include "random_values.h"

using namespace epigraf;
using cuda_emulation::in_every_order;

namespace {

const Stream kStream = {0, nullptr};
constexpr double kSlope = 0.2;

template <typename T>
struct Network {
  std::vector<int64_t> widths;
  std::vector<std::vector<T>> weights, biases;

  explicit Network(const std::vector<int64_t>& w, unsigned seed = 1) : widths(w) {
    for (size_t i = 0; i + 1 < w.size(); ++i) {
      weights.push_back(random_values<T>(w[i] * w[i + 1], T(-1), T(1), ++seed));
      biases.push_back(random_values<T>(w[i + 1], T(-1), T(1), ++seed));
    }
  }
  int layers() const { return int(weights.size()); }
  DecoderLayers<T> params() const {
    DecoderLayers<T> net{};
    net.layers = layers();
    net.slope = T(kSlope);
    std::copy(widths.begin(), widths.end(), net.widths);
    for (int i = 0; i < layers(); ++i) {
      net.weights[i] = weights[i].data();
      net.biases[i] = biases[i].data();
    }
    return net;
  }
};

template <typename T>
struct Problem {
  int64_t points;
  Network<T> net;
  std::vector<T> features, grad_rest, grad_last;

  Problem(const std::vector<int64_t>& widths, int64_t p)
      : points(p),
        net(widths),
        features(random_values<T>(p * widths.front(), T(-1), T(1), 101)),
        grad_rest(random_values<T>(p * (widths.back() - 1), T(-1), T(1), 102)),
        grad_last(random_values<T>(p, T(-1), T(1), 103)) {}
};

template <typename T>
struct Answer {
  std::vector<T> rest, last, grad_features;
  std::vector<std::vector<T>> grad_weights, grad_biases;
};

template <typename T>
Answer<T> on_cuda(const Problem<T>& p) {
  const auto net = p.net.params();
  const auto rubbish = [](size_t n) { return std::vector<T>(n, T(7)); };
  Answer<T> a{
      rubbish(p.grad_rest.size()), rubbish(p.grad_last.size()), rubbish(p.features.size()), {}, {}};
  decoder_forward_cuda<T>({p.points, net, p.features.data(), a.rest.data(), a.last.data()},
                          kStream);
  DecoderBackward<T> params{p.points,
                            net,
                            p.features.data(),
                            p.grad_rest.data(),
                            p.grad_last.data(),
                            a.grad_features.data(),
                            {},
                            {}};
  for (int i = 0; i < net.layers; ++i) {
    a.grad_weights.emplace_back(p.net.weights[i].size(), T(0));
    a.grad_biases.emplace_back(p.net.biases[i].size(), T(0));
  }
  for (int i = 0; i < net.layers; ++i) {
    params.grad_weights[i] = a.grad_weights[i].data();
    params.grad_biases[i] = a.grad_biases[i].data();
  }
  decoder_backward_cuda(params, kStream);
  return a;
}

// One point after the other, each layer written out.
template <typename T>
void outputs_of(const Problem<T>& p, std::vector<double>& rest, std::vector<double>& last) {
  for (int64_t i = 0; i < p.points; ++i) {
    const int64_t width = p.net.widths[0];
    std::vector<double> h(p.features.begin() + i * width, p.features.begin() + (i + 1) * width);
    for (int layer = 0; layer < p.net.layers(); ++layer) {
      std::vector<double> next(p.net.biases[layer].begin(), p.net.biases[layer].end());
      for (size_t o = 0; o < next.size(); ++o) {
        for (size_t k = 0; k < h.size(); ++k)
          next[o] += p.net.weights[layer][o * h.size() + k] * h[k];
        if (layer + 1 < p.net.layers()) next[o] *= next[o] > 0 ? 1 : kSlope;
      }
      h = next;
    }
    rest.insert(rest.end(), h.begin(), h.end() - 1);
    last.push_back(h.back());
  }
}

double loss(const Problem<double>& p) {
  std::vector<double> rest, last;
  outputs_of(p, rest, last);
  return std::inner_product(rest.begin(), rest.end(), p.grad_rest.begin(), 0.0) +
         std::inner_product(last.begin(), last.end(), p.grad_last.begin(), 0.0);
}

void check_against_finite_differences(std::vector<double>& values, const Problem<double>& p,
                                      const std::vector<double>& grad) {
  const double step = 1e-6;
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = values[i];
    values[i] = value + step;
    const double above = loss(p);
    values[i] = value - step;
    const double below = loss(p);
    values[i] = value;
    CHECK_NEAR(grad[i], (above - below) / (2 * step), 1e-7);
  }
}

template <typename T>
void check_equal(const std::vector<T>& a, const std::vector<double>& b, double tolerance) {
  CHECK_EQUAL(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    CHECK_NEAR(double(a[i]), b[i], tolerance * std::fmax(1.0, std::fabs(b[i])));
}

template <typename T>
void check_forward(const std::vector<int64_t>& widths, int64_t points, double tolerance) {
  const Problem<T> p(widths, points);
  const Answer<T> a = on_cuda(p);
  std::vector<double> rest, last;
  outputs_of(p, rest, last);
  check_equal(a.rest, rest, tolerance);
  check_equal(a.last, last, tolerance);
}

// The gradients of all parameters and features, one after the other.
template <typename T>
std::vector<double> all_grads(const Answer<T>& a) {
  std::vector<double> all(a.grad_features.begin(), a.grad_features.end());
  for (const auto* list : {&a.grad_weights, &a.grad_biases})
    for (const auto& grads : *list) all.insert(all.end(), grads.begin(), grads.end());
  return all;
}

}  // namespace

// x = (1, -2); h = leaky(1 - 2 * 2, 1) = (-0.6, 1); rest = 2 h_0 + h_1, last = h_1 - 1.
TEST(worked_values_and_gradients) {
  Problem<double> p({2, 2, 2}, 1);
  p.net.weights = {{1, 2, 1, 0}, {2, 1, 0, 1}};
  p.net.biases = {{0, 0}, {0, -1}};
  p.features = {1, -2};
  p.grad_rest = {1};
  p.grad_last = {10};
  const Answer<double> a = on_cuda(p);
  CHECK_NEAR(a.rest[0], -0.2, 1e-15);
  CHECK_NEAR(a.last[0], 0.0, 1e-15);
  // dL/dh = (2, 1 + 10); before the nonlinearity (0.4, 11).
  CHECK_NEAR(a.grad_biases[0][0], 0.4, 1e-15);
  CHECK_NEAR(a.grad_biases[0][1], 11, 1e-15);
  CHECK_NEAR(a.grad_weights[0][1], -0.8, 1e-15);
  CHECK_NEAR(a.grad_features[0], 0.4 + 11, 1e-15);
  CHECK_NEAR(a.grad_features[1], 0.8, 1e-15);
  CHECK_NEAR(a.grad_weights[1][0], -0.6, 1e-15);
  CHECK_NEAR(a.grad_weights[1][3], 10, 1e-15);
}

TEST(outputs_at_all_sizes) {
  for (const int64_t points : {0, 1, 31, 33, 64, 65, 200}) {
    check_forward<double>({32, 64, 4}, points, 1e-12);
    check_forward<float>({32, 64, 4}, points, 1e-4);
    check_forward<double>({3, 4}, points, 1e-12);
    check_forward<double>({1, 7, 5, 9, 2}, points, 1e-11);
  }
}

TEST(gradients_are_finite_differences) {
  for (const auto& widths : std::vector<std::vector<int64_t>>{{3, 4}, {5, 9, 4}, {2, 6, 7, 3}}) {
    Problem<double> p(widths, 9);
    const Answer<double> a = on_cuda(p);
    check_against_finite_differences(p.features, p, a.grad_features);
    for (int i = 0; i < p.net.layers(); ++i) {
      check_against_finite_differences(p.net.weights[i], p, a.grad_weights[i]);
      check_against_finite_differences(p.net.biases[i], p, a.grad_biases[i]);
    }
  }
}

// Tiles of 64 points with everything in shared memory, and smaller ones with less and less of it.
TEST(gradients_do_not_depend_on_what_fits) {
  for (const auto& widths :
       std::vector<std::vector<int64_t>>{{32, 64, 4}, {32, 64, 64, 4}, {64, 128, 128, 8}}) {
    const Problem<double> p(widths, 100);
    Problem<float> single(widths, 100);
    const std::vector<double> expected = all_grads(on_cuda(p));
    check_equal(all_grads(on_cuda(single)), expected, 2e-3);
    std::vector<double> halves(expected.size(), 0.0);  // features aside, gradients add up
    const int64_t width = widths.front(), outputs = widths.back() - 1;
    for (const int64_t begin : {0, 50}) {
      Problem<double> part = p;
      part.points = 50;
      part.features.assign(&p.features[begin * width], &p.features[begin * width] + 50 * width);
      part.grad_rest.assign(&p.grad_rest[begin * outputs],
                            &p.grad_rest[begin * outputs] + 50 * outputs);
      part.grad_last.assign(&p.grad_last[begin], &p.grad_last[begin] + 50);
      const std::vector<double> grads = all_grads(on_cuda(part));
      for (size_t i = 50 * width; i < grads.size(); ++i) halves[i + 50 * width] += grads[i];
      std::copy(grads.begin(), grads.begin() + 50 * width, halves.begin() + begin * width);
    }
    check_equal(halves, expected, 1e-11);
  }
}

TEST(kernels_in_every_order) {
  const Problem<float> p({8, 16, 4}, 150);
  const Problem<double> exact({8, 16, 4}, 150);
  const Answer<float> first = on_cuda(p);
  const std::vector<double> expected = all_grads(on_cuda(exact));
  in_every_order([&] {
    const Answer<float> a = on_cuda(p);
    CHECK(a.rest == first.rest && a.last == first.last);
    CHECK(a.grad_features == first.grad_features);
    check_equal(all_grads(a), expected, 1e-3);
  });
}

TEST(only_what_is_asked_for) {
  const Problem<double> p({5, 9, 4}, 40);
  const Answer<double> all = on_cuda(p);
  std::vector<double> weights(p.net.weights[0].size(), 0.0), biases(4, 0.0);
  DecoderBackward<double> params{p.points,
                                 p.net.params(),
                                 p.features.data(),
                                 p.grad_rest.data(),
                                 p.grad_last.data(),
                                 nullptr,
                                 {},
                                 {}};
  params.grad_weights[0] = weights.data();
  params.grad_biases[1] = biases.data();
  decoder_backward_cuda(params, kStream);
  check_equal(weights, all.grad_weights[0], 1e-12);
  check_equal(biases, all.grad_biases[1], 1e-12);
}

TEST(missing_gradients_are_zero) {
  Problem<double> p({5, 9, 4}, 40);
  std::fill(p.grad_rest.begin(), p.grad_rest.end(), 0.0);
  const Answer<double> expected = on_cuda(p);
  std::vector<double> features(p.features.size());
  DecoderBackward<double> params{
      p.points, p.net.params(), p.features.data(), nullptr, p.grad_last.data(), features.data(), {},
      {}};
  decoder_backward_cuda(params, kStream);
  check_equal(features, expected.grad_features, 1e-12);
}

TEST(a_bad_feature_stays_in_its_point) {
  Problem<double> p({5, 9, 4}, 70);
  const Answer<double> clean = on_cuda(p);
  p.features[10 * 5 + 3] = std::numeric_limits<double>::quiet_NaN();
  const Answer<double> a = on_cuda(p);
  for (int64_t i = 0; i < 70 * 3; ++i)
    CHECK(i / 3 == 10 ? std::isnan(a.rest[i]) : a.rest[i] == clean.rest[i]);
  for (int64_t i = 0; i < 70 * 5; ++i)
    if (i / 5 != 10) CHECK_EQUAL(a.grad_features[i], clean.grad_features[i]);
}

TEST(too_wide_and_wrong_device) {
  const Problem<float> wide({2000, 8, 4}, 1);
  CHECK_THROWS(on_cuda(wide), "decoder_forward: the layers are too wide");
  const Problem<float> p({2, 2}, 1);
  float out[2];
  CHECK_THROWS((decoder_forward_cuda<float>({1, p.net.params(), p.features.data(), out, out + 1},
                                            Stream{1, nullptr})),
               "decoder_forward: CUDA error 101, invalid device ordinal");
}
