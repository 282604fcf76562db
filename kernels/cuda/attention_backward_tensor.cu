// Attention's backward in bf16 on tensor cores, for heads of 32, 64 and 128 (attention_tensor.cuh has the
// tiles).
//
// One kernel, two ways round. A block owns kOwn rows of one sequence and head, a warp 16 M of them; tiles of
// 32 rows of the other kind (16, for keys of heads of 128) stream by, the next one being copied while the
// present one is worked on:
//
//                 own rows A, B     streamed A, B     sums of the own rows
//   for queries   Q, dO             K, V              dQ += dS K
//   for keys      K, V              Q, dO             dK += dS^T Q,  dV += P^T dO
//
//   S = A_own A_streamed^T, dP = B_own B_streamed^T     (or their transposes: for keys)
//   P = exp2(S - logsumexp), dS = P (dP - delta)        with dropout: P and dP are kept / (1 - p), or 0
//
//                streamed 0..31   32..63   ...
//             +----------------+---------+---       P and dS stay in registers: what mma leaves is what
//   warp 0    |    16 M x 32   |         |          the next mma takes. P is computed twice, once each way,
//   warp 1    |                |         |          which costs two products of seven and saves atomics or
//   ...       |                |         |          a second array for dQ.
//             +----------------+---------+---
//
// Every sum runs over the tiles in order, in one warp: the same bits every time.

#include "kernels/cuda/attention_tensor.cuh"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
/// Rows of a streamed tile: fewer where the sums leave few registers.
template <int kHead, bool kForKeys>
inline constexpr int kStreamed = kHead == 128 && kForKeys ? 16 : 32;
/// Tiles of 16 rows in a warp: as many as leave registers for their sums, which are two for keys.
template <int kHead, bool kForKeys>
inline constexpr int kTiles = kHead*(kForKeys ? 2 : 1) <= 64 ? 2 : 1;
template <int kHead, bool kForKeys>
inline constexpr int kOwn = kWarps * 16 * kTiles<kHead, kForKeys>;

/// A stage of the pipeline: the streamed tiles, and the rows' logsumexp and delta where they are queries.
template <int kHead, int kRows>
struct Stage {
  Bf16 a[kRows * kHead], b[kRows * kHead];
  float logsumexp[kRows], delta[kRows];
};

template <int kHead, bool kForKeys>
struct Shared {
  Bf16 a[kOwn<kHead, kForKeys> * kHead], b[kOwn<kHead, kForKeys> * kHead];
  Stage<kHead, kStreamed<kHead, kForKeys>> stages[2];
};

/// Pointers of one call.
struct Backward {
  AttentionView view;
  const Bf16 *qkv, *d_o;
  const float *logsumexp, *delta;
  Bf16* dqkv;

  /// Of dO, of the block's head.
  __device__ const Bf16* output_gradient(int64_t token) const {
    return d_o + token * view.model() + view.head() * view.head_size;
  }
};

template <bool kForKeys, int kHead, int kRows>
__device__ void copy_stage(const Backward& call, const AttentionRows& rows, int first,
                           Stage<kHead, kRows>& to) {
  const int64_t token = rows.begin + first, model = call.view.model();
  const int count = rows.length - first;
  if constexpr (kForKeys) {
    copy_tile<kRows, kHead, kThreads>(to.a, call.qkv + call.view.vector(token, 0), 3 * model, count);
    copy_tile<kRows, kHead, kThreads>(to.b, call.output_gradient(token), model, count);
    const int i = static_cast<int>(threadIdx.x) % kRows;
    if (threadIdx.x < 2 * kRows)
      cp_async<4>((threadIdx.x < kRows ? to.logsumexp : to.delta) + i,
                  (threadIdx.x < kRows ? call.logsumexp : call.delta) + call.view.statistic(token + i),
                  i < count);
  } else {
    copy_tile<kRows, kHead, kThreads>(to.a, call.qkv + call.view.vector(token, 1), 3 * model, count);
    copy_tile<kRows, kHead, kThreads>(to.b, call.qkv + call.view.vector(token, 2), 3 * model, count);
  }
}

template <int kHead, bool kForKeys>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward call) {
  constexpr int M = kTiles<kHead, kForKeys>, kWarpRows = 16 * M, kRows = kOwn<kHead, kForKeys>;
  constexpr int kColumns = kStreamed<kHead, kForKeys>, N = kColumns / 8;
  const AttentionView& view = call.view;
  const AttentionRows rows = locate_rows<kRows>(view);
  if (rows.first >= rows.length) return;
  auto& shared = *dynamic_shared<Shared<kHead, kForKeys>>();
  const int64_t model = view.model(), first_token = rows.begin + rows.first;
  const int own = rows.length - rows.first;
  copy_tile<kRows, kHead, kThreads>(shared.a, call.qkv + view.vector(first_token, kForKeys ? 1 : 0),
                                    3 * model, own);
  if constexpr (kForKeys)
    copy_tile<kRows, kHead, kThreads>(shared.b, call.qkv + view.vector(first_token, 2), 3 * model, own);
  else
    copy_tile<kRows, kHead, kThreads>(shared.b, call.output_gradient(first_token), model, own);
  // Queries see keys no later than themselves, keys are seen by queries no earlier.
  const int start = kForKeys && view.causal ? rows.first : 0;
  const int end = !kForKeys && view.causal ? min(rows.length, rows.first + kRows) : rows.length;
  const int tiles = (end - start + kColumns - 1) / kColumns;
  copy_stage<kForKeys>(call, rows, start, shared.stages[0]);
  cp_async_commit();

  const int lane = lane_number(), warp_row = static_cast<int>(threadIdx.x) / kWarp * kWarpRows;
  const int warp_first = rows.first + warp_row, position = warp_first + lane / 4;
  const AttentionDropout dropout(view, rows.sequence);
  float own_logsumexp[M][2] = {}, own_delta[M][2] = {};  // of queries
  if constexpr (!kForKeys) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        if (const int query = position + 16 * m + 8 * h; query < rows.length) {
          own_logsumexp[m][h] = call.logsumexp[view.statistic(rows.begin + query)] * kLog2E;
          own_delta[m][h] = call.delta[view.statistic(rows.begin + query)];
        }
  }

  HeadSums<M, kHead> sums_a{}, sums_b{};
  for (int tile = 0; tile < tiles; ++tile) {
    const int first = start + tile * kColumns;
    if (tile + 1 < tiles) copy_stage<kForKeys>(call, rows, first + kColumns, shared.stages[(tile + 1) % 2]);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const auto& stage = shared.stages[tile % 2];
    const bool some_seen =
        kForKeys ? view.sees(first + kColumns - 1, warp_first) : view.sees(warp_first + kWarpRows - 1, first);
    if (warp_first < rows.length && some_seen) {
      float p[M][N][4], ds[M][N][4];
      multiply_rows<M, N, kHead>(p, shared.a, warp_row, stage.a);
      multiply_rows<M, N, kHead>(ds, shared.b, warp_row, stage.b);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int m = 0; m < M; ++m) {
          uint32_t kept = 15;
          if (dropout.any())
            kept = kForKeys ? kept_by_key(dropout, warp_first + 16 * m, first + 8 * n)
                            : kept_by_query(dropout, warp_first + 16 * m, first + 8 * n);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int row = position + 16 * m + i / 2 * 8, column = 8 * n + lane % 4 * 2 + i % 2;
            const int query = kForKeys ? first + column : row, key = kForKeys ? row : first + column;
            const float logsumexp = kForKeys ? stage.logsumexp[column] * kLog2E : own_logsumexp[m][i / 2];
            const float delta = kForKeys ? stage.delta[column] : own_delta[m][i / 2];
            const bool seen = first + column < rows.length && view.sees(query, key);
            const float factor = (kept >> i & 1) != 0 ? view.kept : 0;
            const float probability = seen ? exp2f(p[m][n][i] * view.scale_log2 - logsumexp) : 0;
            p[m][n][i] = probability * factor;
            ds[m][n][i] = seen ? probability * (ds[m][n][i] * factor - delta) : 0;
          }
        }
      if constexpr (kForKeys) multiply_weights<M, N, kHead>(sums_b, p, stage.b);
      multiply_weights<M, N, kHead>(sums_a, ds, stage.a);
    }
    __syncthreads();  // the tile after next is copied over this one
  }

  float scales[M][2], ones[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) scales[m][h] = view.scale, ones[m][h] = 1;
  const int64_t token = rows.begin + warp_first;
  store_rows<M, kHead>(sums_a, scales, shared.a, warp_row, call.dqkv + view.vector(token, kForKeys ? 1 : 0),
                       3 * model, rows.length - warp_first);
  if constexpr (kForKeys)
    store_rows<M, kHead>(sums_b, ones, shared.b, warp_row, call.dqkv + view.vector(token, 2), 3 * model,
                         rows.length - warp_first);
}

template <int kHead, bool kForKeys>
void launch_one(CudaStream& stream, const AttentionShape& shape, const Backward& call) {
  launch(backward_kernel<kHead, kForKeys>, attention_grid<kOwn<kHead, kForKeys>>(shape), kThreads,
         sizeof(Shared<kHead, kForKeys>), stream.handle(), call);
}

template <int kHead>
void launch_both(CudaStream& stream, const AttentionShape& shape, const Backward& call) {
  launch_one<kHead, false>(stream, shape, call);
  launch_one<kHead, true>(stream, shape, call);
}

}  // namespace

void attention_backward_tensor(CudaStream& stream, const AttentionShape& shape, const AttentionView& view,
                               const Bf16* d_o, const Bf16* qkv, const float* logsumexp, const float* delta,
                               Bf16* dqkv) {
  const Backward call{view, qkv, d_o, logsumexp, delta, dqkv};
  switch (shape.head_size) {
    case 32:
      return launch_both<32>(stream, shape, call);
    case 64:
      return launch_both<64>(stream, shape, call);
    case 128:
      return launch_both<128>(stream, shape, call);
    default:
      throw Failure("attention on tensor cores has heads of 32, 64 and 128, not {}", shape.head_size);
  }
}

}  // namespace taper::cuda
