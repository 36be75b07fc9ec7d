// The fused field renderer: a few rays at a time, tile after tile of their points, in the caches of
// one core. Forward: rays are dealt out dynamically, each is computed alone, and no result depends
// on the number of threads. Backward: each thread owns a contiguous share of the rays, sums into
// memory of its own, and the sums are added in the order of the threads.
#include "epigraf/render.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <vector>

#include "epigraf/launch.h"
#include "field_tile.h"

namespace epigraf {
namespace {

constexpr int64_t kPointsPerBundle = 1024;  // their depths and outputs stay in the second level
constexpr int64_t kMaxRays = 64;

template <typename T>
int64_t samples_of(const RenderRays<T>& r) {
  return r.coarse + r.fine;
}

// Rays [first, last), all of one batch element.
struct Bundle {
  int64_t first, last;
};

// Samples of a bundle, ray after ray: t [rays][n] and outputs [kOutputs][rays][n], for n samples.
template <typename T>
struct SampleSet {
  T* t;
  T* out[kOutputs];
  int64_t per_ray;

  SampleSet(Arena<T>& arena, int64_t rays, int64_t n, int64_t padding) : per_ray(n) {
    t = arena.take(rays * n);
    for (T*& row : out) row = arena.take(rays * n + padding);
  }
  static int64_t memory(int64_t rays, int64_t n, int64_t padding) {
    return Arena<T>::round(rays * n) + kOutputs * Arena<T>::round(rays * n + padding);
  }
};

// Everything that one thread works with.
template <typename T, int kBytes>
struct Renderer {
  using Tile = FieldTile<T, kBytes>;
  using S = typename Tile::S;
  using V = typename Tile::V;
  static constexpr int kTile = Tile::kPoints, kLanes = S::kLanes;

  const RenderField<T>& field;
  const RenderMarch<T>& march;
  const RenderRays<T>& rays;
  int64_t bundle_rays;  // at most
  Arena<T> arena;
  Tile tile;
  SampleSet<T> coarse, fine, merged;
  T* coords[3];  // of a sample set
  T* raw;        // of one ray, with noise and shift, then its densities
  T* decay;      // of one ray
  T* weights;    // of one ray
  T* cdf;        // of one ray, then its draws
  T* draws;
  int64_t* list;  // points of a bundle that have a gradient
  std::vector<int64_t> list_memory;

  static int64_t rays_in_bundle(const RenderRays<T>& r) {
    return std::clamp<int64_t>(kPointsPerBundle / std::max<int64_t>(samples_of(r), 1), 1, kMaxRays);
  }
  static int64_t row_memory(const RenderRays<T>& r) {
    return Arena<T>::round(samples_of(r) + kTile);
  }
  static int64_t memory(const RenderField<T>& f, const RenderRays<T>& r, bool backward) {
    const int64_t n = rays_in_bundle(r), all = samples_of(r);
    return Tile::memory(f.decoder, backward) + SampleSet<T>::memory(n, r.coarse, kTile) +
           SampleSet<T>::memory(n, r.fine, kTile) + SampleSet<T>::memory(n, all, kTile) +
           3 * Arena<T>::round(n * all + kTile) + 5 * row_memory(r);
  }

  Renderer(const RenderField<T>& f, const RenderMarch<T>& m, const RenderRays<T>& r, bool backward)
      : field(f),
        march(m),
        rays(r),
        bundle_rays(rays_in_bundle(r)),
        arena(memory(f, r, backward)),
        tile(field, arena, backward),
        coarse(arena, bundle_rays, r.coarse, kTile),
        fine(arena, bundle_rays, r.fine, kTile),
        merged(arena, bundle_rays, samples_of(r), kTile) {
    for (T*& row : coords) row = arena.take(bundle_rays * samples_of(r) + kTile);
    raw = arena.take(row_memory(r));
    decay = arena.take(row_memory(r));
    weights = arena.take(row_memory(r));
    cdf = arena.take(row_memory(r));
    draws = arena.take(row_memory(r));
    if (backward) list_memory.resize(bundle_rays * samples_of(r));
    list = list_memory.data();
  }

  // Which batch element the tile reads.
  EPIGRAF_HD void enter(const Bundle& bundle) {
    tile.planes = field.planes + bundle.first / rays.rays * field.shape.batch_stride;
  }

  // Plane coordinates of the samples at t.
  EPIGRAF_HD void place(const Bundle& bundle, const T* t, int64_t per_ray) {
    for (int64_t i = 0; i < bundle.last - bundle.first; ++i) {
      const T* origin = rays.origins + 3 * (bundle.first + i);
      const T* direction = rays.directions + 3 * (bundle.first + i);
      for (int axis = 0; axis < 3; ++axis) {
        const T o = origin[axis], d = direction[axis], scale = field.cube_scale;
        T* to = coords[axis] + i * per_ray;
        EPIGRAF_SIMD
        for (int64_t k = 0; k < per_ray; ++k) to[k] = (o + d * t[i * per_ray + k]) / scale;
      }
    }
  }

  // The field at all samples of a set.
  EPIGRAF_HD void evaluate(const Bundle& bundle, SampleSet<T>& set) {
    place(bundle, set.t, set.per_ray);
    const int64_t count = (bundle.last - bundle.first) * set.per_ray;
    for (int64_t p = 0; p < count; p += kTile) {
      for (int axis = 0; axis < 3; ++axis) {
        std::copy_n(coords[axis] + p, kTile, tile.coords[axis]);
      }
      tile.evaluate(static_cast<int>(std::min<int64_t>(kTile, count - p)));
      const T* out = tile.rows[field.decoder.layers];
      for (int o = 0; o < kOutputs; ++o) std::copy_n(out + o * kTile, kTile, set.out[o] + p);
    }
  }

  // (render 2): densities of one ray [n] into raw; noise may be null.
  EPIGRAF_HD void activate(const T* from, const T* noise, int64_t n) {
    for (int64_t k = 0; k < n; ++k) {
      raw[k] = (noise ? from[k] + march.noise_std * noise[k] : from[k]) + march.shift;
    }
    for (int64_t k = 0; k < n; k += kLanes) {
      const V x = S::load(raw + k);
      const V sigma = march.relu ? choose(x < V{}, V{}, x) : softplus_vector<S>(x);
      S::store(raw + k, sigma * march.gain);
    }
  }

  // (render 2'): its derivative at `from`, into raw.
  EPIGRAF_HD void activate_vjp(const T* from, const T* noise, int64_t n) {
    for (int64_t k = 0; k < n; ++k) {
      raw[k] = (noise ? from[k] + march.noise_std * noise[k] : from[k]) + march.shift;
    }
    for (int64_t k = 0; k < n; k += kLanes) {
      const V x = S::load(raw + k);
      const V slope = march.relu ? choose(x > V{}, S::splat(1), x - x) : sigmoid_vector<S>(x);
      S::store(raw + k, slope * march.gain);
    }
  }

  EPIGRAF_HD T delta(int64_t ray, const T* t, int64_t k, int64_t n) const {
    return render_delta(t, k, n, march.finite_interval, rays.far[ray], rays.last_delta[ray]);
  }

  // (composite 1, 2): exp(-delta sigma) of one ray; densities in raw.
  EPIGRAF_HD void find_decay(int64_t ray, const T* t, int64_t n) {
    for (int64_t k = 0; k < n; ++k) decay[k] = -delta(ray, t, k, n) * raw[k];
    for (int64_t k = 0; k < n; k += kLanes) {
      S::store(decay + k, exp_vector<S>(S::load(decay + k)));
    }
  }

  // Samples of the first pass.
  EPIGRAF_HD void stratify(const Bundle& bundle) {
    const int64_t n = rays.coarse;
    for (int64_t i = 0; i < bundle.last - bundle.first; ++i) {
      const int64_t ray = bundle.first + i;
      const T* jitter = rays.jitter ? rays.jitter + ray * n : nullptr;
      for (int64_t k = 0; k < n; ++k) {
        coarse.t[i * n + k] =
            stratified_depth(rays.even, k, n, jitter, rays.near[ray], rays.far[ray]);
      }
    }
  }

  // Depths of the second pass, from the weights of the first.
  EPIGRAF_HD void refine(const Bundle& bundle) {
    const int64_t n = rays.coarse, fresh = rays.fine;
    for (int64_t i = 0; i < bundle.last - bundle.first; ++i) {
      const int64_t ray = bundle.first + i;
      const T* t = coarse.t + i * n;
      activate(coarse.out[kOutputs - 1] + i * n,
               rays.coarse_noise ? rays.coarse_noise + ray * n : nullptr, n);
      find_decay(ray, t, n);
      Carry transmittance = 1;
      for (int64_t k = 0; k < n; ++k) weights[k] = composite_step_decay(decay[k], transmittance);
      importance_cdf(weights, n, cdf);
      sort_draws(rays.u + ray * rays.u_stride, fresh);
      importance_depths(t, cdf, n, draws, fresh, fine.t + i * fresh);
    }
  }

  // u, ascending, into draws. Spread evenly as they are, one pass into buckets nearly sorts them.
  EPIGRAF_HD void sort_draws(const T* u, int64_t count) {
    constexpr int kBuckets = 64;
    int64_t starts[kBuckets + 1] = {};
    const auto bucket = [](T x) EPIGRAF_INLINE_LAMBDA {
      return x > T(0) ? (x < T(1) ? static_cast<int>(x * T(kBuckets)) : kBuckets - 1) : 0;
    };
    for (int64_t k = 0; k < count; ++k) ++starts[bucket(u[k]) + 1];
    for (int b = 0; b < kBuckets; ++b) starts[b + 1] += starts[b];
    for (int64_t k = 0; k < count; ++k) draws[starts[bucket(u[k])]++] = u[k];
    insertion_sort(draws, count);
  }

  // Both sets of one ray by depth, a fine sample before a coarse one of the same depth.
  EPIGRAF_HD void merge(int64_t i) {
    const int64_t n = rays.coarse, fresh = rays.fine, all = n + fresh;
    const T *a = fine.t + i * fresh, *b = coarse.t + i * n;
    int64_t from_fine = 0, from_coarse = 0;
    for (int64_t k = 0; k < all; ++k) {
      const bool take_fine =
          from_fine < fresh && (from_coarse == n || !(b[from_coarse] < a[from_fine]));
      const SampleSet<T>& set = take_fine ? fine : coarse;
      const int64_t at = take_fine ? i * fresh + from_fine++ : i * n + from_coarse++;
      merged.t[i * all + k] = set.t[at];
      for (int o = 0; o < kOutputs; ++o) merged.out[o][i * all + k] = set.out[o][at];
    }
  }

  // (composite 2-5) of one ray: features, depth, opacity, transmittance.
  EPIGRAF_HD void integrate(const RenderForward<T>& p, int64_t ray, int64_t i,
                            const SampleSet<T>& set) {
    const int64_t n = set.per_ray;
    const T* t = set.t + i * n;
    activate(set.out[kOutputs - 1] + i * n, rays.final_noise ? rays.final_noise + ray * n : nullptr,
             n);
    find_decay(ray, t, n);
    Carry depth = 0, opacity = 0, transmittance = 1, before_last = 1, sum[3] = {};
    for (int64_t k = 0; k < n; ++k) {
      before_last = transmittance;
      T weight = composite_step_decay(decay[k], transmittance);
      opacity += weight;
      if (march.last_back && k + 1 == n) weight += static_cast<T>(1 - opacity);
      depth += static_cast<Carry>(weight) * t[k];
      for (int c = 0; c < 3; ++c) sum[c] += static_cast<Carry>(weight) * set.out[c][i * n + k];
    }
    for (int c = 0; c < 3; ++c) p.features[3 * ray + c] = static_cast<T>(sum[c]);
    p.depth[ray] = static_cast<T>(depth);
    p.opacity[ray] = static_cast<T>(opacity);
    p.transmittance[ray] = static_cast<T>(before_last);
  }

  EPIGRAF_HD void save(T* saved, int64_t ray, int64_t i, const SampleSet<T>& set) const {
    const int64_t n = set.per_ray;
    T* row = saved + ray * kSaved * n;
    for (int o = 0; o < kOutputs; ++o) std::copy_n(set.out[o] + i * n, n, row + o * n);
    std::copy_n(set.t + i * n, n, row + kOutputs * n);
  }

  EPIGRAF_HD void forward(const RenderForward<T>& p, const Bundle& bundle) {
    enter(bundle);
    stratify(bundle);
    evaluate(bundle, coarse);
    if (rays.fine > 0) {
      refine(bundle);
      evaluate(bundle, fine);
    }
    const SampleSet<T>& set = rays.fine > 0 ? merged : coarse;
    for (int64_t ray = bundle.first; ray < bundle.last; ++ray) {
      const int64_t i = ray - bundle.first;
      if (rays.fine > 0) merge(i);
      integrate(p, ray, i, set);
      if (p.saved) save(p.saved, ray, i, set);
    }
  }

  // Gradient of one ray's outputs with respect to its samples' (composite 6-9), into merged.out.
  EPIGRAF_HD void integrate_vjp(const RenderBackward<T>& p, int64_t ray, int64_t i) {
    const int64_t n = merged.per_ray;
    const T* saved = p.saved + ray * kSaved * n;
    const T *t = saved + kOutputs * n, *from = saved + (kOutputs - 1) * n;
    const T* noise = rays.final_noise ? rays.final_noise + ray * n : nullptr;
    activate(from, noise, n);
    find_decay(ray, t, n);
    activate_vjp(from, noise, n);
    const T* gf = p.grad_features ? p.grad_features + 3 * ray : nullptr;
    const T grad_depth = p.grad_depth ? p.grad_depth[ray] : T(0);
    Carry opacity = 0, transmittance = 1;
    for (int64_t k = 0; k < n; ++k) {
      cdf[k] = static_cast<T>(transmittance);  // T_k
      T weight = composite_step_decay(decay[k], transmittance);
      opacity += weight;
      if (march.last_back && k + 1 == n) weight += static_cast<T>(1 - opacity);
      T slope = grad_depth * t[k];
      for (int c = 0; c < 3; ++c) {
        merged.out[c][i * n + k] = gf ? weight * gf[c] : T(0);
        if (gf) slope += gf[c] * saved[c * n + k];
      }
      weights[k] = slope;  // dL/d weight k
    }
    const T grad_last = march.last_back ? weights[n - 1] : T(0);
    const T grad_opacity = (p.grad_opacity ? p.grad_opacity[ray] : T(0)) - grad_last;
    Carry carry = 0;
    for (int64_t k = n - 1; k >= 0; --k) {
      const T grad = composite_step_decay_vjp(decay[k], cdf[k], weights[k] + grad_opacity, carry);
      if (k + 1 == n && p.grad_transmittance) carry += p.grad_transmittance[ray];
      merged.out[kOutputs - 1][i * n + k] = grad * delta(ray, t, k, n) * raw[k];
      merged.t[i * n + k] = t[k];
    }
  }

  // Samples of a bundle whose outputs have a gradient at all.
  EPIGRAF_HD int64_t find_list(int64_t count) {
    int64_t found = 0;
    for (int64_t k = 0; k < count; ++k) {
      bool zero = true;
      for (int o = 0; o < kOutputs; ++o) zero = zero && merged.out[o][k] == T(0);
      if (!zero) list[found++] = k;
    }
    return found;
  }

  // grad_planes is that of the batch element, or null.
  EPIGRAF_HD void backward(const RenderBackward<T>& p, const Bundle& bundle, T* grad_planes) {
    enter(bundle);
    const int64_t n = merged.per_ray;
    for (int64_t ray = bundle.first; ray < bundle.last; ++ray) {
      integrate_vjp(p, ray, ray - bundle.first);
    }
    place(bundle, merged.t, n);
    const int64_t found = find_list((bundle.last - bundle.first) * n);
    for (int64_t first = 0; first < found; first += kTile) {
      const int count = static_cast<int>(std::min<int64_t>(kTile, found - first));
      for (int k = 0; k < kTile; ++k) {
        const int64_t at = list[first + std::min(k, count - 1)];
        for (int axis = 0; axis < 3; ++axis) tile.coords[axis][k] = coords[axis][at];
        for (int o = 0; o < kOutputs; ++o) {
          tile.grad_rows[0][o * kTile + k] = k < count ? merged.out[o][at] : T(0);
        }
      }
      tile.evaluate(count);
      tile.backward(count, grad_planes);
    }
  }
};

// The rays of one thread, by batch element; the first one may have begun in another thread's share.
struct Share {
  int64_t first, last;
};

inline Share share_of(int thread, int threads, int64_t rays) {
  return {rays * thread / threads, rays * (thread + 1) / threads};
}

// Runs a bundle, or a share, in the widest vectors that the processor has.
template <typename T, int kBytes>
EPIGRAF_HD void forward_bundle(const RenderForward<T>& p, void* renderer, const Bundle& bundle) {
  static_cast<Renderer<T, kBytes>*>(renderer)->forward(p, bundle);
}

template <typename T, int kBytes>
EPIGRAF_HD void backward_bundle(const RenderBackward<T>& p, void* renderer, const Bundle& bundle,
                                T* grad_planes) {
  static_cast<Renderer<T, kBytes>*>(renderer)->backward(p, bundle, grad_planes);
}

#define EPIGRAF_RENDER_CLONE(target, T, bytes)                                   \
  target void forward_##T##_##bytes(const RenderForward<T>& p, void* renderer,   \
                                    const Bundle& bundle) {                      \
    forward_bundle<T, bytes>(p, renderer, bundle);                               \
  }                                                                              \
  target void backward_##T##_##bytes(const RenderBackward<T>& p, void* renderer, \
                                     const Bundle& bundle, T* grad_planes) {     \
    backward_bundle<T, bytes>(p, renderer, bundle, grad_planes);                 \
  }                                                                              \
  template <>                                                                    \
  struct Clone<T, bytes> {                                                       \
    static constexpr auto forward = forward_##T##_##bytes;                       \
    static constexpr auto backward = backward_##T##_##bytes;                     \
  };

template <typename T, int kBytes>
struct Clone;

EPIGRAF_RENDER_CLONE(, float, 16)
EPIGRAF_RENDER_CLONE(, double, 16)
#if defined(EPIGRAF_HAS_CLONES)
EPIGRAF_RENDER_CLONE(__attribute__((target("arch=x86-64-v3"))), float, 32)
EPIGRAF_RENDER_CLONE(__attribute__((target("arch=x86-64-v3"))), double, 32)
EPIGRAF_RENDER_CLONE(__attribute__((target("arch=x86-64-v4"))), float, 64)
EPIGRAF_RENDER_CLONE(__attribute__((target("arch=x86-64-v4"))), double, 64)
#endif

// Calls body(bytes) with the width of this processor's vectors.
template <typename Body>
void with_vectors(Body body) {
#if defined(EPIGRAF_HAS_CLONES)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return body(std::integral_constant<int, 64>{});
  if (__builtin_cpu_supports("x86-64-v3")) return body(std::integral_constant<int, 32>{});
#endif
  body(std::integral_constant<int, 16>{});
}

// Keeps the first exception of a team of threads: none may leave an OpenMP region.
class FirstError {
 public:
  template <typename Body>
  void run(Body body) {
    try {
      body();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

// Bundles of whole rays of one batch element within [first, last).
template <typename Body>
void for_bundles(int64_t first, int64_t last, int64_t per_element, int64_t size, Body body) {
  while (first < last) {
    const int64_t end = (first / per_element + 1) * per_element;
    const Bundle bundle{first, std::min({first + size, last, end})};
    body(bundle);
    first = bundle.last;
  }
}

template <typename T, int kBytes>
void forward_all(const RenderForward<T>& p, int threads) {
  std::vector<Bundle> bundles;
  const int64_t rays = p.field.shape.batch * p.rays.rays;
  for_bundles(0, rays, p.rays.rays, Renderer<T, kBytes>::rays_in_bundle(p.rays),
              [&](const Bundle& bundle) { bundles.push_back(bundle); });
  const int64_t count = static_cast<int64_t>(bundles.size());
  FirstError error;
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<Renderer<T, kBytes>> renderer;
    error.run(
        [&] { renderer = std::make_unique<Renderer<T, kBytes>>(p.field, p.march, p.rays, false); });
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count; ++i) {
      if (renderer) Clone<T, kBytes>::forward(p, renderer.get(), bundles[i]);
    }
  }
  error.rethrow();
}

// What one thread of the backward pass adds up for itself.
template <typename T, int kBytes>
struct Partial {
  std::unique_ptr<Renderer<T, kBytes>> renderer;
  int64_t element = -1;        // that was begun by another thread, or none
  std::vector<T> grad_planes;  // of this element
};

template <typename T, int kBytes>
void backward_share(const RenderBackward<T>& p, const Share& share, Partial<T, kBytes>& partial) {
  partial.renderer = std::make_unique<Renderer<T, kBytes>>(p.field, p.march, p.rays, true);
  const int64_t per_element = p.rays.rays, stride = p.field.shape.batch_stride;
  if (p.grad_planes && share.first < share.last && share.first % per_element != 0) {
    partial.element = share.first / per_element;
    partial.grad_planes.assign(stride, T(0));
  }
  for_bundles(share.first, share.last, per_element, partial.renderer->bundle_rays,
              [&](const Bundle& bundle) {
                const int64_t element = bundle.first / per_element;
                T* grad = p.grad_planes ? p.grad_planes + element * stride : nullptr;
                if (element == partial.element) grad = partial.grad_planes.data();
                Clone<T, kBytes>::backward(p, partial.renderer.get(), bundle, grad);
              });
}

// Adds a thread's sums to the results.
template <typename T, int kBytes>
void add_partial(const RenderBackward<T>& p, const Partial<T, kBytes>& partial) {
  const DecoderLayers<T>& d = p.field.decoder;
  const auto& tile = partial.renderer->tile;
  for (int i = 0; i < d.layers; ++i) {
    const int64_t in = d.widths[i], out = d.widths[i + 1], stride = tile.whole(in);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < in; ++k) {
        p.grad_weights[i][o * in + k] += tile.grad_weights[i][o * stride + k];
      }
      p.grad_biases[i][o] += tile.grad_biases[i][o];
    }
  }
  if (partial.element < 0) return;
  T* to = p.grad_planes + partial.element * p.field.shape.batch_stride;
  const T* from = partial.grad_planes.data();
  for (int64_t k = 0; k < p.field.shape.batch_stride; ++k) to[k] += from[k];
}

template <typename T, int kBytes>
void backward_all(const RenderBackward<T>& p, int threads) {
  const int64_t rays = p.field.shape.batch * p.rays.rays;
  if (rays == 0) return;
  std::vector<Partial<T, kBytes>> partials(threads);
  FirstError error;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; ++i) {
    error.run([&] { backward_share(p, share_of(i, threads, rays), partials[i]); });
  }
  error.rethrow();
  for (const auto& partial : partials) add_partial(p, partial);
}

}  // namespace

template <typename T>
void render_forward_cpu(const RenderForward<T>& params, int threads) {
  with_vectors([&](auto bytes) { forward_all<T, decltype(bytes)::value>(params, threads); });
}

template <typename T>
void render_backward_cpu(const RenderBackward<T>& params, int threads) {
  with_vectors([&](auto bytes) { backward_all<T, decltype(bytes)::value>(params, threads); });
}

template void render_forward_cpu(const RenderForward<float>&, int);
template void render_forward_cpu(const RenderForward<double>&, int);
template void render_backward_cpu(const RenderBackward<float>&, int);
template void render_backward_cpu(const RenderBackward<double>&, int);

}  // namespace epigraf
