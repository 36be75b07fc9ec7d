// Threads around importance.h: each ray belongs to one thread, so no result depends on their
// number.
#include "epigraf/importance.h"

#include <algorithm>
#include <vector>

#include "clones.h"
#include "epigraf/launch.h"

namespace epigraf {
namespace {

constexpr int64_t kRaysPerTask = 64;

template <typename T>
EPIGRAF_HD void importance_rays(const ImportanceForward<T>& p, int64_t begin, int64_t end, T* cdf) {
  for (int64_t ray = begin; ray < end; ++ray) {
    const T *t = p.t + ray * p.samples, *u = p.u + ray * p.u_stride;
    importance_cdf(p.weights + ray * p.samples, p.samples, cdf);
    for (int64_t i = 0; i < p.draws; ++i) {
      const int64_t above = importance_above(cdf, p.samples, u[i]);
      p.depths[ray * p.draws + i] = importance_depth(t, cdf, p.samples, above, u[i]);
    }
  }
}

template <typename T>
EPIGRAF_HD void merge_rays(const MergeForward<T>& p, int64_t begin, int64_t end, int32_t* scratch) {
  const MergeShape& s = p.shape;
  const int64_t all = s.fine + s.coarse;
  for (int64_t ray = begin; ray < end; ++ray) {
    int32_t* order = p.order + ray * all;
    merge_order(p.fine.t + ray * s.fine, s.fine, p.coarse.t + ray * s.coarse, s.coarse, scratch,
                order);
    for (int64_t place = 0; place < all; ++place) merge_sample(p, ray, order[place], place);
  }
}

template <typename T>
EPIGRAF_HD void merge_rays_vjp(const MergeBackward<T>& p, int64_t begin, int64_t end) {
  const int64_t all = p.shape.fine + p.shape.coarse;
  for (int64_t ray = begin; ray < end; ++ray) {
    for (int64_t place = 0; place < all; ++place) merge_sample_vjp(p, ray, place);
  }
}

// target_clones does not apply to templates: one function for each type.
EPIGRAF_CLONES void importance_clones(const ImportanceForward<float>& p, int64_t begin, int64_t end,
                                      float* cdf) {
  importance_rays(p, begin, end, cdf);
}
EPIGRAF_CLONES void importance_clones(const ImportanceForward<double>& p, int64_t begin,
                                      int64_t end, double* cdf) {
  importance_rays(p, begin, end, cdf);
}
EPIGRAF_CLONES void merge_clones(const MergeForward<float>& p, int64_t begin, int64_t end,
                                 int32_t* scratch) {
  merge_rays(p, begin, end, scratch);
}
EPIGRAF_CLONES void merge_clones(const MergeForward<double>& p, int64_t begin, int64_t end,
                                 int32_t* scratch) {
  merge_rays(p, begin, end, scratch);
}

}  // namespace

template <typename T>
void importance_forward_cpu(const ImportanceForward<T>& params, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> cdf(static_cast<size_t>(params.samples));
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < params.rays; begin += kRaysPerTask) {
      importance_clones(params, begin, std::min(begin + kRaysPerTask, params.rays), cdf.data());
    }
  }
}

template <typename T>
void merge_forward_cpu(const MergeForward<T>& params, int threads) {
  const int64_t rays = params.shape.rays;
#pragma omp parallel num_threads(threads)
  {
    std::vector<int32_t> scratch(static_cast<size_t>(params.shape.fine + params.shape.coarse));
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < rays; begin += kRaysPerTask) {
      merge_clones(params, begin, std::min(begin + kRaysPerTask, rays), scratch.data());
    }
  }
}

template <typename T>
void merge_backward_cpu(const MergeBackward<T>& params, int threads) {
  const int64_t rays = params.shape.rays;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t begin = 0; begin < rays; begin += kRaysPerTask) {
    merge_rays_vjp(params, begin, std::min(begin + kRaysPerTask, rays));
  }
}

template void importance_forward_cpu(const ImportanceForward<float>&, int);
template void importance_forward_cpu(const ImportanceForward<double>&, int);
template void merge_forward_cpu(const MergeForward<float>&, int);
template void merge_forward_cpu(const MergeForward<double>&, int);
template void merge_backward_cpu(const MergeBackward<float>&, int);
template void merge_backward_cpu(const MergeBackward<double>&, int);

}  // namespace epigraf
