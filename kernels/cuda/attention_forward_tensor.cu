// Attention's forward in bf16 on tensor cores, for heads of 32, 64 and 128 (attention_tensor.cuh has the
// tiles; FlashAttention-2, arXiv 2307.08691, the division of the work).
//
// A block owns 128 queries of one sequence and head, a warp 32 of them; keys and values stream by in tiles of
// kKeys, the next one being copied while the present one is worked on:
//
//             keys 0..63   64..127   ...          for each tile:
//           +------------+---------+---            S = Q K^T             (mma, Q and K from shared memory)
//   warp 0  |  32 x 64   |         |               m' = max(m, max S), P = exp2(S - m')
//   warp 1  |            |         |               l = l exp2(m - m') + sum P
//   warp 2  |            |         |               O = O exp2(m - m') + P V   (P stays in registers)
//   warp 3  |            |         |              at the end: o = O / l, logsumexp = m + log l
//           +------------+---------+---
//
// A row of S belongs to four lanes. Each sums its own elements of P, in order; the four sums are added at the
// end, in a fixed order.

#include "kernels/cuda/attention_tensor.cuh"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp, kTiles = 2;  // of 16 rows in a warp
constexpr int kWarpRows = 16 * kTiles, kQueries = kWarps * kWarpRows;
/// Keys in a tile: with a large head there are no registers for more.
template <int kHead>
inline constexpr int kKeys = kHead <= 64 ? 64 : 32;
template <int kHead>
inline constexpr int kSharedBytes = (kQueries + 4 * kKeys<kHead>)*kHead* static_cast<int>(sizeof(Bf16));

/// What a warp carries from tile to tile: for the rows of [kTiles][2], see attention_tensor.cuh.
template <int kHead>
struct OnlineSoftmax {
  float maximum[kTiles][2], total[kTiles][2];  ///< the total only of this lane's columns
  HeadSums<kTiles, kHead> sums;

  __device__ OnlineSoftmax() : sums{} {
#pragma unroll
    for (int m = 0; m < kTiles; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) maximum[m][h] = kNoMaximum, total[m][h] = 0;
  }

  /// Scores (in powers of two) to probabilities relative to the maximum so far, to which all else is
  /// rescaled.
  template <int N>
  __device__ __forceinline__ void update(float (&scores)[kTiles][N][4]) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float largest = maximum[m][h];
#pragma unroll
        for (int n = 0; n < N; ++n)
          largest = Max{}(Max{}(largest, scores[m][n][2 * h]), scores[m][n][2 * h + 1]);
        largest = Max{}(largest, __shfl_xor_sync(kAllLanes, largest, 1));
        largest = Max{}(largest, __shfl_xor_sync(kAllLanes, largest, 2));
        const float shrink = exp2f(maximum[m][h] - largest);
        maximum[m][h] = largest;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = scores[m][n][2 * h + e];
            score = exp2f(score - largest);
            sum += score;
          }
        total[m][h] = total[m][h] * shrink + sum;
#pragma unroll
        for (auto& tile : sums[m]) tile[2 * h] *= shrink, tile[2 * h + 1] *= shrink;
      }
  }

  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int m = 0; m < kTiles; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        total[m][h] += __shfl_xor_sync(kAllLanes, total[m][h], 1);
        total[m][h] += __shfl_xor_sync(kAllLanes, total[m][h], 2);
      }
  }
};

template <int kHead>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(AttentionView view, const Bf16* qkv, Bf16* o, float* logsumexp) {
  constexpr int kTile = kKeys<kHead>, N = kTile / 8;
  const AttentionRows rows = locate_rows<kQueries>(view);
  if (rows.first >= rows.length) return;
  const int64_t stride = 3 * view.model();
  Bf16* queries = dynamic_shared<Bf16>();
  Bf16* streamed = queries + kQueries * kHead;  // [2][keys, values]
  auto copy_keys = [&](int tile) {
    Bf16* to = streamed + tile % 2 * 2 * kTile * kHead;
    const int64_t token = rows.begin + tile * kTile;
    const int count = rows.length - tile * kTile;
    copy_tile<kTile, kHead, kThreads>(to, qkv + view.vector(token, 1), stride, count);
    copy_tile<kTile, kHead, kThreads>(to + kTile * kHead, qkv + view.vector(token, 2), stride, count);
  };
  copy_tile<kQueries, kHead, kThreads>(queries, qkv + view.vector(rows.begin + rows.first, 0), stride,
                                       rows.length - rows.first);
  copy_keys(0);
  cp_async_commit();

  const int lane = lane_number(), warp_row = static_cast<int>(threadIdx.x) / kWarp * kWarpRows;
  const int warp_query = rows.first + warp_row, query = warp_query + lane / 4;
  const AttentionDropout dropout(view, rows.sequence);
  OnlineSoftmax<kHead> state;
  const int end = view.causal ? min(rows.length, rows.first + kQueries) : rows.length;
  const int tiles = (end + kTile - 1) / kTile;
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) copy_keys(tile + 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const int first_key = tile * kTile;
    const Bf16* keys = streamed + tile % 2 * 2 * kTile * kHead;
    // A warp without queries, or before all of the keys, has nothing to add.
    if (warp_query < rows.length && view.sees(warp_query + kWarpRows - 1, first_key)) {
      float scores[kTiles][N][4];
      multiply_rows<kTiles, N, kHead>(scores, queries, warp_row, keys);
      const bool all_seen = first_key + kTile <= rows.length && view.sees(warp_query, first_key + kTile - 1);
#pragma unroll
      for (int m = 0; m < kTiles; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            scores[m][n][i] *= view.scale_log2;
            const int key = first_key + 8 * n + lane % 4 * 2 + i % 2;
            if (!all_seen && !(key < rows.length && view.sees(query + 16 * m + i / 2 * 8, key)))
              scores[m][n][i] = kMasked;
          }
      state.update(scores);
      if (dropout.any()) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m)
#pragma unroll
          for (int n = 0; n < N; ++n) {
            const uint32_t kept = kept_by_query(dropout, warp_query + 16 * m, first_key + 8 * n);
#pragma unroll
            for (int i = 0; i < 4; ++i)
              if ((kept >> i & 1) == 0) scores[m][n][i] = 0;
          }
      }
      multiply_weights<kTiles, N, kHead>(state.sums, scores, keys + kTile * kHead);
    }
    __syncthreads();  // the tile after next is copied over this one
  }

  state.finish();
  float factors[kTiles][2];
#pragma unroll
  for (int m = 0; m < kTiles; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      factors[m][h] = view.kept / state.total[m][h];
      const int position = query + 16 * m + 8 * h;
      if (lane % 4 == 0 && position < rows.length)
        logsumexp[view.statistic(rows.begin + position)] =
            state.maximum[m][h] * kLn2 + logf(state.total[m][h]);
    }
  store_rows<kTiles, kHead>(state.sums, factors, queries, warp_row,
                            o + (rows.begin + warp_query) * view.model() + view.head() * kHead, view.model(),
                            rows.length - warp_query);
}

template <int kHead>
void launch_forward(CudaStream& stream, const AttentionShape& shape, const AttentionView& view,
                    const Bf16* qkv, Bf16* o, float* logsumexp) {
  launch(forward_kernel<kHead>, attention_grid<kQueries>(shape), kThreads, kSharedBytes<kHead>,
         stream.handle(), view, qkv, o, logsumexp);
}

}  // namespace

void attention_forward_tensor(CudaStream& stream, const AttentionShape& shape, const AttentionView& view,
                              const Bf16* qkv, Bf16* o, float* logsumexp) {
  switch (shape.head_size) {
    case 32:
      return launch_forward<32>(stream, shape, view, qkv, o, logsumexp);
    case 64:
      return launch_forward<64>(stream, shape, view, qkv, o, logsumexp);
    case 128:
      return launch_forward<128>(stream, shape, view, qkv, o, logsumexp);
    default:
      throw Failure("attention on tensor cores has heads of 32, 64 and 128, not {}", shape.head_size);
  }
}

}  // namespace taper::cuda
