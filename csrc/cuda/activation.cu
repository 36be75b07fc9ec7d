// The pointwise half of a convolution layer on a GPU (docs/math/activation.md). A block takes a run
// of pixels of a batch element and a group of channels; lanes lie along memory. Each block writes
// sums of its own, in a fixed order: two runs agree bit for bit.
#include "epigraf/activation.h"

#include "channels.cuh"
#include "device.cuh"
#include "epigraf/half.h"

namespace epigraf {
namespace {

constexpr int kResident = 2;  // blocks on a multiprocessor: room for 128 registers, so none spills

// How a launch is laid out: a block for every run of every batch element and every group of
// channels.
struct Layout {
  Lanes lanes;
  unsigned groups, runs, blocks;  // of 32 bits, whose division is not a call
};

// The part of a thread: kBlock channels from `channel` on, pixels `pixel`, `pixel + step` ...
// `end`. Channels-last lanes hold neighbouring channels and rows pixels, else the other way round.
template <bool kLast, int kBlock>
struct Part {
  int64_t batch, run, channel, pixel, end;
  int lanes, lane, rows, row;

  __device__ Part(const ActivationShape& s, const Layout& layout) {
    const unsigned task = blockIdx.x / layout.groups;
    const int64_t group = blockIdx.x % layout.groups;
    lanes = layout.lanes.count();
    lane = layout.lanes.lane();
    rows = kBlockThreads >> layout.lanes.bits;
    row = int(threadIdx.x) >> layout.lanes.bits;
    batch = task / layout.runs;
    run = task % layout.runs;
    channel = kLast ? (group * lanes + lane) * kBlock : group * rows + row;
    pixel = run * s.run + (kLast ? row : lane);
    end = channel < s.channels ? s.end_of_run(run * s.run) : 0;
  }
  __device__ int step() const { return kLast ? rows : lanes; }
};

template <bool kLast, int kBlock, typename T, typename P>
__global__ void __launch_bounds__(kBlockThreads)
    activation_forward_kernel(ActivationForward<T, P> p, Layout layout) {
  const Part<kLast, kBlock> part(p.shape, layout);
  if (part.channel >= p.shape.channels) return;
  T scale[kBlock], bias[kBlock];
  for (int k = 0; k < kBlock; ++k) {
    const int64_t c = part.channel + k;
    scale[k] = p.scale ? p.scale[part.batch * p.shape.channels + c] : T(1);
    bias[k] = p.bias[c];
  }
  const T strength = p.noise ? *p.strength : T(0);
  const T* noise = p.noise ? p.noise + part.batch * p.shape.noise_stride : nullptr;
  for (int64_t pixel = part.pixel; pixel < part.end; pixel += part.step()) {
    const int64_t at = p.shape.place(part.batch, pixel, part.channel);
    const auto x = load<kBlock>(p.x + at);
    const T added = noise ? strength * noise[pixel] : T(0);
    ChannelBlock<kBlock, P> y;
    for (int k = 0; k < kBlock; ++k)
      y.channels[k] = P(activate(p.curve, T(x[k]) * scale[k] + bias[k] + added));
    store(p.y + at, y);
  }
}

// The sum over all threads of the block that share a channel, in the first of them.
template <bool kLast, typename T>
__device__ T sum_of_channel(T value, T* shared, int lanes, int rows) {
  if constexpr (!kLast) {
    return sum_over_lanes(value, lanes);
  } else {
    const int thread = int(threadIdx.x);
    shared[thread] = value;
    for (int half = rows / 2; half > 0; half /= 2) {
      __syncthreads();
      if (thread < half * lanes) shared[thread] += shared[thread + half * lanes];
    }
    const T sum = shared[thread];
    __syncthreads();  // before the next value
    return sum;
  }
}

template <bool kLast, int kBlock, typename T, typename P>
__global__ void __launch_bounds__(kBlockThreads, kResident)
    activation_backward_kernel(ActivationBackward<T, P> p, Layout layout) {
  EPIGRAF_DYNAMIC_SHARED(T, shared);
  const Part<kLast, kBlock> part(p.shape, layout);
  const int64_t channels = p.shape.channels;
  const bool inside = part.channel < channels;  // threads without a channel stay for the sums
  T scale[kBlock], sum[kBlock] = {}, sum_noise[kBlock] = {}, sum_input[kBlock] = {};
  for (int k = 0; k < kBlock; ++k)
    scale[k] = p.scale && inside ? p.scale[part.batch * channels + part.channel + k] : T(1);
  const bool has_noise = p.noise && p.sums;
  const T* noise = has_noise ? p.noise + part.batch * p.shape.noise_stride : nullptr;
  for (int64_t pixel = part.pixel; pixel < part.end; pixel += part.step()) {
    const int64_t at = p.shape.place(part.batch, pixel, part.channel);
    const auto grad_y = load<kBlock>(p.grad_y + at);
    const auto y = load<kBlock>(p.y + at);
    const T n = has_noise ? noise[pixel] : T(0);
    ChannelBlock<kBlock, P> grad_x;
    for (int k = 0; k < kBlock; ++k) {
      const T grad_u = activate_vjp(p.curve, T(y[k]), T(grad_y[k]));
      grad_x.channels[k] = P(grad_u * scale[k]);
      sum[k] += grad_u;
      sum_noise[k] += grad_u * n;
      sum_input[k] += grad_times_input(p.curve, T(y[k]), T(grad_y[k]));
    }
    store(p.grad_x + at, grad_x);
  }
  if (!p.sums) return;
  const int kinds = activation_sums(has_noise, p.scale != nullptr);
  T* sums = p.sums + (part.batch * layout.runs + part.run) * kinds * channels + part.channel;
  const bool writes = inside && (kLast ? part.row : part.lane) == 0;
  for (int kind = 0; kind < kinds; ++kind) {
    for (int k = 0; k < kBlock; ++k) {
      const T mine = kind == 0 ? sum[k] : kind == 1 && has_noise ? sum_noise[k] : sum_input[k];
      const T total = sum_of_channel<kLast>(mine, shared, part.lanes, part.rows);
      if (writes) sums[kind * channels + k] = total;
    }
  }
}

template <bool kLast, int kBlock>
Layout layout_for(const ActivationShape& s, const char* op) {
  const Lanes lanes = kLast ? lanes_for(s.channels, kBlock) : lanes_for(s.run, 1);
  const int64_t channels = kLast ? lanes.count() * kBlock : kBlockThreads / lanes.count();
  const int64_t groups = (s.channels + channels - 1) / channels, runs = s.runs();
  const unsigned blocks = blocks_for(s.batch * runs * groups * kBlockThreads, op);
  return {lanes, unsigned(groups), unsigned(runs), blocks};
}

template <bool kLast, int kBlock, typename T, typename P>
void launch(const ActivationForward<T, P>& p, cudaStream_t stream) {
  const Layout l = layout_for<kLast, kBlock>(p.shape, "activation_forward");
  EPIGRAF_LAUNCH((activation_forward_kernel<kLast, kBlock, T, P>), l.blocks, kBlockThreads, 0,
                 stream, p, l);
  check_cuda(cudaGetLastError(), "activation_forward");
}

template <bool kLast, int kVectorBlock, typename T, typename P>
void launch(const ActivationBackward<T, P>& p, cudaStream_t stream) {
  constexpr int kBlock = kVectorBlock > 4 ? 4 : kVectorBlock;  // three sums a channel: registers
  const Layout l = layout_for<kLast, kBlock>(p.shape, "activation_backward");
  const size_t shared = kLast && p.sums ? kBlockThreads * sizeof(T) : 0;
  EPIGRAF_LAUNCH((activation_backward_kernel<kLast, kBlock, T, P>), l.blocks, kBlockThreads, shared,
                 stream, p, l);
  check_cuda(cudaGetLastError(), "activation_backward");
}

// `vectors`: every block of kVector channels starts at 16 bytes.
template <typename P, typename Params>
void launch_as(const Params& p, bool vectors, Stream stream) {
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  if (!p.shape.channels_last) {
    launch<false, 1>(p, handle);
  } else if (vectors && p.shape.channels % kVector<P> == 0) {
    launch<true, kVector<P>>(p, handle);
  } else {
    launch<true, 1>(p, handle);
  }
}

bool is_empty(const ActivationShape& s) {
  return s.batch == 0 || s.channels == 0 || s.pixels == 0;
}

}  // namespace

template <typename T, typename P>
void activation_forward_cuda(const ActivationForward<T, P>& p, Stream stream) {
  if (is_empty(p.shape)) return;
  const DeviceGuard guard(stream.device, "activation_forward");
  launch_as<P>(p, aligned(p.x) && aligned(p.y), stream);
}

template <typename T, typename P>
void activation_backward_cuda(const ActivationBackward<T, P>& p, Stream stream) {
  if (is_empty(p.shape)) return;
  const DeviceGuard guard(stream.device, "activation_backward");
  launch_as<P>(p, aligned(p.grad_y) && aligned(p.y) && aligned(p.grad_x), stream);
}

template void activation_forward_cuda(const ActivationForward<float, float>&, Stream);
template void activation_forward_cuda(const ActivationForward<double, double>&, Stream);
template void activation_forward_cuda(const ActivationForward<float, Half>&, Stream);
template void activation_forward_cuda(const ActivationForward<float, BFloat16>&, Stream);
template void activation_backward_cuda(const ActivationBackward<float, float>&, Stream);
template void activation_backward_cuda(const ActivationBackward<double, double>&, Stream);
template void activation_backward_cuda(const ActivationBackward<float, Half>&, Stream);
template void activation_backward_cuda(const ActivationBackward<float, BFloat16>&, Stream);

}  // namespace epigraf
