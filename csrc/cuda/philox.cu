// Counter-based random numbers on a GPU (docs/math/philox.md): a thread computes the four numbers
// of one block.
#include "epigraf/philox.h"

#include "device.cuh"

namespace epigraf {
namespace {

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) philox_fill_kernel(PhiloxFill<T> p) {
  const int64_t index = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x;
  const int64_t start = 4 * index - int64_t(p.offset % 4);  // the place of the block's number 0
  if (start >= p.count) return;
  const PhiloxBlock block = philox_block(p.seed, p.stream, p.offset / 4 + uint64_t(index));
  for (int k = 0; k < 4; k += 2) {
    T pair[2] = {philox_unit<T>(block.words[k]), philox_unit<T>(block.words[k + 1])};
    if (p.normal) philox_normal_pair(block.words[k], block.words[k + 1], pair[0], pair[1]);
    for (int i = 0; i < 2; ++i) {
      const int64_t place = start + k + i;
      if (place >= 0 && place < p.count) p.numbers[place] = pair[i];
    }
  }
}

}  // namespace

template <typename T>
void philox_fill_cuda(const PhiloxFill<T>& p, Stream stream) {
  if (p.count == 0) return;
  const DeviceGuard guard(stream.device, "philox_fill");
  const unsigned grid = blocks_for((int64_t(p.offset % 4) + p.count + 3) / 4, "philox_fill");
  EPIGRAF_LAUNCH((philox_fill_kernel<T>), grid, kBlockThreads, 0,
                 static_cast<cudaStream_t>(stream.handle), p);
  check_cuda(cudaGetLastError(), "philox_fill");
}

template void philox_fill_cuda<float>(const PhiloxFill<float>&, Stream);
template void philox_fill_cuda<double>(const PhiloxFill<double>&, Stream);

}  // namespace epigraf
