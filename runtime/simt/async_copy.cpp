#include "runtime/simt/async_copy.h"

#include <cstring>

#include "runtime/simt/worker.h"

namespace taper::simt {

void* dynamic_shared() { return Worker::of_this_thread().shared(); }

void copy_async(void* shared, const void* global, int bytes, bool valid, Where where) {
  auto misaligned = [&](const void* address) { return reinterpret_cast<uintptr_t>(address) % bytes != 0; };
  if (misaligned(shared) || (valid && misaligned(global)))
    Worker::of_this_thread().fail("cp.async of an address that is not aligned to the bytes it copies", where);
  if (valid)
    std::memcpy(shared, global, static_cast<size_t>(bytes));
  else
    std::memset(shared, 0, static_cast<size_t>(bytes));
}

void commit_copies() {}

void wait_for_copies(int) {}

}  // namespace taper::simt
