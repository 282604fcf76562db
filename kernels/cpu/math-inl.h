// Vectors of float over arrays of float or bf16: loads and stores, elementwise maps, sums, and the functions
// that libm has only for scalars. Compiled once per instruction set, as vector-inl.h describes. Lambdas that
// handle vectors need HWY_ATTR.

#if defined(TAPER_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPER_KERNELS_CPU_MATH_INL_H_
#undef TAPER_KERNELS_CPU_MATH_INL_H_
#else
#define TAPER_KERNELS_CPU_MATH_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "kernels/cpu/vector-inl.h"
#include "runtime/philox.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using FloatTag = hn::ScalableTag<float>;
using U32Tag = hn::RebindToUnsigned<FloatTag>;
using V = hn::Vec<FloatTag>;
constexpr FloatTag kFloats;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));
/// Elements of one part of a loop that is shared among threads.
constexpr int64_t kGrain = 16384;

HWY_MAYBE_UNUSED HWY_INLINE V splat(double value) { return hn::Set(kFloats, static_cast<float>(value)); }

HWY_MAYBE_UNUSED HWY_INLINE V load(const float* p) { return hn::LoadU(kFloats, p); }
HWY_MAYBE_UNUSED HWY_INLINE V load(const bf16* p) {
  const hn::Rebind<uint16_t, FloatTag> halves;
  auto bits = hn::PromoteTo(U32Tag(), hn::LoadU(halves, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(kFloats, hn::ShiftLeft<16>(bits));
}
HWY_MAYBE_UNUSED HWY_INLINE void store(V v, float* p) { hn::StoreU(v, kFloats, p); }
/// Rounds as bf16's constructor does.
HWY_MAYBE_UNUSED HWY_INLINE void store(V v, bf16* p) {
  const U32Tag words;
  const hn::Rebind<uint16_t, FloatTag> halves;
  auto u = hn::BitCast(words, v);
  auto upper = hn::ShiftRight<16>(u);
  auto odd = hn::And(upper, hn::Set(words, 1));
  auto rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, hn::Set(words, 0x7FFF))));
  auto quiet = hn::Or(upper, hn::Set(words, 0x40));
  auto bits = hn::IfThenElse(hn::RebindMask(words, hn::IsNaN(v)), quiet, rounded);
  hn::StoreU(hn::TruncateTo(halves, bits), halves, reinterpret_cast<uint16_t*>(p));
}

/// The first n < kLanes elements; zero in the other lanes.
template <typename T>
HWY_MAYBE_UNUSED HWY_INLINE V load_part(const T* p, int64_t n) {
  HWY_ALIGN T buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  return load(buffer);
}
template <typename T>
HWY_MAYBE_UNUSED HWY_INLINE void store_part(V v, T* p, int64_t n) {
  HWY_ALIGN T buffer[kLanes];
  store(v, buffer);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
}

/// out[i] = f(in[i]...) for i in [begin, end), vectors at a time; out may be one of in. A lane's result does
/// not depend on its place, so any partition of the range gives the same bits.
template <typename Out, typename F, typename... In>
HWY_MAYBE_UNUSED HWY_INLINE void map(int64_t begin, int64_t end, Out* out, F f, const In*... in) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) store(f(load(in + i)...), out + i);
  if (i < end) store_part(f(load_part(in + i, end - i)...), out + i, end - i);
}

/// map over [0, count) on `threads` threads.
template <typename Out, typename F, typename... In>
HWY_MAYBE_UNUSED void map_parts(int threads, int64_t count, Out* out, F f, const In*... in) {
  for_parts(threads, count, kGrain,
            [=](int64_t begin, int64_t end) HWY_ATTR { map(begin, end, out, f, in...); });
}

HWY_MAYBE_UNUSED HWY_INLINE double sum_of_lanes(V v) { return hn::GetLane(hn::SumOfLanes(kFloats, v)); }

/// The sum of f(in[i]...) over [0, count): blocks of 1024 in lanes of f32, the blocks in double.
template <typename F, typename... In>
HWY_MAYBE_UNUSED HWY_INLINE double sum(int64_t count, F f, const In*... in) {
  constexpr int64_t kBlock = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    V even = hn::Zero(kFloats), odd = even;
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      even = hn::Add(even, f(load(in + i)...));
      odd = hn::Add(odd, f(load(in + i + kLanes)...));
    }
    if (i + kLanes <= end) {
      even = hn::Add(even, f(load(in + i)...));
      i += kLanes;
    }
    if (i < end) {
      auto present = hn::FirstN(kFloats, static_cast<size_t>(end - i));
      odd = hn::Add(odd, hn::IfThenElseZero(present, f(load_part(in + i, end - i)...)));
    }
    total += sum_of_lanes(hn::Add(even, odd));
  }
  return total;
}

/// The largest element, -inf of none. NaN is not promised to show.
template <typename T>
HWY_MAYBE_UNUSED HWY_INLINE float maximum(int64_t count, const T* x) {
  const V lowest = hn::Set(kFloats, -HUGE_VALF);
  V best = lowest;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) best = hn::Max(best, load(x + i));
  if (i < count) {
    auto present = hn::FirstN(kFloats, static_cast<size_t>(count - i));
    best = hn::Max(best, hn::IfThenElse(present, load_part(x + i, count - i), lowest));
  }
  return hn::GetLane(hn::MaxOfLanes(kFloats, best));
}

HWY_MAYBE_UNUSED HWY_INLINE V keep_nan(V x, V y) { return hn::IfThenElse(hn::IsNaN(x), x, y); }

/// e^x within 2 ulp of the exact value, 0 below -104, +inf above 88.73; NaN stays NaN.
HWY_MAYBE_UNUSED HWY_INLINE V exponential(V x) {
  return keep_nan(x, hn::Exp(kFloats, hn::Min(x, splat(100))));
}

/// tanh x within 4 ulp; NaN stays NaN.
HWY_MAYBE_UNUSED HWY_INLINE V hyperbolic_tangent(V x) { return keep_nan(x, hn::Tanh(kFloats, x)); }

/// The normal distribution function Phi(x) and the density phi(x) = Phi'(x).
struct Normal {
  V distribution, density;
};

/// Phi and phi to a few ulp, plus x^2 / 4 ulp of the exponential, down to the subnormal numbers, in the left
/// tail too, where (1 + erf) / 2 loses all digits. Own fits at Chebyshev nodes: |x| < 1.5: (Phi(x) - 1/2) / x
/// in x^2, error 3e-9; beyond: Phi(-a) e^(a^2 / 2) / t in t = 1 / (a + 2), relative error 2e-8 up to a = 14,
/// where e^(-a^2 / 2) is about to leave the range of floats.
HWY_MAYBE_UNUSED HWY_INLINE Normal normal(V x) {
  const V a = hn::Abs(x);
  const V square = hn::Mul(x, x);
  const V e = exponential(hn::Mul(square, splat(-0.5)));
  V near = splat(4.1297772630598657e-07);
  near = hn::MulAdd(near, square, splat(-8.72800872098301e-06));
  near = hn::MulAdd(near, square, splat(0.00011438129507569667));
  near = hn::MulAdd(near, square, splat(-0.0011865180532505497));
  near = hn::MulAdd(near, square, splat(0.00997325725080537));
  near = hn::MulAdd(near, square, splat(-0.06649033819662625));
  near = hn::MulAdd(near, square, splat(0.3989422794413929));
  near = hn::MulAdd(near, x, splat(0.5));
  const V t = hn::Div(splat(1), hn::Add(a, splat(2)));
  V tail = splat(-38.08714048772232);
  tail = hn::MulAdd(tail, t, splat(54.579241539742014));
  tail = hn::MulAdd(tail, t, splat(-25.270360456100992));
  tail = hn::MulAdd(tail, t, splat(1.1249869197568347));
  tail = hn::MulAdd(tail, t, splat(0.47063237832757315));
  tail = hn::MulAdd(tail, t, splat(1.2175013379777535));
  tail = hn::MulAdd(tail, t, splat(0.7971635642922308));
  tail = hn::MulAdd(tail, t, splat(0.39895289700205094));
  tail = hn::Mul(hn::Mul(tail, t), e);
  const V far = hn::IfThenElse(hn::Lt(x, hn::Zero(kFloats)), tail, hn::Sub(splat(1), tail));
  return {hn::IfThenElse(hn::Lt(a, splat(1.5)), near, far), hn::Mul(e, splat(0.3989422804014327))};
}

/// The words of philox({first + i, c1, c2, c3}, key), i < quads, four each, in order. `words` is aligned to
/// a vector and holds 4 quads rounded up to a multiple of 2 kLanes.
HWY_MAYBE_UNUSED HWY_INLINE void philox_words(uint32_t first, int64_t quads, uint32_t c1, uint32_t c2,
                                              uint32_t c3, uint64_t key, uint32_t* words) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < quads; ++i) {
    const auto drawn = philox({first + static_cast<uint32_t>(i), c1, c2, c3}, key);
    std::copy(drawn.begin(), drawn.end(), words + 4 * i);
  }
#else
  // A 32-bit word per 64-bit lane; what the upper halves hold never matters.
  const hn::ScalableTag<uint64_t> d;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  const auto m0 = hn::BitCast(d32, hn::Set(d, 0xD2511F53)), m1 = hn::BitCast(d32, hn::Set(d, 0xCD9E8D57));
  const auto low = hn::Set(d, 0xFFFFFFFF);
  auto* out = reinterpret_cast<uint64_t*>(words);
  for (int64_t i = 0; i < quads; i += kLanes / 2, out += kLanes) {
    auto x0 = hn::And(hn::Add(hn::Iota(d, 0), hn::Set(d, first + static_cast<uint64_t>(i))), low);
    auto x1 = hn::Set(d, c1), x2 = hn::Set(d, c2), x3 = hn::Set(d, c3);
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      auto p0 = hn::MulEven(hn::BitCast(d32, x0), m0);
      auto p1 = hn::MulEven(hn::BitCast(d32, x2), m1);
      x0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), x1), hn::Set(d, k0));
      x2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), x3), hn::Set(d, k1));
      x1 = p1;
      x3 = p0;
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    hn::StoreInterleaved2(hn::Or(hn::And(x0, low), hn::ShiftLeft<32>(x1)),
                          hn::Or(hn::And(x2, low), hn::ShiftLeft<32>(x3)), d, out);
  }
#endif
}

/// uniform(word) >= p exactly when word >> 8 >= this, for p in [0, 1].
HWY_MAYBE_UNUSED HWY_INLINE int32_t keep_threshold(double p) {
  return static_cast<int32_t>(std::ceil(p * 0x1p24));
}

/// x scale in the lanes whose word keeps them, else 0.
HWY_MAYBE_UNUSED HWY_INLINE V keep(V x, V scale, const uint32_t* words, int32_t threshold) {
  const hn::RebindToSigned<FloatTag> d;
  auto drawn = hn::BitCast(d, hn::ShiftRight<8>(hn::LoadU(U32Tag(), words)));
  auto kept = hn::Gt(drawn, hn::Set(d, threshold - 1));
  return hn::IfThenElseZero(hn::RebindMask(kFloats, kept), hn::Mul(x, scale));
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
