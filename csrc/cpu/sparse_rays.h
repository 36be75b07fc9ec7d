// Rays of a bundle through a scene whose empty cells are known (docs/math/occupancy.md): the field
// is asked only where a cell may absorb light, and while light is left. Without gradients.
//
// Legend: S coarse and F fine samples, N = S + F. A row is one ray's, N and some long.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "bundle.h"
#include "cell_blocks.h"
#include "cell_line.h"
#include "epigraf/occupancy.h"
#include "ray_march.h"

namespace epigraf {

template <typename T, int kBytes, typename Tile>
struct SparseRays {
  using S = Simd<T, kBytes>;
  using V = typename S::Vector;
  using Int = typename S::Int;
  static constexpr int kTile = Tile::kPoints, kLanes = S::kLanes;
  static constexpr int64_t kTake = 4;  // samples of a ray before it is asked whether light is left

  static constexpr T kFar = std::numeric_limits<T>::max();

  // Samples [first, end) of a ray.
  struct Run {
    int64_t first, end;
  };

  // What has been seen along a ray so far; `light` is what reaches the next sample.
  struct Seen {
    Carry light, sum[3], depth, opacity;
  };

  const RenderForward<T>& p;
  Tile& tile;
  RayMarch<T, kBytes>& march;
  OccupancyCells<T> grid{};  // of the batch element, whose number is
  int64_t element = -1;
  CellBlocks<T> blocks;   // of it
  std::vector<Run> runs;  // of samples of the bundle that may be wanted
  int64_t row;            // length of a row
  Arena<T> arena;
  T* t;                                  // [rays of the bundle] rows: coarse depths, then fine ones
  T *merged, *sorted[kOutputs];          // a row each: one ray's samples in the order of depth
  T* all[kOutputs];                      // [rays of the bundle] rows, where there are two passes
  T *coords[3], *out[kOutputs], *decay;  // of the listed samples
  std::vector<int64_t> places;           // of the listed samples, in `all`
  std::vector<int32_t> wanted;           // [rays of the bundle] rows: numbers of wanted samples
  std::vector<int64_t> begin, end;       // [rays of the bundle]: in `wanted`
  std::vector<int64_t> open;             // rays of the bundle that go on
  std::vector<Seen> seen;                // [rays of the bundle]
  std::vector<int32_t> order;            // a row
  int64_t group;                         // samples of a group (see find_runs)
  T borders[kLanes];                     // places in [0, 1] of the ends of groups

  static int64_t row_length(const RenderRays<T>& r) {
    return Arena<T>::round(r.coarse + r.fine + 2 * kLanes);
  }
  static int64_t memory(const RenderForward<T>& p, int64_t most) {
    const int64_t one = row_length(p.rays), samples = Arena<T>::round(most * one + kTile);
    return (1 + kOutputs) * one + (1 + kOutputs + 3 + kOutputs + 1) * samples;
  }

  // For bundles of up to `most` rays.
  SparseRays(const RenderForward<T>& params, Tile& field_tile, RayMarch<T, kBytes>& ray_march,
             int64_t most)
      : p(params),
        tile(field_tile),
        march(ray_march),
        row(row_length(p.rays)),
        arena(memory(p, most)),
        places(most * row),
        wanted(most * row),
        begin(most),
        end(most),
        open(most),
        seen(most),
        order(row) {
    const int64_t last = p.rays.coarse - 1;
    group = (last + kLanes - 2) / (kLanes - 1);
    for (int lane = 0; lane < kLanes; ++lane) {
      borders[lane] = p.rays.even[std::min<int64_t>(lane * group, last)];
    }
    merged = arena.take(row);
    for (T*& x : sorted) x = arena.take(row);
    const int64_t samples = most * row + kTile;
    for (T** x : {&t, &decay}) *x = arena.take(samples);
    for (T*& x : all) x = arena.take(samples);
    for (T*& x : coords) x = arena.take(samples);
    for (T*& x : out) x = arena.take(samples);
  }

  EPIGRAF_HD void forward(const Bundle& bundle) {
    enter(bundle.first / p.rays.rays);
    if (bundle.count() == 0) return;
    const bool noisy = p.rays.final_noise || p.rays.seeds.final_noise;
    if (p.rays.fine == 0 && !p.march.last_back && !noisy) {
      composite_on_the_way(bundle);
    } else {
      forward_in_passes(bundle);
    }
  }

  EPIGRAF_HD void enter(int64_t number) {
    if (number == element) return;
    element = number;
    grid = p.grid;
    grid.words += element * words_of_grid(grid.resolution);
    blocks = CellBlocks<T>(grid);
  }

  // Whether the last sample counts wherever it lies: it stands for all that is behind it.
  EPIGRAF_HD bool last_counts(int64_t ray) const {
    return p.march.last_back || (!p.march.finite_interval && p.rays.last_delta[ray] > T(0));
  }

  // Whether nothing of a ray is marched.
  EPIGRAF_HD bool nowhere(int64_t ray) const {
    return p.march.finite_interval && p.rays.far[ray] <= p.rays.near[ray];
  }

  // Whether the depths of the first pass depend on near and far alone.
  EPIGRAF_HD bool evenly() const { return !p.rays.jitter && !p.rays.seeds.jitter; }

  // The depths at which the groups of a ray's samples end.
  EPIGRAF_HD V ends_of_groups(int64_t ray, const T* depths) const {
    if (evenly()) {
      const T near = p.rays.near[ray];
      return S::load(borders) * (p.rays.far[ray] - near) + near;
    }
    alignas(64) T ends[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      ends[lane] = depths[std::min<int64_t>(lane * group, p.rays.coarse - 1)];
    }
    return S::load(ends);
  }

  // (occupancy 9): `runs` of sample numbers, the same for all rays of the bundle, outside which no
  // sample lies in an occupied cell: the samples are cut into groups, and a group is left out where
  // the box of all rays' samples in it touches no block of cells. A lane is an end of a group.
  // Depths at `t` are read where they are not even.
  EPIGRAF_HD void find_runs(const Bundle& bundle) {
    V low[3], high[3], doubt{};
    for (int axis = 0; axis < 3; ++axis) low[axis] = S::splat(kFar), high[axis] = S::splat(-kFar);
    bool any = false, ordered = true;
    for (int64_t i = 0; i < bundle.count(); ++i) {
      const int64_t ray = bundle.ray(i);
      if (nowhere(ray)) continue;
      any = true;
      ordered = ordered && (evenly() || ascend(t + i * row, {0, p.rays.coarse}));
      const T *o = p.rays.origins + 3 * ray, *d = p.rays.directions + 3 * ray;
      const V ends = ends_of_groups(ray, t + i * row);
      EPIGRAF_UNROLL
      for (int axis = 0; axis < 3; ++axis) {
        const V x = ends * d[axis] + o[axis];
        low[axis] = choose(x < low[axis], x, low[axis]);
        high[axis] = choose(x > high[axis], x, high[axis]);
        doubt += x - x;  // NaN, as only NaN and infinity make it
      }
    }
    runs.clear();
    const int64_t last = p.rays.coarse - 1;
    for (int g = 0; any && g + 1 < kLanes && g * group <= last; ++g) {
      T from[3], to[3];
      for (int axis = 0; axis < 3; ++axis) {
        from[axis] = std::min(low[axis][g], low[axis][g + 1]);
        to[axis] = std::max(high[axis][g], high[axis][g + 1]);
      }
      const bool known = ordered && doubt[g] == T(0) && doubt[g + 1] == T(0);
      if (known && !blocks.touch(from, to)) continue;
      const bool final = (g + 1) * group >= last;
      add_run({g * group, final ? last + 1 : (g + 1) * group});
    }
  }

  void add_run(Run run) {
    if (!runs.empty() && runs.back().end >= run.first) {
      runs.back().end = run.end;
    } else {
      runs.push_back(run);
    }
  }

  // (occupancy 9): the numbers of the samples at depths that the field is asked for, those in
  // `runs` and in cells that may absorb light; and of the last of `count`, where that is asked for.
  // even: depths are near + (far - near) x with x that do not fall. Returns how many.
  EPIGRAF_HD int64_t find_wanted(int64_t ray, const T* depths, int64_t count, bool even, bool last,
                                 int32_t* numbers) {
    const CellLine<S> line(grid, p.rays.origins + 3 * ray, p.rays.directions + 3 * ray);
    int64_t found = 0;
    for (const Run& run : runs) {
      // In order, what lies between the ends is inside as they are. NaN, which is to be seen, is
      // not.
      const T low = depths[run.first], high = depths[run.end - 1];
      if (line.inside(low) && line.inside(high) && (even ? low <= high : ascend(depths, run))) {
        found = find_inside(line, depths, run, numbers, found);
      } else {
        found = find_anywhere(ray, depths, run, numbers, found);
      }
    }
    if (last && (found == 0 || numbers[found - 1] + 1 < count)) {
      numbers[found++] = static_cast<int32_t>(count - 1);
    }
    return found;
  }

  // Samples of a run within the cube.
  EPIGRAF_HD int64_t find_inside(const CellLine<S>& line, const T* depths, Run run,
                                 int32_t* numbers, int64_t found) const {
    const V low = S::splat(depths[run.first]), high = S::splat(depths[run.end - 1]);
    for (int64_t first = run.first; first < run.end; first += kLanes) {
      V depth = S::load(depths + first);  // a row has room behind it, where anything may be
      depth = choose(depth > low, depth, low);
      depth = choose(depth < high, depth, high);
      alignas(64) Int cell[kLanes];
      S::store(cell, line.cells(depth));
      uint32_t bits = occupied_lanes(cell, std::min<int64_t>(kLanes, run.end - first));
      for (; bits != 0; bits &= bits - 1) {
        numbers[found++] = static_cast<int32_t>(first) + __builtin_ctz(bits);
      }
    }
    return found;
  }

  EPIGRAF_HD int64_t find_anywhere(int64_t ray, const T* depths, Run run, int32_t* numbers,
                                   int64_t found) const {
    const Line line = line_of(ray);
    for (int64_t k = run.first; k < run.end; ++k) {
      T point[3];
      for (int axis = 0; axis < 3; ++axis) {
        point[axis] = line.origin[axis] + line.direction[axis] * depths[k];
      }
      numbers[found] = static_cast<int32_t>(k);
      found += may_absorb(grid, point[0], point[1], point[2]);
    }
    return found;
  }

  EPIGRAF_HD static bool ascend(const T* depths, Run run) {
    const int64_t last = run.end - 1;
    int32_t any = 0;
    EPIGRAF_SIMD_ANY
    for (int64_t k = run.first; k < last; ++k) {
      any |= static_cast<int32_t>(!(depths[k] <= depths[k + 1]));
    }
    return any == 0;
  }

  // A bit for each of `count` cells: whether it is occupied. One after the other: GCC's vectors of
  // words from places in memory take twice as long.
  EPIGRAF_HD uint32_t occupied_lanes(const Int* cell, int64_t count) const {
    uint32_t bits = 0;
    for (int64_t lane = 0; lane < count; ++lane) {
      const uint32_t at = static_cast<uint32_t>(cell[lane]);
      bits |= (grid.words[at >> 5] >> (at & 31) & 1u) << lane;
    }
    return bits;
  }

  // Where a ray's samples lie, as numbers of its own: what is written may not be what is read.
  struct Line {
    T origin[3], direction[3];
  };

  EPIGRAF_HD Line line_of(int64_t ray) const {
    const T *o = p.rays.origins + 3 * ray, *d = p.rays.directions + 3 * ray;
    return {{o[0], o[1], o[2]}, {d[0], d[1], d[2]}};
  }

  EPIGRAF_HD void list(int64_t at, const Line& line, T depth) {
    EPIGRAF_UNROLL
    for (int axis = 0; axis < 3; ++axis) {
      coords[axis][at] = line.origin[axis] + line.direction[axis] * depth;
    }
  }

  // The field at the listed samples.
  EPIGRAF_HD void evaluate(int64_t listed) {
    if (listed == 0) return;
    for (T* x : coords) {
      for (int64_t j = 0; j < listed; j += kLanes)
        S::store(x + j, S::load(x + j) / p.field.cube_scale);
      std::fill_n(x + listed, kTile, x[listed - 1]);
    }
    aim(0);
    for (int64_t at = 0; at < listed; at += kTile) {
      tile.advance();
      if (at + kTile < listed) aim(at + kTile);
      tile.evaluate(static_cast<int>(std::min<int64_t>(kTile, listed - at)));
      for (int o = 0; o < kOutputs; ++o) std::copy_n(tile.output(o), kTile, out[o] + at);
    }
  }

  EPIGRAF_HD void aim(int64_t at) {
    for (int axis = 0; axis < 3; ++axis) tile.upcoming().coords[axis] = coords[axis] + at;
    tile.aim();
  }

  EPIGRAF_HD void write(int64_t ray, const Seen& s) {
    const Carry behind = p.march.background * (1 - s.opacity);  // (render 10)
    for (int c = 0; c < 3; ++c) p.features[3 * ray + c] = static_cast<T>(s.sum[c] + behind);
    p.depth[ray] = static_cast<T>(s.depth);
    p.opacity[ray] = static_cast<T>(s.opacity);
    p.transmittance[ray] = static_cast<T>(s.light);
  }

  // ---- one pass: every ray takes a few samples, is composited, and may end
  // -------------------------

  EPIGRAF_HD void composite_on_the_way(const Bundle& bundle) {
    const int64_t count = bundle.count(), coarse = p.rays.coarse;
    const bool even = evenly();
    for (int64_t i = 0; i < count && !even; ++i) march.stratify(bundle.ray(i), t + i * row);
    find_runs(bundle);
    int64_t going = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t ray = bundle.ray(i);
      seen[i] = {1, {0, 0, 0}, 0, 0};
      begin[i] = end[i] = i * row;
      const bool last = last_counts(ray);
      if (nowhere(ray) || (runs.empty() && !last)) continue;
      if (even) march.stratify(ray, t + i * row);
      end[i] += find_wanted(ray, t + i * row, coarse, even, last, &wanted[i * row]);
      open[going] = i;
      going += begin[i] < end[i];
    }
    while (going > 0) {
      const int64_t listed = list_next(bundle, going);
      evaluate(listed);
      find_decay(listed);
      going = absorb(going);
    }
    for (int64_t i = 0; i < bundle.count(); ++i) write(bundle.ray(i), seen[i]);
  }

  EPIGRAF_HD int64_t next_stop(int64_t i) const { return std::min(begin[i] + kTake, end[i]); }

  // The next samples of the rays that go on, and minus their intervals in `decay`.
  EPIGRAF_HD int64_t list_next(const Bundle& bundle, int64_t going) {
    const int64_t coarse = p.rays.coarse;
    int64_t listed = 0;
    for (int64_t j = 0; j < going; ++j) {
      const int64_t i = open[j], ray = bundle.ray(i), stop = next_stop(i);
      const T* depths = t + i * row;
      const Line line = line_of(ray);
      for (int64_t at = begin[i]; at < stop; ++at, ++listed) {
        const int64_t k = wanted[at];
        list(listed, line, depths[k]);
        decay[listed] = depths[k] - depths[k + 1];  // a row has room behind it
      }
      if (wanted[stop - 1] + 1 < coarse) continue;
      decay[listed - 1] = -render_delta(depths, coarse - 1, coarse, p.march.finite_interval,
                                        p.rays.far[ray], p.rays.last_delta[ray]);
    }
    return listed;
  }

  // (render 2, composite 1): exp(-delta sigma) of the listed samples.
  EPIGRAF_HD void find_decay(int64_t listed) {
    const T* raw = out[kOutputs - 1];
    for (int64_t j = 0; j < listed; j += kLanes) {
      const V x = S::load(raw + j) + p.march.shift;
      const V sigma = p.march.relu ? choose(x < V{}, V{}, x) : softplus_vector<S>(x);
      S::store(decay + j, exp_vector<S>(S::load(decay + j) * (sigma * p.march.gain)));
    }
  }

  // (composite 2-5, 10) of the listed samples, on from what was seen; returns how many rays go on.
  EPIGRAF_HD int64_t absorb(int64_t going) {
    const Carry dark = p.march.early_stop_eps;
    int64_t left = 0, listed = 0;
    for (int64_t j = 0; j < going; ++j) {
      const int64_t i = open[j], stop = next_stop(i), some = stop - begin[i];
      Seen now = seen[i];
      for (int64_t s = 0; s < some && !(now.light < dark); ++s) {
        const int64_t k = wanted[begin[i] + s];
        absorb_sample(now, listed + s, t[i * row + k], k + 1 == p.rays.coarse);
      }
      seen[i] = now;
      listed += some;
      begin[i] = stop;
      open[left] = i;
      left += stop < end[i] && !(now.light < dark);  // NaN is not dark
    }
    return left;
  }

  EPIGRAF_HD void absorb_sample(Seen& s, int64_t at, T depth, bool last) const {
    Carry behind = s.light;
    const Carry weight = composite_step_decay(decay[at], behind);
    s.opacity += weight;
    s.depth += weight * depth;
    for (int c = 0; c < 3; ++c) s.sum[c] += weight * out[c][at];
    if (!last) s.light = behind;  // what is in front of the last sample is wanted
  }

  // ---- several passes: what is not asked for is empty
  // -----------------------------------------------

  EPIGRAF_HD void forward_in_passes(const Bundle& bundle) {
    const int64_t n = p.rays.coarse, fresh = p.rays.fine, count = bundle.count();
    for (int64_t i = 0; i < count; ++i) march.stratify(bundle.ray(i), t + i * row);
    find_runs(bundle);
    for (int o = 0; o < kOutputs; ++o) {
      std::fill_n(all[o], count * row,
                  o + 1 < kOutputs ? T(0) : -std::numeric_limits<T>::infinity());
    }
    int64_t listed = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t ray = bundle.ray(i), before = listed;
      listed = list_row(listed, ray, i * row, n, evenly(), last_counts(ray));
      begin[i] = 0;  // samples of this ray
      if (listed > before) begin[i] = n;
      const bool thin = listed - before == static_cast<int64_t>(last_counts(ray));
      if (fresh > 0 && (!thin || passes_through_cells(ray))) begin[i] = n + fresh;
    }
    evaluate_and_spread(listed);
    listed = 0;
    runs.assign(1, {0, fresh});
    for (int64_t i = 0; i < count && fresh > 0; ++i) {
      if (begin[i] <= n) continue;
      const int64_t ray = bundle.ray(i);
      march.refine(ray, t + i * row, all[kOutputs - 1] + i * row, 1, t + i * row + n);
      listed = list_row(listed, ray, i * row + n, fresh, false, false);
    }
    evaluate_and_spread(listed);
    for (int64_t i = 0; i < count; ++i) finish(bundle.ray(i), i * row, begin[i]);
  }

  // Lists the wanted ones of `count` samples whose depths are at t + place.
  EPIGRAF_HD int64_t list_row(int64_t listed, int64_t ray, int64_t place, int64_t count, bool even,
                              bool last) {
    const int64_t found = find_wanted(ray, t + place, count, even, last, wanted.data());
    const Line line = line_of(ray);
    for (int64_t s = 0; s < found; ++s, ++listed) {
      places[listed] = place + wanted[s];
      list(listed, line, t[places[listed]]);
    }
    return listed;
  }

  EPIGRAF_HD bool passes_through_cells(int64_t ray) const {
    bool any = false;
    traverse_ray(grid,
                 OccupancyRay<T>{p.rays.origins + 3 * ray, p.rays.directions + 3 * ray,
                                 p.rays.near[ray], p.rays.far[ray]},
                 [&](T, T) EPIGRAF_INLINE_LAMBDA { any = true; });
    return any;
  }

  EPIGRAF_HD void evaluate_and_spread(int64_t listed) {
    evaluate(listed);
    for (int o = 0; o < kOutputs; ++o) {
      for (int64_t j = 0; j < listed; ++j) all[o][places[j]] = out[o][j];
    }
  }

  // Composites the first `count` samples of a ray (all, the coarse ones, or none).
  EPIGRAF_HD void finish(int64_t ray, int64_t place, int64_t count) {
    if (count == 0) return write(ray, {1, {0, 0, 0}, 0, 0});
    const int64_t n = p.rays.coarse;
    if (count > n) {
      march.order.merge(t + place, t + place + n, order.data(), merged);
    } else {
      std::copy_n(t + place, n, merged);
      for (int64_t k = 0; k < n; ++k) order[k] = static_cast<int32_t>(k);
    }
    for (int o = 0; o < kOutputs; ++o) {
      for (int64_t k = 0; k < count; ++k) sorted[o][k] = all[o][place + order[k]];
    }
    march.integrate(p, ray, merged, {sorted[0], sorted[1], sorted[2], sorted[3]}, count);
  }
};

}  // namespace epigraf
