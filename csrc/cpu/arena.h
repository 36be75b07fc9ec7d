// What the tiles of the fused renderer are built with: loops over blocks of a compile-time size,
// and aligned memory of one thread.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#include "clones.h"
#include "epigraf/macros.h"

namespace epigraf {

// Calls body(block, first) for blocks of kBlock, then of half of it, down to 1.
template <int kBlock, typename Body>
EPIGRAF_HD void for_blocks(int64_t count, Body body, int64_t first = 0) {
  for (; first + kBlock <= count; first += kBlock) {
    body(std::integral_constant<int, kBlock>{}, first);
  }
  if constexpr (kBlock > 1) for_blocks<kBlock / 2>(count, body, first);
}

// Aligned memory of one thread, handed out piece by piece.
template <typename T>
class Arena {
 public:
  explicit Arena(int64_t count)
      : memory_(static_cast<T*>(std::aligned_alloc(kAlignment, round(count) * sizeof(T)))) {
    if (!memory_) throw std::bad_alloc();
    std::fill_n(memory_.get(), round(count), T(0));
  }
  T* take(int64_t count) {
    T* piece = memory_.get() + used_;
    used_ += round(count);
    return piece;
  }
  static int64_t round(int64_t count) {
    constexpr int64_t unit = kAlignment / sizeof(T);
    return (count + unit - 1) / unit * unit;
  }

 private:
  static constexpr int64_t kAlignment = 64;
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t used_ = 0;
};

// Memory of many megabytes, not initialised, that grows as asked; in pages as large as the system
// gives them.
template <typename T>
class LargeMemory {
 public:
  T* at_least(int64_t count) {
    if (count > count_) {
      memory_.reset();
      const size_t bytes = (static_cast<size_t>(count) * sizeof(T) / kPage + 1) * kPage;
      memory_.reset(static_cast<T*>(std::aligned_alloc(kPage, bytes)));
      if (!memory_) throw std::bad_alloc();
      count_ = count;
#if defined(MADV_HUGEPAGE)
      madvise(memory_.get(), bytes, MADV_HUGEPAGE);
#endif
    }
    return memory_.get();
  }

 private:
  static constexpr size_t kPage = size_t{1} << 21;
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t count_ = 0;
};

}  // namespace epigraf
