#pragma once
// PTX's ldmatrix and mma on a CPU: the last lane of the warp to arrive computes for all. Called from
// kernels/cuda/ptx.cuh, where each is described.

#include <cstdint>
#include <source_location>

namespace taper::simt {

void load_matrices(uint32_t* registers, int matrices, bool transposed, const void* shared_row,
                   std::source_location where);

/// Bits beyond tf32's are cut off, as tensor cores do.
uint32_t to_tf32(float x);

/// d: m x n x 4, a: m x 4, b: n x 2. The sum of each element runs over k in order, from what d holds. The
/// products are exact in f32, so that fused and separate multiplications give the same bits.
void multiply_bf16(float* d, const uint32_t* a, const uint32_t* b, int m, int n, std::source_location where);
void multiply_tf32(float* d, const uint32_t* a, const uint32_t* b, int m, int n, std::source_location where);

}  // namespace taper::simt
