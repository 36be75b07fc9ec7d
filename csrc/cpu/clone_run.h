// Runs a body of inlined functions as compiled for an instruction set, and keeps what a team of
// threads throws.
#pragma once

#include <exception>
#include <mutex>
#include <type_traits>

#include "clones.h"

namespace epigraf {
namespace {

// The code for one instruction set: a body of inlined functions, compiled for it.
template <int kBytes>
struct Clone;

#define EPIGRAF_CLONE(target, bytes)           \
  template <>                                  \
  struct Clone<bytes> {                        \
    template <typename Body>                   \
    target static void run(const Body& body) { \
      body();                                  \
    }                                          \
  };

EPIGRAF_CLONE(, 16)
#if defined(EPIGRAF_HAS_CLONES)
EPIGRAF_CLONE(__attribute__((target("arch=x86-64-v3"))), 32)
EPIGRAF_CLONE(__attribute__((target("arch=x86-64-v4"))), 64)
#endif

// Calls body(bytes) with the width of this processor's vectors.
template <typename Body>
void with_vectors(Body body) {
#if defined(EPIGRAF_HAS_CLONES)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return body(std::integral_constant<int, 64>{});
  if (__builtin_cpu_supports("x86-64-v3")) return body(std::integral_constant<int, 32>{});
#endif
  body(std::integral_constant<int, 16>{});
}

// Keeps the first exception of a team of threads: none may leave an OpenMP region.
class FirstError {
 public:
  template <typename Body>
  void run(Body body) {
    try {
      body();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace
}  // namespace epigraf
