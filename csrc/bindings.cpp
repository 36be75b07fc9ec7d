// epigraf._C: addresses, sizes and a place to work in; no torch. epigraf/ops/_native.py is its only
// caller.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>

#include "epigraf/launch.h"

namespace py = pybind11;

namespace {

using epigraf::CompositeShape;
using epigraf::TriplaneShape;

constexpr int kAbi = 1;  // the calling convention; epigraf/ops/_native.py states the same number

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
                             const std::array<int64_t, 4>& strides) {
  const auto& [batch, points, channels, height, width] = sizes;
  return {batch, points, channels, height, width, strides[0], strides[1], strides[2], strides[3]};
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
#define EPIGRAF_CUDA_LAUNCHER(name) epigraf::name
#else
#define EPIGRAF_CUDA_LAUNCHER(name) nullptr
#endif

template <typename T>
void triplane_forward(const Launch& launch, const TriplaneShape& shape,
                      const std::array<uintptr_t, 2>& inputs, uintptr_t features) {
  const epigraf::TriplaneForward<T> params{shape, pointer<const T>(inputs[0]),
                                           pointer<const T>(inputs[1]), pointer<T>(features)};
  dispatch(launch, params, epigraf::triplane_forward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(triplane_forward_cuda<T>));
}

template <typename T>
void triplane_backward(const Launch& launch, const TriplaneShape& shape,
                       const std::array<uintptr_t, 3>& inputs,
                       const std::array<uintptr_t, 2>& grads) {
  const epigraf::TriplaneBackward<T> params{shape,
                                            pointer<const T>(inputs[0]),
                                            pointer<const T>(inputs[1]),
                                            pointer<const T>(inputs[2]),
                                            pointer<T>(grads[0]),
                                            pointer<T>(grads[1])};
  dispatch(launch, params, epigraf::triplane_backward_cpu<T>,
           EPIGRAF_CUDA_LAUNCHER(triplane_backward_cuda<T>));
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

}  // namespace

// Float or double, by the launch.
#define EPIGRAF_BY_TYPE(name, launch, ...) \
  (launch).is_double ? name<double>(launch, __VA_ARGS__) : name<float>(launch, __VA_ARGS__)

PYBIND11_MODULE(_C, m) {
  m.doc() = "The native core of epigraf: raw addresses in, raw addresses out.";
  m.attr("ABI") = kAbi;
  m.def("cuda_compiled", [] { return kCuda; });
  m.def("cpu_instruction_set", &epigraf::cpu_instruction_set);
  m.def("cpu_has_openmp", &epigraf::cpu_has_openmp);
#if defined(EPIGRAF_WITH_CUDA)
  m.def("cuda_device_count", &epigraf::cuda_device_count);
#else
  m.def("cuda_device_count", [] { return 0; });
#endif

  py::class_<Launch>(m, "Launch")
      .def(py::init<bool, int, uintptr_t, int>(), py::arg("is_double"), py::arg("device"),
           py::arg("stream"), py::arg("threads"));
  py::class_<TriplaneShape>(m, "TriplaneShape")
      .def(py::init(&triplane_shape), py::arg("sizes"), py::arg("strides"));
  py::class_<CompositeShape>(m, "CompositeShape")
      .def(py::init<int64_t, int64_t, int64_t, bool>(), py::arg("rays"), py::arg("samples"),
           py::arg("channels"), py::arg("last_back"));

  // inputs: planes, points.
  m.def("triplane_forward", [](const Launch& launch, const TriplaneShape& shape,
                               const std::array<uintptr_t, 2>& inputs, uintptr_t features) {
    EPIGRAF_BY_TYPE(triplane_forward, launch, shape, inputs, features);
  });
  // inputs: planes, points, grad_features; grad_inputs: planes (zeroed by the caller), points.
  m.def("triplane_backward",
        [](const Launch& launch, const TriplaneShape& shape, const std::array<uintptr_t, 3>& inputs,
           const std::array<uintptr_t, 2>& grad_inputs) {
          EPIGRAF_BY_TYPE(triplane_backward, launch, shape, inputs, grad_inputs);
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
}
