// Attention's backward in f32 arithmetic, for any head of 256 elements at most (attention_plain.cuh has the
// tiles).
//
// One kernel, two ways round, as attention_backward_tensor.cu: a block owns 16 R rows of one sequence and
// head, and tiles of as many rows of the other kind stream by:
//
//                 own rows A, B     streamed A, B     sums of the own rows
//   for queries   Q, dO             K, V              dQ += dS K
//   for keys      K, V              Q, dO             dK += dS^T Q,  dV += P^T dO
//
//   S = A_own A_streamed^T, dP = B_own B_streamed^T, P = exp2(S - logsumexp), dS = P (dP - delta)
//
// Every sum runs over the tiles in order, in one thread: the same bits every time.

#include "kernels/cuda/attention_plain.cuh"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

namespace {

/// Rows of a thread: four tiles must fit into shared memory.
template <int kHead>
inline constexpr int kRows = kHead <= 64    ? 4
                             : kHead <= 128 ? 2
                                            : 1;
template <int kHead>
inline constexpr int kTile = 16 * kRows<kHead>;
template <int kHead>
inline constexpr int kSharedBytes = kTile<kHead>*(4 * kHead + kTile<kHead> + 2) *
                                    static_cast<int>(sizeof(float));

/// Pointers of one call.
template <typename T>
struct Backward {
  AttentionView view;
  const T *qkv, *d_o;
  const float *logsumexp, *delta;
  T* dqkv;
  bool vectors;

  /// Loads one part (q, k, v, or 3: dO) of a tile of rows that starts at position `first`.
  template <int kHead>
  __device__ void load(float* tile, const AttentionRows& rows, int first, int part) const {
    const int64_t token = rows.begin + first, model = view.model();
    const T* from =
        part == 3 ? d_o + token * model + view.head() * view.head_size : qkv + view.vector(token, part);
    load_tile<kHead, kRows<kHead>>(tile, from, part == 3 ? model : 3 * model, rows.length - first,
                                   view.head_size);
  }
  /// Loads the logsumexp of a tile of queries, and behind it their delta.
  template <int kLength>
  __device__ void load_statistics(float* to, const AttentionRows& rows, int first) const {
    static_assert(2 * kLength <= kPlainThreads);
    const int thread = static_cast<int>(threadIdx.x), query = first + thread % kLength;
    if (thread < 2 * kLength)
      to[thread] = query < rows.length
                       ? (thread < kLength ? logsumexp : delta)[view.statistic(rows.begin + query)]
                       : 0;
  }
  template <int kHead, int R>
  __device__ void save(const PlainSums<kHead, R>& sums, float factor, const AttentionRows& rows,
                       int part) const {
    float factors[R];
#pragma unroll
    for (float& each : factors) each = factor;
    store_rows<kHead, R>(sums, factors, dqkv + view.vector(rows.begin + rows.first, part), 3 * view.model(),
                         rows.length - rows.first, view.head_size, vectors);
  }
};

template <typename T, int kHead, bool kForKeys>
__global__ void __launch_bounds__(kPlainThreads, 1) backward_kernel(Backward<T> call) {
  constexpr int R = kRows<kHead>, kLength = kTile<kHead>;
  const AttentionView& view = call.view;
  const AttentionRows rows = locate_rows<kLength>(view);
  if (rows.first >= rows.length) return;
  auto* own_a = dynamic_shared<float>();
  float *own_b = own_a + kLength * kHead, *streamed_a = own_b + kLength * kHead,
        *streamed_b = streamed_a + kLength * kHead, *weights = streamed_b + kLength * kHead,
        *statistics = weights + kLength * kLength;
  call.template load<kHead>(own_a, rows, rows.first, kForKeys ? 1 : 0);
  call.template load<kHead>(own_b, rows, rows.first, kForKeys ? 2 : 3);
  if constexpr (!kForKeys) call.template load_statistics<kLength>(statistics, rows, rows.first);

  const AttentionDropout dropout(view, rows.sequence);
  const int own = rows.first + R * thread_y();
  PlainSums<kHead, R> sums_a{}, sums_b{};
  // Queries see keys no later than themselves, keys are seen by queries no earlier.
  const int start = kForKeys && view.causal ? rows.first : 0;
  const int end = !kForKeys && view.causal ? min(rows.length, rows.first + kLength) : rows.length;
  for (int first = start; first < end; first += kLength) {
    call.template load<kHead>(streamed_a, rows, first, kForKeys ? 0 : 1);
    call.template load<kHead>(streamed_b, rows, first, kForKeys ? 3 : 2);
    if constexpr (kForKeys) call.template load_statistics<kLength>(statistics, rows, first);
    __syncthreads();
    const int streamed = first + R * thread_x(), query0 = kForKeys ? streamed : own,
              key0 = kForKeys ? own : streamed;
    float logsumexp[R], delta[R];  // of the queries
    load(logsumexp, statistics + R * (kForKeys ? thread_x() : thread_y()), R, true);
    load(delta, statistics + kLength + R * (kForKeys ? thread_x() : thread_y()), R, true);
    uint32_t kept[R];  // of each query, its R keys
#pragma unroll
    for (int i = 0; i < R; ++i) {
      logsumexp[i] *= kLog2E;
      kept[i] = dropout.any() ? dropout.kept(query0 + i, key0 / 4) >> (key0 % 4) : 15;
    }
    float p[R][R], ds[R][R];
    multiply_rows<kHead, R>(p, own_a, streamed_a);
    multiply_rows<kHead, R>(ds, own_b, streamed_b);
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < R; ++j) {
        const int query = kForKeys ? j : i, key = kForKeys ? i : j;
        const bool seen =
            query0 + query < rows.length && key0 + key < rows.length && view.sees(query0 + query, key0 + key);
        const float factor = (kept[query] >> key & 1) != 0 ? view.kept : 0;
        const float probability = seen ? exp2f(p[i][j] * view.scale_log2 - logsumexp[query]) : 0;
        p[i][j] = probability * factor;
        ds[i][j] = seen ? probability * (ds[i][j] * factor - delta[query]) : 0;
      }
    if constexpr (kForKeys) multiply_weights<kHead, R>(sums_b, p, weights, streamed_b);
    multiply_weights<kHead, R>(sums_a, ds, weights, streamed_a);
    __syncthreads();  // the streamed tiles were read
  }
  call.template save<kHead, R>(sums_a, view.scale, rows, kForKeys ? 1 : 0);
  if constexpr (kForKeys) call.template save<kHead, R>(sums_b, 1, rows, 2);
}

}  // namespace

template <typename T>
void attention_backward_plain(CudaStream& stream, const AttentionShape& shape, const AttentionView& view,
                              const T* d_o, const T* qkv, const float* logsumexp, const float* delta,
                              T* dqkv) {
  const Backward<T> call{view, qkv, d_o, logsumexp, delta, dqkv, aligned(dqkv) && shape.head_size % 4 == 0};
  with_padded_head(shape.head_size, [&](auto head) {
    constexpr int kHead = head;
    const dim3 grid = attention_grid<kTile<kHead>>(shape);
    launch(backward_kernel<T, kHead, false>, grid, kPlainThreads, kSharedBytes<kHead>, stream.handle(), call);
    launch(backward_kernel<T, kHead, true>, grid, kPlainThreads, kSharedBytes<kHead>, stream.handle(), call);
  });
}

template void attention_backward_plain<float>(CudaStream&, const AttentionShape&, const AttentionView&,
                                              const float*, const float*, const float*, const float*, float*);
template void attention_backward_plain<Bf16>(CudaStream&, const AttentionShape&, const AttentionView&,
                                             const Bf16*, const Bf16*, const float*, const float*, Bf16*);

}  // namespace taper::cuda
