// epigraf._C: addresses, sizes and a place to work in; no torch. epigraf/ops/_native.py is its only
// caller.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <vector>

#include "epigraf/launch.h"
#include "epigraf/render_memory.h"

namespace py = pybind11;

namespace {

using epigraf::CompositeShape;
using epigraf::TriplaneShape;

constexpr int kAbi = 16;  // the calling convention; epigraf/ops/_native.py states the same number

// Where to work, and in which precision. device -1 is the CPU.
struct Launch {
  bool is_double;
  int device;
  uintptr_t stream;
  int threads;
};

#if defined(EPIGRAF_WITH_CUDA)
constexpr bool kCuda = true;
#else
constexpr bool kCuda = false;
#endif

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

TriplaneShape triplane_shape(const std::array<int64_t, 5>& sizes,
                             const std::array<int64_t, 4>& strides, int64_t channel_stride = 1) {
  const auto& [batch, points, channels, height, width] = sizes;
  return {batch,      points,     channels,   height,     width,
          strides[0], strides[1], strides[2], strides[3], channel_stride};
}

// Calls `cpu(params, threads)` or `cuda(params, stream)` without the GIL.
template <typename Params, typename Cpu, typename Cuda>
void dispatch(const Launch& launch, const Params& params, Cpu cpu, Cuda cuda) {
  py::gil_scoped_release release;
  if (launch.device < 0) {
    cpu(params, launch.threads);
    return;
  }
#if defined(EPIGRAF_WITH_CUDA)
  cuda(params, epigraf::Stream{launch.device, pointer<void>(launch.stream)});
#else
  (void)cuda;
  throw std::runtime_error("epigraf._C was built without CUDA");
#endif
}

// The CUDA launcher of an op, or nothing where there is none to link to.
#if defined(EPIGRAF_WITH_CUDA)
#define EPIGRAF_CUDA_LAUNCHER(...) epigraf::__VA_ARGS__
#else
#define EPIGRAF_CUDA_LAUNCHER(...) nullptr
#endif

// The type of planes and features, and of pictures: the launch's own, or 16 bits.
enum class Storage { same, half, bfloat16 };

template <typename T, typename P>
void triplane_forward_as(const Launch& launch, const TriplaneShape& shape,
                         const std::array<uintptr_t, 2>& inputs, uintptr_t features) {
  const epigraf::TriplaneForward<T, P> params{shape, pointer<const P>(inputs[0]),
                                              pointer<const T>(inputs[1]), pointer<P>(features)};
  dispatch(launch, params, epigraf::triplane_forward_cpu<T, P>,
           EPIGRAF_CUDA_LAUNCHER(triplane_forward_cuda<T, P>));
}

template <typename T, typename P>
void triplane_backward_as(const Launch& launch, const TriplaneShape& shape,
                          const std::array<uintptr_t, 3>& inputs,
                          const std::array<uintptr_t, 2>& grads) {
  const epigraf::TriplaneBackward<T, P> params{shape,
                                               pointer<const P>(inputs[0]),
                                               pointer<const T>(inputs[1]),
                                               pointer<const P>(inputs[2]),
                                               pointer<T>(grads[0]),
                                               pointer<T>(grads[1])};
  dispatch(launch, params, epigraf::triplane_backward_cpu<T, P>,
           EPIGRAF_CUDA_LAUNCHER(triplane_backward_cuda<T, P>));
}

// Sizes of a picture and the numbers of its nonlinearity.
struct ActivationCall {
  epigraf::ActivationShape shape;
  std::array<double, 3> numbers;  // slope, gain, clamp (NaN: none)
};

// The clamp is compared with numbers as they are stored: it is rounded as they are.
template <typename T, typename P>
epigraf::ActivationCurve<T> activation_curve(const std::array<double, 3>& numbers) {
  return {static_cast<T>(numbers[0]), static_cast<T>(numbers[1]),
          static_cast<T>(P(static_cast<T>(numbers[2])))};
}

template <typename T, typename P>
void activation_forward_as(const Launch& launch, const ActivationCall& call, uintptr_t x,
                           const std::array<uintptr_t, 4>& inputs, uintptr_t y) {
  const auto in = [&](int i) { return pointer<const T>(inputs[i]); };
  const epigraf::ActivationForward<T, P> params{call.shape,
                                                activation_curve<T, P>(call.numbers),
                                                pointer<const P>(x),
                                                in(0),
                                                in(1),
                                                in(2),
                                                in(3),
                                                pointer<P>(y)};
  dispatch(launch, params, epigraf::activation_forward_cpu<T, P>,
           EPIGRAF_CUDA_LAUNCHER(activation_forward_cuda<T, P>));
}

template <typename T, typename P>
void activation_backward_as(const Launch& launch, const ActivationCall& call,
                            const std::array<uintptr_t, 4>& inputs,
                            const std::array<uintptr_t, 2>& outputs) {
  const epigraf::ActivationBackward<T, P> params{call.shape,
                                                 activation_curve<T, P>(call.numbers),
                                                 pointer<const P>(inputs[0]),
                                                 pointer<const P>(inputs[1]),
                                                 pointer<const T>(inputs[2]),
                                                 pointer<const T>(inputs[3]),
                                                 pointer<P>(outputs[0]),
                                                 pointer<T>(outputs[1])};
  dispatch(launch, params, epigraf::activation_backward_cpu<T, P>,
           EPIGRAF_CUDA_LAUNCHER(activation_backward_cuda<T, P>));
}

template <typename T, typename P>
void resample_as(const Launch& launch, const epigraf::ResampleShape& shape, double gain,
                 uintptr_t x, uintptr_t y) {
  const epigraf::Resample<T, P> params{shape, static_cast<T>(gain), pointer<const P>(x),
                                       pointer<P>(y)};
  dispatch(launch, params, epigraf::resample_cpu<T, P>, EPIGRAF_CUDA_LAUNCHER(resample_cuda<T, P>));
}

template <typename T>
void composite_forward(const Launch& launch, const CompositeShape& shape,
                       const std::array<uintptr_t, 4>& inputs,
                       const std::array<uintptr_t, 5>& outputs) {
  const auto in = [&](int i) { return pointer<const T>(inputs[i]); };
  const auto out = [&](int i) { return pointer<T>(outputs[i]); };
  const epigraf::CompositeForward<T> params{shape, in(0), in(1),
                                            in(2), in(3), {out(0), out(1), out(2), out(3), out(4)}};
  dispatch(launch, params, epigraf::composite_forward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(composite_forward_cuda<T>));
}

template <typename T>
void composite_backward(const Launch& launch, const CompositeShape& shape,
                        const std::array<uintptr_t, 4>& inputs,
                        const std::array<uintptr_t, 5>& grads,
                        const std::array<uintptr_t, 4>& grad_inputs) {
  const auto in = [&](int i) { return pointer<const T>(inputs[i]); };
  const auto grad = [&](int i) { return pointer<const T>(grads[i]); };
  const auto grad_in = [&](int i) { return pointer<T>(grad_inputs[i]); };
  const epigraf::CompositeBackward<T> params{shape,
                                             in(0),
                                             in(1),
                                             in(2),
                                             in(3),
                                             {grad(0), grad(1), grad(2), grad(3), grad(4)},
                                             {grad_in(0), grad_in(1), grad_in(2), grad_in(3)}};
  dispatch(launch, params, epigraf::composite_backward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(composite_backward_cuda<T>));
}

// Sizes of a field and of the march through it; everything that is not an address.
struct RenderShape {
  std::array<int64_t, 4> rays;     // B, R, S, F
  std::array<int64_t, 3> planes;   // C, H, W
  std::array<int64_t, 5> strides;  // of the planes: batch, plane, row, pixel, channel
  std::vector<int64_t> widths;     // of the decoder: input, hidden ..., 4
  std::array<double, 9> numbers;   // slope, cube_scale, prior strength and slope, shift, gain, std,
                                   // early_stop_eps, background
  std::array<bool, 4> flags;       // relu, finite_interval, last_back, project
  int64_t u_stride, row_length;
  uintptr_t seed;                // where it is
  std::array<int64_t, 2> place;  // of the rays in the streams of the seed: first, total
  std::array<bool, 4> seeded;    // jitter, u, coarse_noise, final_noise
  int64_t cells;                 // of the occupancy grid along an edge, and its half edge
  double half_edge;
};

template <typename T>
epigraf::RenderField<T> render_field(const RenderShape& shape, uintptr_t planes,
                                     const std::vector<uintptr_t>& params) {
  epigraf::RenderField<T> field{};
  const auto& s = shape.strides;
  field.shape =
      triplane_shape({shape.rays[0], 0, shape.planes[0], shape.planes[1], shape.planes[2]},
                     {s[0], s[1], s[2], s[3]}, s[4]);
  field.project = shape.flags[3];
  field.planes = pointer<const T>(planes);
  auto& decoder = field.decoder;
  decoder.layers = static_cast<int>(shape.widths.size()) - 1;
  if (decoder.layers < 1 || decoder.layers > epigraf::kMaxLayers ||
      params.size() != 2 * static_cast<size_t>(decoder.layers)) {
    throw std::invalid_argument("render: between 1 and 8 decoder layers");
  }
  std::copy(shape.widths.begin(), shape.widths.end(), decoder.widths);
  for (int i = 0; i < decoder.layers; ++i) {
    decoder.weights[i] = pointer<const T>(params[i]);
    decoder.biases[i] = pointer<const T>(params[decoder.layers + i]);
  }
  decoder.slope = static_cast<T>(shape.numbers[0]);
  field.cube_scale = static_cast<T>(shape.numbers[1]);
  field.prior_strength = static_cast<T>(shape.numbers[2]);
  field.prior_slope = static_cast<T>(shape.numbers[3]);
  return field;
}

template <typename T>
epigraf::RenderMarch<T> render_march(const RenderShape& shape) {
  const auto& x = shape.numbers;
  return {static_cast<T>(x[4]), static_cast<T>(x[5]), static_cast<T>(x[6]), shape.flags[0],
          shape.flags[1],       shape.flags[2],       static_cast<T>(x[7]), static_cast<T>(x[8])};
}

// origins, directions, near, far, last_delta, even, jitter, coarse_noise, u, final_noise.
using RayAddresses = std::array<uintptr_t, 10>;

template <typename T>
epigraf::RenderRays<T> render_rays(const RenderShape& shape, const RayAddresses& a) {
  const auto at = [&](int i) { return pointer<const T>(a[i]); };
  const auto& [jitter, u, coarse_noise, final_noise] = shape.seeded;
  return {shape.rays[1],
          shape.rays[2],
          shape.rays[3],
          at(0),
          at(1),
          at(2),
          at(3),
          at(4),
          at(5),
          at(6),
          at(7),
          at(8),
          at(9),
          shape.u_stride,
          {pointer<const uint64_t>(shape.seed), shape.place[0], shape.place[1], jitter, u,
           coarse_noise, final_noise},
          shape.row_length};
}

template <typename T>
void render_forward(const Launch& launch, const RenderShape& shape, uintptr_t planes,
                    const std::vector<uintptr_t>& params, const RayAddresses& rays,
                    const std::array<uintptr_t, 2>& known,
                    const std::array<uintptr_t, 5>& outputs) {
  const auto out = [&](int i) { return pointer<T>(outputs[i]); };
  const epigraf::RenderForward<T> p{
      render_field<T>(shape, planes, params),
      render_march<T>(shape),
      render_rays<T>(shape, rays),
      out(0),
      out(1),
      out(2),
      out(3),
      out(4),
      {shape.cells, pointer<const uint32_t>(known[0]), static_cast<T>(shape.half_edge)},
      pointer<const T>(known[1])};
  dispatch(launch, p, epigraf::render_forward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(render_forward_cuda<T>));
}

template <typename T>
void render_project(const Launch& launch, const RenderShape& shape, uintptr_t planes,
                    const std::vector<uintptr_t>& params, uintptr_t projected) {
  const auto field = render_field<T>(shape, planes, params);
  py::gil_scoped_release release;
  epigraf::render_project_cpu<T>(field, pointer<T>(projected), launch.threads);
}

template <typename T>
void render_backward(const Launch& launch, const RenderShape& shape, uintptr_t planes,
                     const std::vector<uintptr_t>& params, const RayAddresses& rays,
                     const std::array<uintptr_t, 5>& grads, uintptr_t grad_planes,
                     const std::vector<uintptr_t>& grad_params) {
  const auto in = [&](int i) { return pointer<const T>(grads[i]); };
  epigraf::RenderBackward<T> p{render_field<T>(shape, planes, params),
                               render_march<T>(shape),
                               render_rays<T>(shape, rays),
                               in(0),
                               in(1),
                               in(2),
                               in(3),
                               in(4),
                               pointer<T>(grad_planes),
                               {},
                               {}};
  const size_t layers = params.size() / 2;
  if (grad_params.size() != params.size()) throw std::invalid_argument("render: grad_params");
  for (size_t i = 0; i < layers; ++i) {
    p.grad_weights[i] = pointer<T>(grad_params[i]);
    p.grad_biases[i] = pointer<T>(grad_params[layers + i]);
  }
  dispatch(launch, p, epigraf::render_backward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(render_backward_cuda<T>));
}

template <typename T>
void philox_fill(const Launch& launch, const std::array<uint64_t, 3>& place, int64_t count,
                 bool normal, uintptr_t numbers) {
  const epigraf::PhiloxFill<T> params{
      place[0], static_cast<uint32_t>(place[1]), place[2], count, normal, pointer<T>(numbers)};
  dispatch(launch, params, epigraf::philox_fill_cpu<T>, EPIGRAF_CUDA_LAUNCHER(philox_fill_cuda<T>));
}

// sizes: rays, S, F and the stride of u.
template <typename T>
void importance_forward(const Launch& launch, const std::array<int64_t, 4>& sizes,
                        const std::array<uintptr_t, 3>& inputs, uintptr_t depths) {
  const auto in = [&](int i) { return pointer<const T>(inputs[i]); };
  const epigraf::ImportanceForward<T> params{sizes[0], sizes[1], sizes[2], in(0),
                                             in(1),    in(2),    sizes[3], pointer<T>(depths)};
  dispatch(launch, params, epigraf::importance_forward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(importance_forward_cuda<T>));
}

template <typename T>
epigraf::MergeSamples<T*> merge_samples(const std::array<uintptr_t, 3>& addresses) {
  return {pointer<T>(addresses[0]), pointer<T>(addresses[1]), pointer<T>(addresses[2])};
}

using SampleAddresses = std::array<std::array<uintptr_t, 3>, 3>;  // fine, coarse, merged

template <typename T>
void merge_forward(const Launch& launch, const std::array<int64_t, 4>& sizes,
                   const SampleAddresses& samples, uintptr_t order) {
  const epigraf::MergeForward<T> params{{sizes[0], sizes[1], sizes[2], sizes[3]},
                                        merge_samples<const T>(samples[0]),
                                        merge_samples<const T>(samples[1]),
                                        merge_samples<T>(samples[2]),
                                        pointer<int32_t>(order)};
  dispatch(launch, params, epigraf::merge_forward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(merge_forward_cuda<T>));
}

template <typename T>
void merge_backward(const Launch& launch, const std::array<int64_t, 4>& sizes, uintptr_t order,
                    const SampleAddresses& grads) {
  const epigraf::MergeBackward<T> params{{sizes[0], sizes[1], sizes[2], sizes[3]},
                                         pointer<const int32_t>(order),
                                         merge_samples<const T>(grads[2]),
                                         merge_samples<T>(grads[0]),
                                         merge_samples<T>(grads[1])};
  dispatch(launch, params, epigraf::merge_backward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(merge_backward_cuda<T>));
}

// sizes: B, height, width, stride of fov; inputs: cam2world, fov, scales, offsets, columns, rows;
// outputs: origins, directions.
template <typename T>
void patch_rays(const Launch& launch, const std::array<int64_t, 4>& sizes,
                const std::array<uintptr_t, 6>& inputs, const std::array<uintptr_t, 2>& outputs) {
  const auto in = [&](int i) { return pointer<const T>(inputs[i]); };
  const epigraf::PatchRays<T> params{sizes[0],
                                     sizes[1],
                                     sizes[2],
                                     in(0),
                                     in(1),
                                     sizes[3],
                                     in(2),
                                     in(3),
                                     pointer<T>(outputs[0]),
                                     pointer<T>(outputs[1]),
                                     in(4),
                                     in(5)};
  dispatch(launch, params, epigraf::patch_rays_cpu<T>, EPIGRAF_CUDA_LAUNCHER(patch_rays_cuda<T>));
}

// numbers: radius squared, near, far; tensors: origins, directions; outputs: t_near, t_far, hit.
template <typename T>
void ball_segments(const Launch& launch, int64_t rays, const std::array<double, 3>& numbers,
                   const std::array<uintptr_t, 2>& tensors,
                   const std::array<uintptr_t, 3>& outputs) {
  const epigraf::BallSegments<T> p{rays,
                                   pointer<const T>(tensors[0]),
                                   pointer<const T>(tensors[1]),
                                   static_cast<T>(numbers[0]),
                                   static_cast<T>(numbers[1]),
                                   static_cast<T>(numbers[2]),
                                   pointer<T>(outputs[0]),
                                   pointer<T>(outputs[1]),
                                   pointer<bool>(outputs[2])};
  dispatch(launch, p, epigraf::ball_segments_cpu<T>, EPIGRAF_CUDA_LAUNCHER(ball_segments_cuda<T>));
}

// tensors: corners, centres, dense, words.
template <typename T>
void occupancy_build(const Launch& launch, const std::array<int64_t, 2>& sizes, double threshold,
                     const std::array<uintptr_t, 4>& tensors) {
  const epigraf::OccupancyBuild<T> p{sizes[0],
                                     sizes[1],
                                     pointer<const T>(tensors[0]),
                                     pointer<const T>(tensors[1]),
                                     static_cast<T>(threshold),
                                     pointer<uint32_t>(tensors[2]),
                                     pointer<uint32_t>(tensors[3])};
  dispatch(launch, p, epigraf::occupancy_build_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(occupancy_build_cuda<T>));
}

// sizes: B, R, G; numbers: half_edge, step; inputs: words, origins, directions, near, far; outputs:
// offsets (or 0), counts, ray_indices, t_starts, t_ends.
template <typename T>
void occupancy_traverse(const Launch& launch, const std::array<int64_t, 3>& sizes,
                        const std::array<double, 2>& numbers,
                        const std::array<uintptr_t, 5>& inputs,
                        const std::array<uintptr_t, 5>& outputs) {
  const epigraf::OccupancyTraverse<T> p{sizes[0],
                                        sizes[1],
                                        sizes[2],
                                        static_cast<T>(numbers[0]),
                                        static_cast<T>(numbers[1]),
                                        pointer<const uint32_t>(inputs[0]),
                                        pointer<const T>(inputs[1]),
                                        pointer<const T>(inputs[2]),
                                        pointer<const T>(inputs[3]),
                                        pointer<const T>(inputs[4]),
                                        pointer<const int64_t>(outputs[0]),
                                        pointer<int64_t>(outputs[1]),
                                        pointer<int64_t>(outputs[2]),
                                        pointer<T>(outputs[3]),
                                        pointer<T>(outputs[4])};
  dispatch(launch, p, epigraf::occupancy_traverse_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(occupancy_traverse_cuda<T>));
}

// sizes: B, P, G; tensors: words, coords, occupied.
template <typename T>
void occupancy_lookup(const Launch& launch, const std::array<int64_t, 3>& sizes, double half_edge,
                      const std::array<uintptr_t, 3>& tensors) {
  const epigraf::OccupancyLookup<T> p{sizes[0],
                                      sizes[1],
                                      sizes[2],
                                      static_cast<T>(half_edge),
                                      pointer<const uint32_t>(tensors[0]),
                                      pointer<const T>(tensors[1]),
                                      pointer<uint8_t>(tensors[2])};
  dispatch(launch, p, epigraf::occupancy_lookup_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(occupancy_lookup_cuda<T>));
}

// widths: of the decoder: input, hidden ..., outputs; params: weights, then biases.
template <typename T>
epigraf::DecoderLayers<T> decoder_layers(const std::vector<int64_t>& widths,
                                         const std::vector<uintptr_t>& params, double slope) {
  epigraf::DecoderLayers<T> net{};
  net.layers = static_cast<int>(widths.size()) - 1;
  if (net.layers < 1 || net.layers > epigraf::kMaxLayers ||
      params.size() != 2 * static_cast<size_t>(net.layers)) {
    throw std::invalid_argument("decode: between 1 and 8 layers");
  }
  std::copy(widths.begin(), widths.end(), net.widths);
  for (int i = 0; i < net.layers; ++i) {
    net.weights[i] = pointer<const T>(params[i]);
    net.biases[i] = pointer<const T>(params[net.layers + i]);
  }
  net.slope = static_cast<T>(slope);
  return net;
}

template <typename T>
void decoder_forward(const Launch& launch, const std::vector<int64_t>& widths, double slope,
                     int64_t points, const std::vector<uintptr_t>& params,
                     const std::array<uintptr_t, 3>& tensors) {
  const epigraf::DecoderForward<T> p{points, decoder_layers<T>(widths, params, slope),
                                     pointer<const T>(tensors[0]), pointer<T>(tensors[1]),
                                     pointer<T>(tensors[2])};
  dispatch(launch, p, epigraf::decoder_forward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(decoder_forward_cuda<T>));
}

template <typename T>
void decoder_backward(const Launch& launch, const std::vector<int64_t>& widths, double slope,
                      int64_t points, const std::vector<uintptr_t>& params,
                      const std::array<uintptr_t, 4>& tensors,
                      const std::vector<uintptr_t>& grad_params) {
  epigraf::DecoderBackward<T> p{points,
                                decoder_layers<T>(widths, params, slope),
                                pointer<const T>(tensors[0]),
                                pointer<const T>(tensors[1]),
                                pointer<const T>(tensors[2]),
                                pointer<T>(tensors[3]),
                                {},
                                {}};
  if (grad_params.size() != params.size()) throw std::invalid_argument("decode: grad_params");
  for (int i = 0; i < p.net.layers; ++i) {
    p.grad_weights[i] = pointer<T>(grad_params[i]);
    p.grad_biases[i] = pointer<T>(grad_params[p.net.layers + i]);
  }
  dispatch(launch, p, epigraf::decoder_backward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(decoder_backward_cuda<T>));
}

// What a convolution by Winograd's transforms is made of. Pictures: height, width, channels, rows
// and columns of tiles, padding, tiles; kernels: rows, columns, from a kernel to those in the next
// row and column.
struct WinogradCall {
  int stride;
  bool gradient, turned;
  double gain;
  int64_t run;
  std::array<int, 2> transforms;
  std::array<std::array<int64_t, 7>, 2> pictures;
  std::array<int64_t, 4> kernels;
};

template <typename T>
epigraf::WinogradTiles<T> winograd_tiles(const WinogradCall& call, int which, uintptr_t pixels) {
  const auto& [height, width, channels, rows, columns, padding, count] = call.pictures[which];
  const auto transform = static_cast<epigraf::WinogradTransform>(call.transforms[which]);
  return {transform, height,  width, channels, channels, channels,           rows,
          columns,   padding, 0,     count,    0,        pointer<T>(pixels), nullptr};
}

// Calls body with the convolution or gradient of a call; pixels: of both pictures of each use.
template <typename T, typename Body>
auto with_winograd(const WinogradCall& call, const std::vector<uintptr_t>& pixels, uintptr_t taps,
                   uintptr_t scratch, Body body) {
  const auto& [rows, columns, row_step, column_step] = call.kernels;
  const epigraf::WinogradKernels<T> kernels{call.stride,
                                            call.turned,
                                            rows,
                                            columns,
                                            row_step,
                                            column_step,
                                            0,
                                            0,
                                            static_cast<T>(call.gain),
                                            pointer<T>(taps),
                                            nullptr};
  const auto first = winograd_tiles<T>(call, 0, pixels.at(0));
  const auto second = winograd_tiles<T>(call, 1, pixels.at(1));
  if (!call.gradient)
    return body(
        epigraf::WinogradConvolution<T>{first, second, kernels, call.run, pointer<T>(scratch)});
  std::vector<T*> pictures;
  for (const uintptr_t address : pixels) pictures.push_back(pointer<T>(address));
  const auto uses = static_cast<int64_t>(pixels.size() / 2);
  return body(epigraf::WinogradGradient<T>{first, second, uses, pictures.data(), kernels, call.run,
                                           pointer<T>(scratch)});
}

template <typename T>
int64_t winograd_scratch(const Launch& launch, const WinogradCall& call,
                         const std::vector<uintptr_t>& pixels) {
  return with_winograd<T>(call, pixels, 0, 0, [&](const auto& p) {
    return epigraf::winograd_scratch(p, launch.threads);
  });
}

template <typename T>
void winograd(const Launch& launch, const WinogradCall& call, const std::vector<uintptr_t>& pixels,
              uintptr_t taps, uintptr_t scratch) {
  const auto cpu = [](const auto& p, int threads) { epigraf::winograd_whole_cpu(p, threads); };
  with_winograd<T>(call, pixels, taps, scratch, [&](const auto& p) {
    dispatch(launch, p, cpu, [](const auto&, epigraf::Stream) {
      throw std::runtime_error("winograd: the core transforms pictures on a CPU only");
    });
  });
}

// sizes: rows, depth, columns.
template <typename T>
void panel_products(const Launch& launch, const std::array<int64_t, 3>& sizes, uintptr_t left,
                    uintptr_t right, uintptr_t result) {
  const auto& [rows, depth, columns] = sizes;
  if (columns % epigraf::kPanel != 0) throw std::invalid_argument("panel_products: columns");
  const epigraf::PanelProducts<T> p{1,
                                    rows,
                                    depth,
                                    columns,
                                    {},
                                    pointer<const T>(left),
                                    pointer<const T>(right),
                                    pointer<T>(result)};
  dispatch(launch, p, epigraf::panel_products_cpu<T>, [](const auto&, epigraf::Stream) {
    throw std::runtime_error("panel_products: on a CPU only");
  });
}

// sizes as above; add: to what is in result.
template <typename T>
void product_sum(const Launch& launch, const std::array<int64_t, 3>& sizes, bool add,
                 uintptr_t left, uintptr_t right, uintptr_t result) {
  const auto& [rows, depth, columns] = sizes;
  if (columns % epigraf::kPanel != 0) throw std::invalid_argument("product_sum: columns");
  const epigraf::ProductSums<T> p{1,
                                  rows,
                                  depth,
                                  columns,
                                  {},
                                  add,
                                  pointer<const T>(left),
                                  pointer<const T>(right),
                                  pointer<T>(result)};
  dispatch(launch, p, epigraf::product_sums_cpu<T>, [](const auto&, epigraf::Stream) {
    throw std::runtime_error("product_sum: on a CPU only");
  });
}

// which is found: y (0), x (1) or the weight (2).
template <typename T>
void few_rows(const Launch& launch, int which, const std::array<int64_t, 3>& sizes, uintptr_t x,
              uintptr_t weight, uintptr_t y) {
  const epigraf::FewRows<T> p{sizes[0],      sizes[1],           sizes[2],
                              pointer<T>(x), pointer<T>(weight), pointer<T>(y)};
  const auto run = which == 0   ? epigraf::few_rows_forward_cpu<T>
                   : which == 1 ? epigraf::few_rows_input_cpu<T>
                                : epigraf::few_rows_weight_cpu<T>;
  dispatch(launch, p, run, [](const auto&, epigraf::Stream) {
    throw std::runtime_error("few_rows: on a CPU only");
  });
}

}  // namespace

// Float or double, by the launch.
#define EPIGRAF_BY_TYPE(name, launch, ...) \
  (launch).is_double ? name<double>(launch, __VA_ARGS__) : name<float>(launch, __VA_ARGS__)

// The same, and 16 bits of storage beside float.
#define EPIGRAF_BY_STORAGE(name, launch, storage, ...)                                   \
  (storage) == Storage::half       ? name<float, epigraf::Half>(launch, __VA_ARGS__)     \
  : (storage) == Storage::bfloat16 ? name<float, epigraf::BFloat16>(launch, __VA_ARGS__) \
  : (launch).is_double             ? name<double, double>(launch, __VA_ARGS__)           \
                                   : name<float, float>(launch, __VA_ARGS__)

PYBIND11_MODULE(_C, m) {
  m.doc() = "The native core of epigraf: raw addresses in, raw addresses out.";
  m.attr("ABI") = kAbi;
  m.def("cuda_compiled", [] { return kCuda; });
  m.def("cpu_instruction_set", &epigraf::cpu_instruction_set);
  m.def("cpu_has_openmp", &epigraf::cpu_has_openmp);
  m.attr("FMA_CHAINS") = epigraf::kFmaChains;
  m.def("vector_widths", &epigraf::vector_widths);
  m.def("fma_loop", &epigraf::fma_loop, py::call_guard<py::gil_scoped_release>());
#if defined(EPIGRAF_WITH_CUDA)
  m.def("cuda_device_count", &epigraf::cuda_device_count);
  m.attr("CUDA_ARCHS") = EPIGRAF_CUDA_ARCHS;  // "75-real 80-real 90": the last one also as PTX
#else
  m.def("cuda_device_count", [] { return 0; });
  m.attr("CUDA_ARCHS") = "";
#endif

  py::class_<Launch>(m, "Launch")
      .def(py::init<bool, int, uintptr_t, int>(), py::arg("is_double"), py::arg("device"),
           py::arg("stream"), py::arg("threads"));
  py::class_<TriplaneShape>(m, "TriplaneShape")
      .def(py::init(&triplane_shape), py::arg("sizes"), py::arg("strides"),
           py::arg("channel_stride"));
  py::class_<CompositeShape>(m, "CompositeShape")
      .def(py::init([](int64_t rays, int64_t samples, int64_t channels, bool last_back,
                       double early_stop_eps) {
             return CompositeShape{rays, samples, channels, last_back, early_stop_eps};
           }),
           py::arg("rays"), py::arg("samples"), py::arg("channels"), py::arg("last_back"),
           py::arg("early_stop_eps"));

  py::enum_<Storage>(m, "Storage")
      .value("same", Storage::same)
      .value("half", Storage::half)
      .value("bfloat16", Storage::bfloat16);
  // inputs: planes, points.
  m.def("triplane_forward", [](const Launch& launch, Storage storage, const TriplaneShape& shape,
                               const std::array<uintptr_t, 2>& inputs, uintptr_t features) {
    EPIGRAF_BY_STORAGE(triplane_forward_as, launch, storage, shape, inputs, features);
  });
  // inputs: planes, points, grad_features; grad_inputs: planes (zeroed by the caller; in the type
  // of the points), points.
  m.def("triplane_backward",
        [](const Launch& launch, Storage storage, const TriplaneShape& shape,
           const std::array<uintptr_t, 3>& inputs, const std::array<uintptr_t, 2>& grad_inputs) {
          EPIGRAF_BY_STORAGE(triplane_backward_as, launch, storage, shape, inputs, grad_inputs);
        });
  // sizes: B, C, P, stride of the noise, pixels of a run; numbers: slope, gain, clamp.
  py::class_<ActivationCall>(m, "ActivationCall")
      .def(py::init([](const std::array<int64_t, 5>& sizes, bool channels_last,
                       const std::array<double, 3>& numbers) {
             const auto& [batch, channels, pixels, noise_stride, run] = sizes;
             return ActivationCall{{batch, channels, pixels, channels_last, noise_stride, run},
                                   numbers};
           }),
           py::arg("sizes"), py::arg("channels_last"), py::arg("numbers"));
  // inputs: bias, scale, noise, strength; all but bias may be 0.
  m.def("activation_forward", [](const Launch& launch, Storage storage, const ActivationCall& call,
                                 uintptr_t x, const std::array<uintptr_t, 4>& inputs, uintptr_t y) {
    EPIGRAF_BY_STORAGE(activation_forward_as, launch, storage, call, x, inputs, y);
  });
  // inputs: grad_y, y, scale, noise; outputs: grad_x, sums (or 0).
  m.def("activation_backward",
        [](const Launch& launch, Storage storage, const ActivationCall& call,
           const std::array<uintptr_t, 4>& inputs, const std::array<uintptr_t, 2>& outputs) {
          EPIGRAF_BY_STORAGE(activation_backward_as, launch, storage, call, inputs, outputs);
        });
  // map: blur, down, up; sizes: B, C, H, W of x, zeros in front of it.
  py::class_<epigraf::ResampleShape>(m, "ResampleShape")
      .def(py::init([](int map, const std::array<int64_t, 5>& sizes, bool channels_last) {
             const auto& [batch, channels, height, width, pad] = sizes;
             return epigraf::ResampleShape{static_cast<epigraf::ResampleMap>(map),
                                           batch,
                                           channels,
                                           height,
                                           width,
                                           pad,
                                           channels_last};
           }),
           py::arg("map"), py::arg("sizes"), py::arg("channels_last"));
  m.def("resample", [](const Launch& launch, Storage storage, const epigraf::ResampleShape& shape,
                       double gain, uintptr_t x, uintptr_t y) {
    EPIGRAF_BY_STORAGE(resample_as, launch, storage, shape, gain, x, y);
  });
  // inputs: colors, densities, t, last_delta; outputs: features, depth, weights, transmittance,
  // opacity.
  m.def("composite_forward",
        [](const Launch& launch, const CompositeShape& shape,
           const std::array<uintptr_t, 4>& inputs, const std::array<uintptr_t, 5>& outputs) {
          EPIGRAF_BY_TYPE(composite_forward, launch, shape, inputs, outputs);
        });
  // grads: of the outputs; grad_inputs: of the inputs.
  m.def(
      "composite_backward",
      [](const Launch& launch, const CompositeShape& shape, const std::array<uintptr_t, 4>& inputs,
         const std::array<uintptr_t, 5>& grads, const std::array<uintptr_t, 4>& grad_inputs) {
        EPIGRAF_BY_TYPE(composite_backward, launch, shape, inputs, grads, grad_inputs);
      });

  py::class_<RenderShape>(m, "RenderShape")
      .def(py::init([](const std::array<int64_t, 4>& rays, const std::array<int64_t, 3>& planes,
                       const std::array<int64_t, 5>& strides, const std::vector<int64_t>& widths,
                       const std::array<double, 9>& numbers, const std::array<bool, 4>& flags,
                       int64_t u_stride, int64_t row_length, uintptr_t seed,
                       const std::array<int64_t, 2>& place, const std::array<bool, 4>& seeded,
                       int64_t cells, double half_edge) {
             return RenderShape{rays,       planes, strides, widths, numbers, flags,    u_stride,
                                row_length, seed,   place,   seeded, cells,   half_edge};
           }),
           py::arg("rays"), py::arg("planes"), py::arg("strides"), py::arg("widths"),
           py::arg("numbers"), py::arg("flags"), py::arg("u_stride"), py::arg("row_length"),
           py::arg("seed"), py::arg("place"), py::arg("seeded"), py::arg("cells"),
           py::arg("half_edge"));
  // params: weights, then biases; known: words of the occupancy grid, projected planes (or 0);
  // outputs: features, depth, opacity, transmittance, saved (or 0).
  m.def("render_forward",
        [](const Launch& launch, const RenderShape& shape, uintptr_t planes,
           const std::vector<uintptr_t>& params, const RayAddresses& rays,
           const std::array<uintptr_t, 2>& known, const std::array<uintptr_t, 5>& outputs) {
          EPIGRAF_BY_TYPE(render_forward, launch, shape, planes, params, rays, known, outputs);
        });
  m.def("render_project", [](const Launch& launch, const RenderShape& shape, uintptr_t planes,
                             const std::vector<uintptr_t>& params, uintptr_t projected) {
    EPIGRAF_BY_TYPE(render_project, launch, shape, planes, params, projected);
  });
  // Elements of the projected planes of a batch element.
  m.def("render_projected_size", [](const RenderShape& shape, bool is_double) {
    return epigraf::render_projected_size(
        triplane_shape({shape.rays[0], 0, shape.planes[0], shape.planes[1], shape.planes[2]},
                       {0, 0, 0, 0}),
        shape.widths[1], is_double);
  });
  // grads: saved, then those of the outputs; grad_planes and grad_params are added to.
  m.def("render_backward", [](const Launch& launch, const RenderShape& shape, uintptr_t planes,
                              const std::vector<uintptr_t>& params, const RayAddresses& rays,
                              const std::array<uintptr_t, 5>& grads, uintptr_t grad_planes,
                              const std::vector<uintptr_t>& grad_params) {
    EPIGRAF_BY_TYPE(render_backward, launch, shape, planes, params, rays, grads, grad_planes,
                    grad_params);
  });
  // Shared memory that the CUDA kernels need at least, for two decoder layers.
  m.def("render_shared_bytes", &epigraf::render_shared_bytes, py::arg("channels"),
        py::arg("hidden"), py::arg("coarse"), py::arg("fine"), py::arg("is_double"));

  // place: seed, stream, offset.
  m.def("philox_fill", [](const Launch& launch, const std::array<uint64_t, 3>& place, int64_t count,
                          bool normal, uintptr_t numbers) {
    EPIGRAF_BY_TYPE(philox_fill, launch, place, count, normal, numbers);
  });
  // inputs: t, weights, u.
  m.def("importance_forward", [](const Launch& launch, const std::array<int64_t, 4>& sizes,
                                 const std::array<uintptr_t, 3>& inputs, uintptr_t depths) {
    EPIGRAF_BY_TYPE(importance_forward, launch, sizes, inputs, depths);
  });
  // sizes: rays, F, S, C; samples: colors, densities, t of the fine, coarse and merged ones.
  m.def("merge_forward", [](const Launch& launch, const std::array<int64_t, 4>& sizes,
                            const SampleAddresses& samples, uintptr_t order) {
    EPIGRAF_BY_TYPE(merge_forward, launch, sizes, samples, order);
  });
  // grads: as samples; those of the merged ones are read.
  m.def("merge_backward", [](const Launch& launch, const std::array<int64_t, 4>& sizes,
                             uintptr_t order, const SampleAddresses& grads) {
    EPIGRAF_BY_TYPE(merge_backward, launch, sizes, order, grads);
  });
  m.def("patch_rays",
        [](const Launch& launch, const std::array<int64_t, 4>& sizes,
           const std::array<uintptr_t, 6>& inputs, const std::array<uintptr_t, 2>& outputs) {
          EPIGRAF_BY_TYPE(patch_rays, launch, sizes, inputs, outputs);
        });
  m.def("ball_segments",
        [](const Launch& launch, int64_t rays, const std::array<double, 3>& numbers,
           const std::array<uintptr_t, 2>& tensors, const std::array<uintptr_t, 3>& outputs) {
          EPIGRAF_BY_TYPE(ball_segments, launch, rays, numbers, tensors, outputs);
        });
  // For the sizes and tensors of these three see the functions of their names.
  m.def("occupancy_build", [](const Launch& launch, const std::array<int64_t, 2>& sizes,
                              double threshold, const std::array<uintptr_t, 4>& tensors) {
    EPIGRAF_BY_TYPE(occupancy_build, launch, sizes, threshold, tensors);
  });
  m.def("occupancy_traverse",
        [](const Launch& launch, const std::array<int64_t, 3>& sizes,
           const std::array<double, 2>& numbers, const std::array<uintptr_t, 5>& inputs,
           const std::array<uintptr_t, 5>& outputs) {
          EPIGRAF_BY_TYPE(occupancy_traverse, launch, sizes, numbers, inputs, outputs);
        });
  m.def("occupancy_lookup", [](const Launch& launch, const std::array<int64_t, 3>& sizes,
                               double half_edge, const std::array<uintptr_t, 3>& tensors) {
    EPIGRAF_BY_TYPE(occupancy_lookup, launch, sizes, half_edge, tensors);
  });
  // params: weights, then biases; tensors: features, rest, last.
  m.def("decoder_forward",
        [](const Launch& launch, const std::vector<int64_t>& widths, double slope, int64_t points,
           const std::vector<uintptr_t>& params, const std::array<uintptr_t, 3>& tensors) {
          EPIGRAF_BY_TYPE(decoder_forward, launch, widths, slope, points, params, tensors);
        });
  // tensors: features, grad_rest, grad_last, grad_features; grad_params (0: not wanted) are added
  // to.
  m.def("decoder_backward", [](const Launch& launch, const std::vector<int64_t>& widths,
                               double slope, int64_t points, const std::vector<uintptr_t>& params,
                               const std::array<uintptr_t, 4>& tensors,
                               const std::vector<uintptr_t>& grad_params) {
    EPIGRAF_BY_TYPE(decoder_backward, launch, widths, slope, points, params, tensors, grad_params);
  });
  py::class_<WinogradCall>(m, "WinogradCall")
      .def(
          py::init([](int stride, bool gradient, bool turned, double gain, int64_t run,
                      const std::array<int, 2>& transforms,
                      const std::array<std::array<int64_t, 7>, 2>& pictures,
                      const std::array<int64_t, 4>& kernels) {
            return WinogradCall{stride, gradient, turned, gain, run, transforms, pictures, kernels};
          }),
          py::kw_only(), py::arg("stride"), py::arg("gradient"), py::arg("turned"), py::arg("gain"),
          py::arg("run"), py::arg("transforms"), py::arg("pictures"), py::arg("kernels"));
  m.def("winograd_scratch",
        [](const Launch& launch, const WinogradCall& call, const std::vector<uintptr_t>& pixels) {
          return EPIGRAF_BY_TYPE(winograd_scratch, launch, call, pixels);
        });
  m.def("winograd", [](const Launch& launch, const WinogradCall& call,
                       const std::vector<uintptr_t>& pixels, uintptr_t taps, uintptr_t scratch) {
    EPIGRAF_BY_TYPE(winograd, launch, call, pixels, taps, scratch);
  });
  m.def("panel_products", [](const Launch& launch, const std::array<int64_t, 3>& sizes,
                             uintptr_t left, uintptr_t right, uintptr_t result) {
    EPIGRAF_BY_TYPE(panel_products, launch, sizes, left, right, result);
  });
  m.def("product_sum", [](const Launch& launch, const std::array<int64_t, 3>& sizes, bool add,
                          uintptr_t left, uintptr_t right, uintptr_t result) {
    EPIGRAF_BY_TYPE(product_sum, launch, sizes, add, left, right, result);
  });
  m.def("few_rows", [](const Launch& launch, int which, const std::array<int64_t, 3>& sizes,
                       uintptr_t x, uintptr_t weight, uintptr_t y) {
    EPIGRAF_BY_TYPE(few_rows, launch, which, sizes, x, weight, y);
  });
}
