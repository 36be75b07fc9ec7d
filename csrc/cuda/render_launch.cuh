// How the fused renderer is launched: as many warps on the device as its shared memory holds, and
// no more blocks than can run at once. Nothing is allocated or waited for, so a CUDA graph can
// capture it.
#pragma once

#include <limits>
#include <stdexcept>
#include <string>

#include "device.cuh"
#include "epigraf/render.h"
#include "epigraf/render_memory.h"

namespace epigraf {

static_assert(kRayWarp == kWarp, "RenderMemory counts lanes");

// Threads of a block, at most, and such blocks on a multiprocessor: room for 128 registers a thread
// forward and 168 backward in float, 255 in double, so that none spills. (Shared memory does not
// allow for more threads.)
constexpr int kForwardThreads = 256, kBackwardThreads = 192;
template <typename T>
constexpr int kRenderResident = sizeof(T) == 4 ? 2 : 1;

struct RenderBlocks {
  unsigned grid;
  unsigned threads;  // of a block; 0 where not even one warp finds room
  size_t shared_bytes;
  int device_bytes;  // of shared memory that a block can have
};

inline int device_attribute(cudaDeviceAttr attribute, const char* op) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device), op);
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), op);
  return value;
}

// The number of warps to a block that puts most warps on the current device. bytes(warps): the
// shared memory of a block; threads: of the largest one.
template <typename Kernel, typename Bytes>
RenderBlocks blocks_for_rays(Kernel kernel, int threads, int64_t rays, Bytes bytes,
                             const char* op) {
  const int room = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, op);
  const int64_t processors = device_attribute(cudaDevAttrMultiProcessorCount, op);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, room), op);
  RenderBlocks best = {0, 0, 0, room};
  int64_t most = 0;
  for (int warps = threads / kWarp; warps > 0; --warps) {
    if (bytes(warps) > room) continue;
    int resident = 0;
    check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, warps * kWarp,
                                                             size_t(bytes(warps))),
               op);
    if (resident * warps <= most) continue;
    most = resident * warps;
    const int64_t wanted = (rays + warps - 1) / warps, at_once = resident * processors;
    best.grid = unsigned(wanted < at_once ? wanted : at_once);
    best.threads = unsigned(warps * kWarp);
    best.shared_bytes = size_t(bytes(warps));
  }
  return best;
}

// Throws where a block of one warp, with its `needed` bytes, does not fit.
inline void check_room(const RenderBlocks& blocks, int64_t needed, const char* op) {
  if (blocks.threads > 0) return;
  throw std::runtime_error(std::string(op) + ": a ray needs " + std::to_string(needed) +
                           " bytes of shared memory, the device has " +
                           std::to_string(blocks.device_bytes));
}

// The sizes that shared memory depends on. Throws for a decoder that is not of two layers and for
// planes whose pixels an int does not count.
template <typename T>
RenderMemory memory_for(const RenderField<T>& field, const RenderRays<T>& rays, const char* op) {
  const DecoderLayers<T>& d = field.decoder;
  if (d.layers != 2) {
    throw std::runtime_error(std::string(op) + ": two decoder layers, got " +
                             std::to_string(d.layers));
  }
  if (field.shape.height > std::numeric_limits<int>::max() ||
      field.shape.width > std::numeric_limits<int>::max()) {
    throw std::runtime_error(std::string(op) + ": planes have more than 2^31 pixels a side");
  }
  return {d.widths[0], d.widths[1], rays.coarse, rays.fine, int64_t(64 / sizeof(T))};
}

}  // namespace epigraf
