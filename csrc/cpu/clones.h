// EPIGRAF_CLONES compiles a function for AVX-512, AVX2 + FMA and the baseline; the loader picks
// one. The function must not contain an OpenMP region: GCC outlines those before it clones.
#pragma once

#if defined(EPIGRAF_HAS_CLONES)
#define EPIGRAF_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EPIGRAF_CLONES
#endif

// A lambda that a clone calls must become part of it, or it runs the baseline's instructions.
#if defined(__GNUC__)
#define EPIGRAF_INLINE_LAMBDA __attribute__((always_inline))
#else
#define EPIGRAF_INLINE_LAMBDA
#endif
