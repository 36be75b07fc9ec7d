// What the CPU code was compiled with and what this machine selects of it.
#include "clones.h"
#include "epigraf/launch.h"

namespace epigraf {

const char* cpu_instruction_set() {
#if defined(EPIGRAF_HAS_CLONES)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
#endif
  return "default";
}

bool cpu_has_openmp() {
#if defined(_OPENMP)
  return true;
#else
  return false;
#endif
}

}  // namespace epigraf
