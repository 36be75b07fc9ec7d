// Threads and SIMD around resample.h: a task makes one or two rows of a plane, down the columns
// into lines, then along those. Channels-last the lanes are channels, up to a line of them, and the
// lines of a window of pixels stay in the first-level cache; else the lanes are the pixels of a
// row.
#include "epigraf/resample.h"

#include <algorithm>
#include <type_traits>

#include "clone_run.h"
#include "epigraf/half.h"
#include "epigraf/launch.h"

namespace epigraf {
namespace {

constexpr int64_t kLine = 256;  // numbers

// The rows of a task. Two of a blur share three of the five that they see; four gain nothing more.
template <typename Map>
struct RowsOf : Map {
  static constexpr int kSteps = std::is_same_v<Map, Blur> ? 2 : 1;
  static constexpr int kSeen = Map::kWindow + (kSteps - 1) * Map::kAdvance;
  static constexpr int kLines = kSteps * Map::kMade;
};

// Where they are: null outside of the picture.
template <typename Map, typename T, typename P>
struct Task {
  using R = RowsOf<Map>;
  const P* seen[R::kSeen];
  P* made[R::kLines];
  ResampleTaps<T> down, along;
  int64_t width, made_width, steps, pad, lanes;  // steps: along a row

  EPIGRAF_HD Task(const Resample<T, P>& p, int64_t plane, int64_t step)
      : down(resample_taps<Map>(T(1))), along(resample_taps<Map>(p.gain)) {
    const ResampleShape& s = p.shape;
    const int64_t height = s.made(s.height);
    width = s.width, made_width = s.made(s.width), steps = R::count(made_width);
    pad = s.pad, lanes = s.lanes();
    for (int i = 0; i < R::kSeen; ++i) {
      const int64_t y = step * R::kAdvance - pad + i;
      const bool inside = y >= 0 && y < s.height;
      seen[i] = inside ? p.x + (plane * s.height + y) * width * lanes : nullptr;
    }
    for (int i = 0; i < R::kLines; ++i) {
      const int64_t y = R::place(step) + i;
      const bool inside = y >= 0 && y < height;
      made[i] = inside ? p.y + (plane * height + y) * made_width * lanes : nullptr;
    }
  }
  // Lane `c` of column `x` in each row; zeros, up to a line, outside.
  EPIGRAF_HD void look(int64_t x, int64_t c, const P** rows) const {
    alignas(64) static const P zeros[kLine] = {};
    const bool inside = x >= 0 && x < width;
    EPIGRAF_UNROLL
    for (int i = 0; i < R::kSeen; ++i)
      rows[i] = inside && seen[i] ? seen[i] + x * lanes + c : zeros;
  }
};

// Numbers `k` of the rows, down the columns. Bodies of loops over lanes are functions: arrays of a
// body itself would be arrays of lanes.
template <typename Map, typename T, typename P>
EPIGRAF_HD void down_rows_at(ResampleTaps<T> taps, const P* const* rows, int64_t k, T* lines) {
  using R = RowsOf<Map>;
  T window[R::kSeen];
  EPIGRAF_UNROLL
  for (int i = 0; i < R::kSeen; ++i) window[i] = T(rows[i][k]);
  EPIGRAF_UNROLL
  for (int i = 0; i < R::kLines; ++i)
    lines[i] = resample_pixel<Map>(taps, window + i / R::kMade * R::kAdvance, i % R::kMade);
}

template <typename Map, typename T, typename P>
EPIGRAF_HD void rows_to_lines_at(ResampleTaps<T> taps, const P* const* rows, T* lines, int64_t k) {
  T numbers[RowsOf<Map>::kLines];
  down_rows_at<Map>(taps, rows, k, numbers);
  EPIGRAF_UNROLL
  for (int i = 0; i < RowsOf<Map>::kLines; ++i) lines[i * kLine + k] = numbers[i];
}

template <typename Map, typename T, typename P>
EPIGRAF_HD void rows_to_lines(ResampleTaps<T> taps, const P* const* rows, T* lines, int64_t count) {
  EPIGRAF_SIMD
  for (int64_t k = 0; k < count; ++k) rows_to_lines_at<Map>(taps, rows, lines, k);
}

// Channels of a step along the rows: from new columns, and the lines of those before, whose oldest
// the new ones replace.
template <typename Map, typename T, typename P>
struct Step {
  using R = RowsOf<Map>;
  static constexpr int kKept = R::kWindow - R::kAdvance;
  const P* rows[R::kAdvance][R::kSeen];
  T* kept[kKept];
  P* made[R::kLines][R::kMade];

  EPIGRAF_HD void run_at(ResampleTaps<T> down, ResampleTaps<T> along, int64_t k) const {
    T fresh[R::kAdvance][R::kLines];
    EPIGRAF_UNROLL
    for (int j = 0; j < R::kAdvance; ++j) down_rows_at<Map>(down, rows[j], k, fresh[j]);
    EPIGRAF_UNROLL
    for (int i = 0; i < R::kLines; ++i) {
      T window[R::kWindow];
      EPIGRAF_UNROLL
      for (int j = 0; j < R::kWindow; ++j)
        window[j] = j < kKept ? kept[j % kKept][i * kLine + k] : fresh[j - kKept][i];
      EPIGRAF_UNROLL
      for (int j = 0; j < R::kAdvance; ++j) kept[j][i * kLine + k] = fresh[j][i];
      EPIGRAF_UNROLL
      for (int j = 0; j < R::kMade; ++j) made[i][j][k] = P(resample_pixel<Map>(along, window, j));
    }
  }
  EPIGRAF_HD void run(const Task<Map, T, P>& task, int64_t count) const {
    const Step step = *this;  // in registers: nothing that is stored can change it
    const ResampleTaps<T> down = task.down, along = task.along;
    EPIGRAF_SIMD
    for (int64_t k = 0; k < count; ++k) step.run_at(down, along, k);
  }
};

// Channels [c, c + count) of a channels-last task.
template <typename Map, typename T, typename P>
EPIGRAF_HD void resample_channels(const Task<Map, T, P>& task, int64_t c, int64_t count) {
  using R = RowsOf<Map>;
  constexpr int kKept = Step<Map, T, P>::kKept;
  alignas(64) T lines[kKept][R::kLines * kLine];
  P unwanted[kLine];
  Step<Map, T, P> step;
  for (int64_t i = 0; i < kKept; ++i) {
    task.look(i - task.pad, c, step.rows[0]);
    rows_to_lines<Map>(task.down, step.rows[0], lines[i], count);
  }
  for (int64_t s = 0; s < task.steps; ++s) {
    const int64_t first = s * R::kAdvance;
    for (int i = 0; i < R::kAdvance; ++i) task.look(first + kKept + i - task.pad, c, step.rows[i]);
    for (int i = 0; i < kKept; ++i) step.kept[i] = lines[(first + i) % kKept];
    for (int i = 0; i < R::kLines * R::kMade; ++i) {
      const int64_t x = R::place(s) + i % R::kMade;
      P* row = task.made[i / R::kMade];
      const bool wanted = row && x >= 0 && x < task.made_width;
      step.made[i / R::kMade][i % R::kMade] = wanted ? row + x * task.lanes + c : unwanted;
    }
    step.run(task, count);
  }
}

template <typename Map, typename T, typename P>
EPIGRAF_HD void line_to_pixels_at(ResampleTaps<T> taps, const T* const* window, P* const* made,
                                  int64_t k) {
  using R = RowsOf<Map>;
  T numbers[R::kWindow];
  EPIGRAF_UNROLL
  for (int i = 0; i < R::kWindow; ++i) numbers[i] = window[i][k * R::kAdvance];
  EPIGRAF_UNROLL
  for (int i = 0; i < R::kMade; ++i)
    made[i][k * R::kMade] = P(resample_pixel<Map>(taps, numbers, i));
}

// Along a line of neighbours in memory: `count` steps.
template <typename Map, typename T, typename P>
EPIGRAF_HD void line_to_pixels(ResampleTaps<T> taps, const T* const* window, P* const* made,
                               int64_t count) {
  EPIGRAF_SIMD
  for (int64_t k = 0; k < count; ++k) line_to_pixels_at<Map>(taps, window, made, k);
}

// Steps [first, end) of a line that begins with the first pixel that they see. The first and the
// last one of `up` are runs of their own, which make one pixel outside.
template <typename Map, typename T, typename P>
EPIGRAF_HD void steps_along(const Task<Map, T, P>& task, const T* line, P* row, int64_t first,
                            int64_t end) {
  using R = RowsOf<Map>;
  P unwanted;
  const auto run = [&](int64_t begin, int64_t stop) EPIGRAF_INLINE_LAMBDA {
    const T* window[R::kWindow];
    P* made[R::kMade];
    for (int i = 0; i < R::kWindow; ++i) window[i] = line + (begin - first) * R::kAdvance + i;
    for (int i = 0; i < R::kMade; ++i) {
      const int64_t x = R::place(begin) + i;
      made[i] = x >= 0 && x < task.made_width ? row + x : &unwanted;
    }
    line_to_pixels<Map>(task.along, window, made, stop - begin);
  };
  if constexpr (std::is_same_v<Map, Up>) {
    const int64_t inner = std::max<int64_t>(first, 1);
    const int64_t outer = std::max(std::min(end, task.steps - 1), inner);
    if (first < inner) run(first, inner);
    run(inner, outer);
    if (outer < end) run(outer, end);
  } else {
    run(first, end);
  }
}

// A task whose pixels are neighbours in memory, piece by piece.
template <typename Map, typename T, typename P>
EPIGRAF_HD void resample_plane(const Task<Map, T, P>& task) {
  using R = RowsOf<Map>;
  alignas(64) T lines[R::kLines][kLine];
  constexpr int64_t kPiece = (kLine - R::kWindow) / R::kAdvance + 1;
  for (int64_t first = 0; first < task.steps; first += kPiece) {
    const int64_t end = std::min(first + kPiece, task.steps);
    const int64_t begin = first * R::kAdvance - task.pad, stop = begin + R::seen(end - first);
    const int64_t inside = std::max<int64_t>(begin, 0), outside = std::min(stop, task.width);
    for (T* line : lines) {
      std::fill_n(line, inside - begin, T(0));
      std::fill_n(line + (outside - begin), stop - outside, T(0));
    }
    const P* rows[R::kSeen];
    task.look(inside, 0, rows);
    rows_to_lines<Map>(task.down, rows, lines[0] + (inside - begin), outside - inside);
    for (int i = 0; i < R::kLines; ++i)
      if (task.made[i]) steps_along(task, lines[i], task.made[i], first, end);
  }
}

template <typename Map, typename T, typename P>
EPIGRAF_HD void run_task(const Resample<T, P>& p, int64_t plane, int64_t step) {
  const Task<Map, T, P> task(p, plane, step);
  if (!p.shape.channels_last) return resample_plane(task);
  for (int64_t c = 0; c < task.lanes; c += kLine)
    resample_channels(task, c, std::min(kLine, task.lanes - c));
}

template <typename Map, typename T, typename P>
void run(const Resample<T, P>& p, int threads) {
  using R = RowsOf<Map>;
  const int64_t rows = (R::count(p.shape.made(p.shape.height)) + R::kSteps - 1) / R::kSteps;
  const int64_t tasks = p.shape.planes() * rows;
  with_vectors([&](auto bytes) {
#pragma omp parallel for num_threads(threads) schedule(static) if (tasks > 1)
    for (int64_t task = 0; task < tasks; ++task) {
      Clone<bytes()>::run(
          [&]() EPIGRAF_INLINE_LAMBDA { run_task<Map>(p, task / rows, task % rows * R::kSteps); });
    }
  });
}

}  // namespace

template <typename T, typename P>
void resample_cpu(const Resample<T, P>& params, int threads) {
  switch (params.shape.map) {
    case ResampleMap::blur:
      return run<Blur>(params, threads);
    case ResampleMap::down:
      return run<Down>(params, threads);
    case ResampleMap::up:
      return run<Up>(params, threads);
  }
}

template void resample_cpu(const Resample<float, float>&, int);
template void resample_cpu(const Resample<double, double>&, int);
template void resample_cpu(const Resample<float, Half>&, int);
template void resample_cpu(const Resample<float, BFloat16>&, int);

}  // namespace epigraf
