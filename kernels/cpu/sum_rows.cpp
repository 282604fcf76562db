#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sum_rows.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/columns-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

template <typename T>
void add_rows(const T* x, int64_t rows, int64_t width, float* sum) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4, x += 4 * width)
    for_columns(width, [=](auto get, int64_t j) HWY_ATTR {
      V two = hn::Add(get(x + j), get(x + width + j));
      V more = hn::Add(get(x + 2 * width + j), get(x + 3 * width + j));
      get.put(hn::Add(get(sum + j), hn::Add(two, more)), sum + j);
    });
  for (; row < rows; ++row, x += width)
    for_columns(width,
                [=](auto get, int64_t j) HWY_ATTR { get.put(hn::Add(get(sum + j), get(x + j)), sum + j); });
}

void sum_rows_loops(CpuStream& stream, int64_t rows, int64_t columns, DType type, const void* x, float* out) {
  ColumnPlan plan{rows, columns};
  int64_t totals_bytes = columns * int64_t{sizeof(double)};
  auto* totals = static_cast<double*>(stream.scratch(totals_bytes + plan.bytes(1)));
  with_type(type, [&]<typename T>(T) {
    column_sums<1>(plan, stream.threads(), totals + columns, totals,
                   [&](int64_t offset, int64_t count, int64_t width, float* sum) {
                     add_rows(static_cast<const T*>(x) + offset, count, width, sum);
                   });
  });
  for (int64_t j = 0; j < columns; ++j) out[j] += static_cast<float>(totals[j]);
}

void average_loops(CpuStream& stream, int64_t n, int64_t pixels, int64_t c, DType type, const void* x,
                   void* y) {
  ColumnPlan plan{pixels, c};
  int64_t totals_bytes = c * int64_t{sizeof(double)};
  auto* totals = static_cast<double*>(stream.scratch(totals_bytes + plan.bytes(1)));
  with_type(type, [&]<typename T>(T) {
    for (int64_t image = 0; image < n; ++image) {
      const T* first = static_cast<const T*>(x) + image * pixels * c;
      column_sums<1>(plan, stream.threads(), totals + c, totals,
                     [&](int64_t offset, int64_t count, int64_t width, float* sum) {
                       add_rows(first + offset, count, width, sum);
                     });
      T* mean = static_cast<T*>(y) + image * c;
      for (int64_t j = 0; j < c; ++j)
        mean[j] = from_float<T>(static_cast<float>(totals[j] / static_cast<double>(pixels)));
    }
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace taper {
namespace {
HWY_EXPORT(sum_rows_loops);
HWY_EXPORT(average_loops);
}  // namespace

void CpuBackend::sum_rows(Stream& stream, int64_t rows, int64_t columns, DType type, const void* x,
                          void* out) {
  HWY_DYNAMIC_DISPATCH(sum_rows_loops)
  (cpu_stream(stream), rows, columns, type, x, static_cast<float*>(out));
}

void CpuBackend::average_pool_forward(Stream& stream, int64_t n, int64_t pixels, int64_t c, DType type,
                                      const void* x, void* y) {
  HWY_DYNAMIC_DISPATCH(average_loops)(cpu_stream(stream), n, pixels, c, type, x, y);
}

}  // namespace taper
#endif
