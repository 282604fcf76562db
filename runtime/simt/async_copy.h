#pragma once
// PTX's cp.async, and the shared memory whose size a launch gives. Called from kernels/cuda/ptx.cuh, where
// each is described.

#include <cstdint>
#include <source_location>

namespace taper::simt {

void* dynamic_shared();
void copy_async(void* shared, const void* global, int bytes, bool valid, std::source_location where);
void commit_copies();
void wait_for_copies(int pending);

}  // namespace taper::simt
