#include "device.cuh"

namespace epigraf {

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver is an answer here, not an error for the next launch to report
  return 0;
}

}  // namespace epigraf
