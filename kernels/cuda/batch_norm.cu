// Batch normalisation, training and inference, with the residual addition and the relu after it
// (kernels/norm.h has formulas and shapes). x is [rows, channels].
//
// Training takes three kernels. `moments` sums x - pivot and its square down chunks of rows, where the pivot
// is the first row, so that a large mean costs no digits. `statistics` adds the chunks up in f64 and makes of
// each channel a pivot, a scale and a shift. `normalise` applies them: y = relu((x - pivot) scale + shift +
// residual), the last chunks first, for they may still be in the cache. Inference is `normalise` alone,
// without a pivot. kernels/cuda/columns.cuh has the order of the sums: the bits depend on the shape only.

#include <cmath>

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/cuda.h"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

template <typename T>
__global__ void __launch_bounds__(kColumnThreads, 5)
    moments(ColumnPlan plan, const T* x, float* partial, bool vectors) {
  constexpr int kWidth = kPerVectorOfBoth<T, float>;
  float pivot[kWidth] = {};
  if (own_vector<kWidth>(plan) < plan.width) load_columns(pivot, x, plan);
  sum_chunk<kWidth, 2>(plan, vectors, partial, [&](int64_t first, auto left, auto& sums) {
    T values[kWidth] = {};
    load(values, x + first, left, vectors);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      if (i >= left) continue;
      const float distance = to_float(values[i]) - pivot[i];
      sums[i] += distance;
      sums[kWidth + i] = fmaf(distance, distance, sums[kWidth + i]);
    }
  });
}

/// Of each channel the statistics, and what normalises it: pivots, scales, shifts are [channels].
struct Statistics {
  float *mean, *rstd, *variance;
  float *pivots, *scales, *shifts;
};

template <typename T>
__global__ void __launch_bounds__(kTotalThreads)
    statistics(ColumnPlan plan, const T* x, const float* partial, const float* gamma, const float* beta,
               double eps, double rows, Statistics out) {
  double totals[2];
  total_chunks(totals, partial, plan.chunks, plan.width, plan.columns);
  const int64_t channel = total_column();
  if (threadIdx.y > 0 || channel >= plan.columns) return;
  const float pivot = to_float(x[channel]);
  const double centre = totals[0] / rows;
  double biased = totals[1] / rows - centre * centre;
  if (biased < 0) biased = 0;  // rounding; NaN stays
  const double rstd = 1 / sqrt(biased + eps);
  const double scale = static_cast<double>(gamma[channel]) * rstd;
  out.mean[channel] = static_cast<float>(static_cast<double>(pivot) + centre);
  out.rstd[channel] = static_cast<float>(rstd);
  out.variance[channel] = static_cast<float>(biased * rows / (rows - 1));
  out.pivots[channel] = pivot;
  out.scales[channel] = static_cast<float>(scale);
  out.shifts[channel] = static_cast<float>(static_cast<double>(beta[channel]) - centre * scale);
}

/// y may be x or residual. `pivots` and `residual` may be null.
template <typename T>
__global__ void __launch_bounds__(kColumnThreads)
    normalise(ColumnPlan plan, bool relu, const T* x, const float* pivots, const float* scales,
              const float* shifts, const T* residual, T* y, bool vectors) {
  constexpr int kWidth = kPerVectorOfBoth<T, float>;
  float pivot[kWidth] = {}, scale[kWidth] = {}, shift[kWidth] = {};
  if (own_vector<kWidth>(plan) < plan.width) {
    if (pivots != nullptr) load_columns(pivot, pivots, plan);
    load_columns(scale, scales, plan);
    load_columns(shift, shifts, plan);
  }
  for_rows<kWidth>(plan, gridDim.x - 1 - blockIdx.x, vectors, [&](int64_t first, auto left) {
    T values[kWidth] = {}, added[kWidth] = {};
    load(values, x + first, left, vectors);
    if (residual != nullptr) load(added, residual + first, left, vectors);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      float value = fmaf(to_float(values[i]) - pivot[i], scale[i], shift[i]);
      if (residual != nullptr) value += to_float(added[i]);
      values[i] = convert<T>(relu && value < 0 ? 0 : value);
    }
    store(values, y + first, left, vectors);
  });
}

template <typename T>
void launch_normalise(CudaStream& stream, const ColumnPlan& plan, bool relu, const T* x, const float* pivots,
                      const float* scales, const float* shifts, const T* residual, T* y) {
  launch(normalise<T>, plan.grid(), plan.block(), 0, stream.handle(), plan, relu, x, pivots, scales, shifts,
         residual, y, aligned(x, residual, y));
}

}  // namespace

void CudaBackend::batch_norm_forward(Stream& stream, const BatchNormShape& shape, DType type, const void* x,
                                     const void* gamma, const void* beta, const void* residual, double eps,
                                     void* y, void* mean, void* rstd, void* variance) {
  TAPER_CHECK(shape.rows >= 2 && shape.channels > 0,
              "the statistics of {} rows of {} channels: a batch of one pixel has no variance", shape.rows,
              shape.channels);
  CudaStream& queue = cuda_stream(stream);
  dispatch(type, "batch_norm_forward", [&](auto zero) {
    using T = decltype(zero);
    const auto* from = static_cast<const T*>(x);
    const ColumnPlan plan(shape.rows, shape.channels, kPerVectorOfBoth<T, float>);
    auto* partial =
        static_cast<float*>(queue.scratch(plan.bytes(2) + 3 * shape.channels * int64_t{sizeof(float)}));
    float* coefficients = partial + plan.bytes(2) / int64_t{sizeof(float)};
    const Statistics out{static_cast<float*>(mean),     static_cast<float*>(rstd),
                         static_cast<float*>(variance), coefficients,
                         coefficients + shape.channels, coefficients + 2 * shape.channels};
    launch(moments<T>, plan.grid(), plan.block(), 0, queue.handle(), plan, from, partial, aligned(x));
    launch(statistics<T>, total_blocks(shape.channels), total_block(), 0, queue.handle(), plan, from, partial,
           static_cast<const float*>(gamma), static_cast<const float*>(beta), eps,
           static_cast<double>(shape.rows), out);
    launch_normalise(queue, plan, shape.relu, from, out.pivots, out.scales, out.shifts,
                     static_cast<const T*>(residual), static_cast<T*>(y));
  });
}

void CudaBackend::batch_norm_inference(Stream& stream, const BatchNormShape& shape, DType type, const void* x,
                                       const void* scale, const void* shift, const void* residual, void* y) {
  dispatch(type, "batch_norm_inference", [&](auto zero) {
    using T = decltype(zero);
    launch_normalise(cuda_stream(stream), ColumnPlan(shape.rows, shape.channels, kPerVectorOfBoth<T, float>),
                     shape.relu, static_cast<const T*>(x), nullptr, static_cast<const float*>(scale),
                     static_cast<const float*>(shift), static_cast<const T*>(residual), static_cast<T*>(y));
  });
}

}  // namespace taper
