// The gradient of batch normalisation with the relu and the addition after it (kernels/norm.h has formulas
// and shapes).
//
// Three kernels. `gradient_sums` sums g and g (x - mean) down chunks of rows and stores g as the residual's
// gradient where that is wanted. `gradient_coefficients` adds the chunks up in f64, adds to dgamma and dbeta,
// and makes of each channel a scale, a slope and a shift. `input_gradient` writes dx = scale g + slope (x -
// mean) + shift, the last chunks first. kernels/cuda/columns.cuh has the order of the sums: the bits depend
// on the shape only.

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/cuda.h"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

/// g = dy where y > 0, or dy where there is no relu and y is null; elements beyond `left` stay 0.
template <typename T, int kWidth, typename Left>
__device__ __forceinline__ void load_gradient(T (&g)[kWidth], const T* dy, const T* y, int64_t first,
                                              Left left, bool vectors) {
  load(g, dy + first, left, vectors);
  if (y == nullptr) return;
  T outputs[kWidth] = {};
  load(outputs, y + first, left, vectors);
#pragma unroll
  for (int i = 0; i < kWidth; ++i)
    if (!(to_float(outputs[i]) > 0)) g[i] = convert<T>(0.0f);
}

/// y and dresidual may be null.
template <typename T>
__global__ void __launch_bounds__(kColumnThreads)
    gradient_sums(ColumnPlan plan, const T* dy, const T* x, const T* y, const float* means, T* dresidual,
                  float* partial, bool vectors) {
  constexpr int kWidth = kPerVectorOfBoth<T, float>;
  float mean[kWidth] = {};
  if (own_vector<kWidth>(plan) < plan.width) load_columns(mean, means, plan);
  sum_chunk<kWidth, 2>(plan, vectors, partial, [&](int64_t first, auto left, auto& sums) {
    T g[kWidth] = {}, values[kWidth] = {};
    load(values, x + first, left, vectors);
    load_gradient(g, dy, y, first, left, vectors);
    if (dresidual != nullptr) store(g, dresidual + first, left, vectors);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      if (i >= left) continue;
      sums[i] += to_float(g[i]);
      sums[kWidth + i] = fmaf(to_float(g[i]), to_float(values[i]) - mean[i], sums[kWidth + i]);
    }
  });
}

/// Of each channel what makes dx: [channels] each.
struct Coefficients {
  float *scales, *slopes, *shifts;
};

__global__ void __launch_bounds__(kTotalThreads)
    gradient_coefficients(ColumnPlan plan, const float* partial, const float* gamma, const float* rstds,
                          double rows, float* dgamma, float* dbeta, Coefficients out) {
  double totals[2];
  total_chunks(totals, partial, plan.chunks, plan.width, plan.columns);
  const int64_t channel = total_column();
  if (threadIdx.y > 0 || channel >= plan.columns) return;
  const double rstd = static_cast<double>(rstds[channel]);
  const double scale = static_cast<double>(gamma[channel]) * rstd;
  dbeta[channel] += static_cast<float>(totals[0]);
  dgamma[channel] += static_cast<float>(rstd * totals[1]);
  out.scales[channel] = static_cast<float>(scale);
  out.slopes[channel] = static_cast<float>(-scale * rstd * rstd * totals[1] / rows);
  out.shifts[channel] = static_cast<float>(-scale * totals[0] / rows);
}

/// dx may be dy. y may be null; `fixed`: dx = scale g alone. Four blocks at once leave registers
/// enough; ptxas by itself takes fewer for sm_80 and spills.
template <typename T>
__global__ void __launch_bounds__(kColumnThreads, 4)
    input_gradient(ColumnPlan plan, bool fixed, const T* dy, const T* x, const T* y, const float* means,
                   Coefficients of_channel, T* dx, bool vectors) {
  constexpr int kWidth = kPerVectorOfBoth<T, float>;
  float mean[kWidth] = {}, scale[kWidth] = {}, slope[kWidth] = {}, shift[kWidth] = {};
  if (own_vector<kWidth>(plan) < plan.width) {
    load_columns(mean, means, plan);
    load_columns(scale, of_channel.scales, plan);
    load_columns(slope, of_channel.slopes, plan);
    load_columns(shift, of_channel.shifts, plan);
  }
  for_rows<kWidth>(plan, gridDim.x - 1 - blockIdx.x, vectors, [&](int64_t first, auto left) {
    T g[kWidth] = {}, values[kWidth] = {};
    if (!fixed) load(values, x + first, left, vectors);
    load_gradient(g, dy, y, first, left, vectors);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      float value = scale[i] * to_float(g[i]);
      if (!fixed) value += fmaf(slope[i], to_float(values[i]) - mean[i], shift[i]);
      g[i] = convert<T>(value);
    }
    store(g, dx + first, left, vectors);
  });
}

}  // namespace

void CudaBackend::batch_norm_backward(Stream& stream, const BatchNormShape& shape, DType type, const void* dy,
                                      const void* x, const void* y, const void* gamma, const void* mean,
                                      const void* rstd, bool fixed_statistics, void* dx, void* dresidual,
                                      void* dgamma, void* dbeta) {
  TAPER_CHECK(!shape.relu || y != nullptr, "the gradient of a relu needs its output");
  CudaStream& queue = cuda_stream(stream);
  dispatch(type, "batch_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    const ColumnPlan plan(shape.rows, shape.channels, kPerVectorOfBoth<T, float>);
    auto* partial =
        static_cast<float*>(queue.scratch(plan.bytes(2) + 3 * shape.channels * int64_t{sizeof(float)}));
    float* scales = partial + plan.bytes(2) / int64_t{sizeof(float)};
    const Coefficients coefficients{scales, scales + shape.channels, scales + 2 * shape.channels};
    const auto *gradient = static_cast<const T*>(dy), *input = static_cast<const T*>(x);
    const auto* output = shape.relu ? static_cast<const T*>(y) : nullptr;
    const auto* means = static_cast<const float*>(mean);
    launch(gradient_sums<T>, plan.grid(), plan.block(), 0, queue.handle(), plan, gradient, input, output,
           means, static_cast<T*>(dresidual), partial, aligned(dy, x, output, dresidual));
    launch(gradient_coefficients, total_blocks(shape.channels), total_block(), 0, queue.handle(), plan,
           partial, static_cast<const float*>(gamma), static_cast<const float*>(rstd),
           static_cast<double>(shape.rows), static_cast<float*>(dgamma), static_cast<float*>(dbeta),
           coefficients);
    if (dresidual != nullptr) {  // it holds g now: no need to read y again
      gradient = static_cast<const T*>(dresidual);
      output = nullptr;
    }
    launch(input_gradient<T>, plan.grid(), plan.block(), 0, queue.handle(), plan, fixed_statistics, gradient,
           input, output, means, coefficients, static_cast<T*>(dx), aligned(gradient, x, output, dx));
  });
}

}  // namespace taper
