// Step 4: the multiplications by tensor cores. A block has 64 x 64 outputs, a warp 32 x 32 as 2 x 4 tiles of
// mma.m16n8k16, whose sums stay in registers; a and b are bf16, here only bits that move. ldmatrix deals what
// lies in shared memory out to the lanes as mma wants it (b's tile has a line for each k, which .trans turns
// around). Lines 16 bytes longer than the tile put eight lines' chunks in 32 different banks. A step's loads,
// its barriers and its multiplications still wait for one another.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ladder/ladder.h"
#include "kernels/cuda/ptx.cuh"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/stream.h"

namespace taper::ladder {

using namespace cuda;

namespace {

constexpr int kTile = 64, kDepth = 32, kThreads = 128;

/// Lines of kLength elements from `from` into shared memory, with zeros beyond `lines` and `length`.
template <int kLines, int kLength>
__device__ void load_tile(uint16_t (&tile)[kLines][kLength + 8], const uint16_t* from, int64_t leading,
                          int64_t lines, int64_t length, bool vectors) {
#pragma unroll
  for (int i = 0; i < kLines * kLength / 8 / kThreads; ++i) {
    const int chunk = static_cast<int>(threadIdx.x) + i * kThreads;
    const int line = chunk / (kLength / 8), within = chunk % (kLength / 8) * 8;
    Pack<uint16_t, 8> eight = {};
    if (line < lines) load(eight.values, from + line * leading + within, length - within, vectors);
    *reinterpret_cast<Pack<uint16_t, 8>*>(&tile[line][within]) = eight;
  }
}

__global__ void __launch_bounds__(kThreads)
    tensor_core_kernel(int64_t m, int64_t n, int64_t k, int64_t column_blocks, const uint16_t* a,
                       const uint16_t* b, float* out, bool vectors_a, bool vectors_b, bool pairs_out) {
  __shared__ __align__(16) uint16_t a_tile[kTile][kDepth + 8];
  __shared__ __align__(16) uint16_t b_tile[kDepth][kTile + 8];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t first_row = blockIdx.x / column_blocks * kTile;
  const int64_t first_column = blockIdx.x % column_blocks * kTile;
  const int own_row = warp % 2 * 32, own_column = warp / 2 * 32;
  float sums[2][4][4] = {};
  for (int64_t first = 0; first < k; first += kDepth) {
    load_tile<kTile, kDepth>(a_tile, a + first_row * k + first, k, m - first_row, k - first, vectors_a);
    load_tile<kDepth, kTile>(b_tile, b + first * n + first_column, n, k - first, n - first_column, vectors_b);
    __syncthreads();
#pragma unroll
    for (int depth = 0; depth < kDepth; depth += 16) {
      uint32_t left[2][4], right[4][2];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        ldmatrix_x4(left[i], &a_tile[own_row + i * 16 + lane % 16][depth + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        uint32_t two[4];
        ldmatrix_x4_trans(two, &b_tile[depth + lane % 16][own_column + j * 8 + lane / 16 * 8]);
        right[j][0] = two[0], right[j][1] = two[1];
        right[j + 1][0] = two[2], right[j + 1][1] = two[3];
      }
      mma_bf16(sums, left, right);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = first_row + own_row + i * 16 + lane / 4 + half * 8;
        const int64_t column = first_column + own_column + j * 8 + lane % 4 * 2;
        const float two[2] = {sums[i][j][2 * half], sums[i][j][2 * half + 1]};
        if (row < m) store(two, out + row * n + column, n - column, pairs_out);
      }
}

}  // namespace

void tensor_core(Stream& stream, int64_t m, int64_t n, int64_t k, const void* a, const void* b, float* out) {
  const int64_t down = blocks_for(m, kTile), across = blocks_for(n, kTile);
  launch(tensor_core_kernel, blocks_for(down * across, 1), kThreads, 0, cuda_stream(stream).handle(), m, n, k,
         across, static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b), out,
         aligned(a) && k % 8 == 0, aligned(b) && n % 8 == 0, aligned(out) && n % 2 == 0);
}

}  // namespace taper::ladder
