// EPIGRAF_HD marks the mathematics that g++ and nvcc compile alike: always inlined, so that the CPU
// kernels compile it for the instruction set of the clone that calls it.
#pragma once

#if defined(__CUDACC__)
#define EPIGRAF_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define EPIGRAF_HD inline __attribute__((always_inline))
#else
#define EPIGRAF_HD inline
#endif

// The channel loops have independent iterations, or only add up `sum`, `any` or the named sums;
// this tells the vectoriser so.
#define EPIGRAF_PRAGMA(text) _Pragma(#text)
#if defined(__CUDACC__)
#define EPIGRAF_SIMD
#define EPIGRAF_SIMD_SUM
#define EPIGRAF_SIMD_ANY
#define EPIGRAF_SIMD_SUMS(...)
#elif defined(_OPENMP) || defined(EPIGRAF_OPENMP_SIMD)
#define EPIGRAF_SIMD _Pragma("omp simd")
#define EPIGRAF_SIMD_SUM _Pragma("omp simd reduction(+ : sum)")
#define EPIGRAF_SIMD_ANY _Pragma("omp simd reduction(| : any)")
#define EPIGRAF_SIMD_SUMS(...) EPIGRAF_PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#else
#define EPIGRAF_SIMD
#define EPIGRAF_SIMD_SUM
#define EPIGRAF_SIMD_ANY
#define EPIGRAF_SIMD_SUMS(...)
#endif

// Loops over registers must be gone before the vectoriser looks for work.
#if defined(__CUDACC__)
#define EPIGRAF_UNROLL
#else
#define EPIGRAF_UNROLL _Pragma("GCC unroll 32")
#endif
