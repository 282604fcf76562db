// What the vectorised loops share, compiled once per instruction set. A file of loops looks like this:
//
//   #include "kernels/cpu/targets.h"
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "kernels/cpu/this_file.cpp"
//   #include <hwy/foreach_target.h>
//   #include "kernels/cpu/vector-inl.h"
//   HWY_BEFORE_NAMESPACE();
//   namespace taper::HWY_NAMESPACE {
//   namespace {
//   void f_loops(...) { plain C++ loops: the compiler vectorises them for each instruction set }
//   }
//   }
//   HWY_AFTER_NAMESPACE();
//   #if HWY_ONCE
//   namespace taper { namespace { HWY_EXPORT(f_loops); }  void CpuBackend::f(...) {
//   HWY_DYNAMIC_DISPATCH(f_loops)(...); } }
//   #endif
//
// A function that is called inside a loop must lie in this namespace (or be small enough to be inlined), for
// only this namespace is compiled for the instruction set. Where an output may be an input, a loop needs
// `#pragma GCC ivdep`: the compiler's own test for aliasing sends equal pointers to a scalar loop.

#if defined(TAPER_KERNELS_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPER_KERNELS_CPU_VECTOR_INL_H_
#undef TAPER_KERNELS_CPU_VECTOR_INL_H_
#else
#define TAPER_KERNELS_CPU_VECTOR_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/cpu/cpu.h"
#include "runtime/dtype.h"
#include "runtime/error.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

HWY_MAYBE_UNUSED HWY_INLINE float to_float(float value) { return value; }
HWY_MAYBE_UNUSED HWY_INLINE float to_float(bf16 value) {
  return std::bit_cast<float>(uint32_t{value.bits} << 16);
}

/// T from a float: bf16 rounds to nearest even, NaN stays NaN (as bf16's constructor, without a branch).
template <typename T>
HWY_MAYBE_UNUSED HWY_INLINE T from_float(float value) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return value;
  } else {
    uint32_t u = std::bit_cast<uint32_t>(value);
    uint32_t rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16;
    uint32_t quiet = u >> 16 | 0x40;
    T result;
    result.bits = static_cast<uint16_t>((u & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
    return result;
  }
}

/// f(begin, end) for the parts of [0, count), `grain` apart, on `threads` threads. The parts do not depend on
/// the threads, so neither does a result that is put together from parts in ascending order.
template <typename F>
HWY_MAYBE_UNUSED void for_parts(int threads, int64_t count, int64_t grain, F f) {
  int64_t parts = (count + grain - 1) / grain;
  if (threads == 1 || parts == 1) {
    for (int64_t i = 0; i < parts; ++i) f(i * grain, std::min(count, (i + 1) * grain));
    return;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < parts; ++i) f(i * grain, std::min(count, (i + 1) * grain));
}

/// f(T{}) with T = float or bf16.
template <typename F>
HWY_MAYBE_UNUSED void with_type(DType type, F f) {
  if (type == DType::f32) {
    f(float{});
  } else if (type == DType::bf16) {
    f(bf16{});
  } else {
    throw Failure("the cpu backend has no op on activations of {}", name(type));
  }
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
