// The fused renderer on a GPU (docs/math/render.md, "How it runs on a GPU"). One warp to a ray; the
// warps of a block share the decoder's weights in shared memory and stride over the rays. The
// forward pass writes nothing per sample but `saved`, where that is wanted. Gradients are summed by
// atomics: in the block's shared memory for the decoder, in the planes themselves for the planes.
// So two backward passes agree but for rounding; forward passes are bit-equal.
#include "epigraf/render.h"

#include "field.cuh"
#include "field_backward.cuh"
#include "ray.cuh"
#include "ray_backward.cuh"
#include "render_launch.cuh"

namespace epigraf {
namespace {

// The rays of a warp: its own first one, then every one a whole grid of warps further.
struct Rays {
  int64_t first, step, end;
};

template <typename Params>
__device__ Rays rays_of_warp(const Params& p) {
  const int64_t warps = blockDim.x / kWarp;
  return {blockIdx.x * warps + threadIdx.x / kWarp, gridDim.x * warps,
          p.field.shape.batch * p.rays.rays};
}

template <typename T>
__device__ const T* planes_of_ray(const RenderField<T>& field, const RenderRays<T>& rays,
                                  int64_t ray) {
  return field.planes + ray / rays.rays * field.shape.batch_stride;
}

// ---- forward ---------------------------------------------------------------------------------

// The memory of one warp, as RenderMemory says.
template <typename T>
struct ForwardMemory {
  T* scratch;
  T* t;        // [N], coarse and then fine
  T* outputs;  // [4][N]
  int* order;  // [N], in shared memory that was counted in T

  __device__ ForwardMemory(T* memory, const RenderMemory& sizes)
      : scratch(memory),
        t(scratch + sizes.scratch()),
        outputs(t + sizes.samples()),
        order(reinterpret_cast<int*>(outputs + kOutputs * sizes.samples())) {}
};

// (occupancy 9): the cells of a ray's scene, and whether its last coarse sample counts wherever it
// lies, since it stands for all that is behind it.
template <typename T>
struct RayCells {
  OccupancyCells<T> grid;  // without words: nothing is known
  bool last_counts;

  __device__ RayCells(const RenderForward<T>& p, int64_t ray)
      : grid(p.grid),
        last_counts(p.march.last_back ||
                    (!p.march.finite_interval && p.rays.last_delta[ray] > T(0))) {
    if (grid.words) grid.words += ray / p.rays.rays * words_of_grid(grid.resolution);
  }
  __device__ bool wanted(const RayLine<T>& line, T t, bool last) const {
    if (!grid.words || (last && last_counts)) return true;
    T x[3];
    for (int i = 0; i < 3; ++i) x[i] = line.origin[i] + line.direction[i] * t;
    return may_absorb(grid, x[0], x[1], x[2]);
  }
};

// Whether less than early_stop_eps of the light is left behind the chunk of samples from `first`
// on.
template <typename T>
__device__ bool is_dark(const RenderForward<T>& p, const ForwardMemory<T>& memory, int64_t ray,
                        int first, T& transmittance) {
  const int samples = int(p.rays.coarse), k = first + lane_index();
  const SampleRow<T> row = {memory.t, samples, false};
  const T* raw = memory.outputs + (kOutputs - 1) * samples;
  const bool exists = k < samples;
  const T decay = exists ? interval_at(p.rays, p.march, row, ray, k, raw[k]).decay : T(1);
  absorb(exists, decay, transmittance);
  return transmittance < p.march.early_stop_eps;
}

// (render 2): outputs of `count` samples from `first` on; of a ray that `stops`, up to the chunk
// behind which it is dark. Where the cells are empty there is nothing.
template <int kBlock, typename T>
__device__ void evaluate(const RenderForward<T>& p, const WarpField<T>& at,
                         const ForwardMemory<T>& memory, int64_t ray, int first, int count,
                         bool stops) {
  const RayLine<T> line = line_of_ray(p.rays, ray);
  const RayCells<T> cells(p, ray);
  const int samples = int(p.rays.coarse + p.rays.fine);
  T transmittance = 1;
  for (int chunk = 0; chunk < count; chunk += kWarp) {
    const int k = first + chunk + lane_index(), left = count - chunk;
    const bool exists = lane_index() < left, last = first == 0 && k + 1 == count;
    const T t = memory.t[exists ? k : first];
    const bool wanted = exists && cells.wanted(line, t, last);
    const unsigned lanes = __ballot_sync(kAllLanes, wanted);
    T out[kOutputs] = {};
    if (lanes != 0) {
      T point[3];
      at.place(line, t, point);
      at.template look_up<kBlock>(taps_at(at.field, point), lanes);
      decode(at.decoder, at.tile + lane_index() * at.row, out);
      out[kOutputs - 1] += at.prior(point);
    }
    if (!wanted) {
      for (T& x : out) x = 0;
      out[kOutputs - 1] = T(-INFINITY);
    }
    for (int o = 0; o < kOutputs; ++o) {
      if (exists) memory.outputs[o * samples + k] = out[o];
    }
    __syncwarp();
    if (stops && is_dark(p, memory, ray, first + chunk, transmittance)) return;
  }
}

// (render 3-5): depths of the second pass.
template <typename T>
__device__ void refine(const RenderForward<T>& p, const RenderMemory& sizes,
                       const ForwardMemory<T>& memory, int64_t ray) {
  const int coarse = int(sizes.coarse), samples = int(sizes.samples());
  const SampleRow<T> row = {memory.t, coarse, true};
  const T* raw = memory.outputs + (kOutputs - 1) * samples;
  T *cdf = memory.scratch, *draws = cdf + coarse, transmittance = 1;
  for (int chunk = 0; chunk < coarse; chunk += kWarp) {
    const int k = chunk + lane_index();
    const bool exists = k < coarse;
    const T decay = exists ? interval_at(p.rays, p.march, row, ray, k, raw[k]).decay : T(1);
    const T weight = absorb(exists, decay, transmittance).weight;
    if (exists) cdf[k] = weight;
  }
  __syncwarp();
  weights_to_cdf(cdf, coarse);
  sort_draws(p.rays, ray, draws, int(sizes.draws()));
  place_draws(memory.t, cdf, coarse, draws, int(sizes.fine), memory.t + coarse);
}

// (composite 2-5): the ray's outputs, and what its gradient needs. order is null for one pass.
template <typename T>
__device__ void integrate(const RenderForward<T>& p, const T* t, const T* outputs, const int* order,
                          int samples, int64_t ray) {
  const SampleRow<T> row = {t, samples, false};
  T* saved = p.saved ? p.saved + ray * kSaved * samples : nullptr;
  const T eps = p.march.early_stop_eps;
  int lit = samples;  // samples in front of the early stop (composite 10)
  T transmittance = 1, opacity = 0, depth = 0, sum[3] = {};
  for (int chunk = 0; chunk < lit; chunk += kWarp) {
    const int k = chunk + lane_index(), from = k < samples && order ? order[k] : k;
    const bool exists = k < samples;
    T out[kOutputs] = {}, decay = 1;
    for (int o = 0; o < kOutputs; ++o) {
      if (exists) out[o] = outputs[o * samples + from];
      if (exists && saved) saved[o * samples + k] = out[o];
    }
    if (exists) decay = interval_at(p.rays, p.march, row, ray, k, out[kOutputs - 1]).decay;
    const Absorbed<T> absorbed = absorb(exists, decay, transmittance);
    const int lanes = eps > T(0) ? lanes_before(exists && absorbed.transmittance < eps) : kWarp;
    if (lanes < kWarp) lit = chunk + lanes;
    opacity += sum_over_warp(k < lit ? absorbed.weight : T(0));
    if (k == lit && exists) p.transmittance[ray] = absorbed.transmittance;
    if (k >= lit) continue;
    const bool last = k + 1 == samples;
    const T weight =
        p.march.last_back && last ? absorbed.weight + (T(1) - opacity) : absorbed.weight;
    depth += weight * t[k];
    for (int c = 0; c < 3; ++c) sum[c] += weight * out[c];
    if (saved) saved[kOutputs * samples + k] = t[k];
    if (last) p.transmittance[ray] = absorbed.transmittance;
  }
  if (lit < samples && p.march.last_back && lane_index() == 0) {
    const int last = samples - 1, from = order ? order[last] : last;
    depth += (T(1) - opacity) * t[last];
    for (int c = 0; c < 3; ++c) sum[c] += (T(1) - opacity) * outputs[c * samples + from];
  }
  depth = sum_over_warp(depth);
  for (T& x : sum) x = sum_over_warp(x);
  if (lane_index() > 0) return;
  p.depth[ray] = depth;
  p.opacity[ray] = opacity;
  const T behind = p.march.background * (T(1) - opacity);  // (render 10)
  for (int c = 0; c < 3; ++c) p.features[3 * ray + c] = sum[c] + behind;
}

template <int kBlock, typename T>
__global__ void __launch_bounds__(kForwardThreads, kRenderResident<T>)
    render_forward_kernel(RenderForward<T> p, RenderMemory sizes, Lanes lanes) {
  EPIGRAF_DYNAMIC_SHARED(T, shared);
  const SharedDecoder<T> decoder = load_decoder(p.field.decoder, sizes, shared);
  const ForwardMemory<T> memory(shared + sizes.forward(threadIdx.x / kWarp), sizes);
  const int coarse = int(sizes.coarse), fine = int(sizes.fine), samples = coarse + fine;
  const Rays rays = rays_of_warp(p);
  for (int64_t ray = rays.first; ray < rays.end; ray += rays.step) {
    const WarpField<T> at = {p.field,        decoder,
                             lanes,          planes_of_ray(p.field, p.rays, ray),
                             memory.scratch, int(sizes.tile_row())};
    const T* t = memory.t;
    const bool stops = p.march.early_stop_eps > T(0) && fine == 0 && !p.march.last_back;
    stratify(p.rays, ray, memory.t);
    evaluate<kBlock>(p, at, memory, ray, 0, coarse, stops);
    if (fine > 0) {
      refine(p, sizes, memory, ray);
      evaluate<kBlock>(p, at, memory, ray, coarse, fine, false);
      int* counts = reinterpret_cast<int*>(memory.scratch + samples);
      merge(memory.t, coarse, fine, counts, memory.order, memory.scratch);
      t = memory.scratch;
    }
    integrate(p, t, memory.outputs, fine > 0 ? memory.order : nullptr, samples, ray);
    __syncwarp();
  }
}

// ---- backward --------------------------------------------------------------------------------

// Taps of the lane's sample of a chunk; those of lanes beyond the last sample are not used.
template <typename T>
__device__ PointTaps<T> taps_of_sample(const WarpField<T>& at, const RenderRays<T>& rays,
                                       int64_t ray, const T* t, int left) {
  T point[3];
  at.place(line_of_ray(rays, ray), t[lane_index() < left ? lane_index() : 0], point);
  return taps_at(at.field, point);
}

// The field again at the samples that are left, and its gradients. The taps are found twice: they
// would fill the registers that the decoder needs.
template <int kBlock, typename T>
__device__ void field_vjp(WarpBackward<T>& warp, const RenderRays<T>& rays, int64_t ray,
                          const SampleGrads<T>& grads, int samples) {
  for (int chunk = 0; chunk < samples; chunk += kWarp) {
    const int left = samples - chunk;
    warp.count = left < kWarp ? left : kWarp;
    warp.grad_out = grads.out + chunk;
    warp.at.template look_up<kBlock>(taps_of_sample(warp.at, rays, ray, grads.t + chunk, left),
                                     left < kWarp ? (1u << left) - 1u : kAllLanes);
    warp.decoder_vjp();
    if (!warp.grad_planes) continue;
    warp.template scatter<kBlock>(taps_of_sample(warp.at, rays, ray, grads.t + chunk, left));
  }
}

// The block's sums in shared memory, or the results themselves where there is no room for sums.
template <typename T>
__device__ DecoderSums<T> decoder_sums(const RenderBackward<T>& p, const RenderMemory& sizes,
                                       T* memory) {
  if (!memory) return {p.grad_weights[0], p.grad_biases[0], p.grad_weights[1], p.grad_biases[1]};
  T *bias0 = memory + sizes.hidden * sizes.channels, *weight1 = bias0 + sizes.hidden;
  return {memory, bias0, weight1, weight1 + kOutputs * sizes.hidden};
}

template <typename T>
__device__ void add_to_result(const T* sums, int64_t count, T* result) {
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) atomicAdd(result + i, sums[i]);
}

// The gradients of one ray.
template <int kBlock, typename T>
__device__ void ray_vjp(const RenderBackward<T>& p, WarpBackward<T>& warp,
                        const SampleGrads<T>& grads, int64_t ray) {
  const int samples = int(p.rays.coarse + p.rays.fine);
  const T* saved = p.saved + ray * kSaved * samples;
  const SampleRow<T> row = {saved + kOutputs * samples, samples, false};
  const RayGrad<T> grad = grad_of_ray(p, ray);
  color_grads(p, grad, saved, row, grads, ray);
  raw_grads(p, grad, saved, row, grads, ray);
  const int left = keep_with_gradient(grads, samples);
  field_vjp<kBlock>(warp, p.rays, ray, grads, left);
}

template <int kBlock, typename T>
__global__ void __launch_bounds__(kBackwardThreads, kRenderResident<T>)
    render_backward_kernel(RenderBackward<T> p, RenderMemory sizes, Lanes lanes, bool in_shared) {
  EPIGRAF_DYNAMIC_SHARED(T, shared);
  T* block_sums = in_shared ? shared + sizes.backward(0, false) : nullptr;
  for (int64_t i = threadIdx.x; in_shared && i < sizes.decoder_grads(); i += blockDim.x) {
    block_sums[i] = T(0);
  }
  const SharedDecoder<T> decoder = load_decoder(p.field.decoder, sizes, shared);
  T* tile = shared + sizes.backward(threadIdx.x / kWarp, in_shared);
  T *grad_tile = tile + sizes.tile(), *units = grad_tile + sizes.tile();
  const SampleGrads<T> grads(units + kWarp * sizes.units_row(), int(sizes.samples()));
  const DecoderSums<T> sums = decoder_sums(p, sizes, block_sums);
  const Rays rays = rays_of_warp(p);
  for (int64_t ray = rays.first; ray < rays.end; ray += rays.step) {
    T* grad_planes = row(p.grad_planes, ray / p.rays.rays, p.field.shape.batch_stride);
    WarpBackward<T> warp = {
        {p.field, decoder, lanes, planes_of_ray(p.field, p.rays, ray), tile, int(sizes.tile_row())},
        sums,
        grad_planes,
        grad_tile,
        units,
        int(sizes.units_row()),
        grads.out,
        grads.samples,
        0};
    ray_vjp<kBlock>(p, warp, grads, ray);
    __syncwarp();
  }
  if (!in_shared) return;
  __syncthreads();
  add_to_result(sums.weight0, sizes.hidden * sizes.channels, p.grad_weights[0]);
  add_to_result(sums.bias0, sizes.hidden, p.grad_biases[0]);
  add_to_result(sums.weight1, kOutputs * sizes.hidden, p.grad_weights[1]);
  add_to_result(sums.bias1, kOutputs, p.grad_biases[1]);
}

// ---- launches --------------------------------------------------------------------------------

template <int kBlock, typename T>
void launch_forward(const RenderForward<T>& p, cudaStream_t stream) {
  const char* op = "render_forward";
  const RenderMemory sizes = memory_for(p.field, p.rays, op);
  const auto kernel = render_forward_kernel<kBlock, T>;
  const RenderBlocks blocks = blocks_for_rays(
      kernel, kForwardThreads, p.field.shape.batch * p.rays.rays,
      [&](int64_t warps) { return sizes.forward(warps) * int64_t(sizeof(T)); }, op);
  check_room(blocks, sizes.forward(1) * int64_t(sizeof(T)), op);
  EPIGRAF_LAUNCH(kernel, blocks.grid, blocks.threads, blocks.shared_bytes, stream, p, sizes,
                 lanes_for(p.field.shape.channels, kBlock));
  check_cuda(cudaGetLastError(), op);
}

template <int kBlock, typename T>
void launch_backward(const RenderBackward<T>& p, cudaStream_t stream) {
  const char* op = "render_backward";
  const RenderMemory sizes = memory_for(p.field, p.rays, op);
  const auto kernel = render_backward_kernel<kBlock, T>;
  const int64_t rays = p.field.shape.batch * p.rays.rays;
  bool sums = true;
  const auto bytes = [&](int64_t warps) {
    return sizes.backward(warps, sums) * int64_t(sizeof(T));
  };
  RenderBlocks blocks = blocks_for_rays(kernel, kBackwardThreads, rays, bytes, op);
  if (blocks.threads == 0) {  // no room for sums in shared memory
    sums = false;
    blocks = blocks_for_rays(kernel, kBackwardThreads, rays, bytes, op);
  }
  check_room(blocks, bytes(1), op);
  EPIGRAF_LAUNCH(kernel, blocks.grid, blocks.threads, blocks.shared_bytes, stream, p, sizes,
                 lanes_for(p.field.shape.channels, kBlock), sums);
  check_cuda(cudaGetLastError(), op);
}

}  // namespace

template <typename T>
void render_forward_cuda(const RenderForward<T>& p, Stream stream) {
  if (p.field.shape.batch * p.rays.rays == 0) return;
  const DeviceGuard guard(stream.device, "render_forward");
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  if (vectors_fit(p.field.shape, p.field.planes))
    launch_forward<kVector<T>>(p, handle);
  else
    launch_forward<1>(p, handle);
}

template <typename T>
void render_backward_cuda(const RenderBackward<T>& p, Stream stream) {
  if (p.field.shape.batch * p.rays.rays == 0) return;
  const DeviceGuard guard(stream.device, "render_backward");
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  if (vectors_fit(p.field.shape, p.field.planes) && aligned(p.grad_planes))
    launch_backward<kVector<T>>(p, handle);
  else
    launch_backward<1>(p, handle);
}

template void render_forward_cuda<float>(const RenderForward<float>&, Stream);
template void render_forward_cuda<double>(const RenderForward<double>&, Stream);
template void render_backward_cuda<float>(const RenderBackward<float>&, Stream);
template void render_backward_cuda<double>(const RenderBackward<double>&, Stream);

}  // namespace epigraf
