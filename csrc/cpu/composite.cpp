// Threads around composite.h: each ray belongs to one thread, so no result depends on their number.
#include "epigraf/composite.h"

#include <algorithm>

#include "clones.h"
#include "epigraf/launch.h"

namespace epigraf {
namespace {

constexpr int64_t kRaysPerTask = 64;

template <typename T>
EPIGRAF_HD void forward_rays(const CompositeForward<T>& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) composite_ray(ray_of(p, i), p.shape, out_of_ray(p, i));
}

template <typename T>
EPIGRAF_HD void backward_rays(const CompositeBackward<T>& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    composite_ray_vjp(ray_of(p, i), p.shape, grad_of_ray(p, i), grad_in_of_ray(p, i));
  }
}

// target_clones does not apply to templates: one function for each type.
EPIGRAF_CLONES void forward_clones(const CompositeForward<float>& p, int64_t begin, int64_t end) {
  forward_rays(p, begin, end);
}
EPIGRAF_CLONES void forward_clones(const CompositeForward<double>& p, int64_t begin, int64_t end) {
  forward_rays(p, begin, end);
}
EPIGRAF_CLONES void backward_clones(const CompositeBackward<float>& p, int64_t begin, int64_t end) {
  backward_rays(p, begin, end);
}
EPIGRAF_CLONES void backward_clones(const CompositeBackward<double>& p, int64_t begin,
                                    int64_t end) {
  backward_rays(p, begin, end);
}

}  // namespace

template <typename T>
void composite_forward_cpu(const CompositeForward<T>& params, int threads) {
  const int64_t rays = params.shape.rays;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t begin = 0; begin < rays; begin += kRaysPerTask) {
    forward_clones(params, begin, std::min(begin + kRaysPerTask, rays));
  }
}

template <typename T>
void composite_backward_cpu(const CompositeBackward<T>& params, int threads) {
  const int64_t rays = params.shape.rays;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t begin = 0; begin < rays; begin += kRaysPerTask) {
    backward_clones(params, begin, std::min(begin + kRaysPerTask, rays));
  }
}

template void composite_forward_cpu(const CompositeForward<float>&, int);
template void composite_forward_cpu(const CompositeForward<double>&, int);
template void composite_backward_cpu(const CompositeBackward<float>&, int);
template void composite_backward_cpu(const CompositeBackward<double>&, int);

}  // namespace epigraf
