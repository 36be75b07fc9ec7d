// The decoder on a GPU (docs/math/decoder.md). A block takes a tile of points through all layers;
// activations stay in shared memory, and so do the weights and the sums of their gradients where
// there is room. A thread computes kRows outputs of one point (or kRows weights of one input), its
// neighbours the next points (or inputs). Blocks walk over many tiles, so that weights are loaded
// and their gradients added to global memory once a block. Those additions are atomic: gradients of
// parameters agree from run to run but for rounding; everything else is bit-equal.
#include "epigraf/decoder.h"

#include <algorithm>

#include "device.cuh"

namespace epigraf {
namespace {

constexpr int kRows = 4;
constexpr int64_t kMaxBlocks = 1024;
constexpr int64_t kSharedBytes = 48 * 1024;  // what every device gives a block without asking

// How a block's shared memory is cut: activations, then weights and biases, then gradient sums.
struct DecoderTile {
  int bits;          // 2^bits points
  int64_t rows;      // of activations
  int64_t params;    // weights and biases of all layers
  bool staged;       // parameters lie in shared memory
  bool accumulated;  // so do the sums of their gradients

  __host__ __device__ int points() const { return 1 << bits; }
  __host__ __device__ int64_t stride() const { return points() + 1; }  // no bank conflicts
  __host__ __device__ int64_t elements() const {
    return rows * stride() + params * (int(staged) + int(accumulated));
  }
};

// Where a layer's parameters start: weights [O, I], then biases [O].
template <typename T>
__host__ __device__ int64_t param_offset(const DecoderLayers<T>& net, int layer) {
  int64_t offset = 0;
  for (int i = 0; i < layer; ++i) offset += net.widths[i + 1] * (net.widths[i] + 1);
  return offset;
}

// Where the activations of a layer start, all layers being kept.
template <typename T>
__device__ int64_t activation_row(const DecoderLayers<T>& net, int layer) {
  int64_t row = 0;
  for (int i = 0; i < layer; ++i) row += net.widths[i];
  return row;
}

// Rows first ... of `size`, the item's share.
__device__ DecoderRows rows_from(int64_t inputs, int64_t outputs, int64_t first, int64_t size) {
  const int64_t left = size - first;
  return {inputs, outputs, first, left < kRows ? int(left) : kRows};
}

// The network with its parameters copied into shared memory, where the tile has room for them.
template <typename T>
__device__ DecoderLayers<T> staged_layers(const DecoderLayers<T>& net, const DecoderTile& tile,
                                          T* shared) {
  DecoderLayers<T> result = net;
  if (!tile.staged) return result;
  for (int i = 0; i < net.layers; ++i) {
    const int64_t weights = net.widths[i] * net.widths[i + 1], biases = net.widths[i + 1];
    T* target = shared + tile.rows * tile.stride() + param_offset(net, i);
    for (int64_t k = threadIdx.x; k < weights; k += kBlockThreads) target[k] = net.weights[i][k];
    for (int64_t k = threadIdx.x; k < biases; k += kBlockThreads)
      target[weights + k] = net.biases[i][k];
    result.weights[i] = target;
    result.biases[i] = target + weights;
  }
  return result;
}

// rows[k * stride + p] = source[p * width + k] for the points of a tile; 0 for those that are none.
template <typename T>
__device__ void load_tile(const T* source, int64_t width, int64_t points, const DecoderTile& tile,
                          T* rows) {
  for (int64_t i = threadIdx.x; i < width * tile.points(); i += kBlockThreads) {
    const int64_t p = i / width, k = i % width;
    rows[k * tile.stride() + p] = p < points ? source[i] : T(0);
  }
}

// (decoder 3): a hidden layer of a tile, from the rows of x to those of h.
template <typename T>
__device__ void hidden_layer(const DecoderLayers<T>& net, int layer, const DecoderTile& tile,
                             const T* x, T* h) {
  const int64_t inputs = net.widths[layer], outputs = net.widths[layer + 1];
  const int64_t items = (outputs + kRows - 1) / kRows * tile.points();
  for (int64_t item = threadIdx.x; item < items; item += kBlockThreads) {
    const int64_t p = item & (tile.points() - 1);
    const auto rows = rows_from(inputs, outputs, (item >> tile.bits) * kRows, outputs);
    T sum[kRows];
    decoder_outputs(rows, net.weights[layer], net.biases[layer], x + p, tile.stride(), sum);
    for (int j = 0; j < kRows; ++j)
      if (j < rows.rows) h[(rows.first + j) * tile.stride() + p] = leaky_relu(sum[j], net.slope);
  }
}

// (decoder 4): the last layer of a tile, to global memory.
template <typename T>
__device__ void last_layer(const DecoderForward<T>& p, const DecoderLayers<T>& net,
                           const DecoderTile& tile, const T* x, int64_t first, int64_t points) {
  const int64_t inputs = net.widths[net.layers - 1], outputs = net.widths[net.layers];
  const int64_t items = (outputs + kRows - 1) / kRows * tile.points();
  for (int64_t item = threadIdx.x; item < items; item += kBlockThreads) {
    const int64_t point = item & (tile.points() - 1);
    if (point >= points) continue;
    const auto rows = rows_from(inputs, outputs, (item >> tile.bits) * kRows, outputs);
    T sum[kRows];
    decoder_outputs(rows, net.weights[net.layers - 1], net.biases[net.layers - 1], x + point,
                    tile.stride(), sum);
    for (int j = 0; j < kRows; ++j) {
      const int64_t output = rows.first + j;
      if (j < rows.rows && output + 1 < outputs)
        p.rest[(first + point) * (outputs - 1) + output] = sum[j];
      if (j < rows.rows && output + 1 == outputs) p.last[first + point] = sum[j];
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads)
    decoder_forward_kernel(DecoderForward<T> p, DecoderTile tile) {
  EPIGRAF_DYNAMIC_SHARED(T, shared);
  const DecoderLayers<T> net = staged_layers(p.net, tile, shared);
  T* buffers[2] = {shared, shared + tile.rows / 2 * tile.stride()};
  const int64_t step = int64_t(gridDim.x) * tile.points();
  for (int64_t first = int64_t(blockIdx.x) * tile.points(); first < p.points; first += step) {
    const int64_t left = p.points - first, points = left < tile.points() ? left : tile.points();
    load_tile(p.features + first * net.widths[0], net.widths[0], points, tile, buffers[0]);
    __syncthreads();
    for (int layer = 0; layer + 1 < net.layers; ++layer) {
      hidden_layer(net, layer, tile, buffers[layer % 2], buffers[(layer + 1) % 2]);
      __syncthreads();
    }
    last_layer(p, net, tile, buffers[(net.layers - 1) % 2], first, points);
    __syncthreads();
  }
}

// (decoder 5): the gradient of a tile's outputs as rows.
template <typename T>
__device__ void load_grad(const DecoderBackward<T>& p, const DecoderTile& tile, int64_t first,
                          int64_t points, T* rows) {
  const int64_t outputs = p.net.widths[p.net.layers];
  for (int64_t i = threadIdx.x; i < outputs * tile.points(); i += kBlockThreads) {
    const int64_t point = i / outputs, output = i % outputs;
    T grad = 0;
    if (point < points && output + 1 < outputs && p.grad_rest)
      grad = p.grad_rest[(first + point) * (outputs - 1) + output];
    if (point < points && output + 1 == outputs && p.grad_last) grad = p.grad_last[first + point];
    rows[output * tile.stride() + point] = grad;
  }
}

// Adds to the sum of a parameter's gradient: in shared memory, where it belongs to this thread, or
// in global memory.
template <typename T>
__device__ void add_param(const DecoderBackward<T>& p, const DecoderTile& tile, T* sums, int layer,
                          int64_t output, int64_t input, T grad) {
  const int64_t inputs = p.net.widths[layer], outputs = p.net.widths[layer + 1];
  const bool bias = input == inputs;
  T* target = bias ? p.grad_biases[layer] : p.grad_weights[layer];
  if (!target) return;
  const int64_t place = bias ? output : output * inputs + input;
  if (tile.accumulated) {
    sums[param_offset(p.net, layer) + (bias ? outputs * inputs : 0) + place] += grad;
  } else {
    atomicAdd(target + place, grad);
  }
}

// (decoder 6) for one layer of a tile.
template <typename T>
__device__ void layer_vjp_params(const DecoderBackward<T>& p, const DecoderTile& tile, int layer,
                                 const T* x, const T* grad, int64_t points, T* sums) {
  if (!p.grad_weights[layer] && !p.grad_biases[layer]) return;
  const int64_t inputs = p.net.widths[layer], outputs = p.net.widths[layer + 1];
  const int64_t items = (outputs + kRows - 1) / kRows * (inputs + 1);
  for (int64_t item = threadIdx.x; item < items; item += kBlockThreads) {
    const int64_t input = item % (inputs + 1);
    const auto rows = rows_from(inputs, outputs, item / (inputs + 1) * kRows, outputs);
    T sum[kRows];
    decoder_outputs_vjp_params(rows, x, input, grad, tile.stride(), points, sum);
    for (int j = 0; j < kRows; ++j)
      if (j < rows.rows) add_param(p, tile, sums, layer, rows.first + j, input, sum[j]);
  }
}

// (decoder 7): the gradient before a hidden layer's nonlinearity, in place of its activations h.
// (decoder 8) for layer 0: the gradient of the features, to global memory.
template <typename T>
__device__ void layer_vjp_inputs(const DecoderBackward<T>& p, const DecoderLayers<T>& net,
                                 const DecoderTile& tile, int layer, const T* grad, T* h,
                                 int64_t first, int64_t points) {
  const int64_t inputs = net.widths[layer], outputs = net.widths[layer + 1];
  const int64_t items = (inputs + kRows - 1) / kRows * tile.points();
  for (int64_t item = threadIdx.x; item < items; item += kBlockThreads) {
    const int64_t point = item & (tile.points() - 1);
    if (point >= points) continue;
    const auto rows = rows_from(inputs, outputs, (item >> tile.bits) * kRows, inputs);
    T sum[kRows];
    decoder_outputs_vjp_inputs(rows, net.weights[layer], grad + point, tile.stride(), sum);
    for (int j = 0; j < kRows; ++j) {
      if (j >= rows.rows) break;
      T& value = h[(rows.first + j) * tile.stride() + point];
      if (layer > 0) value = leaky_relu_vjp(sum[j], value, net.slope);
      if (layer == 0) p.grad_features[(first + point) * inputs + rows.first + j] = sum[j];
    }
  }
}

// One tile: all activations again, then the layers backwards.
template <typename T>
__device__ void backward_tile(const DecoderBackward<T>& p, const DecoderLayers<T>& net,
                              const DecoderTile& tile, int64_t first, T* shared, T* sums) {
  const int64_t left = p.points - first, points = left < tile.points() ? left : tile.points();
  const auto rows_of = [&](int layer) {
    return shared + activation_row(net, layer) * tile.stride();
  };
  load_tile(p.features + first * net.widths[0], net.widths[0], points, tile, rows_of(0));
  load_grad(p, tile, first, points, rows_of(net.layers));
  __syncthreads();
  for (int layer = 0; layer + 1 < net.layers; ++layer) {
    hidden_layer(net, layer, tile, rows_of(layer), rows_of(layer + 1));
    __syncthreads();
  }
  for (int layer = net.layers - 1; layer >= 0; --layer) {
    layer_vjp_params(p, tile, layer, rows_of(layer), rows_of(layer + 1), points, sums);
    __syncthreads();  // the activations are read before they are overwritten
    if (layer > 0 || p.grad_features)
      layer_vjp_inputs(p, net, tile, layer, rows_of(layer + 1), rows_of(layer), first, points);
    __syncthreads();
  }
}

// The block's sums to global memory.
template <typename T>
__device__ void flush_sums(const DecoderBackward<T>& p, const T* sums) {
  for (int layer = 0; layer < p.net.layers; ++layer) {
    const int64_t outputs = p.net.widths[layer + 1], weights = outputs * p.net.widths[layer];
    const T* from = sums + param_offset(p.net, layer);
    for (int64_t k = threadIdx.x; k < weights && p.grad_weights[layer]; k += kBlockThreads)
      atomicAdd(p.grad_weights[layer] + k, from[k]);
    for (int64_t k = threadIdx.x; k < outputs && p.grad_biases[layer]; k += kBlockThreads)
      atomicAdd(p.grad_biases[layer] + k, from[weights + k]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads)
    decoder_backward_kernel(DecoderBackward<T> p, DecoderTile tile) {
  EPIGRAF_DYNAMIC_SHARED(T, shared);
  const DecoderLayers<T> net = staged_layers(p.net, tile, shared);
  T* sums = shared + tile.rows * tile.stride() + (tile.staged ? tile.params : 0);
  if (tile.accumulated)
    for (int64_t k = threadIdx.x; k < tile.params; k += kBlockThreads) sums[k] = T(0);
  const int64_t step = int64_t(gridDim.x) * tile.points();
  for (int64_t first = int64_t(blockIdx.x) * tile.points(); first < p.points; first += step)
    backward_tile(p, net, tile, first, shared, sums);
  if (tile.accumulated) flush_sums(p, sums);
}

// The largest tile whose activations fit, and what fits beside it.
template <typename T>
DecoderTile tile_for(const DecoderLayers<T>& net, int64_t rows, bool backward, const char* op) {
  DecoderTile tile = {6, rows, param_offset(net, net.layers), false, false};
  const auto fits = [&] { return tile.elements() * int64_t(sizeof(T)) <= kSharedBytes; };
  while (tile.bits > 3 && !fits()) --tile.bits;
  if (!fits()) throw std::runtime_error(std::string(op) + ": the layers are too wide");
  tile.staged = true;
  tile.staged = fits();
  tile.accumulated = backward;
  tile.accumulated = backward && fits();
  return tile;
}

unsigned decoder_grid(int64_t points, const DecoderTile& tile) {
  return unsigned(std::min((points + tile.points() - 1) / tile.points(), kMaxBlocks));
}

}  // namespace

template <typename T>
void decoder_forward_cuda(const DecoderForward<T>& p, Stream stream) {
  if (p.points == 0) return;
  const DeviceGuard guard(stream.device, "decoder_forward");
  const int64_t widest = *std::max_element(p.net.widths, p.net.widths + p.net.layers);
  const DecoderTile tile = tile_for(p.net, 2 * widest, false, "decoder_forward");
  EPIGRAF_LAUNCH((decoder_forward_kernel<T>), decoder_grid(p.points, tile), kBlockThreads,
                 size_t(tile.elements()) * sizeof(T), static_cast<cudaStream_t>(stream.handle), p,
                 tile);
  check_cuda(cudaGetLastError(), "decoder_forward");
}

template <typename T>
void decoder_backward_cuda(const DecoderBackward<T>& p, Stream stream) {
  if (p.points == 0) return;
  const DeviceGuard guard(stream.device, "decoder_backward");
  int64_t rows = 0;
  for (int i = 0; i <= p.net.layers; ++i) rows += p.net.widths[i];
  const DecoderTile tile = tile_for(p.net, rows, true, "decoder_backward");
  EPIGRAF_LAUNCH((decoder_backward_kernel<T>), decoder_grid(p.points, tile), kBlockThreads,
                 size_t(tile.elements()) * sizeof(T), static_cast<cudaStream_t>(stream.handle), p,
                 tile);
  check_cuda(cudaGetLastError(), "decoder_backward");
}

template void decoder_forward_cuda<float>(const DecoderForward<float>&, Stream);
template void decoder_forward_cuda<double>(const DecoderForward<double>&, Stream);
template void decoder_backward_cuda<float>(const DecoderBackward<float>&, Stream);
template void decoder_backward_cuda<double>(const DecoderBackward<double>&, Stream);

}  // namespace epigraf
