// A fiber: a function with a stack of its own that can be left and entered again.
//
// On x86-64 a switch is fifteen instructions; elsewhere, and with EPIGRAF_UCONTEXT_FIBERS defined,
// it is ucontext's swapcontext, ten times slower. AddressSanitizer is told of every switch. A fiber
// must not let an exception out, and one that is dropped half-way runs no destructors: it is made
// for CUDA kernels, whose locals own nothing.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if !defined(__x86_64__) || defined(EPIGRAF_UCONTEXT_FIBERS)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_emulation {

#if defined(__x86_64__) && !defined(EPIGRAF_UCONTEXT_FIBERS)
// Saves the callee-saved registers and the stack pointer in *leaving, and takes up `entering`.
__attribute__((naked, noinline)) inline void switch_stack(void** /*leaving*/, void* /*entering*/) {
  asm("pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret\n\t");
}

class Context {
 public:
  // The next switch to this context calls `entry`, on the stack that ends at `stack + size`.
  void prepare(void* stack, std::size_t size, void (*entry)()) {
    auto top = reinterpret_cast<std::uintptr_t>(stack) + size;
    void** slot = reinterpret_cast<void**>(top & ~std::uintptr_t{15});
    *--slot = nullptr;  // the return address that `entry` must never use
    *--slot = reinterpret_cast<void*>(entry);
    for (int registers = 0; registers < 6; ++registers) *--slot = nullptr;
    stack_pointer_ = slot;
  }
  void switch_to(Context& other) { switch_stack(&stack_pointer_, other.stack_pointer_); }

 private:
  void* stack_pointer_ = nullptr;
};
#else
class Context {
 public:
  void prepare(void* stack, std::size_t size, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = size;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  void switch_to(Context& other) { swapcontext(&context_, &other.context_); }

 private:
  ucontext_t context_;
};
#endif

class Fiber {
 public:
  Fiber() {
    void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, guard_bytes, PROT_NONE);  // an overflow faults instead of corrupting
    memory_ = static_cast<char*>(memory);
  }
  ~Fiber() {
    if (memory_ != nullptr) munmap(memory_, guard_bytes + stack_bytes);
  }
  Fiber(Fiber&& other) noexcept : memory_(other.memory_) { other.memory_ = nullptr; }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next enter() calls `entry` from its beginning; what the fiber did before is dropped.
  void start(void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
    // What the last run left marked: at its end only the outermost frames, else anything.
    const std::size_t marked = finished_ ? outer_frame_bytes : stack_bytes;
    __asan_unpoison_memory_region(memory_ + guard_bytes + stack_bytes - marked, marked);
    fake_stack_ = nullptr;
    finished_ = false;
#endif
    entry_ = entry;
    inside_.prepare(memory_ + guard_bytes, stack_bytes, &Fiber::first_entry);
  }

  // Runs the fiber until it leaves.
  void enter() {
    current() = this;
#if defined(__SANITIZE_ADDRESS__)
    void* outer_fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&outer_fake_stack, memory_ + guard_bytes, stack_bytes);
    outside_.switch_to(inside_);
    __sanitizer_finish_switch_fiber(outer_fake_stack, nullptr, nullptr);
#else
    outside_.switch_to(inside_);
#endif
  }

  // Called inside the fiber: returns from enter(). With `for_good` it is never entered again.
  void leave([[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    finished_ = for_good;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, outer_stack_, outer_bytes_);
    inside_.switch_to(outside_);
    __sanitizer_finish_switch_fiber(fake_stack_, &outer_stack_, &outer_bytes_);
#else
    inside_.switch_to(outside_);
#endif
  }

 private:
  static Fiber*& current() {
    static Fiber* fiber = nullptr;
    return fiber;
  }
  static void first_entry() {
#if defined(__SANITIZE_ADDRESS__)
    Fiber* self = current();
    __sanitizer_finish_switch_fiber(nullptr, &self->outer_stack_, &self->outer_bytes_);
#endif
    current()->entry_();
  }

#if defined(__SANITIZE_ADDRESS__)
  static constexpr std::size_t stack_bytes = 256 * 1024;
  static constexpr std::size_t outer_frame_bytes = 2048;
  bool finished_ = false;
  void* fake_stack_ = nullptr;
  const void* outer_stack_ = nullptr;
  std::size_t outer_bytes_ = 0;
#else
  static constexpr std::size_t stack_bytes = 64 * 1024;
#endif
  static constexpr std::size_t guard_bytes = 4096;
  char* memory_ = nullptr;
  void (*entry_)() = nullptr;
  Context inside_, outside_;
};

}  // namespace cuda_emulation
