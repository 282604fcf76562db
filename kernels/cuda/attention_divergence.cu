// How a student's attention differs from its teacher's, in f32 arithmetic, for any heads of 256 elements at
// most (attention_plain.cuh has the tiles, kernels/attention.h the formulas).
//
// The mean over heads stands between the heads' scores and their gradients. It is not kept, as it would be
// T x T, but made again for each tile, from the logarithms of the heads' probabilities: S - logsumexp S. Two
// launches make the logsumexp, one for each network; then one kernel runs three times:
//
//                  own rows   streamed   for each student's head
//   for shares     queries    keys       c_h = sum_k P_k r_hk; and the loss
//   for queries    queries    keys       dQ_h += dS_h K_h
//   for keys       keys       queries    dK_h += dS_h^T Q_h
//
//   dS_h = a_h c_h - P r_h,   P = mean of the teacher's a_h,   r_h = a_h / sum of the student's a_h
//
// A block has a tile of own rows and all heads of both networks, whose Q and K stream through the same shared
// memory. Sums over the streamed tiles are kept in scratch memory, for all heads, and belong to one thread
// each, which adds in order of the tiles: no atomics, the same bits every time.

#include <cmath>

#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/cuda.h"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kThreads = 256;

/// Rows of a thread. With more, the two means, a head's own values and their gradients do not fit in its
/// registers.
constexpr int kRows = 2;
constexpr int kTile = 16 * kRows;
/// Own and streamed rows; weights; two numbers of each query.
template <int kHead>
inline constexpr int kSharedBytes = kTile*(2 * kHead + kTile + 2) * static_cast<int>(sizeof(float));

enum class Pass : uint8_t { shares, queries, keys };

/// One network.
template <typename T>
struct Net {
  AttentionView view;
  const T* qkv;
  float* logsumexp;  ///< [heads, tokens]

  /// Of q or k (part 0, 1) of `token`.
  __device__ const T* vector(int64_t token, int part, int64_t head) const {
    return qkv + ((token * 3 + part) * view.heads + head) * view.head_size;
  }
};

/// A block's tiles, and this thread's R x R pairs of a query and a key in them.
template <typename T, int kHead>
struct Pairs {
  static constexpr int R = kRows, kLength = kTile;
  using Values = float[R][R];

  AttentionRows rows;
  bool for_keys;  ///< whether the own rows are keys
  float *own, *streamed, *weights, *statistics;
  int first = 0;  ///< of the streamed rows

  __device__ int query(int i, int j) const {
    return for_keys ? first + R * thread_x() + j : rows.first + R * thread_y() + i;
  }
  __device__ int key(int i, int j) const {
    return for_keys ? rows.first + R * thread_y() + i : first + R * thread_x() + j;
  }
  __device__ bool there(int i, int j) const { return query(i, j) < rows.length && key(i, j) < rows.length; }

  /// What read_statistics() left of this thread's queries: their logsumexp (0) or shares (1).
  __device__ float statistic(int kind, int i, int j) const {
    return statistics[kind * kLength + R * (for_keys ? thread_x() : thread_y()) + (for_keys ? j : i)];
  }
  __device__ void read_statistics(int kind, const float* of_sequence) const {
    const int row = static_cast<int>(threadIdx.x), at = (for_keys ? first : rows.first) + row;
    if (row < kLength) statistics[kind * kLength + row] = at < rows.length ? of_sequence[at] : 0;
  }

  /// The logarithms of one head's probabilities. Leaves its rows in the tiles, and the queries' numbers of
  /// `shares` [heads, tokens], unless it is null.
  __device__ void log_probabilities(Values& out, const Net<T>& net, int64_t head,
                                    const float* shares = nullptr) const {
    const int64_t stride = 3 * net.view.model(), sequence = head * net.view.tokens + rows.begin;
    __syncthreads();  // what was in the tiles was read
    load_tile<kHead, R>(own, net.vector(rows.begin + rows.first, for_keys ? 1 : 0, head), stride,
                        rows.length - rows.first, net.view.head_size);
    load_tile<kHead, R>(streamed, net.vector(rows.begin + first, for_keys ? 0 : 1, head), stride,
                        rows.length - first, net.view.head_size);
    read_statistics(0, net.logsumexp + sequence);
    if (shares) read_statistics(1, shares + sequence);
    __syncthreads();
    multiply_rows<kHead, R>(out, own, streamed);
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < R; ++j) out[i][j] = out[i][j] * net.view.scale - statistic(0, i, j);
  }
  /// The logarithm of the mean over heads.
  __device__ void log_mean(Values& out, const Net<T>& net) const {
    Values total;
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < R; ++j) out[i][j] = kNoMaximum, total[i][j] = 0;
    for (int64_t head = 0; head < net.view.heads; ++head) {
      Values a;
      log_probabilities(a, net, head);
#pragma unroll
      for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = 0; j < R; ++j) {
          const float largest = Max{}(out[i][j], a[i][j]);
          total[i][j] = total[i][j] * expf(out[i][j] - largest) + expf(a[i][j] - largest);
          out[i][j] = largest;
        }
    }
    const float shift = logf(static_cast<float>(net.view.heads));
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < R; ++j) out[i][j] += logf(total[i][j]) - shift;
  }
};

template <typename T, int kHead>
__global__ void __launch_bounds__(kPlainThreads, 1) logsumexp_kernel(Net<T> net) {
  constexpr int R = kRows, kLength = kTile;
  const AttentionRows rows = locate_rows<kLength>(net.view);
  if (rows.first >= rows.length) return;
  const int64_t stride = 3 * net.view.model(), head = net.view.head();
  auto* queries = dynamic_shared<float>();
  float* keys = queries + kLength * kHead;
  load_tile<kHead, R>(queries, net.vector(rows.begin + rows.first, 0, head), stride, rows.length - rows.first,
                      net.view.head_size);
  float maximum[R], total[R];
#pragma unroll
  for (int i = 0; i < R; ++i) maximum[i] = kNoMaximum, total[i] = 0;
  for (int first = 0; first < rows.length; first += kLength) {
    load_tile<kHead, R>(keys, net.vector(rows.begin + first, 1, head), stride, rows.length - first,
                        net.view.head_size);
    __syncthreads();
    float scores[R][R];
    multiply_rows<kHead, R>(scores, queries, keys);
    __syncthreads();  // the keys were read
#pragma unroll
    for (int i = 0; i < R; ++i) {
      float largest = maximum[i], sum = 0;
#pragma unroll
      for (int j = 0; j < R; ++j) {
        scores[i][j] = first + R * thread_x() + j < rows.length ? scores[i][j] * net.view.scale : kMasked;
        largest = Max{}(largest, scores[i][j]);
      }
      largest = row_reduce(largest, Max{});
#pragma unroll
      for (int j = 0; j < R; ++j) sum += expf(scores[i][j] - largest);
      total[i] = total[i] * expf(maximum[i] - largest) + sum;
      maximum[i] = largest;
    }
  }
#pragma unroll
  for (int i = 0; i < R; ++i) {
    total[i] = row_reduce(total[i], Sum{});
    const int query = rows.first + R * thread_y() + i;
    if (thread_x() == 0 && query < rows.length)
      net.logsumexp[head * net.view.tokens + rows.begin + query] = maximum[i] + logf(total[i]);
  }
}

/// What the passes leave.
struct Sums {
  double* losses;  ///< of each block
  float* shares;   ///< c, [student's heads, tokens]
  float* dqk;      ///< [2, tokens, student's heads, head_size]
};

/// to += sums times factor for this thread's rows, or = where they are the first.
template <int kHead, int R>
__device__ __forceinline__ void add_rows(const PlainSums<kHead, R>& sums, float factor, float* to,
                                         int64_t stride, int count, int64_t head_size, bool first) {
  const bool vectors = head_size % 4 == 0;
  constexpr int W = kWidth<kHead>;
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int row = R * thread_y() + i;
    if (row >= count) return;
#pragma unroll
    for (int group = 0; group < kGroups<kHead>; ++group) {
      const int element = (thread_x() + 16 * group) * W;
      float* place = to + row * stride + element;
      float values[W] = {};
      if (!first) load(values, place, head_size - element, vectors);
#pragma unroll
      for (int w = 0; w < W; ++w) values[w] += sums[i][group][w] * factor;
      store(values, place, head_size - element, vectors);
    }
  }
}

template <typename T, int kHead>
__global__ void __launch_bounds__(kPlainThreads, 1)
    divergence_kernel(Pass pass, Net<T> teacher, Net<T> student, float weight, Sums result) {
  using Tiles = Pairs<T, kHead>;
  constexpr int R = Tiles::R, kLength = Tiles::kLength;
  const AttentionView& view = student.view;
  auto* memory = dynamic_shared<float>();
  Tiles pairs{
      locate_rows<kLength>(view), pass == Pass::keys,           memory,
      memory + kLength * kHead,   memory + 2 * kLength * kHead, memory + kLength * (2 * kHead + kLength)};
  const AttentionRows& rows = pairs.rows;
  double loss = 0;
  const int end = rows.first < rows.length ? rows.length : 0;
  for (pairs.first = 0; pairs.first < end; pairs.first += kLength) {
    typename Tiles::Values log_p, log_q, a;
    pairs.log_mean(log_p, teacher);
    pairs.log_mean(log_q, student);
    if (pass == Pass::shares) {
#pragma unroll
      for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = 0; j < R; ++j)
          if (const float p = expf(log_p[i][j]); pairs.there(i, j) && p != 0)
            loss += static_cast<double>(p * (log_p[i][j] - log_q[i][j]));
    }
    const float share = 1 / static_cast<float>(view.heads);
    for (int64_t head = 0; head < view.heads; ++head) {
      pairs.log_probabilities(a, student, head, pass == Pass::shares ? nullptr : result.shares);
      float shares[R], ds[R][R];
#pragma unroll
      for (int i = 0; i < R; ++i) {
        shares[i] = 0;
#pragma unroll
        for (int j = 0; j < R; ++j) {
          const float p = expf(log_p[i][j]);
          const bool there = pairs.there(i, j);
          const float part = there && p != 0 ? p * share * expf(a[i][j] - log_q[i][j]) : 0;
          if (pass == Pass::shares)
            shares[i] += part;
          else
            ds[i][j] = there ? expf(a[i][j]) * pairs.statistic(1, i, j) - part : 0;
        }
      }
      if (pass == Pass::shares) {
#pragma unroll
        for (int i = 0; i < R; ++i) {
          shares[i] = row_reduce(shares[i], Sum{});
          const int query = pairs.query(i, 0);
          if (thread_x() == 0 && query < rows.length) {
            float& sum = result.shares[head * view.tokens + rows.begin + query];
            sum = (pairs.first == 0 ? 0 : sum) + shares[i];
          }
        }
      } else {
        PlainSums<kHead, R> sums{};
        multiply_weights<kHead, R>(sums, ds, pairs.weights, pairs.streamed);
        const int64_t token = (pass == Pass::keys ? view.tokens : 0) + rows.begin + rows.first;
        add_rows<kHead, R>(sums, weight * view.scale,
                           result.dqk + (token * view.heads + head) * view.head_size, view.model(),
                           rows.length - rows.first, view.head_size, pairs.first == 0);
      }
    }
  }
  if (pass == Pass::shares) {
    loss = block_reduce(loss, Sum{}, 0.0);
    if (threadIdx.x == 0) result.losses[blockIdx.x] = loss;
  }
}

/// loss = weight times the sum of the blocks' losses; one block.
__global__ void __launch_bounds__(kThreads)
    loss_kernel(int64_t count, const double* losses, double weight, float* loss) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += losses[i];
  sum = block_reduce(sum, Sum{}, 0.0);
  if (threadIdx.x == 0) *loss = static_cast<float>(weight * sum);
}

/// dqkv [tokens, 3, model] = dqk [2, tokens, model], zeros for v.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    round_kernel(int64_t tokens, int64_t model, const float* dqk, T* dqkv) {
  const int64_t i = thread_number();
  if (i >= 3 * tokens * model) return;
  const int64_t token = i / (3 * model), part = i / model % 3, element = i % model;
  dqkv[i] = convert<T>(part == 2 ? 0 : dqk[(part * tokens + token) * model + element]);
}

AttentionShape shape_of(const AttentionPair& pair, const AttentionHeads& heads) {
  return {.sequences = pair.sequences,
          .tokens = pair.tokens,
          .heads = heads.heads,
          .head_size = heads.head_size,
          .offsets = pair.offsets,
          .scale = heads.scale};
}

}  // namespace

void CudaBackend::attention_divergence(Stream& stream, const AttentionPair& pair, DType type,
                                       const void* teacher, const void* student, void* loss, void* dstudent) {
  const AttentionShape wide = shape_of(pair, pair.teacher), thin = shape_of(pair, pair.student);
  const AttentionView wide_view = attention_view(wide, "attention_divergence"),
                      thin_view = attention_view(thin, "attention_divergence");
  if (pair.tokens == 0) return stream.zero(loss, sizeof(float));
  CudaStream& queue = cuda_stream(stream);
  const int64_t tokens = pair.tokens, model = thin.heads * thin.head_size;
  const uint32_t blocks = attention_grid<kTile>(thin).x;
  const int64_t gradient = 2 * tokens * model;
  // First what is read and written in vectors.
  auto* dqk = static_cast<float*>(
      queue.scratch((gradient + tokens * (wide.heads + 2 * thin.heads)) * int64_t{sizeof(float)} +
                    blocks * int64_t{sizeof(double)}));
  auto* losses = reinterpret_cast<double*>(dqk + gradient);
  auto* wide_logsumexp = reinterpret_cast<float*>(losses + blocks);
  float* thin_logsumexp = wide_logsumexp + wide.heads * tokens;
  const Sums sums{losses, thin_logsumexp + thin.heads * tokens, dqk};
  dispatch(type, "attention_divergence", [&](auto zero) {
    using T = decltype(zero);
    const Net<T> of_teacher{wide_view, static_cast<const T*>(teacher), wide_logsumexp},
        of_student{thin_view, static_cast<const T*>(student), thin_logsumexp};
    with_padded_head(std::max(wide.head_size, thin.head_size), [&](auto head) {
      constexpr int kHead = head, kShared = kSharedBytes<kHead>;
      launch(logsumexp_kernel<T, kHead>, attention_grid<kTile>(wide), kPlainThreads, kShared, queue.handle(),
             of_teacher);
      launch(logsumexp_kernel<T, kHead>, attention_grid<kTile>(thin), kPlainThreads, kShared, queue.handle(),
             of_student);
      const auto weight = static_cast<float>(pair.weight);
      for (const Pass pass : {Pass::shares, Pass::queries, Pass::keys})
        launch(divergence_kernel<T, kHead>, blocks, kPlainThreads, kShared, queue.handle(), pass, of_teacher,
               of_student, weight, sums);
      launch(loss_kernel, 1, kThreads, 0, queue.handle(), blocks, losses, pair.weight,
             static_cast<float*>(loss));
    });
    launch(round_kernel<T>, blocks_for(3 * tokens * model, kThreads), kThreads, 0, queue.handle(), tokens,
           model, sums.dqk, static_cast<T*>(dstudent));
  });
}

}  // namespace taper
