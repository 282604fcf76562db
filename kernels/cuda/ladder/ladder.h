#pragma once
// A matrix product in five steps, from the obvious to the tensor cores': to be read beside docs/kernels.md,
// which counts what each step saves. The engine uses none of them; product.cuh goes on where the last ends.

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper::ladder {

/// out (m x n, f32) = a (m x k) b (k x n), row major and dense. Any size and alignment; sums in f32, in the
/// order of k.
using ProductFunction = void(Stream&, int64_t m, int64_t n, int64_t k, const void* a, const void* b,
                             float* out);

ProductFunction naive, tiled, register_blocked;  // a and b in f32
ProductFunction tensor_core, pipelined;          // a and b in bf16

struct Rung {
  const char* name;
  DType type;
  ProductFunction* product;
};
inline constexpr Rung kRungs[] = {
    {"naive", DType::f32, naive},
    {"tiled", DType::f32, tiled},
    {"register blocked", DType::f32, register_blocked},
    {"tensor core", DType::bf16, tensor_core},
    {"pipelined", DType::bf16, pipelined},
};

}  // namespace taper::ladder
