// EPIGRAF_CLONES compiles a function for AVX-512, AVX2 + FMA and the baseline; the loader picks
// one. The function must not contain an OpenMP region: GCC outlines those before it clones.
#pragma once

#if defined(EPIGRAF_HAS_CLONES)
#define EPIGRAF_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EPIGRAF_CLONES
#endif
