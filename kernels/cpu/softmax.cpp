// Softmax by rows, and embeddings.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/softmax.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

int64_t rows_per_part(int64_t columns) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns));
}

/// The exponentials are computed twice rather than kept: y may be too coarse to keep them in.
template <typename T>
void softmax_row(int64_t columns, bool logarithm, const T* x, T* y) {
  const V largest = splat(maximum(columns, x));
  const double total = sum(
      columns, [=](V v) HWY_ATTR { return exponential(hn::Sub(v, largest)); }, x);
  if (logarithm) {
    const V log_total = splat(std::log(total));
    map(
        0, columns, y, [=](V v) HWY_ATTR { return hn::Sub(hn::Sub(v, largest), log_total); }, x);
  } else {
    const V factor = splat(1 / total);
    map(
        0, columns, y, [=](V v) HWY_ATTR { return hn::Mul(exponential(hn::Sub(v, largest)), factor); }, x);
  }
}

void softmax_loops(int threads, int64_t rows, int64_t columns, DType type, bool logarithm, const void* x,
                   void* y) {
  with_type(type, [=](auto t) {
    using T = decltype(t);
    for_parts(threads, rows, rows_per_part(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        softmax_row(columns, logarithm, static_cast<const T*>(x) + r * columns,
                    static_cast<T*>(y) + r * columns);
    });
  });
}

template <typename T>
void softmax_backward_row(int64_t columns, bool logarithm, const T* dy, const T* y, T* dx) {
  if (logarithm) {
    const V total = splat(sum(
        columns, [](V g) HWY_ATTR { return g; }, dy));
    map(
        0, columns, dx, [=](V g, V v) HWY_ATTR { return hn::NegMulAdd(exponential(v), total, g); }, dy, y);
  } else {
    const V total = splat(sum(
        columns, [](V g, V v) HWY_ATTR { return hn::Mul(g, v); }, dy, y));
    map(
        0, columns, dx, [=](V g, V v) HWY_ATTR { return hn::Mul(v, hn::Sub(g, total)); }, dy, y);
  }
}

void softmax_backward_loops(int threads, int64_t rows, int64_t columns, DType type, bool logarithm,
                            const void* dy, const void* y, void* dx) {
  with_type(type, [=](auto t) {
    using T = decltype(t);
    for_parts(threads, rows, rows_per_part(columns), [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        softmax_backward_row(columns, logarithm, static_cast<const T*>(dy) + r * columns,
                             static_cast<const T*>(y) + r * columns, static_cast<T*>(dx) + r * columns);
    });
  });
}

void embedding_backward_loops(int threads, int64_t rows, int64_t features, DType type, const int32_t* ids,
                              const void* dy, float* dtable) {
  with_type(type, [=](auto t) {
    using T = decltype(t);
    // Threads share the features, not the rows, which must be added in order.
    constexpr int64_t kFeatures = 128;
    for_parts(threads, features, kFeatures, [=](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < rows; ++r)
        map(
            begin, end, dtable + ids[r] * features, [](V total, V g) HWY_ATTR { return hn::Add(total, g); },
            dtable + ids[r] * features, static_cast<const T*>(dy) + r * features);
    });
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace taper {
namespace {

HWY_EXPORT(softmax_loops);
HWY_EXPORT(softmax_backward_loops);
HWY_EXPORT(embedding_backward_loops);

}  // namespace

void CpuBackend::softmax(Stream& stream, int64_t rows, int64_t columns, DType type, bool logarithm,
                         const void* x, void* y) {
  HWY_DYNAMIC_DISPATCH(softmax_loops)(cpu_stream(stream).threads(), rows, columns, type, logarithm, x, y);
}

void CpuBackend::softmax_backward(Stream& stream, int64_t rows, int64_t columns, DType type, bool logarithm,
                                  const void* dy, const void* y, void* dx) {
  HWY_DYNAMIC_DISPATCH(softmax_backward_loops)
  (cpu_stream(stream).threads(), rows, columns, type, logarithm, dy, y, dx);
}

void CpuBackend::embedding_forward(Stream&, int64_t rows, int64_t features, DType type, const int32_t* ids,
                                   const void* table, void* y) {
  const int64_t bytes = features * size_of(type);
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(static_cast<char*>(y) + r * bytes, static_cast<const char*>(table) + ids[r] * bytes,
                static_cast<size_t>(bytes));
}

void CpuBackend::embedding_backward(Stream& stream, int64_t rows, int64_t features, int64_t, DType type,
                                    const int32_t* ids, const void* dy, void* dtable) {
  HWY_DYNAMIC_DISPATCH(embedding_backward_loops)
  (cpu_stream(stream).threads(), rows, features, type, ids, dy, static_cast<float*>(dtable));
}

}  // namespace taper
#endif  // HWY_ONCE
