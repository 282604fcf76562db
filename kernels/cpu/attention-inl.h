// How attention's ops lay out the heads of one sequence for products by matmul(): padded to multiples of 16,
// so that sequences of any length need only a few shapes of products. After foreach_target.h.

#if !defined(TAPER_KERNELS_CPU_ATTENTION_HEADS_)
#define TAPER_KERNELS_CPU_ATTENTION_HEADS_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "runtime/dtype.h"

namespace taper {

inline int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

/// Tokens of the longest of packed sequences.
inline int64_t longest(int64_t sequences, const int32_t* offsets) {
  int64_t result = 0;
  for (int64_t i = 0; i < sequences; ++i) result = std::max<int64_t>(result, offsets[i + 1] - offsets[i]);
  return result;
}

inline const void* at(const void* base, int64_t element, DType type) {
  return static_cast<const char*>(base) + element * size_of(type);
}
inline void* at(void* base, int64_t element, DType type) {
  return static_cast<char*>(base) + element * size_of(type);
}

/// One sequence's q, k or v: [heads, padded, head_size].
struct SequenceHeads {
  int64_t heads, head_size;
  int64_t tokens, padded;

  /// y[head, token, :] = x[token, head, :] with `stride` elements from token to token; zeros in padding.
  void pack(DType type, const void* x, int64_t stride, void* y) const {
    const int64_t element = size_of(type), bytes = head_size * element;
    for (int64_t head = 0; head < heads; ++head) {
      const char* from = static_cast<const char*>(x) + head * bytes;
      char* to = static_cast<char*>(y) + head * padded * bytes;
      for (int64_t token = 0; token < tokens; ++token)
        std::memcpy(to + token * bytes, from + token * stride * element, static_cast<size_t>(bytes));
      std::memset(to + tokens * bytes, 0, static_cast<size_t>((padded - tokens) * bytes));
    }
  }
};

}  // namespace taper
#endif

#if defined(TAPER_KERNELS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPER_KERNELS_CPU_ATTENTION_INL_H_
#undef TAPER_KERNELS_CPU_ATTENTION_INL_H_
#else
#define TAPER_KERNELS_CPU_ATTENTION_INL_H_
#endif

#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// y[token, head, :] with `stride` elements from token to token = x[head, token, :], rounded.
void unpack_loops(DType type, const SequenceHeads& b, const float* x, int64_t stride, void* y) {
  with_type(type, [&](auto t) HWY_ATTR {
    using T = decltype(t);
    for (int64_t head = 0; head < b.heads; ++head)
      for (int64_t token = 0; token < b.tokens; ++token)
        map(
            0, b.head_size, static_cast<T*>(y) + token * stride + head * b.head_size,
            [](V v) HWY_ATTR { return v; }, x + (head * b.padded + token) * b.head_size);
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
