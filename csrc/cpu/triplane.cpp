// Threads and SIMD around triplane.h. No result depends on the number of threads: the forward pass
// and grad_points split the points, and grad_planes splits the planes into bands of rows that one
// thread owns and fills in the order of the points.
#include "epigraf/triplane.h"

#include <algorithm>

#include "clones.h"
#include "epigraf/launch.h"

namespace epigraf {
namespace {

constexpr int64_t kPointsPerTask = 512;
constexpr int64_t kTasksPerThread = 4;  // smaller tasks even out what the operating system takes

// Calls body(block, first channel, its place) for blocks of 32, 16, 8, 4 and 1 channels: sums stay
// in registers. Channels that are no neighbours in memory are taken one by one.
template <typename Body>
EPIGRAF_HD void for_channel_blocks(const TriplaneShape& shape, Body body) {
  const int64_t channels = shape.channels;
  int64_t c = 0;
  if (shape.channel_stride != 1) {
    for (; c < channels; ++c) body(std::integral_constant<int, 1>{}, c, c * shape.channel_stride);
    return;
  }
  for (; c + 32 <= channels; c += 32) body(std::integral_constant<int, 32>{}, c, c);
  for (; c + 16 <= channels; c += 16) body(std::integral_constant<int, 16>{}, c, c);
  for (; c + 8 <= channels; c += 8) body(std::integral_constant<int, 8>{}, c, c);
  for (; c + 4 <= channels; c += 4) body(std::integral_constant<int, 4>{}, c, c);
  for (; c < channels; ++c) body(std::integral_constant<int, 1>{}, c, c);
}

// Points [begin, end) of all B * P.
template <typename T, typename P>
EPIGRAF_HD void forward_points(const TriplaneForward<T, P>& p, int64_t begin, int64_t end) {
  const TriplaneShape shape = p.shape;
  for (int64_t i = begin; i < end; ++i) {
    const P* planes = p.planes + i / shape.points * shape.batch_stride;
    for_channel_blocks(shape, [&](auto block, int64_t c, int64_t place) EPIGRAF_INLINE_LAMBDA {
      triplane_point<decltype(block)::value>(planes + place, p.points + 3 * i, shape,
                                             p.features + i * shape.channels + c);
    });
  }
}

template <typename T, typename P>
EPIGRAF_HD void backward_points(const TriplaneBackward<T, P>& p, int64_t begin, int64_t end) {
  const TriplaneShape shape = p.shape;
  for (int64_t i = begin; i < end; ++i) {
    const P* planes = p.planes + i / shape.points * shape.batch_stride;
    T grad_point[3] = {};
    for_channel_blocks(shape, [&](auto block, int64_t c, int64_t place) EPIGRAF_INLINE_LAMBDA {
      triplane_point_vjp_point<decltype(block)::value>(planes + place, p.points + 3 * i, shape,
                                                       p.grad_features + i * shape.channels + c,
                                                       grad_point);
    });
    std::copy(grad_point, grad_point + 3, p.grad_points + 3 * i);
  }
}

// Rows [first, last) of one plane of one batch element.
struct Band {
  int64_t batch, plane, first, last;
};

// Keeps of the taps only the rows of the band.
template <typename T>
EPIGRAF_HD void clip(PlaneTaps<T>& taps, const Band& band) {
  taps.top = taps.top && taps.row >= band.first && taps.row < band.last;
  taps.bottom = taps.bottom && taps.row + 1 >= band.first && taps.row + 1 < band.last;
}

template <int kBlock, typename T>
EPIGRAF_HD void add_block(T* where, const T (&share)[kBlock]) {
  EPIGRAF_SIMD
  for (int c = 0; c < kBlock; ++c) where[c] += share[c];
}

template <typename T, typename P>
EPIGRAF_HD void backward_band(const TriplaneBackward<T, P>& p, const Band& band) {
  const TriplaneShape shape = p.shape;
  const int64_t first = band.batch * shape.points;
  T* grad_plane = p.grad_planes + band.batch * shape.batch_stride + band.plane * shape.plane_stride;
  for (int64_t i = first; i < first + shape.points; ++i) {
    PlaneTaps<T> taps = plane_taps_of_point(p.points + 3 * i, static_cast<int>(band.plane), shape);
    clip(taps, band);
    if (!taps.top && !taps.bottom) continue;
    const P* grad_features = p.grad_features + i * shape.channels;
    for_channel_blocks(shape, [&](auto block, int64_t c, int64_t place) EPIGRAF_INLINE_LAMBDA {
      constexpr int kBlock = decltype(block)::value;
      T grad[kBlock];
      EPIGRAF_SIMD
      for (int k = 0; k < kBlock; ++k) grad[k] = T(grad_features[c + k]) / T(kPlanes);
      plane_read_vjp_plane<kBlock>(grad_plane + place, taps, shape, grad,
                                   [](T* where, const auto& share)
                                       EPIGRAF_INLINE_LAMBDA { add_block(where, share); });
    });
  }
}

// target_clones does not apply to templates: one function for each pair of types.
EPIGRAF_CLONES void forward_clones(const TriplaneForward<float, float>& p, int64_t begin,
                                   int64_t end) {
  forward_points(p, begin, end);
}
EPIGRAF_CLONES void points_clones(const TriplaneBackward<float, float>& p, int64_t begin,
                                  int64_t end) {
  backward_points(p, begin, end);
}
EPIGRAF_CLONES void band_clones(const TriplaneBackward<float, float>& p, const Band& band) {
  backward_band(p, band);
}
EPIGRAF_CLONES void forward_clones(const TriplaneForward<double, double>& p, int64_t begin,
                                   int64_t end) {
  forward_points(p, begin, end);
}
EPIGRAF_CLONES void points_clones(const TriplaneBackward<double, double>& p, int64_t begin,
                                  int64_t end) {
  backward_points(p, begin, end);
}
EPIGRAF_CLONES void band_clones(const TriplaneBackward<double, double>& p, const Band& band) {
  backward_band(p, band);
}
EPIGRAF_CLONES void forward_clones(const TriplaneForward<float, Half>& p, int64_t begin,
                                   int64_t end) {
  forward_points(p, begin, end);
}
EPIGRAF_CLONES void points_clones(const TriplaneBackward<float, Half>& p, int64_t begin,
                                  int64_t end) {
  backward_points(p, begin, end);
}
EPIGRAF_CLONES void band_clones(const TriplaneBackward<float, Half>& p, const Band& band) {
  backward_band(p, band);
}
EPIGRAF_CLONES void forward_clones(const TriplaneForward<float, BFloat16>& p, int64_t begin,
                                   int64_t end) {
  forward_points(p, begin, end);
}
EPIGRAF_CLONES void points_clones(const TriplaneBackward<float, BFloat16>& p, int64_t begin,
                                  int64_t end) {
  backward_points(p, begin, end);
}
EPIGRAF_CLONES void band_clones(const TriplaneBackward<float, BFloat16>& p, const Band& band) {
  backward_band(p, band);
}

// Each plane in as few bands as keep all threads busy: every band walks all points of its batch
// element.
template <typename T, typename P>
void backward_planes(const TriplaneBackward<T, P>& p, int threads) {
  const TriplaneShape& shape = p.shape;
  const int64_t whole = shape.batch * kPlanes;
  const int64_t wanted = threads > 1 ? (threads * kTasksPerThread + whole - 1) / whole : 1;
  const int64_t bands = std::clamp<int64_t>(wanted, 1, shape.height);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < whole * bands; ++task) {
    const int64_t band = task % bands, plane = task / bands;
    band_clones(p, Band{plane / kPlanes, plane % kPlanes, band * shape.height / bands,
                        (band + 1) * shape.height / bands});
  }
}

}  // namespace

template <typename T, typename P>
void triplane_forward_cpu(const TriplaneForward<T, P>& params, int threads) {
  const int64_t points = params.shape.batch * params.shape.points;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t begin = 0; begin < points; begin += kPointsPerTask) {
    forward_clones(params, begin, std::min(begin + kPointsPerTask, points));
  }
}

template <typename T, typename P>
void triplane_backward_cpu(const TriplaneBackward<T, P>& params, int threads) {
  if (params.grad_planes && params.shape.batch > 0) backward_planes(params, threads);
  if (!params.grad_points) return;
  const int64_t points = params.shape.batch * params.shape.points;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t begin = 0; begin < points; begin += kPointsPerTask) {
    points_clones(params, begin, std::min(begin + kPointsPerTask, points));
  }
}

template void triplane_forward_cpu(const TriplaneForward<float, float>&, int);
template void triplane_backward_cpu(const TriplaneBackward<float, float>&, int);
template void triplane_forward_cpu(const TriplaneForward<double, double>&, int);
template void triplane_backward_cpu(const TriplaneBackward<double, double>&, int);
template void triplane_forward_cpu(const TriplaneForward<float, Half>&, int);
template void triplane_backward_cpu(const TriplaneBackward<float, Half>&, int);
template void triplane_forward_cpu(const TriplaneForward<float, BFloat16>&, int);
template void triplane_backward_cpu(const TriplaneBackward<float, BFloat16>&, int);

}  // namespace epigraf
