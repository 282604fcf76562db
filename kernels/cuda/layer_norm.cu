// Layer normalisation fused with the residual addition before it (kernels/norm.h has formulas and shapes).
// Arrays are [rows, features].
//
// Forward: a warp has a row. It passes three times over it, of which the second and third find it in the
// cache: the sum about a pivot, which is the row's first element, so that a large mean costs no digits; the
// squares of the distances from the mean; the output. Backward: a block has 32 rows. Each warp writes dx of
// every eighth of them; then the threads take columns and sum the rows' parts of dgamma and dbeta, from the
// same data, in f32; a second kernel adds the blocks up in f64, in order. The bits depend on the shape only.

#include <cmath>

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/cuda.h"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kRowsAtOnce = 8, kThreads = kRowsAtOnce * kWarp;
constexpr int64_t kRowsPerBlock = 32;  // in backward

/// Of one call: residual and sum may be null, but not sum alone.
template <typename T>
struct Forward {
  int64_t rows, features;
  const T *x, *residual;
  const float *gamma, *beta;
  double eps;
  T *sum, *y;
  float *mean, *rstd;
};

/// visit(j) for this lane's first column of kWidth, of all columns: vectors side by side over the warp.
template <int kWidth, typename Visit>
__device__ __forceinline__ void for_columns(int64_t features, Visit visit) {
  for (int64_t j = threadIdx.x * kWidth; j < features; j += kWarp * kWidth) visit(j);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) layer_norm(Forward<T> a) {
  const int64_t row = int64_t{blockIdx.x} * kRowsAtOnce + threadIdx.y;
  if (row >= a.rows) return;
  const T* x = a.x + row * a.features;
  const T* residual = a.residual == nullptr ? nullptr : a.residual + row * a.features;
  T* stored = a.sum == nullptr ? nullptr : a.sum + row * a.features;
  const auto count = static_cast<float>(a.features);
  // What is normalised is the sum as it is stored.
  auto summand = [&](int64_t j, T(&values)[kWidth]) {
    load(values, x + j, kWidth, true);
    if (residual == nullptr) return;
    T added[kWidth];
    load(added, residual + j, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = convert<T>(to_float(values[i]) + to_float(added[i]));
  };
  const float pivot =
      residual == nullptr ? to_float(x[0]) : to_float(convert<T>(to_float(x[0]) + to_float(residual[0])));

  float total = 0;
  for_columns<kWidth>(a.features, [&](int64_t j) {
    T values[kWidth];
    summand(j, values);
    if (stored != nullptr) store(values, stored + j, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) total += to_float(values[i]) - pivot;
  });
  const float mean = pivot + warp_reduce(total, Sum{}) / count;

  // Each lane reads what it has stored itself.
  const T* from = stored == nullptr ? x : stored;
  float squares = 0;
  for_columns<kWidth>(a.features, [&](int64_t j) {
    T values[kWidth];
    load(values, from + j, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float distance = to_float(values[i]) - mean;
      squares = fmaf(distance, distance, squares);
    }
  });
  const float variance = warp_reduce(squares, Sum{}) / count;
  const auto rstd = static_cast<float>(1 / sqrt(static_cast<double>(variance) + a.eps));
  if (threadIdx.x == 0) {
    a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
  for_columns<kWidth>(a.features, [&](int64_t j) {
    T values[kWidth];
    float gamma[kWidth], beta[kWidth];
    load(values, from + j, kWidth, true);
    load(gamma, a.gamma + j, kWidth, true);
    load(beta, a.beta + j, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      values[i] = convert<T>(fmaf((to_float(values[i]) - mean) * rstd, gamma[i], beta[i]));
    store(values, a.y + row * a.features + j, kWidth, true);
  });
}

/// Of one call; `partial` is [blocks, 2, features]: each block's dgamma and dbeta.
template <typename T>
struct Backward {
  int64_t rows, features;
  const T *dy, *x;
  const float *gamma, *mean, *rstd;
  T* dx;
  float* partial;
};

/// With g = dy gamma and xhat = (x - mean) rstd: dx = rstd (g - mean of g - xhat mean of (g xhat)).
template <typename T, int kWidth>
__device__ __forceinline__ void write_dx(const Backward<T>& a, int64_t row) {
  const T *dy = a.dy + row * a.features, *x = a.x + row * a.features;
  const float mean = a.mean[row], rstd = a.rstd[row], count = static_cast<float>(a.features);
  auto visit_all = [&](auto visit) {
    for_columns<kWidth>(a.features, [&](int64_t j) {
      T gradient[kWidth], values[kWidth];
      float gamma[kWidth], g[kWidth], xhat[kWidth];
      load(gradient, dy + j, kWidth, true);
      load(values, x + j, kWidth, true);
      load(gamma, a.gamma + j, kWidth, true);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        g[i] = to_float(gradient[i]) * gamma[i];
        xhat[i] = (to_float(values[i]) - mean) * rstd;
      }
      visit(j, g, xhat);
    });
  };
  float sum = 0, product = 0;
  visit_all([&](int64_t, const auto& g, const auto& xhat) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      sum += g[i];
      product = fmaf(g[i], xhat[i], product);
    }
  });
  sum = warp_reduce(sum, Sum{}) / count;
  product = warp_reduce(product, Sum{}) / count;
  visit_all([&](int64_t j, const auto& g, const auto& xhat) {
    T out[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) out[i] = convert<T>(rstd * fmaf(-xhat[i], product, g[i] - sum));
    store(out, a.dx + row * a.features + j, kWidth, true);
  });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, 1) layer_norm_gradients(Backward<T> a) {
  const int64_t begin = int64_t{blockIdx.x} * kRowsPerBlock, end = min(a.rows, begin + kRowsPerBlock);
  for (int64_t row = begin + threadIdx.y; row < end; row += kRowsAtOnce) write_dx<T, kWidth>(a, row);

  constexpr int kColumns = kWidth < 4 ? kWidth : 4;  // narrower than above, for more threads to take part
  const int64_t thread = threadIdx.y * kWarp + threadIdx.x;
  for (int64_t j = thread * kColumns; j < a.features; j += kThreads * kColumns) {
    float dgamma[kColumns] = {}, dbeta[kColumns] = {};
#pragma unroll 4
    for (int64_t row = begin; row < end; ++row) {
      const float mean = a.mean[row], rstd = a.rstd[row];
      T gradient[kColumns], values[kColumns];
      load(gradient, a.dy + row * a.features + j, kColumns, true);
      load(values, a.x + row * a.features + j, kColumns, true);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        dgamma[i] = fmaf(to_float(gradient[i]), (to_float(values[i]) - mean) * rstd, dgamma[i]);
        dbeta[i] += to_float(gradient[i]);
      }
    }
    float* partial = a.partial + int64_t{blockIdx.x} * 2 * a.features + j;
    store(dgamma, partial, kColumns, true);
    store(dbeta, partial + a.features, kColumns, true);
  }
}

__global__ void __launch_bounds__(kTotalThreads)
    add_partial_gradients(int64_t blocks, int64_t features, const float* partial, float* dgamma,
                          float* dbeta) {
  double totals[2];
  total_chunks(totals, partial, blocks, features, features);
  const int64_t column = total_column();
  if (threadIdx.y > 0 || column >= features) return;
  dgamma[column] += static_cast<float>(totals[0]);
  dbeta[column] += static_cast<float>(totals[1]);
}

}  // namespace

void CudaBackend::layer_norm_forward(Stream& stream, int64_t rows, int64_t features, DType type,
                                     const void* x, const void* residual, const void* gamma, const void* beta,
                                     double eps, void* sum, void* y, void* mean, void* rstd) {
  TAPER_CHECK(residual == nullptr || sum != nullptr, "the sum with a residual must be stored");
  const bool all_aligned = aligned(x, residual, gamma, beta, sum, y);
  dispatch_width<float>(type, "layer_norm_forward", features, all_aligned, [&](auto zero, auto width) {
    using T = decltype(zero);
    launch(layer_norm<T, width()>, blocks_for(rows, kRowsAtOnce), dim3(kWarp, kRowsAtOnce), 0,
           cuda_stream(stream).handle(),
           Forward<T>{rows, features, static_cast<const T*>(x), static_cast<const T*>(residual),
                      static_cast<const float*>(gamma), static_cast<const float*>(beta), eps,
                      static_cast<T*>(sum), static_cast<T*>(y), static_cast<float*>(mean),
                      static_cast<float*>(rstd)});
  });
}

void CudaBackend::layer_norm_backward(Stream& stream, int64_t rows, int64_t features, DType type,
                                      const void* dy, const void* sum, const void* gamma, const void* mean,
                                      const void* rstd, void* dx, void* dgamma, void* dbeta) {
  CudaStream& queue = cuda_stream(stream);
  const uint32_t blocks = blocks_for(rows, kRowsPerBlock);
  auto* partial = static_cast<float*>(queue.scratch(blocks * 2 * features * int64_t{sizeof(float)}));
  const bool all_aligned = aligned(dy, sum, gamma, dx);
  dispatch_width<float>(type, "layer_norm_backward", features, all_aligned, [&](auto zero, auto width) {
    using T = decltype(zero);
    launch(layer_norm_gradients<T, width()>, blocks, dim3(kWarp, kRowsAtOnce), 0, queue.handle(),
           Backward<T>{rows, features, static_cast<const T*>(dy), static_cast<const T*>(sum),
                       static_cast<const float*>(gamma), static_cast<const float*>(mean),
                       static_cast<const float*>(rstd), static_cast<T*>(dx), partial});
  });
  launch(add_partial_gradients, total_blocks(features), total_block(), 0, queue.handle(), blocks, features,
         partial, static_cast<float*>(dgamma), static_cast<float*>(dbeta));
}

}  // namespace taper
