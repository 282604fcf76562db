#pragma once
// Stacks to run a kernel's threads on, and the switch between them.

#include <cstddef>
#include <cstdint>

namespace taper::simt {

/// Where a suspended computation stands: its stack pointer, under which the switch left the registers that a
/// call preserves.
using Context = void*;

/// A stack with a guard page below it, so that a kernel whose local arrays are too large faults.
class Fiber {
 public:
  using Entry = void (*)();

  /// With the guard page; stacks are aligned to it.
  static constexpr size_t kStackBytes = size_t{128} * 1024;

  /// `number` staggers the stacks: equally aligned ones would share the same few sets of the first cache.
  explicit Fiber(int64_t number);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Makes `context` begin at `entry`, which must never return; what the stack held is forgotten.
  void prepare(Entry entry);

  Context context = nullptr;

 private:
  std::byte* stack_;
  size_t stagger_;
};

extern "C" void taper_simt_switch(Context* from, Context to);

#if defined(__SANITIZE_ADDRESS__)
/// Under AddressSanitizer, which must know where the stack lies. `to` may be the host's own stack.
void switch_to(Context* from, Context to);
/// What a fiber's entry does first.
void entered();
#else
/// Suspends the caller in `*from` and resumes `to`: returns when somebody resumes `*from`.
inline void switch_to(Context* from, Context to) { taper_simt_switch(from, to); }
inline void entered() {}
#endif

}  // namespace taper::simt
