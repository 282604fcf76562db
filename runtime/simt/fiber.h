#pragma once
// Stacks to run a kernel's threads on, and the switch between them.

#include <cstddef>
#include <cstdint>

namespace taper::simt {

/// Where a suspended computation stands: its stack pointer, under which the switch left the registers that a
/// call preserves.
using Context = void*;

/// Suspends the caller in `*from` and resumes `to`: returns when somebody resumes `*from`.
extern "C" void taper_simt_switch(Context* from, Context to);

/// A stack with a guard page below it, so that a kernel whose local arrays are too large faults.
class Fiber {
 public:
  using Entry = void (*)();

  /// `number` staggers the stacks: equally aligned ones would share the same few sets of the first cache.
  explicit Fiber(int64_t number);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Makes `context` begin at `entry`, which must never return; what the stack held is forgotten.
  void prepare(Entry entry);

  static constexpr size_t kStackBytes = 128 * 1024;

  Context context = nullptr;

 private:
  static constexpr size_t kGuardBytes = 4096;

  std::byte* mapping_;
  size_t stagger_;
};

}  // namespace taper::simt
