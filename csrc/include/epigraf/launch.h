// The launchers: one function per op, direction and device. They take raw addresses, sizes, and
// either a number of threads (CPU) or a device and a stream (CUDA); they allocate nothing and know
// no torch. Defined for float and double in csrc/cpu/<op>.cpp and csrc/cuda/<op>.cu.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "epigraf/activation.h"
#include "epigraf/composite.h"
#include "epigraf/importance.h"
#include "epigraf/occupancy.h"
#include "epigraf/philox.h"
#include "epigraf/products.h"
#include "epigraf/rays.h"
#include "epigraf/render.h"
#include "epigraf/resample.h"
#include "epigraf/triplane.h"
#include "epigraf/winograd.h"

namespace epigraf {

// A CUDA stream of a device; handle is a cudaStream_t.
struct Stream {
  int device;
  void* handle;
};

// Planes and features are T, or 16 bits where T is float.
template <typename T, typename P = T>
struct TriplaneForward {
  TriplaneShape shape;
  const P* planes;  // [B, 3, H, W, F] in the shape's strides
  const T* points;  // [B, P, 3] contiguous
  P* features;      // [B, P, F] contiguous, overwritten
};

// grad_planes (in the shape's strides) is added to: the caller zeroes it. grad_points is
// overwritten. Either may be null; planes is read only for grad_points.
template <typename T, typename P = T>
struct TriplaneBackward {
  TriplaneShape shape;
  const P* planes;
  const T* points;
  const P* grad_features;  // [B, P, F] contiguous
  T* grad_planes;
  T* grad_points;  // [B, P, 3] contiguous
};

// x -> y, which may be the same memory. P is T, or 16 bits where T is float.
template <typename T, typename P = T>
struct ActivationForward {
  ActivationShape shape;
  ActivationCurve<T> curve;
  const P* x;
  const T* bias;      // [C]
  const T* scale;     // [B, C], or null
  const T* noise;     // [B, P] or [P], or null
  const T* strength;  // one number, read where there is noise
  P* y;               // overwritten
};

template <typename T, typename P = T>
struct ActivationBackward {
  ActivationShape shape;
  ActivationCurve<T> curve;
  const P* grad_y;
  const P* y;
  const T* scale;
  const T* noise;  // read for the sums only
  P* grad_x;       // overwritten
  T* sums;         // [B, runs, activation_sums, C], overwritten, or null
};

// x -> y, gain times the map of its shape. P is T, or 16 bits where T is float.
template <typename T, typename P = T>
struct Resample {
  ResampleShape shape;
  T gain;
  const P* x;
  P* y;  // overwritten
};

// The numbers offset ... offset + count - 1 of a stream of a seed (philox 2-4).
template <typename T>
struct PhiloxFill {
  uint64_t seed;
  uint32_t stream;
  uint64_t offset;
  int64_t count;
  bool normal;  // instead of uniform
  T* numbers;   // [count], overwritten
};

// Depths of F draws a ray, in their order; S >= 3.
template <typename T>
struct ImportanceForward {
  int64_t rays, samples, draws;
  const T* t;        // [rays, S]
  const T* weights;  // [rays, S]
  const T* u;        // [rays, F]; rows u_stride apart
  int64_t u_stride;
  T* depths;  // [rays, F], overwritten
};

struct MergeShape {
  int64_t rays, fine, coarse, channels;  // F, S, C
};

// One set of samples, or its gradient.
template <typename P>
struct MergeSamples {
  P colors;     // [rays, samples, C]
  P densities;  // [rays, samples]
  P t;          // [rays, samples]
};

// `order` [rays, F + S] receives the number of the sample at each place: fine ones from 0, coarse
// ones from F.
template <typename T>
struct MergeForward {
  MergeShape shape;
  MergeSamples<const T*> fine, coarse;
  MergeSamples<T*> merged;  // of F + S samples, overwritten
  int32_t* order;
};

// Gradients of `merged` (null: zero) and of the inputs (null: not wanted; else overwritten).
template <typename T>
struct MergeBackward {
  MergeShape shape;
  const int32_t* order;
  MergeSamples<const T*> grad;
  MergeSamples<T*> grad_fine, grad_coarse;
};

// The pointers of all rays: row r of an array starts r times its row length further.
template <typename T>
struct CompositeForward {
  CompositeShape shape;
  const T* colors;      // [rays, S, C]
  const T* densities;   // [rays, S]
  const T* t;           // [rays, S]
  const T* last_delta;  // [rays]
  CompositeOut<T> out;  // [rays, C], [rays], [rays, S], [rays], [rays]; overwritten
};

template <typename T>
struct CompositeBackward {
  CompositeShape shape;
  const T* colors;
  const T* densities;
  const T* t;
  const T* last_delta;
  CompositeGradOut<T> grad;    // as CompositeForward::out; null means zero
  CompositeGradIn<T> grad_in;  // as the inputs; overwritten; only densities must not be null
};

// The decoder at points [0, points); net.widths[layers] = O may be any number >= 2.
template <typename T>
struct DecoderForward {
  int64_t points;
  DecoderLayers<T> net;
  const T* features;  // [P, F]
  T* rest;            // [P, O - 1], overwritten
  T* last;            // [P], overwritten
};

// Gradients of the outputs (null: zero), of the features (overwritten) and of the parameters (added
// to: the caller zeroes them); null: not wanted.
template <typename T>
struct DecoderBackward {
  int64_t points;
  DecoderLayers<T> net;
  const T* features;
  const T* grad_rest;
  const T* grad_last;
  T* grad_features;
  T* grad_weights[kMaxLayers];
  T* grad_biases[kMaxLayers];
};

// The rays of a patch, row by row from the top.
template <typename T>
struct PatchRays {
  int64_t batch, height, width;
  const T* cam2world;  // [B, 4, 4]
  const T* fov;        // degrees; the next one fov_stride further (0: one for all)
  int64_t fov_stride;
  const T* scales;   // [B, 2], or null: the whole image
  const T* offsets;  // [B, 2], or null with scales
  T* origins;        // [B, R, 3], overwritten
  T* directions;     // [B, R, 3], overwritten
  // Places of the pixels' columns [width] and rows [height], instead of a patch; or null, both.
  const T* columns = nullptr;
  const T* rows = nullptr;
};

// The part of each ray that lies in a ball (rays 6).
template <typename T>
struct BallSegments {
  int64_t rays;
  const T* origins;     // [R, 3]
  const T* directions;  // [R, 3], unit length
  T radius_squared, near, far;
  T* t_near;  // [R], overwritten
  T* t_far;   // [R], overwritten
  bool* hit;  // [R], overwritten: whether it is longer than nothing
};

// Ray `ray` of them.
template <typename T>
EPIGRAF_HD void find_ball_segment(const BallSegments<T>& p, int64_t ray) {
  const T *o = p.origins + 3 * ray, *d = p.directions + 3 * ray;
  const RayEnds<T> ends = ends_in_ball(o, d, p.radius_squared, p.near, p.far);
  p.t_near[ray] = ends.near;
  p.t_far[ray] = ends.far;
  p.hit[ray] = ends.far > ends.near;
}

// Grids [B] of G^3 cells from densities (occupancy 1-4).
template <typename T>
struct OccupancyBuild {
  int64_t batch, resolution;
  const T* corners;  // [B, G + 1, G + 1, G + 1]
  const T* centres;  // [B, G, G, G]
  T threshold;
  uint32_t* dense;  // [B, G G G / 32], overwritten: before the dilation
  uint32_t* words;  // [B, G G G / 32], overwritten
};

// Occupied intervals of rays (occupancy 6-8). Without offsets they are counted, with offsets (the
// sums of the counts of the rays in front) they are written.
template <typename T>
struct OccupancyTraverse {
  int64_t batch, rays, resolution;
  T half_edge, step;       // step 0: whole intervals
  const uint32_t* words;   // [B, G G G / 32]
  const T* origins;        // [B, R, 3]
  const T* directions;     // [B, R, 3]
  const T* near;           // [B, R]
  const T* far;            // [B, R]
  const int64_t* offsets;  // [B, R], or null
  int64_t* counts;         // [B, R], overwritten where there are no offsets
  int64_t* ray_indices;    // [N]: b R + r
  T* t_starts;             // [N]
  T* t_ends;               // [N]
};

// Which points lie in occupied cells (occupancy 5).
template <typename T>
struct OccupancyLookup {
  int64_t batch, points, resolution;
  T half_edge;
  const uint32_t* words;  // [B, G G G / 32]
  const T* coords;        // [B, P, 3], world units
  uint8_t* occupied;      // [B, P], 0 or 1, overwritten
};

template <typename T>
EPIGRAF_HD OccupancySamples<T> samples_of_grid(const OccupancyBuild<T>& p, int64_t b) {
  const int64_t n = p.resolution, m = n + 1;
  return {n, p.corners + b * m * m * m, p.centres + b * n * n * n, p.threshold};
}

// Ray `index` of [B R]: counts its intervals, or writes them.
template <typename T>
EPIGRAF_HD void traverse_indexed_ray(const OccupancyTraverse<T>& p, int64_t index) {
  const OccupancyCells<T> grid = {
      p.resolution, p.words + index / p.rays * words_of_grid(p.resolution), p.half_edge};
  const OccupancyRay<T> ray = {p.origins + 3 * index, p.directions + 3 * index, p.near[index],
                               p.far[index]};
  int64_t at = p.offsets ? p.offsets[index] : 0;
  traverse_ray(grid, ray, [&](T start, T end) {
    const int64_t pieces = pieces_of_interval(end - start, p.step);
    for (int64_t k = 0; p.offsets && k < pieces; ++k) {
      p.ray_indices[at + k] = index;
      p.t_starts[at + k] = start + (end - start) * (T(k) / T(pieces));
      p.t_ends[at + k] = k + 1 < pieces ? start + (end - start) * (T(k + 1) / T(pieces)) : end;
    }
    at += pieces;
  });
  if (!p.offsets) p.counts[index] = at;
}

template <typename T>
EPIGRAF_HD PatchCamera<T> patch_camera(const PatchRays<T>& p, int64_t b) {
  PatchCamera<T> camera = {};
  for (int i = 0; i < 12; ++i) camera.cam2world[i] = p.cam2world[16 * b + i];
  camera.focal = focal_of_fov(p.fov[b * p.fov_stride]);
  camera.scale_x = p.scales ? p.scales[2 * b] : T(1);
  camera.scale_y = p.scales ? p.scales[2 * b + 1] : T(1);
  camera.offset_x = p.scales ? p.offsets[2 * b] : T(0);
  camera.offset_y = p.scales ? p.offsets[2 * b + 1] : T(0);
  return camera;
}

// Where pixel `column` of row `row` lies in the image plane.
template <typename T>
EPIGRAF_HD T place_of_column(const PatchRays<T>& p, const PatchCamera<T>& camera, int64_t column) {
  if (p.columns) return p.columns[column];
  return patch_place(grid_position<T>(column, p.width), camera.scale_x, camera.offset_x);
}
template <typename T>
EPIGRAF_HD T place_of_row(const PatchRays<T>& p, const PatchCamera<T>& camera, int64_t row) {
  if (p.rows) return p.rows[row];
  return patch_place(-grid_position<T>(row, p.height), camera.scale_y, camera.offset_y);
}

// One row of samples moved: place `to` receives what was (or what belongs to) place `from`.
template <typename T>
EPIGRAF_HD void move_sample(const MergeSamples<const T*>& source, int64_t from,
                            const MergeSamples<T*>& target, int64_t to, int64_t channels) {
  if (target.colors) {
    for (int64_t c = 0; c < channels; ++c) {
      target.colors[to * channels + c] = source.colors ? source.colors[from * channels + c] : T(0);
    }
  }
  if (target.densities) target.densities[to] = source.densities ? source.densities[from] : T(0);
  if (target.t) target.t[to] = source.t ? source.t[from] : T(0);
}

// Sample `number` of ray `ray` to place `place` of the merged ray.
template <typename T>
EPIGRAF_HD void merge_sample(const MergeForward<T>& p, int64_t ray, int64_t number, int64_t place) {
  const MergeShape& s = p.shape;
  const int64_t to = ray * (s.fine + s.coarse) + place;
  if (number < s.fine) {
    move_sample(p.fine, ray * s.fine + number, p.merged, to, s.channels);
  } else {
    move_sample(p.coarse, ray * s.coarse + number - s.fine, p.merged, to, s.channels);
  }
}

// The gradient of a permutation: back from `place` to the sample that came there.
template <typename T>
EPIGRAF_HD void merge_sample_vjp(const MergeBackward<T>& p, int64_t ray, int64_t place) {
  const MergeShape& s = p.shape;
  const int64_t from = ray * (s.fine + s.coarse) + place, number = p.order[from];
  if (number < s.fine) {
    move_sample(p.grad, from, p.grad_fine, ray * s.fine + number, s.channels);
  } else {
    move_sample(p.grad, from, p.grad_coarse, ray * s.coarse + number - s.fine, s.channels);
  }
}

// Moves the pointers of ray 0 to those of `ray`; null stays null.
template <typename P>
EPIGRAF_HD P row(P first, int64_t ray, int64_t length) {
  return first ? first + ray * length : first;
}

template <typename Params>
EPIGRAF_HD auto ray_of(const Params& p, int64_t ray) {
  const int64_t s = p.shape.samples, c = p.shape.channels;
  using Ray = CompositeRay<std::remove_const_t<std::remove_pointer_t<decltype(p.t)>>>;
  return Ray{p.colors + ray * s * c, p.densities + ray * s, p.t + ray * s, p.last_delta[ray]};
}

template <typename T>
EPIGRAF_HD CompositeOut<T> out_of_ray(const CompositeForward<T>& p, int64_t ray) {
  const int64_t s = p.shape.samples, c = p.shape.channels;
  return {p.out.features + ray * c, p.out.depth + ray, p.out.weights + ray * s,
          p.out.transmittance + ray, p.out.opacity + ray};
}

template <typename T>
EPIGRAF_HD CompositeGradOut<T> grad_of_ray(const CompositeBackward<T>& p, int64_t ray) {
  const int64_t s = p.shape.samples, c = p.shape.channels;
  return {row(p.grad.features, ray, c), row(p.grad.depth, ray, 1), row(p.grad.weights, ray, s),
          row(p.grad.transmittance, ray, 1), row(p.grad.opacity, ray, 1)};
}

template <typename T>
EPIGRAF_HD CompositeGradIn<T> grad_in_of_ray(const CompositeBackward<T>& p, int64_t ray) {
  const int64_t s = p.shape.samples, c = p.shape.channels;
  return {row(p.grad_in.colors, ray, s * c), row(p.grad_in.densities, ray, s),
          row(p.grad_in.t, ray, s), row(p.grad_in.last_delta, ray, 1)};
}

// CPU: `threads` OpenMP threads. Results do not depend on their number.
template <typename T, typename P>
void triplane_forward_cpu(const TriplaneForward<T, P>& params, int threads);
template <typename T, typename P>
void triplane_backward_cpu(const TriplaneBackward<T, P>& params, int threads);
template <typename T, typename P>
void activation_forward_cpu(const ActivationForward<T, P>& params, int threads);
template <typename T, typename P>
void activation_backward_cpu(const ActivationBackward<T, P>& params, int threads);
template <typename T, typename P>
void resample_cpu(const Resample<T, P>& params, int threads);
template <typename T>
void composite_forward_cpu(const CompositeForward<T>& params, int threads);
template <typename T>
void composite_backward_cpu(const CompositeBackward<T>& params, int threads);
template <typename T>
void importance_forward_cpu(const ImportanceForward<T>& params, int threads);
template <typename T>
void merge_forward_cpu(const MergeForward<T>& params, int threads);
template <typename T>
void merge_backward_cpu(const MergeBackward<T>& params, int threads);
template <typename T>
void patch_rays_cpu(const PatchRays<T>& params, int threads);
template <typename T>
void ball_segments_cpu(const BallSegments<T>& params, int threads);
template <typename T>
void philox_fill_cpu(const PhiloxFill<T>& params, int threads);
template <typename T>
void occupancy_build_cpu(const OccupancyBuild<T>& params, int threads);
template <typename T>
void occupancy_traverse_cpu(const OccupancyTraverse<T>& params, int threads);
template <typename T>
void occupancy_lookup_cpu(const OccupancyLookup<T>& params, int threads);
template <typename T>
void winograd_cpu(const WinogradTiles<T>& params, int threads);
// Taps to points; and the adjoint of that, which writes the taps.
template <typename T>
void winograd_kernels_cpu(const WinogradKernels<T>& params, int threads);
template <typename T>
void winograd_kernels_adjoint_cpu(const WinogradKernels<T>& params, int threads);
// Whole convolutions, and of those the ones of few tiles; the numbers of scratch that they need.
template <typename T>
void winograd_whole_cpu(const WinogradConvolution<T>& params, int threads);
template <typename T>
void winograd_whole_cpu(const WinogradGradient<T>& params, int threads);
template <typename T>
int64_t winograd_scratch(const WinogradConvolution<T>& params, int threads);
template <typename T>
int64_t winograd_scratch(const WinogradGradient<T>& params, int threads);
template <typename T>
void winograd_few_cpu(const WinogradConvolution<T>& params, int threads);
template <typename T>
void winograd_few_cpu(const WinogradGradient<T>& params, int threads);
template <typename T>
int64_t winograd_few_scratch(const WinogradConvolution<T>& params, int threads);
template <typename T>
int64_t winograd_few_scratch(const WinogradGradient<T>& params, int threads);
template <typename T>
void panel_products_cpu(const PanelProducts<T>& params, int threads);
template <typename T>
void product_sums_cpu(const ProductSums<T>& params, int threads);
template <typename T>
void few_rows_forward_cpu(const FewRows<T>& params, int threads);
template <typename T>
void few_rows_input_cpu(const FewRows<T>& params, int threads);
template <typename T>
void few_rows_weight_cpu(const FewRows<T>& params, int threads);
// These two work in memory of their own, a few hundred kilobytes a thread; the backward pass also
// in the gradient of one batch element's planes for each thread after the first. Its result depends
// on the number of threads by rounding.
template <typename T>
void render_forward_cpu(const RenderForward<T>& params, int threads);
// The planes behind the decoder's first layer, for RenderForward::projected: render_projected_size
// elements for each batch element, in a layout of this processor's own.
template <typename T>
void render_project_cpu(const RenderField<T>& field, T* to, int threads);
int64_t render_projected_size(const TriplaneShape& shape, int64_t units, bool is_double);
template <typename T>
void render_backward_cpu(const RenderBackward<T>& params, int threads);

template <typename T>
void decoder_forward_cpu(const DecoderForward<T>& params, int threads);
template <typename T>
void decoder_backward_cpu(const DecoderBackward<T>& params, int threads);

// The instruction set that the running CPU selects: "x86-64-v4", "x86-64-v3" or "default".
const char* cpu_instruction_set();
// Whether the module was compiled with OpenMP.
bool cpu_has_openmp();

// Bytes of the vectors that the code has clones for and this processor runs, ascending.
std::vector<int> vector_widths();

// Every thread takes `steps` steps of kFmaChains independent chains x -> x / 2 + 1 / 4 in float
// vectors of `bytes`; returns the sum of all lanes, which tend to 1/2. Throws for a width that is
// not among vector_widths().
constexpr int kFmaChains = 12;
double fma_loop(int bytes, int64_t steps, int threads);

// CUDA: launch on the stream and return; std::runtime_error with CUDA's own message if the launch
// fails. Compiled where EPIGRAF_WITH_CUDA is defined.
template <typename T, typename P>
void triplane_forward_cuda(const TriplaneForward<T, P>& params, Stream stream);
template <typename T, typename P>
void triplane_backward_cuda(const TriplaneBackward<T, P>& params, Stream stream);
template <typename T, typename P>
void activation_forward_cuda(const ActivationForward<T, P>& params, Stream stream);
template <typename T, typename P>
void activation_backward_cuda(const ActivationBackward<T, P>& params, Stream stream);
template <typename T, typename P>
void resample_cuda(const Resample<T, P>& params, Stream stream);
template <typename T>
void composite_forward_cuda(const CompositeForward<T>& params, Stream stream);
template <typename T>
void composite_backward_cuda(const CompositeBackward<T>& params, Stream stream);
// Two decoder layers, and no more than RenderMemory (render_memory.h) finds room for.
template <typename T>
void render_forward_cuda(const RenderForward<T>& params, Stream stream);
template <typename T>
void render_backward_cuda(const RenderBackward<T>& params, Stream stream);
template <typename T>
void importance_forward_cuda(const ImportanceForward<T>& params, Stream stream);
template <typename T>
void merge_forward_cuda(const MergeForward<T>& params, Stream stream);
template <typename T>
void merge_backward_cuda(const MergeBackward<T>& params, Stream stream);
template <typename T>
void decoder_forward_cuda(const DecoderForward<T>& params, Stream stream);
template <typename T>
void decoder_backward_cuda(const DecoderBackward<T>& params, Stream stream);
template <typename T>
void patch_rays_cuda(const PatchRays<T>& params, Stream stream);
template <typename T>
void ball_segments_cuda(const BallSegments<T>& params, Stream stream);
template <typename T>
void philox_fill_cuda(const PhiloxFill<T>& params, Stream stream);
template <typename T>
void occupancy_build_cuda(const OccupancyBuild<T>& params, Stream stream);
template <typename T>
void occupancy_traverse_cuda(const OccupancyTraverse<T>& params, Stream stream);
template <typename T>
void occupancy_lookup_cuda(const OccupancyLookup<T>& params, Stream stream);

// Number of devices that CUDA sees (0 without a driver); csrc/cuda/device.cu.
int cuda_device_count();

}  // namespace epigraf
