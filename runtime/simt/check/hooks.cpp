// The functions that code compiled with -fsanitize=thread calls for each access to memory, here instead of
// libtsan's. Code of the host in the same files calls them too; it is let pass.

#include <atomic>
#include <cstdint>

#include "runtime/simt/check/checker.h"
#include "runtime/simt/worker.h"

namespace {

using taper::simt::Checker;
using taper::simt::Worker;
using Kind = Checker::Kind;

[[gnu::always_inline]] inline void hook(const void* address, uint32_t bytes, Kind kind, void* from,
                                        bool aligned) {
  if (!Worker::running_a_block()) return;
  Checker& checker = Checker::instance();
  uint16_t site = checker.sites().of_instruction(reinterpret_cast<uintptr_t>(from));
  if (aligned && reinterpret_cast<uintptr_t>(address) % bytes != 0) checker.misaligned(address, bytes, site);
  checker.access(address, bytes, kind, site);
}

}  // namespace

#define TAPER_HOOK(name, bytes, kind, aligned) \
  void name(const void* address) { hook(address, bytes, Kind::kind, __builtin_return_address(0), aligned); }
#define TAPER_HOOKS(bytes)                           \
  TAPER_HOOK(__tsan_read##bytes, bytes, kRead, true) \
  TAPER_HOOK(__tsan_write##bytes, bytes, kWrite, true)
#define TAPER_UNALIGNED_HOOKS(bytes)                            \
  TAPER_HOOK(__tsan_unaligned_read##bytes, bytes, kRead, false) \
  TAPER_HOOK(__tsan_unaligned_write##bytes, bytes, kWrite, false)
#define TAPER_ATOMIC_HOOKS(bits, T)                                                                          \
  T __tsan_atomic##bits##_load(const T* address, int) {                                                      \
    hook(address, bits / 8, Kind::kAtomic, __builtin_return_address(0), true);                               \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                                       \
  }                                                                                                          \
  int __tsan_atomic##bits##_compare_exchange_strong(T* address, T* expected, T value, int, int) {            \
    hook(address, bits / 8, Kind::kAtomic, __builtin_return_address(0), true);                               \
    return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                                          \
  T __tsan_atomic##bits##_fetch_add(T* address, T value, int) {                                              \
    hook(address, bits / 8, Kind::kAtomic, __builtin_return_address(0), true);                               \
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                                             \
  }

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

TAPER_HOOKS(1)
TAPER_HOOKS(2)
TAPER_HOOKS(4)
TAPER_HOOKS(8)
TAPER_HOOKS(16)
TAPER_UNALIGNED_HOOKS(2)
TAPER_UNALIGNED_HOOKS(4)
TAPER_UNALIGNED_HOOKS(8)
TAPER_UNALIGNED_HOOKS(16)

void __tsan_read_range(const void* address, unsigned long bytes) {
  hook(address, static_cast<uint32_t>(bytes), Kind::kRead, __builtin_return_address(0), false);
}
void __tsan_write_range(void* address, unsigned long bytes) {
  hook(address, static_cast<uint32_t>(bytes), Kind::kWrite, __builtin_return_address(0), false);
}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

// What the atomics of runtime/simt/atomics.h and reference counts of the standard library are compiled to.
TAPER_ATOMIC_HOOKS(8, uint8_t)
TAPER_ATOMIC_HOOKS(32, uint32_t)
TAPER_ATOMIC_HOOKS(64, uint64_t)
}
