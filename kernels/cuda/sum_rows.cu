// The sum of a matrix's rows (kernels/matmul.h): a block sums 256 rows of some columns; where there are more
// rows, the blocks' sums are rows again, until one is left. Nothing but the number of rows decides the order.

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kAcross = 32, kDown = 8, kWidth = 4, kColumns = kAcross * kWidth;
constexpr int64_t kRows = 256;

/// sums[part, column] (+)= the part's rows; a thread adds every eighth row of four columns, and the eight are
/// added in order.
template <typename T>
__global__ void __launch_bounds__(kAcross* kDown)
    sum_rows_kernel(int64_t rows, int64_t columns, int64_t column_blocks, const T* x, float* sums,
                    bool accumulate, bool vectors) {
  __shared__ __align__(16) float of_thread[kDown][kColumns];
  const int64_t part = blockIdx.x / column_blocks, first_column = blockIdx.x % column_blocks * kColumns;
  const int64_t column = first_column + threadIdx.x * kWidth;
  const int64_t end = rows < (part + 1) * kRows ? rows : (part + 1) * kRows;
  Pack<float, kWidth> sum = {};
  if (column < columns)
    for (int64_t row = part * kRows + threadIdx.y; row < end; row += kDown) {
      T values[kWidth] = {};
      load(values, x + row * columns + column, columns - column, vectors);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum.values[i] += to_float(values[i]);
    }
  *reinterpret_cast<Pack<float, kWidth>*>(&of_thread[threadIdx.y][threadIdx.x * kWidth]) = sum;
  __syncthreads();
  const int own = static_cast<int>(threadIdx.y) * kAcross + static_cast<int>(threadIdx.x);
  if (own < kColumns && first_column + own < columns) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < kDown; ++i) total += of_thread[i][own];
    float& to = sums[part * columns + first_column + own];
    to = accumulate ? to + total : total;
  }
}

template <typename T>
void launch_sum_rows(CudaStream& stream, int64_t rows, int64_t columns, const T* x, float* scratch,
                     float* out) {
  const int64_t parts = blocks_for(rows, kRows), column_blocks = blocks_for(columns, kColumns);
  launch(sum_rows_kernel<T>, blocks_for(parts * column_blocks, 1), dim3(kAcross, kDown), 0, stream.handle(),
         rows, columns, column_blocks, x, parts == 1 ? out : scratch, parts == 1,
         aligned(x) && columns % kWidth == 0);
  if (parts > 1) launch_sum_rows<float>(stream, parts, columns, scratch, scratch + parts * columns, out);
}

}  // namespace

void CudaBackend::sum_rows(Stream& stream, int64_t rows, int64_t columns, DType type, const void* x,
                           void* out) {
  TAPER_CHECK(rows > 0 && columns > 0, "the sum of {} rows of {}", rows, columns);
  CudaStream& queue = cuda_stream(stream);
  int64_t floats = 0;
  for (int64_t left = rows; left > kRows;) {
    left = blocks_for(left, kRows);
    floats += left * columns;
  }
  auto* scratch = floats == 0 ? nullptr : static_cast<float*>(queue.scratch(floats * int64_t{sizeof(float)}));
  dispatch(type, "sum_rows", [&](auto zero) {
    launch_sum_rows(queue, rows, columns, static_cast<const decltype(zero)*>(x), scratch,
                    static_cast<float*>(out));
  });
}

}  // namespace taper
