// Step 3: a thread shares what it reads, too. It has 8 x 8 outputs in registers; for one k it reads eight
// numbers of a and eight of b, four at a time, and multiplies each eight times: a load of 16 bytes for every
// 16 multiplications. A warp's lanes lie as 4 x 8, each with 4 x 4 squares 16 rows and 32 columns apart, so
// that eight lanes read 128 bytes in a row of b and the same 16 of a. a's tile lies with a line for each k;
// lines of 68 floats put the eight k of four rows that a warp stores in 32 different banks.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ladder/ladder.h"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/stream.h"

namespace taper::ladder {

using namespace cuda;

namespace {

constexpr int kTile = 64, kDepth = 8, kThreads = 64, kStride = kTile + 4;
constexpr int kEach = kTile * kDepth / kThreads;
using Four = Pack<float, 4>;

__global__ void __launch_bounds__(kThreads)
    register_blocked_kernel(int64_t m, int64_t n, int64_t k, int64_t column_blocks, const float* a,
                            const float* b, float* out, bool vectors) {
  __shared__ __align__(16) float a_tile[kDepth][kStride];
  __shared__ __align__(16) float b_tile[kDepth][kStride];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int64_t first_row = blockIdx.x / column_blocks * kTile;
  const int64_t first_column = blockIdx.x % column_blocks * kTile;
  const int own_row = warp * 32 + lane / 8 * 4, own_column = lane % 8 * 4;
  float sums[8][8] = {};
  for (int64_t first = 0; first < k; first += kDepth) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int element = thread + i * kThreads;
      const int64_t row = first_row + element / kDepth, a_k = first + element % kDepth;
      a_tile[element % kDepth][element / kDepth] = row < m && a_k < k ? a[row * k + a_k] : 0.0f;
      const int64_t b_k = first + element / kTile, column = first_column + element % kTile;
      b_tile[element / kTile][element % kTile] = b_k < k && column < n ? b[b_k * n + column] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kDepth; ++j) {
      Four left[2], right[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        left[half] = *reinterpret_cast<const Four*>(&a_tile[j][own_row + half * 16]);
        right[half] = *reinterpret_cast<const Four*>(&b_tile[j][own_column + half * 32]);
      }
#pragma unroll
      for (int row = 0; row < 8; ++row)
#pragma unroll
        for (int column = 0; column < 8; ++column)
          sums[row][column] += left[row / 4].values[row % 4] * right[column / 4].values[column % 4];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t row = first_row + own_row + i / 4 * 16 + i % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t column = first_column + own_column + half * 32;
      const float values[4] = {sums[i][half * 4], sums[i][half * 4 + 1], sums[i][half * 4 + 2],
                               sums[i][half * 4 + 3]};
      if (row < m) store(values, out + row * n + column, n - column, vectors);
    }
  }
}

}  // namespace

void register_blocked(Stream& stream, int64_t m, int64_t n, int64_t k, const void* a, const void* b,
                      float* out) {
  const int64_t down = blocks_for(m, kTile), across = blocks_for(n, kTile);
  launch(register_blocked_kernel, blocks_for(down * across, 1), kThreads, 0, cuda_stream(stream).handle(), m,
         n, k, across, static_cast<const float*>(a), static_cast<const float*>(b), out,
         aligned(out) && n % 4 == 0);
}

}  // namespace taper::ladder
