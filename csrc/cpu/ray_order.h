// Draws and samples of one ray in order (docs/math/render.md, cited as "(render n)"), lanes over
// draws: places are counted, not searched for, so that nothing hangs on the outcome of a branch.
//
// Legend: S coarse and F fine samples of a ray, N = S + F.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "arena.h"
#include "epigraf/importance.h"
#include "simd.h"

namespace epigraf {

template <typename T, int kBytes>
struct RayOrder {
  using S = Simd<T, kBytes>;
  using V = typename S::Vector;
  using Int = typename S::Int;
  using IntVector = typename S::IntVector;
  static constexpr int kLanes = S::kLanes;

  int64_t coarse, fine;
  T* numbers;               // [F], draws as they come
  T* middles;               // [S - 1], between the coarse samples
  std::vector<Int> places;  // [F]
  std::vector<Int> behind;  // [S + 1]: fine samples right behind so many coarse ones

  static int64_t memory(int64_t coarse, int64_t fine) {
    return Arena<T>::round(fine + kLanes) + Arena<T>::round(coarse);
  }

  RayOrder(int64_t s, int64_t f, Arena<T>& arena)
      : coarse(s),
        fine(f),
        numbers(arena.take(f + kLanes)),
        middles(arena.take(s)),
        places(f + kLanes),
        behind(s + 1) {}

  // `total` with one more in the lanes where `value` lies below x.
  static EPIGRAF_HD IntVector count(T value, V x, IntVector total) {
    return choose(S::splat(value) < x, total + 1, total);
  }

  // How many of `count` values lie below each lane of x.
  static EPIGRAF_HD IntVector count_below(const T* values, int64_t count, V x) {
    IntVector total{};
    for (int64_t k = 0; k < count; ++k) total = RayOrder::count(values[k], x, total);
    return total;
  }

  // u [F], ascending, into draws; NaN becomes infinity.
  EPIGRAF_HD void sort(const T* u, T* draws) {
    constexpr T kLast = std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < fine; ++i) numbers[i] = u[i] == u[i] ? u[i] : kLast;
    for (int64_t i = 0; i < fine; i += kLanes) S::store(places.data() + i, rank(i));
    for (int64_t i = 0; i < fine; ++i) draws[places[i]] = numbers[i];
  }

  // How many numbers come before each of those from `first` on; equal ones keep their order.
  EPIGRAF_HD IntVector rank(int64_t first) const {
    const V x = S::load(numbers + first);
    const int64_t end = std::min(first + kLanes, fine);
    IntVector total{}, lane{};
    for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<Int>(i);
    for (int64_t k = 0; k < first; ++k) {
      total = choose(S::splat(numbers[k]) <= x, total + 1, total);
    }
    for (int64_t k = first; k < end; ++k) {
      const IntVector later = choose(lane > static_cast<Int>(k - first), total + 1, total);
      total = choose(S::splat(numbers[k]) == x, later, count(numbers[k], x, total));
    }
    for (int64_t k = end; k < fine; ++k) total = count(numbers[k], x, total);
    return total;
  }

  // (render 5): depths [F], ascending, of ascending draws; cdf as `importance_cdf` leaves it.
  EPIGRAF_HD void place(const T* t, const T* cdf, const T* draws, T* depths) const {
    for (int64_t k = 0; k + 1 < coarse; ++k) middles[k] = T(0.5) * (t[k] + t[k + 1]);
    for (int64_t i = 0; i < fine; i += kLanes) place_some(cdf, draws + i, depths + i);
    for (int64_t i = 1; i < fine; ++i) {  // rounding at a bin's end
      if (depths[i] < depths[i - 1]) depths[i] = depths[i - 1];
    }
  }

  EPIGRAF_HD void place_some(const T* cdf, const T* draws, T* depths) const {
    const V u = S::load(draws);
    const Int end = static_cast<Int>(coarse - 2);
    const IntVector above = count_below(cdf, coarse - 1, u);
    const IntVector from = choose(above > 0, above - 1, above);
    const IntVector to = choose(above > end, IntVector{} + end, above);
    V low{}, high{}, middle_low{}, middle_high{};
    EPIGRAF_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      low[i] = cdf[from[i]];
      high[i] = cdf[to[i]];
      middle_low[i] = middles[from[i]];
      middle_high[i] = middles[to[i]];
    }
    const V width = high - low;
    const V whole = choose(width < T(kPdfEpsilon), S::splat(1), width);
    S::store(depths, middle_low + (u - low) / whole * (middle_high - middle_low));
  }

  // (render 6): the order of a ray's samples by depth, a fine one before a coarse one of the same
  // depth. Sample k of the merged ray is sample `order[k]` of the coarse ones or, from S on, of the
  // fine ones; its depth is t[k]. A permutation whatever the depths are, NaN too.
  EPIGRAF_HD void merge(const T* t_coarse, const T* t_fine, int32_t* order, T* t) {
    for (int64_t i = 0; i < fine; i += kLanes) {
      S::store(places.data() + i, count_below(t_coarse, coarse, S::load(t_fine + i)));
    }
    std::fill(behind.begin(), behind.end(), Int(0));
    Int passed = 0;
    for (int64_t i = 0; i < fine; ++i) {
      passed = std::max(passed, places[i]);
      order[passed + i] = static_cast<int32_t>(coarse + i);
      t[passed + i] = t_fine[i];
      ++behind[passed];
    }
    int64_t before = 0;
    for (int64_t k = 0; k < coarse; ++k) {
      before += behind[k];
      order[before + k] = static_cast<int32_t>(k);
      t[before + k] = t_coarse[k];
    }
  }
};

}  // namespace epigraf
