#pragma once
// Tiles of bf16 in shared memory for attention on tensor cores: how they lie, how they are filled, and the
// two products made of them.
//
// A tile is a number of rows (tokens) of kHead elements. A row is cut into chunks of 16 bytes, and chunk c of
// row r lies where chunk c ^ swizzle(r) would: any eight rows that follow each other have the same chunk in
// different groups of banks, so ldmatrix (8 rows, one chunk), cp.async (rows, all chunks) and the way back
// are free of bank conflicts without padding. kHead = 64 (a row is 128 bytes, all banks once):
//
//   row 0   0 1 2 3 4 5 6 7        kHead = 32: two rows share the banks, swizzle(r) = r / 2 % 4
//   row 1   1 0 3 2 5 4 7 6        kHead = 128: as 64, in each half of the row
//   row 2   2 3 0 1 6 7 4 5
//
// Fragments are those of mma.m16n8k16. Element [m][n][2 h + e] of a product belongs to row 16 m + 8 h + lane
// / 4 and column 8 n + 2 (lane % 4) + e.

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"

namespace taper::cuda {

__device__ __forceinline__ int lane_number() { return static_cast<int>(threadIdx.x) % kWarp; }

/// The element at which chunk `chunk` of row `row` of a tile begins. Eight rows on, the same chunk lies 8
/// kHead elements on; and chunk c ^ d of the row begins at chunk_at(row, c) ^ 8 d.
template <int kHead>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
  constexpr int kChunks = kHead / 8, kSpread = kChunks < 8 ? kChunks : 8, kRowsPerBanks = 8 / kSpread;
  return row * kHead + (chunk ^ (row / kRowsPerBanks % kSpread)) * 8;
}

/// Begins to copy kRows rows, `stride` elements apart, of which `count` are there; zeros for the others.
template <int kRows, int kHead, int kThreads>
__device__ __forceinline__ void copy_tile(Bf16* tile, const Bf16* from, int64_t stride, int count) {
  constexpr int kChunks = kHead / 8, kStep = kThreads / kChunks;
  const int row = static_cast<int>(threadIdx.x) / kChunks, chunk = static_cast<int>(threadIdx.x) % kChunks;
  tile += chunk_at<kHead>(row, chunk);
  from += row * stride + chunk * 8;
#pragma unroll
  for (int i = 0; i < kRows; i += kStep) {
    cp_async<16>(tile + i * kHead, from, row + i < count);
    from += kStep * stride;
  }
}

/// out = own streamed^T: the warp's 16 M rows of `own` from `first_row`, by the 8 N rows of `streamed`.
template <int M, int N, int kHead>
__device__ __forceinline__ void multiply_rows(float (&out)[M][N][4], const Bf16* own, int first_row,
                                              const Bf16* streamed) {
  const int lane = lane_number();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) out[m][n][i] = 0;
  const int own_at = chunk_at<kHead>(first_row + lane % 16, lane / 16);
  const int streamed_at = chunk_at<kHead>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k) {
    uint32_t a[M][4], b[N][2];
#pragma unroll
    for (int m = 0; m < M; ++m) ldmatrix_x4(a[m], own + (own_at ^ 16 * k) + 16 * m * kHead);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t pair[4];
      ldmatrix_x4(pair, streamed + (streamed_at ^ 16 * k) + 8 * n * kHead);
      b[n][0] = pair[0], b[n][1] = pair[1], b[n + 1][0] = pair[2], b[n + 1][1] = pair[3];
    }
    mma_bf16(out, a, b);
  }
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}

/// A warp's sums over the head: 16 M rows by kHead columns.
template <int M, int kHead>
using HeadSums = float[M][kHead / 8][4];

/// sums += weights streamed: weights (16 M x 8 N, as multiply_rows leaves them) rounded to bf16, by the 8 N
/// rows of `streamed`.
template <int M, int N, int kHead>
__device__ __forceinline__ void multiply_weights(HeadSums<M, kHead>& sums, const float (&weights)[M][N][4],
                                                 const Bf16* streamed) {
  const int at = chunk_at<kHead>(lane_number() % 16, lane_number() / 16);
#pragma unroll
  for (int k = 0; k < N / 2; ++k) {
    uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[m][i] = pack_bf16(weights[m][2 * k + i / 2][i % 2 * 2], weights[m][2 * k + i / 2][i % 2 * 2 + 1]);
    uint32_t b[kHead / 8][2];
#pragma unroll
    for (int n = 0; n < kHead / 8; n += 2) {
      uint32_t pair[4];
      ldmatrix_x4_trans(pair, streamed + (at ^ 8 * n) + 16 * k * kHead);
      b[n][0] = pair[0], b[n][1] = pair[1], b[n + 1][0] = pair[2], b[n + 1][1] = pair[3];
    }
    mma_bf16(sums, a, b);
  }
}

/// Writes the warp's 16 M rows, of which `count` are there, to rows `stride` elements apart, 16 bytes at a
/// time: through its own rows of `tile`, which nobody needs any more. factors[m][h] multiplies row 16 m + 8 h
/// + lane / 4.
template <int M, int kHead>
__device__ __forceinline__ void store_rows(const HeadSums<M, kHead>& sums, const float (&factors)[M][2],
                                           Bf16* tile, int first_row, Bf16* to, int64_t stride, int count) {
  constexpr int kChunks = kHead / 8;
  const int lane = lane_number();
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        const float(&pair)[4] = sums[m][chunk];
        *reinterpret_cast<uint32_t*>(tile + chunk_at<kHead>(first_row + 16 * m + 8 * h + lane / 4, chunk) +
                                     lane % 4 * 2) =
            pack_bf16(pair[2 * h] * factors[m][h], pair[2 * h + 1] * factors[m][h]);
      }
  __syncwarp();
#pragma unroll
  for (int piece = lane; piece < 16 * M * kChunks; piece += kWarp) {
    const int row = piece / kChunks, chunk = piece % kChunks;
    if (row < count)
      *reinterpret_cast<Pack<Bf16, 8>*>(to + row * stride + chunk * 8) =
          *reinterpret_cast<const Pack<Bf16, 8>*>(tile + chunk_at<kHead>(first_row + row, chunk));
  }
}

/// Which of this lane's four elements of a 16 x 8 tile of queries by keys dropout keeps: bit 2 h + e. The
/// tile starts at `query` and `key`, multiples of 4. Two lanes share each draw, so each makes one and they
/// swap.
__device__ __forceinline__ uint32_t kept_by_query(const AttentionDropout& dropout, int query, int key) {
  const int lane = lane_number(), odd = lane % 2;
  // Even lanes draw for the row above, odd ones for the row 8 below it.
  uint32_t bits = dropout.kept(query + 8 * odd + lane / 4, key / 4 + lane % 4 / 2) << (4 * odd);
  bits |= __shfl_xor_sync(kAllLanes, bits, 1);
  bits >>= 2 * odd;  // the lane's two keys of four
  return (bits & 3) | (bits >> 2 & 12);
}

/// The same for a tile of keys by queries. Four lanes, those of four keys, share four draws.
__device__ __forceinline__ uint32_t kept_by_key(const AttentionDropout& dropout, int key, int query) {
  const int lane = lane_number(), part = lane / 4 % 4;
  // Draw `part` is for element `part` of each of the four: 8 (part / 2) keys below, query part % 2.
  uint32_t bits = dropout.kept(query + lane % 4 * 2 + part % 2, key / 4 + lane / 16 + part / 2 * 2)
                  << (4 * part);
  bits |= __shfl_xor_sync(kAllLanes, bits, 4);
  bits |= __shfl_xor_sync(kAllLanes, bits, 8);
  bits >>= part;  // the lane's key of four
  return (bits & 1) | (bits >> 3 & 2) | (bits >> 6 & 4) | (bits >> 9 & 8);
}

}  // namespace taper::cuda
