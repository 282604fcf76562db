// The gradient of batch normalisation with the relu and the addition after it. One pass sums g and g (x -
// mean); a second writes dx.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/batch_norm_backward.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/columns-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

template <bool kRelu, typename Get, typename T>
HWY_INLINE V gradient(Get get, const T* dy, const T* y) {
  if constexpr (kRelu) return hn::IfThenElseZero(hn::Gt(get(y), hn::Zero(kFloats)), get(dy));
  return get(dy);
}

// sum += g, product += g (x - mean), and g is stored where somebody wants it.
template <typename T, bool kRelu, bool kStore>
void add_gradients(int64_t rows, int64_t width, const T* dy, const T* x, const T* y, const float* mean,
                   T* stored, float* sum, float* product) {
  auto step = [&](auto rows_at_once) {
    constexpr int64_t kRows = rows_at_once();
    for_columns(width, [=](auto get, int64_t j) HWY_ATTR {
      V s = get(sum + j), p = get(product + j);
      const V centre = get(mean + j);
#pragma GCC unroll 4
      for (int64_t at = j; at < j + kRows * width; at += width) {
        V g = gradient<kRelu>(get, dy + at, y + at);
        if constexpr (kStore) get.put(g, stored + at);
        s = hn::Add(s, g);
        p = hn::MulAdd(g, hn::Sub(get(x + at), centre), p);
      }
      get.put(s, sum + j);
      get.put(p, product + j);
    });
    dy += kRows * width;
    x += kRows * width;
    if constexpr (kRelu) y += kRows * width;
    if constexpr (kStore) stored += kRows * width;
  };
  for (int64_t fours = rows / 4; fours > 0; --fours) step(std::integral_constant<int64_t, 4>());
  for (int64_t ones = rows % 4; ones > 0; --ones) step(std::integral_constant<int64_t, 1>());
}

// dx = scale g + slope (x - mean) + shift, or scale g alone.
template <typename T, bool kRelu, bool kFixed>
void write_dx(int64_t rows, int64_t width, const T* dy, const T* x, const T* y, const float* mean,
              const float* scale, const float* slope, const float* shift, T* dx) {
  for (int64_t row = 0; row < rows; ++row, dy += width, x += width, y += kRelu ? width : 0, dx += width)
    for_columns(width, [=](auto get, int64_t j) HWY_ATTR {
      V v = hn::Mul(get(scale + j), gradient<kRelu>(get, dy + j, y + j));
      if constexpr (!kFixed) {
        V d = hn::Sub(get(x + j), get(mean + j));
        v = hn::Add(v, hn::MulAdd(get(slope + j), d, get(shift + j)));
      }
      get.put(v, dx + j);
    });
}

template <typename F>
void with_flags(bool a, bool b, F f) {
  if (a)
    b ? f(std::true_type(), std::true_type()) : f(std::true_type(), std::false_type());
  else
    b ? f(std::false_type(), std::true_type()) : f(std::false_type(), std::false_type());
}

void backward_loops(CpuStream& stream, const BatchNormShape& shape, DType type, const void* dy_,
                    const void* x_, const void* y_, const float* gamma, const float* mean_, const float* rstd,
                    bool fixed, void* dx_, void* dresidual_, float* dgamma, float* dbeta) {
  int64_t channels = shape.channels;
  ColumnPlan plan{shape.rows, channels};
  int64_t totals_bytes = 2 * channels * int64_t{sizeof(double)};
  auto* base = static_cast<char*>(
      stream.scratch(totals_bytes + plan.bytes(2) + 4 * plan.width * int64_t{sizeof(float)}));
  auto* totals = reinterpret_cast<double*>(base);
  auto* tiles = reinterpret_cast<float*>(base + totals_bytes + plan.bytes(2));
  float *mean = tiles, *scale = mean + plan.width, *slope = scale + plan.width, *shift = slope + plan.width;
  auto repeat = [&](float* tile) {
    for (int64_t j = channels; j < plan.width; ++j) tile[j] = tile[j - channels];
  };
  std::copy(mean_, mean_ + channels, mean);
  repeat(mean);
  with_type(type, [&]<typename T>(T) {
    auto *dy = static_cast<const T*>(dy_), *x = static_cast<const T*>(x_), *y = static_cast<const T*>(y_);
    auto *dx = static_cast<T*>(dx_), *dresidual = static_cast<T*>(dresidual_);
    with_flags(shape.relu, dresidual != nullptr, [&](auto relu, auto store) {
      column_sums<2>(plan, stream.threads(), base + totals_bytes, totals,
                     [&](int64_t offset, int64_t rows, int64_t width, float* sums) {
                       add_gradients<T, relu(), store()>(
                           rows, width, dy + offset, x + offset, relu() ? y + offset : nullptr, mean,
                           store() ? dresidual + offset : nullptr, sums, sums + width);
                     });
    });
    double n = static_cast<double>(shape.rows);
    for (int64_t j = 0; j < channels; ++j) {
      double inverse = static_cast<double>(rstd[j]), sum = totals[j], product = totals[channels + j];
      double a = static_cast<double>(gamma[j]) * inverse;
      dbeta[j] += static_cast<float>(sum);
      dgamma[j] += static_cast<float>(inverse * product);
      scale[j] = static_cast<float>(a);
      slope[j] = static_cast<float>(-a * inverse * inverse * product / n);
      shift[j] = static_cast<float>(-a * sum / n);
    }
    repeat(scale);
    repeat(slope);
    repeat(shift);
    // The first pass left g in dresidual: no need to read y again.
    const T* g = dresidual != nullptr ? dresidual : dy;
    with_flags(shape.relu && dresidual == nullptr, fixed, [&](auto relu, auto fixed_too) {
      plan.for_pieces_backwards(stream.threads(), [&](int64_t offset, int64_t rows, int64_t width) {
        write_dx<T, relu(), fixed_too()>(rows, width, g + offset, x + offset, relu() ? y + offset : nullptr,
                                         mean, scale, slope, shift, dx + offset);
      });
    });
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace taper {
namespace {
HWY_EXPORT(backward_loops);
}  // namespace

void CpuBackend::batch_norm_backward(Stream& stream, const BatchNormShape& shape, DType type, const void* dy,
                                     const void* x, const void* y, const void* gamma, const void* mean,
                                     const void* rstd, bool fixed_statistics, void* dx, void* dresidual,
                                     void* dgamma, void* dbeta) {
  TAPER_CHECK(!shape.relu || y != nullptr, "the gradient of a relu needs its output");
  HWY_DYNAMIC_DISPATCH(backward_loops)
  (cpu_stream(stream), shape, type, dy, x, y, static_cast<const float*>(gamma),
   static_cast<const float*>(mean), static_cast<const float*>(rstd), fixed_statistics, dx, dresidual,
   static_cast<float*>(dgamma), static_cast<float*>(dbeta));
}

}  // namespace taper
#endif
