// Softmax over rows, its logarithm, and their backward (kernels/attention.h has the formulas).
//
// A row of up to 1024 columns belongs to a warp, whose lanes keep its elements in registers: each is read
// once. A longer row belongs to a block, which reads it again for the maximum, the sum and the result (the
// backward: for the sum and the result), mostly from cache.
//
//    columns      0 ..           kWidth ..                    a lane: kWidth neighbours (16 bytes) of every
//    warp         | lane 0 | lane 1 | ... | lane 31 | lane 0 ...      32 kWidth columns; a thread of a block
//    block        | thread 0 | thread 1 |  ...                        likewise
//
// Sums are f32: each thread's in order of columns, then the threads' by warp_reduce and block_reduce. So the
// bits depend on the row's values alone, and not on the number of rows.

#include <cmath>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kThreads = 256;
constexpr int64_t kWarpColumns = 1024;
/// The threads that share a row, and the row they share.
struct OfWarp {
  __device__ static int64_t row() { return thread_number() / kWarp; }
  __device__ static int member() { return static_cast<int>(threadIdx.x) % kWarp; }
  template <typename Op>
  __device__ static float reduce(float value, Op op, float) {
    return warp_reduce(value, op);
  }
};
struct OfBlock {
  __device__ static int64_t row() { return blockIdx.x; }
  __device__ static int member() { return static_cast<int>(threadIdx.x); }
  template <typename Op>
  __device__ static float reduce(float value, Op op, float identity) {
    return block_reduce(value, op, identity);
  }
};

/// This member's part of a row of kArrays arrays, read once into registers. each() calls use(values, first
/// column, how many columns there are from it on) for every kWidth columns, in order.
template <typename T, int kArrays>
class Kept {
 public:
  static constexpr int kWidth = kPerVector<T>;
  using Values = T[kArrays][kWidth];

  __device__ Kept(const T* const (&rows)[kArrays], int64_t columns, int member, bool vectors)
      : columns_(columns), first_(member * kWidth) {
#pragma unroll
    for (int i = 0; i < kParts; ++i)
#pragma unroll
      for (int array = 0; array < kArrays; ++array)
        if (const int64_t first = first_ + i * kWarp * kWidth; first < columns)
          load(parts_[i][array], rows[array] + first, columns - first, vectors);
  }
  template <typename Use>
  __device__ __forceinline__ void each(Use&& use) const {
#pragma unroll
    for (int i = 0; i < kParts; ++i)
      if (const int64_t first = first_ + i * kWarp * kWidth; first < columns_)
        use(parts_[i], first, columns_ - first);
  }

 private:
  static constexpr int kParts = static_cast<int>(kWarpColumns) / kWarp / kWidth;
  int64_t columns_, first_;
  Values parts_[kParts] = {};
};

/// The same for a row that is too long for registers, and for a block: read by every each().
template <typename T, int kArrays>
class Streamed {
 public:
  static constexpr int kWidth = kPerVector<T>;
  using Values = T[kArrays][kWidth];

  __device__ Streamed(const T* const (&rows)[kArrays], int64_t columns, int member, bool vectors)
      : columns_(columns), first_(member * kWidth), vectors_(vectors) {
    for (int array = 0; array < kArrays; ++array) rows_[array] = rows[array];
  }
  template <typename Use>
  __device__ __forceinline__ void each(Use&& use) const {
    for (int64_t first = first_; first < columns_; first += kThreads * kWidth) {
      Values values = {};
#pragma unroll
      for (int array = 0; array < kArrays; ++array)
        load(values[array], rows_[array] + first, columns_ - first, vectors_);
      use(values, first, columns_ - first);
    }
  }

 private:
  int64_t columns_, first_;
  const T* rows_[kArrays];
  bool vectors_;
};

template <typename T, typename Group, template <typename, int> typename Part>
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(int64_t rows, int64_t columns, bool logarithm, const T* x, T* y, bool vectors) {
  using Row = Part<T, 1>;
  using Values = typename Row::Values;
  const int64_t start = Group::row() * columns;
  if (Group::row() >= rows) return;  // whole warps and blocks
  const Row row({x + start}, columns, Group::member(), vectors);
  float largest = -INFINITY, total = 0;
  row.each([&](const Values& values, int64_t, int64_t count) {
#pragma unroll
    for (int i = 0; i < Row::kWidth; ++i)
      if (i < count) largest = Max{}(largest, to_float(values[0][i]));
  });
  largest = Group::reduce(largest, Max{}, -INFINITY);
  row.each([&](const Values& values, int64_t, int64_t count) {
#pragma unroll
    for (int i = 0; i < Row::kWidth; ++i)
      if (i < count) total += expf(to_float(values[0][i]) - largest);
  });
  total = Group::reduce(total, Sum{}, 0.0f);
  const float factor = 1 / total, shift = logf(total);
  row.each([&](const Values& values, int64_t first, int64_t count) {
    T results[Row::kWidth] = {};
#pragma unroll
    for (int i = 0; i < Row::kWidth; ++i)
      if (i < count) {
        const float above = to_float(values[0][i]) - largest;
        results[i] = convert<T>(logarithm ? above - shift : expf(above) * factor);
      }
    store(results, y + start + first, count, vectors);
  });
}

template <typename T, typename Group, template <typename, int> typename Part>
__global__ void __launch_bounds__(kThreads)
    softmax_backward_kernel(int64_t rows, int64_t columns, bool logarithm, const T* dy, const T* y, T* dx,
                            bool vectors) {
  using Row = Part<T, 2>;
  using Values = typename Row::Values;
  const int64_t start = Group::row() * columns;
  if (Group::row() >= rows) return;  // whole warps and blocks
  const Row row({dy + start, y + start}, columns, Group::member(), vectors);
  float sum = 0;
  row.each([&](const Values& values, int64_t, int64_t count) {
#pragma unroll
    for (int i = 0; i < Row::kWidth; ++i)
      if (i < count)
        sum += logarithm ? to_float(values[0][i]) : to_float(values[0][i]) * to_float(values[1][i]);
  });
  sum = Group::reduce(sum, Sum{}, 0.0f);
  row.each([&](const Values& values, int64_t first, int64_t count) {
    T results[Row::kWidth] = {};
#pragma unroll
    for (int i = 0; i < Row::kWidth; ++i)
      if (i < count) {
        const float gradient = to_float(values[0][i]), output = to_float(values[1][i]);
        results[i] = convert<T>(logarithm ? gradient - expf(output) * sum : output * (gradient - sum));
      }
    store(results, dx + start + first, count, vectors);
  });
}

}  // namespace

void CudaBackend::softmax(Stream& stream, int64_t rows, int64_t columns, DType type, bool logarithm,
                          const void* x, void* y) {
  dispatch(type, "softmax", [&](auto zero) {
    using T = decltype(zero);
    const bool by_warp = columns <= kWarpColumns;
    launch(by_warp ? softmax_kernel<T, OfWarp, Kept> : softmax_kernel<T, OfBlock, Streamed>,
           blocks_for(rows, by_warp ? kThreads / kWarp : 1), kThreads, 0, cuda_stream(stream).handle(), rows,
           columns, logarithm, static_cast<const T*>(x), static_cast<T*>(y),
           aligned(x, y) && columns % kPerVector<T> == 0);
  });
}

void CudaBackend::softmax_backward(Stream& stream, int64_t rows, int64_t columns, DType type, bool logarithm,
                                   const void* dy, const void* y, void* dx) {
  dispatch(type, "softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    const bool by_warp = columns <= kWarpColumns;
    launch(by_warp ? softmax_backward_kernel<T, OfWarp, Kept> : softmax_backward_kernel<T, OfBlock, Streamed>,
           blocks_for(rows, by_warp ? kThreads / kWarp : 1), kThreads, 0, cuda_stream(stream).handle(), rows,
           columns, logarithm, static_cast<const T*>(dy), static_cast<const T*>(y), static_cast<T*>(dx),
           aligned(dy, y, dx) && columns % kPerVector<T> == 0);
  });
}

}  // namespace taper
