// A field, rays through it and everything that the fused renderer makes of them, in memory; for the
// tests that hold the CUDA kernels against the CPU's.
//
// Legend: B batch, R rays, S coarse and F fine samples, N = S + F, C channels, H W plane size.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "epigraf/launch.h"
#include "random_values.h"

struct SceneSizes {
  int64_t batch = 2, rays = 33, coarse = 7, fine = 5, channels = 5, hidden = 6, height = 6,
          width = 4;
  int64_t pixel_padding = 0, row_padding = 0, batch_padding = 0;  // unused elements

  int64_t all_rays() const { return batch * rays; }
  int64_t samples() const { return coarse + fine; }
  int64_t pixel() const { return channels + pixel_padding; }
  int64_t row() const { return pixel() * width + row_padding; }
  int64_t plane() const { return row() * height; }
  int64_t element() const { return plane() * 3 + batch_padding; }
};

// Results: features, depth, opacity, transmittance, saved; gradients of planes, weights and biases.
template <typename T>
struct Rendered {
  std::vector<std::vector<T>> outputs, grads;
};

template <typename T>
struct Scene {
  SceneSizes sizes;
  std::vector<T> planes, weight0, bias0, weight1, bias1, origins, directions, near, far, last, even,
      jitter, u, coarse_noise, final_noise;
  epigraf::RenderMarch<T> march = {T(0.1), T(1.5), T(0.3), false, false, false, T(0), T(0.6)};
  epigraf::RenderSeeds seeds = {};
  T prior = T(0.4);
  std::vector<bool> grad_given = {true, true, true, true};  // features, depth, opacity, transmit.
  bool grad_of_planes = true;

  explicit Scene(const SceneSizes& s) : sizes(s) {
    auto fill = [seed = 1u](int64_t count, double low, double high) mutable {
      return random_values<T>(count, T(low), T(high), seed++);
    };
    planes = fill(s.batch * s.element(), -1, 1);
    weight0 = fill(s.hidden * s.channels, -1, 1);
    bias0 = fill(s.hidden, -1, 1);
    weight1 = fill(4 * s.hidden, -1, 1);
    bias1 = fill(4, -1, 1);
    origins = fill(s.all_rays() * 3, -0.3, 0.3);
    directions = fill(s.all_rays() * 3, -0.9, 0.9);  // some samples fall outside the planes
    near.assign(s.all_rays(), T(0.1));
    far.assign(s.all_rays(), T(1.4));
    last.assign(s.all_rays(), T(0.3));
    even.resize(s.coarse);
    for (int64_t k = 0; k < s.coarse; ++k) even[k] = T(k) / T(s.coarse - 1);
    jitter = fill(s.all_rays() * s.coarse, 0, 1);
    u = fill(s.all_rays() * s.fine, 0, 1);
    coarse_noise = fill(s.all_rays() * s.coarse, -1, 1);
    final_noise = fill(s.all_rays() * s.samples(), -1, 1);
  }

  epigraf::RenderField<T> field() const {
    epigraf::RenderField<T> f{};
    f.shape = {sizes.batch,   0,           sizes.channels,
               sizes.height,  sizes.width, sizes.element(),
               sizes.plane(), sizes.row(), sizes.pixel()};
    f.planes = planes.data();
    f.decoder = {2,
                 {sizes.channels, sizes.hidden, 4},
                 {weight0.data(), weight1.data()},
                 {bias0.data(), bias1.data()},
                 T(0.2)};
    f.cube_scale = T(1.1);
    f.prior_strength = prior;
    f.prior_slope = 2 * prior;
    return f;
  }

  // Null for an empty array: not wanted, or drawn from the seed.
  epigraf::RenderRays<T> marched() const {
    const auto data = [](const std::vector<T>& x) { return x.empty() ? nullptr : x.data(); };
    epigraf::RenderRays<T> r{};
    r.rays = sizes.rays;
    r.coarse = sizes.coarse;
    r.fine = sizes.fine;
    r.origins = origins.data();
    r.directions = directions.data();
    r.near = near.data();
    r.far = far.data();
    r.last_delta = last.data();
    r.even = even.data();
    r.jitter = data(jitter);
    r.coarse_noise = data(coarse_noise);
    r.u = data(u);
    r.final_noise = data(final_noise);
    r.u_stride = sizes.fine;
    r.seeds = seeds;
    return r;
  }

  Rendered<T> nothing() const {
    const int64_t all = sizes.all_rays();
    Rendered<T> r;
    for (int64_t count : {all * 3, all, all, all, all * epigraf::kSaved * sizes.samples()})
      r.outputs.emplace_back(size_t(count), T(7));  // overwritten
    for (const auto* x : {&planes, &weight0, &weight1, &bias0, &bias1})
      r.grads.emplace_back(x->size(), T(0));
    return r;
  }

  epigraf::RenderForward<T> forward_params(Rendered<T>& r) const {
    auto& o = r.outputs;
    return {field(),     march,       marched(),   o[0].data(),
            o[1].data(), o[2].data(), o[3].data(), o[4].empty() ? nullptr : o[4].data(),
            {},          nullptr};
  }

  // The gradient of output i.
  std::vector<T> slope(int i, size_t count) const {
    std::vector<T> values(count);
    for (size_t k = 0; k < count; ++k)
      values[k] = static_cast<T>(std::sin(1.0 + 3 * i + double(k)));
    return values;
  }

  // Runs both passes by `forward(params)` and `backward(params)`.
  template <typename Forward, typename Backward>
  Rendered<T> run(Forward forward, Backward backward) const {
    Rendered<T> r = nothing();
    forward(forward_params(r));
    std::vector<std::vector<T>> slopes;
    for (int i = 0; i < 4; ++i) slopes.push_back(slope(i, r.outputs[i].size()));
    const auto grad = [&](int i) { return grad_given[i] ? slopes[i].data() : nullptr; };
    auto& g = r.grads;
    backward(epigraf::RenderBackward<T>{field(),
                                        march,
                                        marched(),
                                        r.outputs[4].data(),
                                        grad(0),
                                        grad(1),
                                        grad(2),
                                        grad(3),
                                        grad_of_planes ? g[0].data() : nullptr,
                                        {g[1].data(), g[2].data()},
                                        {g[3].data(), g[4].data()}});
    return r;
  }

  Rendered<T> on_cpu() const {
    return run([](const auto& p) { epigraf::render_forward_cpu<T>(p, 1); },
               [](const auto& p) { epigraf::render_backward_cpu<T>(p, 1); });
  }
  Rendered<T> on_cuda() const {
    const epigraf::Stream stream = {0, nullptr};
    return run([&](const auto& p) { epigraf::render_forward_cuda<T>(p, stream); },
               [&](const auto& p) { epigraf::render_backward_cuda<T>(p, stream); });
  }
};
