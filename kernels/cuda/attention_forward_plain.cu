// Attention's forward in f32 arithmetic, for any head of 256 elements at most (attention_plain.cuh has the
// tiles).
//
// A block owns 16 R queries of one sequence and head; keys and values stream by in tiles of as many, through
// the same shared memory in turn. For each tile:
//
//   S = Q K^T,   m' = max(m, max S),   P = exp2(S - m'),   l = l exp2(m - m') + sum P,
//   O = O exp2(m - m') + P V;          at the end o = O / l, logsumexp = m + log l
//
// A row of S belongs to 16 threads of a warp. Each sums its own elements of P, in order; the 16 sums are
// added at the end, in a fixed order.

#include "kernels/cuda/attention_plain.cuh"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

namespace {

/// Rows of a thread: with the largest head there is no shared memory for more.
template <int kHead>
inline constexpr int kRows = kHead <= 128 ? 4 : 2;
template <int kHead>
inline constexpr int kTile = 16 * kRows<kHead>;
/// Queries; keys or values; weights.
template <int kHead>
inline constexpr int kSharedBytes = kTile<kHead>*(2 * kHead + kTile<kHead>)*static_cast<int>(sizeof(float));

template <typename T, int kHead>
__global__ void __launch_bounds__(kPlainThreads)
    forward_kernel(AttentionView view, const T* qkv, T* o, float* logsumexp, bool vectors) {
  constexpr int R = kRows<kHead>, kLength = kTile<kHead>;
  const AttentionRows rows = locate_rows<kLength>(view);
  if (rows.first >= rows.length) return;
  const int64_t stride = 3 * view.model();
  auto* queries = dynamic_shared<float>();
  float *streamed = queries + kLength * kHead, *weights = streamed + kLength * kHead;
  load_tile<kHead, R>(queries, qkv + view.vector(rows.begin + rows.first, 0), stride,
                      rows.length - rows.first, view.head_size);

  const AttentionDropout dropout(view, rows.sequence);
  const int query = rows.first + R * thread_y();
  float maximum[R], total[R];
#pragma unroll
  for (int i = 0; i < R; ++i) maximum[i] = kNoMaximum, total[i] = 0;
  PlainSums<kHead, R> sums{};
  const int end = view.causal ? min(rows.length, rows.first + kLength) : rows.length;
  for (int first = 0; first < end; first += kLength) {
    const int64_t token = rows.begin + first;
    load_tile<kHead, R>(streamed, qkv + view.vector(token, 1), stride, rows.length - first, view.head_size);
    __syncthreads();
    float scores[R][R];
    multiply_rows<kHead, R>(scores, queries, streamed);
    const int key = first + R * thread_x();
#pragma unroll
    for (int i = 0; i < R; ++i) {
      float largest = maximum[i];
#pragma unroll
      for (int j = 0; j < R; ++j) {
        scores[i][j] *= view.scale_log2;
        if (!(key + j < rows.length && view.sees(query + i, key + j))) scores[i][j] = kMasked;
        largest = Max{}(largest, scores[i][j]);
      }
      largest = row_reduce(largest, Max{});
      const float shrink = exp2f(maximum[i] - largest);
      maximum[i] = largest;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < R; ++j) {
        scores[i][j] = exp2f(scores[i][j] - largest);
        sum += scores[i][j];
      }
      total[i] = total[i] * shrink + sum;
#pragma unroll
      for (auto& group : sums[i])
#pragma unroll
        for (float& value : group) value *= shrink;
      if (dropout.any()) {
        const uint32_t kept = dropout.kept(query + i, key / 4) >> (key % 4);
#pragma unroll
        for (int j = 0; j < R; ++j)
          if ((kept >> j & 1) == 0) scores[i][j] = 0;
      }
    }
    __syncthreads();  // the keys were read
    load_tile<kHead, R>(streamed, qkv + view.vector(token, 2), stride, rows.length - first, view.head_size);
    __syncthreads();
    multiply_weights<kHead, R>(sums, scores, weights, streamed);
    __syncthreads();  // the values were read
  }

  float factors[R];
#pragma unroll
  for (int i = 0; i < R; ++i) {
    total[i] = row_reduce(total[i], Sum{});
    factors[i] = view.kept / total[i];
    if (thread_x() == 0 && query + i < rows.length)
      logsumexp[view.statistic(rows.begin + query + i)] = maximum[i] * kLn2 + logf(total[i]);
  }
  store_rows<kHead, R>(sums, factors,
                       o + (rows.begin + rows.first) * view.model() + view.head() * view.head_size,
                       view.model(), rows.length - rows.first, view.head_size, vectors);
}

}  // namespace

template <typename T>
void attention_forward_plain(CudaStream& stream, const AttentionShape& shape, const AttentionView& view,
                             const T* qkv, T* o, float* logsumexp) {
  with_padded_head(shape.head_size, [&](auto head) {
    constexpr int kHead = head;
    launch(forward_kernel<T, kHead>, attention_grid<kTile<kHead>>(shape), kPlainThreads, kSharedBytes<kHead>,
           stream.handle(), view, qkv, o, logsumexp, aligned(o) && shape.head_size % 4 == 0);
  });
}

template void attention_forward_plain<float>(CudaStream&, const AttentionShape&, const AttentionView&,
                                             const float*, float*, float*);
template void attention_forward_plain<Bf16>(CudaStream&, const AttentionShape&, const AttentionView&,
                                            const Bf16*, Bf16*, float*);

}  // namespace taper::cuda
