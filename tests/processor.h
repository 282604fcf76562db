#pragma once
// What tests have to know of the processor that they run on.

namespace taper {

/// Whether oneDNN uses AVX-512. Without it the device cpu refuses bf16, and such tests are left out.
inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace taper
