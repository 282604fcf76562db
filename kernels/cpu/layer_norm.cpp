// Layer normalisation fused with the residual addition before it.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/math-inl.h"

#if !defined(TAPER_KERNELS_CPU_LAYER_NORM_ARGUMENTS_)
#define TAPER_KERNELS_CPU_LAYER_NORM_ARGUMENTS_
namespace taper {
namespace {

/// Rows whose contributions to dgamma and dbeta are summed in f32; such blocks are summed in f64.
constexpr int64_t kRowBlock = 64;

struct LayerNormForward {
  int64_t rows, features;
  const void *x, *residual;
  const float *gamma, *beta;
  double eps;
  void *sum, *y;
  float *mean, *rstd;
};

struct LayerNormBackward {
  int64_t rows, features;
  const void *dy, *sum;
  const float *gamma, *mean, *rstd;
  void* dx;
  float* partial;  ///< [blocks of rows, 2, features]: each block's dgamma and dbeta
};

}  // namespace
}  // namespace taper
#endif

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// Mean and variance by two passes, as x^2 - mean^2 loses all digits under a large mean.
template <typename T>
void layer_norm_row(const LayerNormForward& a, int64_t r) {
  const int64_t n = a.features;
  const T* row = static_cast<const T*>(a.x) + r * n;
  if (a.sum != nullptr) {
    T* stored = static_cast<T*>(a.sum) + r * n;
    if (a.residual != nullptr) {
      const T* residual = static_cast<const T*>(a.residual) + r * n;
      map(
          0, n, stored, [](V p, V q) HWY_ATTR { return hn::Add(p, q); }, row, residual);
    } else if (stored != row) {
      std::copy(row, row + n, stored);
    }
    row = stored;
  }
  const double count = static_cast<double>(n);
  const V mean = splat(sum(
                           n, [](V v) HWY_ATTR { return v; }, row) /
                       count);
  const double squares = sum(
      n,
      [=](V v) HWY_ATTR {
        const V d = hn::Sub(v, mean);
        return hn::Mul(d, d);
      },
      row);
  const V rstd = splat(1 / std::sqrt(squares / count + a.eps));
  a.mean[r] = hn::GetLane(mean);
  a.rstd[r] = hn::GetLane(rstd);
  map(
      0, n, static_cast<T*>(a.y) + r * n,
      [=](V v, V gamma, V beta) HWY_ATTR { return hn::MulAdd(hn::Mul(hn::Sub(v, mean), rstd), gamma, beta); },
      row, a.gamma, a.beta);
}

void layer_norm_loops(int threads, DType type, const LayerNormForward& a) {
  with_type(type, [&](auto t) {
    for_parts(threads, a.rows, kRowBlock, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) layer_norm_row<decltype(t)>(a, r);
    });
  });
}

template <typename T>
void layer_norm_backward_row(const LayerNormBackward& a, int64_t r, float* dgamma, float* dbeta) {
  const int64_t n = a.features;
  const T* dy = static_cast<const T*>(a.dy) + r * n;
  const T* x = static_cast<const T*>(a.sum) + r * n;
  const V mean = splat(a.mean[r]), rstd = splat(a.rstd[r]);
  auto normalised = [=](V v) HWY_ATTR { return hn::Mul(hn::Sub(v, mean), rstd); };
  const double count = static_cast<double>(n);
  const V mean_g = splat(sum(
                             n, [](V g, V gamma) HWY_ATTR { return hn::Mul(g, gamma); }, dy, a.gamma) /
                         count);
  const V mean_gx =
      splat(sum(
                n, [=](V g, V gamma, V v) HWY_ATTR { return hn::Mul(hn::Mul(g, gamma), normalised(v)); }, dy,
                a.gamma, x) /
            count);
  map(
      0, n, dgamma, [=](V total, V g, V v) HWY_ATTR { return hn::MulAdd(g, normalised(v), total); }, dgamma,
      dy, x);
  map(
      0, n, dbeta, [](V total, V g) HWY_ATTR { return hn::Add(total, g); }, dbeta, dy);
  map(
      0, n, static_cast<T*>(a.dx) + r * n,
      [=](V g, V gamma, V v) HWY_ATTR {
        const V centred = hn::Sub(hn::Mul(g, gamma), mean_g);
        return hn::Mul(rstd, hn::NegMulAdd(normalised(v), mean_gx, centred));
      },
      dy, a.gamma, x);
}

void layer_norm_backward_loops(int threads, DType type, const LayerNormBackward& a) {
  with_type(type, [&](auto t) {
    for_parts(threads, a.rows, kRowBlock, [&](int64_t begin, int64_t end) {
      float* dgamma = a.partial + begin / kRowBlock * 2 * a.features;
      std::fill(dgamma, dgamma + 2 * a.features, 0.0F);
      for (int64_t r = begin; r < end; ++r)
        layer_norm_backward_row<decltype(t)>(a, r, dgamma, dgamma + a.features);
    });
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "runtime/tensor.h"

namespace taper {
namespace {

HWY_EXPORT(layer_norm_loops);
HWY_EXPORT(layer_norm_backward_loops);

}  // namespace

void CpuBackend::layer_norm_forward(Stream& stream, int64_t rows, int64_t features, DType type, const void* x,
                                    const void* residual, const void* gamma, const void* beta, double eps,
                                    void* sum, void* y, void* mean, void* rstd) {
  TAPER_CHECK(residual == nullptr || sum != nullptr, "the sum with a residual must be stored");
  HWY_DYNAMIC_DISPATCH(layer_norm_loops)
  (cpu_stream(stream).threads(), type,
   {rows, features, x, residual, static_cast<const float*>(gamma), static_cast<const float*>(beta), eps, sum,
    y, static_cast<float*>(mean), static_cast<float*>(rstd)});
}

void CpuBackend::layer_norm_backward(Stream& stream, int64_t rows, int64_t features, DType type,
                                     const void* dy, const void* sum, const void* gamma, const void* mean,
                                     const void* rstd, void* dx, void* dgamma, void* dbeta) {
  const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  Tensor partial(stream, DType::f32, {blocks, 2, features});
  HWY_DYNAMIC_DISPATCH(layer_norm_backward_loops)
  (cpu_stream(stream).threads(), type,
   {rows, features, dy, sum, static_cast<const float*>(gamma), static_cast<const float*>(mean),
    static_cast<const float*>(rstd), dx, partial.as<float>()});
  for (int64_t f = 0; f < 2 * features; ++f) {
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b) total += partial.as<float>()[b * 2 * features + f];
    float& out = f < features ? static_cast<float*>(dgamma)[f] : static_cast<float*>(dbeta)[f - features];
    out = static_cast<float>(out + total);
  }
}

}  // namespace taper
#endif  // HWY_ONCE
