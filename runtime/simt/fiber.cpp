#include "runtime/simt/fiber.h"

#include <sys/mman.h>

#include "runtime/error.h"

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

Fiber::Fiber(int64_t number) : stagger_(static_cast<size_t>(number * 5 % 64 * 64)) {
  void* mapping = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping, kGuardBytes, PROT_NONE) != 0)
    throw Failure("no memory for the stack of a simulated thread ({} bytes)", kStackBytes);
  mapping_ = static_cast<std::byte*>(mapping);
}

Fiber::~Fiber() { munmap(mapping_, kGuardBytes + kStackBytes); }

void Fiber::prepare(Entry entry) {
  auto* top = reinterpret_cast<uint64_t*>(mapping_ + kGuardBytes + kStackBytes - stagger_);
  *--top = 0;  // the return address of `entry`, for debuggers to stop at
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int preserved = 0; preserved < 6; ++preserved) *--top = 0;
  context = top;
}

}  // namespace taper::simt
