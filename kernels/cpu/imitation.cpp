// Imitation through a bridge: products by matmul(), then one fused loop for the loss and dh. In chunks of
// rows, so that what a product writes is still in the cache when the loop reads it.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/imitation.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/math-inl.h"

#if !defined(TAPER_KERNELS_CPU_IMITATION_ARGUMENTS_)
#define TAPER_KERNELS_CPU_IMITATION_ARGUMENTS_
namespace taper {
namespace {

/// Elements summed as one term.
constexpr int64_t kImitationPart = 16384;

struct ImitationLoop {
  int64_t count;           ///< elements at the thin width
  const void* h;           ///< of the activations' type
  const float* projected;  ///< tU
  const float* hg;         ///< h U^T U; null for a tied bridge, where it is h
  double scale;
  void* dh;
};

}  // namespace
}  // namespace taper
#endif

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// terms[i] = part i of the loss but for scale |t|^2: sum h . hg - 2 h . tU, which is |h - tU|^2 - |tU|^2
/// when hg = h.
void imitation_loops(int threads, DType type, const ImitationLoop& a, double* terms) {
  with_type(type, [&](auto t) HWY_ATTR {
    using T = decltype(t);
    auto* h = static_cast<const T*>(a.h);
    auto* dh = static_cast<T*>(a.dh);
    const double factor = 2 * a.scale;
    for_parts(threads, a.count, kImitationPart, [&](int64_t begin, int64_t end) HWY_ATTR {
      double& term = terms[begin / kImitationPart];
      if (a.hg == nullptr) {
        term = sum(
            end - begin,
            [](V own, V tu) HWY_ATTR {
              const V difference = hn::Sub(own, tu);
              return hn::NegMulAdd(tu, tu, hn::Mul(difference, difference));
            },
            h + begin, a.projected + begin);
        map(
            begin, end, dh, [=](V own, V tu) HWY_ATTR { return hn::Mul(splat(factor), hn::Sub(own, tu)); }, h,
            a.projected);
      } else {
        term = sum(
            end - begin,
            [](V own, V tu, V hg) HWY_ATTR { return hn::Mul(own, hn::NegMulAdd(splat(2), tu, hg)); },
            h + begin, a.projected + begin, a.hg + begin);
        map(
            begin, end, dh, [=](V tu, V hg) HWY_ATTR { return hn::Mul(splat(factor), hn::Sub(hg, tu)); },
            a.projected, a.hg);
      }
      term *= a.scale;
    });
  });
}

void square_loops(int threads, DType type, int64_t count, const void* x, double scale, double* terms) {
  with_type(type, [=](auto t) HWY_ATTR {
    auto* values = static_cast<const decltype(t)*>(x);
    for_parts(threads, count, kImitationPart, [=](int64_t begin, int64_t end) HWY_ATTR {
      terms[begin / kImitationPart] =
          scale * sum(
                      end - begin, [](V v) HWY_ATTR { return hn::Mul(v, v); }, values + begin);
    });
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <vector>

#include "runtime/tensor.h"

namespace taper {
namespace {

HWY_EXPORT(imitation_loops);
HWY_EXPORT(square_loops);

int64_t parts(int64_t count) { return (count + kImitationPart - 1) / kImitationPart; }

/// A pointer to rows from `row` on.
const void* rows_from(const void* base, int64_t row, int64_t width, DType type) {
  return static_cast<const char*>(base) + row * width * size_of(type);
}

/// The loss and dh, both bridges: `gram` is U^T U in f32, null for a tied bridge.
void imitate(CpuBackend& backend, Stream& stream, const ImitationShape& shape, DType type, const void* t,
             const void* u, const void* h, const Tensor* gram, void* loss, void* dh) {
  const auto [rows, wide, thin, scale] = shape;
  constexpr int64_t kChunk = int64_t{1} << 18;
  const int64_t most = std::min(rows, std::max<int64_t>(64, kChunk / wide));
  Tensor projected(stream, DType::f32, {most, thin}), hg, h32;
  if (gram != nullptr) {
    hg = Tensor(stream, DType::f32, {most, thin});
    h32 = Tensor(stream, DType::f32, {most, thin});
  }
  const int threads = cpu_stream(stream).threads();
  std::vector<double> terms(static_cast<size_t>(parts(most * wide)));
  double total = 0;
  auto add_terms = [&](int64_t count) {
    for (int64_t i = 0; i < parts(count); ++i) total += terms[static_cast<size_t>(i)];
  };
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t m = std::min(most, rows - first);
    const void* target = rows_from(t, first, wide, type);
    const void* own = rows_from(h, first, thin, type);
    backend.matmul(stream, {.m = m, .n = thin, .k = wide}, type, target, u, {}, DType::f32, projected.data());
    if (gram != nullptr) {
      // In f32 throughout: dh is the small difference of this product and the projection.
      backend.cast(stream, m * thin, type, own, DType::f32, h32.data());
      backend.matmul(stream, {.m = m, .n = thin, .k = thin}, DType::f32, h32.data(), gram->data(), {},
                     DType::f32, hg.data());
    }
    HWY_DYNAMIC_DISPATCH(imitation_loops)
    (threads, type,
     {m * thin, own, projected.as<float>(), gram == nullptr ? nullptr : hg.as<float>(), scale,
      const_cast<void*>(rows_from(dh, first, thin, type))},
     terms.data());
    add_terms(m * thin);
    HWY_DYNAMIC_DISPATCH(square_loops)(threads, type, m * wide, target, scale, terms.data());
    add_terms(m * wide);
  }
  *static_cast<float*>(loss) = static_cast<float>(total);
}

}  // namespace

void CpuBackend::imitation(Stream& stream, const ImitationShape& shape, DType type, const void* t,
                           const void* u, const void* h, void* loss, void* dh) {
  imitate(*this, stream, shape, type, t, u, h, nullptr, loss, dh);
}

void CpuBackend::imitation_free(Stream& stream, const ImitationShape& shape, DType type, const void* t,
                                const void* u, const void* h, void* loss, void* dh, void* du) {
  const auto [rows, wide, thin, scale] = shape;
  Tensor u32(stream, DType::f32, {wide, thin}), gram(stream, DType::f32, {thin, thin});
  Tensor hh(stream, DType::f32, {thin, thin});
  cast(stream, wide * thin, type, u, DType::f32, u32.data());
  matmul(stream, {.m = thin, .n = thin, .k = wide, .transpose_a = true}, DType::f32, u32.data(), u32.data(),
         {}, DType::f32, gram.data());
  imitate(*this, stream, shape, type, t, u, h, &gram, loss, dh);
  matmul(stream, {.m = thin, .n = thin, .k = rows, .transpose_a = true}, type, h, h, {}, DType::f32,
         hh.data());
  matmul(stream, {.m = wide, .n = thin, .k = thin}, DType::f32, u32.data(), hh.data(),
         {.scale = 2 * scale, .accumulate = true}, DType::f32, du);
  matmul(stream, {.m = wide, .n = thin, .k = rows, .transpose_a = true}, type, t, h,
         {.scale = -2 * scale, .accumulate = true}, DType::f32, du);
}

}  // namespace taper
#endif  // HWY_ONCE
