// Step 2: a block shares what it reads. 32 x 32 of a and of b lie in shared memory, and each element that was
// read from global memory once is multiplied 32 times. Still two loads for every multiplication, but from
// shared memory: of a the same word for all lanes, of b 32 neighbours, so no bank is met twice.

#include "kernels/cuda/ladder/ladder.h"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/stream.h"

namespace taper::ladder {

namespace {

constexpr int kTile = 32, kDown = 8, kEach = kTile / kDown;

__global__ void __launch_bounds__(kTile* kDown)
    tiled_kernel(int64_t m, int64_t n, int64_t k, int64_t column_blocks, const float* a, const float* b,
                 float* out) {
  __shared__ float a_tile[kTile][kTile], b_tile[kTile][kTile];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int64_t first_row = blockIdx.x / column_blocks * kTile;
  const int64_t column = blockIdx.x % column_blocks * kTile + x;
  float sums[kEach] = {};
  for (int64_t first = 0; first < k; first += kTile) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int line = y + i * kDown;
      const int64_t row = first_row + line;
      a_tile[line][x] = row < m && first + x < k ? a[row * k + first + x] : 0.0f;
      b_tile[line][x] = first + line < k && column < n ? b[(first + line) * n + column] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kTile; ++j)
#pragma unroll
      for (int i = 0; i < kEach; ++i) sums[i] += a_tile[y + i * kDown][j] * b_tile[j][x];
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    if (first_row + y + i * kDown < m && column < n) out[(first_row + y + i * kDown) * n + column] = sums[i];
}

}  // namespace

void tiled(Stream& stream, int64_t m, int64_t n, int64_t k, const void* a, const void* b, float* out) {
  const int64_t down = blocks_for(m, kTile), across = blocks_for(n, kTile);
  launch(tiled_kernel, blocks_for(down * across, 1), dim3(kTile, kDown), 0, cuda_stream(stream).handle(), m,
         n, k, across, static_cast<const float*>(a), static_cast<const float*>(b), out);
}

}  // namespace taper::ladder
