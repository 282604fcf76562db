#include "runtime/simt/fiber.h"

#include <sys/mman.h>

#include "runtime/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error \
    "runtime/simt switches stacks by x86-64 instructions; on this processor configure with -DTAPER_SIMT=OFF."
#endif

namespace taper::simt {

// The six registers that the System V ABI has a callee preserve; the floating-point modes are the same for
// all. It ends in a jump, for a return would be mispredicted each time.
asm(R"(
  .text
  .p2align 4
  .globl taper_simt_switch
  .type taper_simt_switch, @function
taper_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size taper_simt_switch, .-taper_simt_switch
)");

namespace {

constexpr size_t kGuardBytes = 4096;

}  // namespace

Fiber::Fiber(int64_t number) : stagger_(static_cast<size_t>(number * 5 % 64 * 64)) {
  void* mapping = mmap(nullptr, 2 * kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED)
    throw Failure("no memory for the stack of a simulated thread ({} bytes)", kStackBytes);
  // Of twice the size some part is aligned; the rest goes back.
  auto* begin = static_cast<std::byte*>(mapping);
  size_t before = (kStackBytes - reinterpret_cast<uintptr_t>(begin) % kStackBytes) % kStackBytes;
  stack_ = begin + before;
  if (before > 0) munmap(begin, before);
  munmap(stack_ + kStackBytes, kStackBytes - before);
  mprotect(stack_, kGuardBytes, PROT_NONE);
}

Fiber::~Fiber() { munmap(stack_, kStackBytes); }

void Fiber::prepare(Entry entry) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_ + kGuardBytes, kStackBytes - kGuardBytes);
#endif
  auto* top = reinterpret_cast<uint64_t*>(stack_ + kStackBytes - stagger_);
  *--top = 0;  // the return address of `entry`, for debuggers to stop at
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int preserved = 0; preserved < 6; ++preserved) *--top = 0;
  context = top;
}

#if defined(__SANITIZE_ADDRESS__)
namespace {

struct Stack {
  const void* bottom;
  size_t bytes;
};

// The host's own: the one from which this thread of it entered its first fiber.
thread_local Stack host_stack{};

}  // namespace

void switch_to(Context* from, Context to) {
  auto address = reinterpret_cast<uintptr_t>(to);
  bool to_host = address - reinterpret_cast<uintptr_t>(host_stack.bottom) < host_stack.bytes;
  Stack target = host_stack;
  if (!to_host)
    target = {reinterpret_cast<const void*>(address / Fiber::kStackBytes * Fiber::kStackBytes + kGuardBytes),
              Fiber::kStackBytes - kGuardBytes};
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, target.bottom, target.bytes);
  taper_simt_switch(from, to);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void entered() {
  Stack from{};
  __sanitizer_finish_switch_fiber(nullptr, &from.bottom, &from.bytes);
  if (host_stack.bottom == nullptr) host_stack = from;
}
#endif

}  // namespace taper::simt
