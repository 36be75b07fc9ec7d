// The fused field renderer: a few rays at a time, tile after tile of their points, in the caches of
// one core. Forward: rays are dealt out dynamically, each is computed alone, and no result depends
// on the number of threads. Backward: each thread owns a contiguous share of the rays, sums into
// memory of its own, and the sums are added in the order of the threads.
#include "epigraf/render.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "bundle.h"
#include "clone_run.h"
#include "epigraf/launch.h"
#include "field_tile.h"
#include "projected_tile.h"
#include "ray_march.h"
#include "sparse_rays.h"

namespace epigraf {
namespace {

// Everything that one thread works with.
template <typename T, int kBytes, typename Tile = FieldTile<T, kBytes>>
struct Renderer {
  static constexpr int kTile = Tile::kPoints;

  const RenderField<T>& field;
  const RenderRays<T>& rays;
  Arena<T> arena;
  Tile tile;
  RayMarch<T, kBytes> march;
  T* t_coarse;        // [rays of the bundle][S],
  T* t_fine;          // ... [F]
  T* origins;         // [3][rays of the bundle]
  T* directions;      // [3][rays of the bundle]
  T* coords[3];       // [n][rays of the bundle]: neighbours in space are neighbours
  T* out[kOutputs];   // [N][rays of the bundle], coarse samples first
  T* t;               // [rays of the bundle][N], merged
  T* grad[kOutputs];  // [rays of the bundle][N]; in the forward pass one ray's merged outputs
  std::vector<int32_t> order;              // [N] of one ray
  std::vector<int64_t> lit;                // rays of the bundle that light still reaches, and
  std::vector<Carry> light;                // ... how much
  std::vector<int64_t> list, list_coords;  // samples of a bundle that have a gradient

  static int64_t memory(const RenderField<T>& f, const RenderRays<T>& r, int64_t most,
                        bool backward) {
    const int64_t samples = Arena<T>::round(most * (r.coarse + r.fine) + kTile);
    return Tile::memory(f.decoder, backward) + RayMarch<T, kBytes>::memory(r) +
           2 * Arena<T>::round(3 * most) + (2 + 3 + 1 + 2 * kOutputs) * samples;
  }

  // For bundles of up to `most` rays.
  Renderer(const RenderField<T>& f, const RenderMarch<T>& m, const RenderRays<T>& r, int64_t most,
           bool backward)
      : field(f),
        rays(r),
        arena(memory(f, r, most, backward)),
        tile(field, arena, backward),
        march(m, r, arena),
        origins(arena.take(3 * most)),
        directions(arena.take(3 * most)),
        order(r.coarse + r.fine),
        lit(most),
        light(most) {
    const int64_t samples = most * (r.coarse + r.fine) + kTile;
    for (T** row : {&t_coarse, &t_fine, &t}) *row = arena.take(samples);
    for (T*& row : coords) row = arena.take(samples);
    for (T*& row : out) row = arena.take(samples);
    for (T*& row : grad) row = arena.take(samples);
    if (!backward) return;
    list.resize(most * (r.coarse + r.fine));
    list_coords.resize(list.size());
  }

  // The rays that are worked on.
  EPIGRAF_HD void enter(const Bundle& bundle) {
    const int64_t count = bundle.count();
    for (int64_t i = 0; i < count; ++i) {
      for (int axis = 0; axis < 3; ++axis) {
        origins[axis * count + i] = rays.origins[3 * bundle.ray(i) + axis];
        directions[axis * count + i] = rays.directions[3 * bundle.ray(i) + axis];
      }
    }
  }

  // Plane coordinates of the samples at t.
  EPIGRAF_HD void place(int64_t count, const T* t, int64_t per_ray) {
    const T scale = field.cube_scale;
    for (int axis = 0; axis < 3; ++axis) {
      const T *o = origins + axis * count, *d = directions + axis * count;
      for (int64_t k = 0; k < per_ray; ++k) {
        T* to = coords[axis] + k * count;
        EPIGRAF_SIMD
        for (int64_t i = 0; i < count; ++i) to[i] = (o[i] + d[i] * t[i * per_ray + k]) / scale;
      }
    }
  }

  EPIGRAF_HD void aim(int64_t at) {
    for (int axis = 0; axis < 3; ++axis) tile.upcoming().coords[axis] = coords[axis] + at;
    tile.aim();
  }

  // The field at points coords[0, points), into to[kOutputs] [points].
  EPIGRAF_HD void evaluate(int64_t points, T* const (&to)[kOutputs], int64_t offset) {
    aim(0);
    for (int64_t at = 0; at < points; at += kTile) {
      tile.advance();
      if (at + kTile < points) aim(at + kTile);
      tile.evaluate(static_cast<int>(std::min<int64_t>(kTile, points - at)));
      for (int o = 0; o < kOutputs; ++o) std::copy_n(tile.output(o), kTile, to[o] + offset + at);
    }
  }

  // The only samples, a few at a time from front to back, of the rays that light still reaches.
  EPIGRAF_HD void evaluate_until_dark(int64_t count) {
    constexpr int64_t kSlab = 8;
    const int64_t n = rays.coarse;
    int64_t alive = count;
    for (int64_t i = 0; i < count; ++i) lit[i] = i, light[i] = 1;
    for (int64_t first = 0; first < n && alive > 0; first += kSlab) {
      const int64_t some = std::min(kSlab, n - first);
      place_lit(count, alive, first, some);
      evaluate(alive * some, grad, 0);
      for (int64_t j = 0; j < alive; ++j) {
        for (int64_t k = 0; k < some; ++k) {
          for (int o = 0; o < kOutputs; ++o) {
            out[o][(first + k) * count + lit[j]] = grad[o][k * alive + j];
          }
        }
      }
      if (first + some < n) alive = put_out(count, alive, first, some);
    }
  }

  // Coordinates of samples [first, first + some) of the rays that are lit.
  EPIGRAF_HD void place_lit(int64_t count, int64_t alive, int64_t first, int64_t some) {
    const T scale = field.cube_scale;
    for (int axis = 0; axis < 3; ++axis) {
      const T *o = origins + axis * count, *d = directions + axis * count;
      for (int64_t k = 0; k < some; ++k) {
        for (int64_t j = 0; j < alive; ++j) {
          const T depth = t_coarse[lit[j] * rays.coarse + first + k];
          coords[axis][k * alive + j] = (o[lit[j]] + d[lit[j]] * depth) / scale;
        }
      }
    }
  }

  // Drops the rays whose light is gone behind these samples; returns how many are left.
  EPIGRAF_HD int64_t put_out(int64_t count, int64_t alive, int64_t first, int64_t some) {
    int64_t left = 0;
    for (int64_t j = 0; j < alive; ++j) {
      const int64_t i = lit[j];
      light[i] = march.dim(t_coarse + i * rays.coarse + first, some,
                           out[kOutputs - 1] + first * count + i, count, light[i]);
      lit[left] = i;
      left += !(light[i] < march.march.early_stop_eps);  // NaN is not dark
    }
    return left;
  }

  EPIGRAF_HD void forward(const RenderForward<T>& p, const Bundle& bundle) {
    enter(bundle);
    const int64_t count = bundle.count(), n = rays.coarse, fresh = rays.fine;
    for (int64_t i = 0; i < count; ++i) march.stratify(bundle.ray(i), t_coarse + i * n);
    if (stops_early(p)) {
      evaluate_until_dark(count);
    } else {
      place(count, t_coarse, n);
      evaluate(count * n, out, 0);
    }
    if (fresh > 0) {
      for (int64_t i = 0; i < count; ++i) {
        march.refine(bundle.ray(i), t_coarse + i * n, out[kOutputs - 1] + i, count,
                     t_fine + i * fresh);
      }
      place(count, t_fine, fresh);
      evaluate(count * fresh, out, count * n);
    }
    for (int64_t i = 0; i < count; ++i) finish(p, bundle.ray(i), i, count);
  }

  // Whether samples in the dark are never read (composite 10).
  EPIGRAF_HD bool stops_early(const RenderForward<T>& p) const {
    const bool noisy = rays.final_noise || rays.seeds.final_noise;
    return p.march.early_stop_eps > T(0) && rays.fine == 0 && !p.march.last_back && !noisy;
  }

  // Merges the samples of ray i of the bundle and composites them.
  EPIGRAF_HD void finish(const RenderForward<T>& p, int64_t ray, int64_t i, int64_t count) {
    const int64_t n = rays.coarse + rays.fine;
    march.order.merge(t_coarse + i * rays.coarse, t_fine + i * rays.fine, order.data(), t);
    for (int o = 0; o < kOutputs; ++o) {
      const int32_t* from = order.data();
      EPIGRAF_SIMD
      for (int64_t k = 0; k < n; ++k) grad[o][k] = out[o][from[k] * count + i];
    }
    march.integrate(p, ray, t, {grad[0], grad[1], grad[2], grad[3]}, n);
    if (!p.saved) return;
    T* row = p.saved + ray * kSaved * n;
    for (int o = 0; o < kOutputs; ++o) std::copy_n(grad[o], n, row + o * n);
    std::copy_n(t, n, row + kOutputs * n);
  }

  // Samples of a bundle whose outputs have a gradient at all, neighbours in space together.
  EPIGRAF_HD int64_t find_list(int64_t count) {
    int64_t found = 0;
    const int64_t n = rays.coarse + rays.fine;
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = i * n + k;
        bool zero = true;
        for (int o = 0; o < kOutputs; ++o) zero = zero && grad[o][at] == T(0);
        list[found] = at;
        list_coords[found] = k * count + i;
        found += !zero;
      }
    }
    return found;
  }

  EPIGRAF_HD void aim_at_list(int64_t first, int64_t found) {
    for (int p = 0; p < kTile; ++p) {
      const int64_t at = list_coords[std::min(first + p, found - 1)];
      for (int axis = 0; axis < 3; ++axis) tile.upcoming().gathered[axis][p] = coords[axis][at];
    }
    for (int axis = 0; axis < 3; ++axis) {
      tile.upcoming().coords[axis] = tile.upcoming().gathered[axis];
    }
    tile.aim();
  }

  // grad_planes is that of the batch element, or null.
  EPIGRAF_HD void backward(const RenderBackward<T>& p, const Bundle& bundle, T* grad_planes) {
    enter(bundle);
    const int64_t n = rays.coarse + rays.fine, count = bundle.count();
    for (int64_t i = 0; i < count; ++i) {
      const T* saved = p.saved + bundle.ray(i) * kSaved * n;
      const int64_t at = i * n;
      march.integrate_vjp(p, bundle.ray(i), saved,
                          {grad[0] + at, grad[1] + at, grad[2] + at, grad[3] + at}, n);
      std::copy_n(saved + kOutputs * n, n, t + at);
    }
    place(count, t, n);
    const int64_t found = find_list(count);
    if (found > 0) aim_at_list(0, found);
    for (int64_t first = 0; first < found; first += kTile) {
      const int some = static_cast<int>(std::min<int64_t>(kTile, found - first));
      for (int p = 0; p < kTile; ++p) {
        const int64_t at = list[first + std::min(p, some - 1)];
        for (int o = 0; o < kOutputs; ++o) {
          tile.grad_rows[0][o * kTile + p] = p < some ? grad[o][at] : T(0);
        }
      }
      tile.advance();
      if (first + kTile < found) aim_at_list(first + kTile, found);
      tile.evaluate(some);
      tile.backward(some, grad_planes);
    }
  }
};

// The most rays of a bundle that leaves every thread several of them.
template <typename T>
int64_t bundle_size(const RenderField<T>& f, const RenderRays<T>& r, int threads) {
  const int64_t share = f.shape.batch * r.rays / (4 * static_cast<int64_t>(threads));
  return std::min(rays_in_bundle(r.coarse + r.fine), std::max<int64_t>(share, 1));
}

// Bundles that a thread takes at once: neighbours share lines of the planes and of the outputs.
inline int64_t bundles_at_once(size_t bundles, int threads) {
  return std::clamp<int64_t>(static_cast<int64_t>(bundles) / (16 * threads), 1, 16);
}

// What a thread renders bundles with: all samples, or those that may absorb light.
template <typename T, int kBytes, typename Tile>
struct Worker {
  Renderer<T, kBytes, Tile> renderer;
  std::unique_ptr<SparseRays<T, kBytes, Tile>> sparse;

  Worker(const RenderForward<T>& p, int64_t most)
      : renderer(p.field, p.march, p.rays, most, false) {
    if (!p.grid.words) return;
    sparse = std::make_unique<SparseRays<T, kBytes, Tile>>(p, renderer.tile, renderer.march, most);
  }
  EPIGRAF_HD void forward(const RenderForward<T>& p, const Bundle& bundle) {
    sparse ? sparse->forward(bundle) : renderer.forward(p, bundle);
  }
};

// The planes of a batch element.
template <typename T>
const T* planes_of(const RenderField<T>& f, int64_t element) {
  return f.planes + element * f.shape.batch_stride;
}

template <typename T, int kBytes>
void forward_direct(const RenderForward<T>& p, int threads) {
  const int64_t most = bundle_size(p.field, p.rays, threads);
  const auto bundles = bundles_of(0, p.field.shape.batch, p.rays, most);
  const int64_t chunk = bundles_at_once(bundles.size(), threads);
  FirstError error;
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<Worker<T, kBytes, FieldTile<T, kBytes>>> worker;
    error.run([&] { worker = std::make_unique<Worker<T, kBytes, FieldTile<T, kBytes>>>(p, most); });
#pragma omp for schedule(dynamic, chunk)
    for (int64_t i = 0; i < static_cast<int64_t>(bundles.size()); ++i) {
      if (!worker) continue;
      worker->renderer.tile.enter(planes_of(p.field, bundles[i].first / p.rays.rays));
      Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA { worker->forward(p, bundles[i]); });
    }
  }
  error.rethrow();
}

// (render 8): rows of all planes, by whichever thread is free; call it within a team.
template <typename T, int kBytes>
void project_planes(const RenderField<T>& field, int64_t element, const PlaneBoxes<T>& boxes,
                    FirstLayer<T, kBytes>* layer, T* data) {
  constexpr int kLanes = Simd<T, kBytes>::kLanes;
  const TriplaneShape& s = field.shape;
  const int64_t units = field.decoder.widths[1];
  for_blocks<most_vectors(kBytes)>((units + kLanes - 1) / kLanes, [&](auto block, int64_t first) {
    constexpr int kVectors = decltype(block)::value, kWidth = kVectors * kLanes;
    if (layer) layer->take(field.decoder, first * kLanes, kWidth);
#pragma omp for schedule(dynamic, 8)
    for (int64_t i = 0; i < boxes.rows; ++i) {
      const auto at = boxes.row_at(i);
      const PlaneBox& b = boxes.box[at.plane];
      const T* from = planes_of(field, element) + at.plane * s.plane_stride +
                      at.row * s.row_stride + b.column * s.pixel_stride;
      T* to = data + (b.start + (at.row - b.row) * b.columns) * kWidth;
      if (!layer) continue;
      Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA {
        layer->template project<kVectors>(from, s.pixel_stride, s.channel_stride, b.columns, to);
      });
    }
    data += boxes.pixels * kWidth;
  });
}

// One batch element after another: its planes are projected, then its rays marched.
template <typename T, int kBytes>
void forward_projected(const RenderForward<T>& p, int threads) {
  using Tile = ProjectedTile<T, kBytes>;
  const int64_t most = bundle_size(p.field, p.rays, threads);
  const int64_t width = Tile::whole(p.field.decoder.widths[1]);
  LargeMemory<T> memory;
  FirstError error;
  for (int64_t element = 0; element < p.field.shape.batch; ++element) {
    const PlaneBoxes<T> boxes =
        p.projected
            ? PlaneBoxes<T>(p.field.shape)
            : PlaneBoxes<T>(extent_of_rays(p.rays, element, p.field.cube_scale), p.field.shape);
    const auto bundles = bundles_of(element, 1, p.rays, most);
    const int64_t chunk = bundles_at_once(bundles.size(), threads);
    const int64_t count = boxes.pixels * width;
    T* fresh = p.projected ? nullptr : memory.at_least(count);
    const T* data = p.projected ? p.projected + element * count : fresh;
#pragma omp parallel num_threads(threads)
    {
      std::unique_ptr<Arena<T>> arena;
      std::unique_ptr<FirstLayer<T, kBytes>> layer;
      std::unique_ptr<Worker<T, kBytes, Tile>> worker;
      error.run([&] {
        const int64_t channels = p.field.shape.channels;
        arena = std::make_unique<Arena<T>>(FirstLayer<T, kBytes>::memory(channels));
        layer = std::make_unique<FirstLayer<T, kBytes>>(channels, *arena);
        worker = std::make_unique<Worker<T, kBytes, Tile>>(p, most);
        worker->renderer.tile.enter({boxes, data});
      });
      if (fresh) project_planes<T, kBytes>(p.field, element, boxes, layer.get(), fresh);
#pragma omp for schedule(dynamic, chunk)
      for (int64_t i = 0; i < static_cast<int64_t>(bundles.size()); ++i) {
        if (!worker) continue;
        Clone<kBytes>::run([&]() EPIGRAF_INLINE_LAMBDA { worker->forward(p, bundles[i]); });
      }
    }
    error.rethrow();
  }
}

// All planes of all batch elements behind the first layer, for renderings to come.
template <typename T, int kBytes>
void project_all(const RenderField<T>& field, T* to, int threads) {
  const PlaneBoxes<T> boxes(field.shape);
  const int64_t count = boxes.pixels * ProjectedTile<T, kBytes>::whole(field.decoder.widths[1]);
  FirstError error;
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<Arena<T>> arena;
    std::unique_ptr<FirstLayer<T, kBytes>> layer;
    error.run([&] {
      arena = std::make_unique<Arena<T>>(FirstLayer<T, kBytes>::memory(field.shape.channels));
      layer = std::make_unique<FirstLayer<T, kBytes>>(field.shape.channels, *arena);
    });
    for (int64_t element = 0; element < field.shape.batch; ++element) {
      project_planes<T, kBytes>(field, element, boxes, layer.get(), to + element * count);
    }
  }
  error.rethrow();
}

template <typename T, int kBytes>
void forward_all(const RenderForward<T>& p, int threads) {
  if (p.field.project) {
    forward_projected<T, kBytes>(p, threads);
  } else {
    forward_direct<T, kBytes>(p, threads);
  }
}

// What one thread of the backward pass adds up for itself: a share of the bundles, in order.
template <typename T, int kBytes>
struct Partial {
  std::unique_ptr<Renderer<T, kBytes>> renderer;
  int64_t element = -1;        // that was begun by another thread, or none
  std::vector<T> grad_planes;  // of this element
};

template <typename T, int kBytes>
void backward_share(const RenderBackward<T>& p, const std::vector<Bundle>& bundles, int64_t first,
                    int64_t last, int64_t most, Partial<T, kBytes>& partial) {
  partial.renderer = std::make_unique<Renderer<T, kBytes>>(p.field, p.march, p.rays, most, true);
  const int64_t per_element = p.rays.rays, stride = p.field.shape.batch_stride;
  if (p.grad_planes && first < last && bundles[first].first % per_element != 0) {
    partial.element = bundles[first].first / per_element;
    partial.grad_planes.assign(stride, T(0));
  }
  for (int64_t i = first; i < last; ++i) {
    const int64_t element = bundles[i].first / per_element;
    T* grad = p.grad_planes ? p.grad_planes + element * stride : nullptr;
    if (element == partial.element) grad = partial.grad_planes.data();
    partial.renderer->tile.enter(planes_of(p.field, element));
    Clone<kBytes>::run(
        [&]() EPIGRAF_INLINE_LAMBDA { partial.renderer->backward(p, bundles[i], grad); });
  }
}

// Adds a thread's sums to the results.
template <typename T, int kBytes>
void add_partial(const RenderBackward<T>& p, Partial<T, kBytes>& partial) {
  partial.renderer->tile.add_to(p.grad_weights, p.grad_biases);
  if (partial.element < 0) return;
  T* to = p.grad_planes + partial.element * p.field.shape.batch_stride;
  const T* from = partial.grad_planes.data();
  for (int64_t k = 0; k < p.field.shape.batch_stride; ++k) to[k] += from[k];
}

template <typename T, int kBytes>
void backward_all(const RenderBackward<T>& p, int threads) {
  const int64_t most = bundle_size(p.field, p.rays, threads);
  const auto bundles = bundles_of(0, p.field.shape.batch, p.rays, most);
  const int64_t count = static_cast<int64_t>(bundles.size());
  if (count == 0) return;
  std::vector<Partial<T, kBytes>> partials(threads);
  FirstError error;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; ++i) {
    error.run([&] {
      backward_share(p, bundles, count * i / threads, count * (i + 1) / threads, most, partials[i]);
    });
  }
  error.rethrow();
  for (auto& partial : partials) add_partial(p, partial);
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

template <typename T>
void render_project_cpu(const RenderField<T>& field, T* to, int threads) {
  with_vectors([&](auto bytes) { project_all<T, decltype(bytes)::value>(field, to, threads); });
}

int64_t render_projected_size(const TriplaneShape& shape, int64_t units, bool is_double) {
  int64_t lanes = 1;
  with_vectors([&](auto bytes) {
    lanes =
        decltype(bytes)::value / static_cast<int64_t>(is_double ? sizeof(double) : sizeof(float));
  });
  return kPlanes * shape.height * shape.width * ((units + lanes - 1) / lanes * lanes);
}

template void render_project_cpu(const RenderField<float>&, float*, int);
template void render_project_cpu(const RenderField<double>&, double*, int);
template void render_forward_cpu(const RenderForward<float>&, int);
template void render_forward_cpu(const RenderForward<double>&, int);
template void render_backward_cpu(const RenderBackward<float>&, int);
template void render_backward_cpu(const RenderBackward<double>&, int);

}  // namespace epigraf
