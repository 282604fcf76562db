// Attention by blocks of queries and keys, all heads of a sequence at once: products by matmul(), the online
// softmax between them by loops.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/attention-inl.h"

#if !defined(TAPER_KERNELS_CPU_ATTENTION_ARGUMENTS_)
#define TAPER_KERNELS_CPU_ATTENTION_ARGUMENTS_
namespace taper {
namespace {

// The last block of keys that a causal block of queries sees starts no later than it, as kKeys is a multiple
// of kQueries: every query sees a key in every block that is visited.
constexpr int64_t kQueries = 64, kKeys = 128;

/// A block of queries against a block of keys, for all heads of one sequence.
struct AttentionBlock : SequenceHeads {
  double scale;
  bool causal;
  double dropout;
  uint64_t random_key, first_id;   ///< head h draws with id first_id + h
  int64_t query = 0, queries = 0;  ///< the first, and how many with padding
  int64_t key = 0, keys = 0;       ///< likewise

  /// How many of the block's keys query q sees, 0 at least.
  int64_t visible(int64_t q) const {
    const int64_t end = causal ? std::min(tokens, q + 1) : tokens;
    return std::clamp<int64_t>(end - key, 0, keys);
  }
};

/// What a row of queries carries from block to block, [heads, queries]: the maximum, the sum of exponentials,
/// and the unnormalised output [heads, queries, head_size].
struct OnlineSoftmax {
  float *maximum, *total, *output;
};

}  // namespace
}  // namespace taper
#endif

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// Words for the keys of one row of a block.
HWY_INLINE void draw(const AttentionBlock& b, int64_t head, int64_t q, int64_t count, uint32_t* words) {
  const uint64_t id = b.first_id + static_cast<uint64_t>(head);
  philox_words(static_cast<uint32_t>(b.key / 4), (count + 3) / 4, static_cast<uint32_t>(q),
               static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32), b.random_key, words);
}

/// Scores to probabilities relative to the running maximum, dropped out, for one head and query; the sums and
/// the output so far are rescaled to the new maximum.
template <typename T>
void softmax_row(const AttentionBlock& b, int64_t head, int64_t q, float* scores, T* probabilities,
                 float& running_maximum, float& running_total, float* output) {
  HWY_ALIGN uint32_t words[kKeys];
  const int64_t count = b.visible(q);
  const V scale = splat(b.scale);
  map(
      0, count, scores, [=](V s) HWY_ATTR { return hn::Mul(s, scale); }, scores);
  const float largest = std::max(running_maximum, maximum(count, scores));
  const float shrink = std::exp(running_maximum - largest);
  const V shift = hn::Set(kFloats, largest);
  map(
      0, count, scores, [=](V s) HWY_ATTR { return exponential(hn::Sub(s, shift)); }, scores);
  const double total = sum(
      count, [](V p) HWY_ATTR { return p; }, scores);
  running_maximum = largest;
  running_total = static_cast<float>(static_cast<double>(running_total) * shrink + total);
  const V factor = splat(shrink);
  map(
      0, b.head_size, output, [=](V o) HWY_ATTR { return hn::Mul(o, factor); }, output);
  std::fill(scores + count, scores + b.keys, 0.0F);
  if (b.dropout > 0) draw(b, head, q, count, words);
  const int32_t threshold = keep_threshold(b.dropout);
  const V kept = splat(1 / (1 - b.dropout));
  for (int64_t k = 0; k < b.keys; k += kLanes) {
    V p = load(scores + k);
    if (b.dropout > 0) p = keep(p, kept, words + k, threshold);
    store(p, probabilities + k);
  }
}

void softmax_block_loops(int threads, DType type, const AttentionBlock& b, float* scores, void* probabilities,
                         const OnlineSoftmax& state) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    for_parts(threads, b.heads, 1, [&](int64_t head, int64_t) {
      for (int64_t i = 0; i < b.queries; ++i) {
        const int64_t r = head * b.queries + i;
        // Padding computes on zeros what nobody reads; its first key is always there.
        softmax_row(b, head, b.query + i, scores + r * b.keys, static_cast<T*>(probabilities) + r * b.keys,
                    state.maximum[r], state.total[r], state.output + r * b.head_size);
      }
    });
  });
}

/// Scores to the dropped-out probabilities, and their gradients to those of the unscaled scores.
template <typename T>
void softmax_backward_row(const AttentionBlock& b, int64_t head, int64_t q, const float* scores,
                          const float* gradients, float logsumexp, float delta, T* probabilities,
                          T* dscores) {
  HWY_ALIGN uint32_t words[kKeys];
  const int64_t count = b.visible(q);
  if (b.dropout > 0 && count > 0) draw(b, head, q, count, words);
  const int32_t threshold = keep_threshold(b.dropout);
  const V kept = splat(1 / (1 - b.dropout)), scale = splat(b.scale), d = splat(delta);
  const V shift = hn::Set(kFloats, logsumexp);
  for (int64_t k = 0; k < b.keys; k += kLanes) {
    const int64_t present = std::clamp<int64_t>(count - k, 0, kLanes);
    const auto mask = hn::FirstN(kFloats, static_cast<size_t>(present));
    const V p = hn::IfThenElseZero(mask, exponential(hn::Sub(hn::Mul(load(scores + k), scale), shift)));
    V dropped = p, g = load(gradients + k);
    if (b.dropout > 0 && present > 0) {
      dropped = keep(p, kept, words + k, threshold);
      g = keep(g, kept, words + k, threshold);
    }
    const V ds = hn::Mul(hn::Mul(p, hn::Sub(g, d)), scale);
    store(dropped, probabilities + k);
    store(hn::IfThenElseZero(mask, ds), dscores + k);
  }
}

/// logsumexp, delta: [heads, padded].
void softmax_backward_block_loops(int threads, DType type, const AttentionBlock& b, const float* scores,
                                  const float* gradients, const float* logsumexp, const float* delta,
                                  void* probabilities, void* dscores) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    for_parts(threads, b.heads, 1, [&](int64_t head, int64_t) {
      for (int64_t i = 0; i < b.queries; ++i) {
        const int64_t q = b.query + i, at = (head * b.queries + i) * b.keys;
        softmax_backward_row(b, head, q, scores + at, gradients + at, logsumexp[head * b.padded + q],
                             delta[head * b.padded + q], static_cast<T*>(probabilities) + at,
                             static_cast<T*>(dscores) + at);
      }
    });
  });
}

/// o = output / total and logsumexp = maximum + log(total), for the queries that are there. o and logsumexp
/// start at the sequence's first token; a head's logsumexp has `stride` elements.
void finish_loops(DType type, const AttentionBlock& b, const OnlineSoftmax& state, void* o, float* logsumexp,
                  int64_t stride) {
  with_type(type, [&](auto t) HWY_ATTR {
    using T = decltype(t);
    const int64_t end = std::min(b.queries, b.tokens - b.query);
    for (int64_t i = 0; i < end; ++i)
      for (int64_t head = 0; head < b.heads; ++head) {
        const int64_t r = head * b.queries + i, at = (b.query + i) * b.heads + head;
        const V factor = splat(1.0 / state.total[r]);
        map(
            0, b.head_size, static_cast<T*>(o) + at * b.head_size,
            [=](V v) HWY_ATTR { return hn::Mul(v, factor); }, state.output + r * b.head_size);
        logsumexp[head * stride + b.query + i] = state.maximum[r] + std::log(state.total[r]);
      }
  });
}

/// delta[head, token] = sum do o, 0 in padding.
void delta_loops(DType type, const AttentionBlock& b, const void* d_o, const void* o, float* delta) {
  with_type(type, [&](auto t) HWY_ATTR {
    using T = decltype(t);
    std::fill(delta, delta + b.heads * b.padded, 0.0F);
    for (int64_t token = 0; token < b.tokens; ++token)
      for (int64_t head = 0; head < b.heads; ++head) {
        const int64_t at = (token * b.heads + head) * b.head_size;
        delta[head * b.padded + token] = static_cast<float>(sum(
            b.head_size, [](V p, V q) HWY_ATTR { return hn::Mul(p, q); }, static_cast<const T*>(d_o) + at,
            static_cast<const T*>(o) + at));
      }
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <vector>

#include "runtime/tensor.h"

namespace taper {
namespace {

HWY_EXPORT(softmax_block_loops);
HWY_EXPORT(softmax_backward_block_loops);
HWY_EXPORT(finish_loops);
HWY_EXPORT(unpack_loops);
HWY_EXPORT(delta_loops);

AttentionBlock sequence(const AttentionShape& shape, int64_t i) {
  const int64_t tokens = shape.offsets[i + 1] - shape.offsets[i];
  const auto sample = static_cast<uint64_t>(shape.sample_ids == nullptr ? i : shape.sample_ids[i]);
  return {{shape.heads, shape.head_size, tokens, padded(tokens)},
          shape.scale,
          shape.causal,
          shape.dropout,
          shape.key,
          sample * static_cast<uint64_t>(shape.heads)};
}

/// f for every block of keys that the block of queries in `b` sees.
template <typename F>
void for_keys(AttentionBlock& b, F f) {
  const int64_t end = b.causal ? std::min(b.tokens, b.query + b.queries) : b.tokens;
  for (b.key = 0; b.key < end; b.key += kKeys) {
    b.keys = std::min(kKeys, b.padded - b.key);
    f();
  }
}

template <typename F>
void for_queries(AttentionBlock& b, F f) {
  for (b.query = 0; b.query < b.tokens; b.query += kQueries) {
    b.queries = std::min(kQueries, b.padded - b.query);
    f();
  }
}

}  // namespace

void CpuBackend::attention_forward(Stream& stream, const AttentionShape& shape, DType type, const void* qkv,
                                   void* o, void* logsumexp) {
  const int64_t heads = shape.heads, size = shape.head_size, model = heads * size;
  const int64_t most = padded(longest(shape.sequences, shape.offsets));
  if (most == 0) return;
  Tensor q(stream, type, {most * model}), k(stream, type, {most * model}), v(stream, type, {most * model});
  Tensor scores(stream, DType::f32, {heads * kQueries * kKeys});
  Tensor rounded = type == DType::f32 ? scores : Tensor(stream, type, {heads * kQueries * kKeys});
  Tensor largest(stream, DType::f32, {heads * kQueries}), total(stream, DType::f32, {heads * kQueries});
  Tensor output(stream, DType::f32, {kQueries * model});
  const OnlineSoftmax state{largest.as<float>(), total.as<float>(), output.as<float>()};
  for (int64_t i = 0; i < shape.sequences; ++i) {
    AttentionBlock b = sequence(shape, i);
    const int64_t first = shape.offsets[i], step = b.padded * size;
    b.pack(type, at(qkv, 3 * first * model, type), 3 * model, q.data());
    b.pack(type, at(qkv, (3 * first + 1) * model, type), 3 * model, k.data());
    b.pack(type, at(qkv, (3 * first + 2) * model, type), 3 * model, v.data());
    for_queries(b, [&] {
      std::fill(state.maximum, state.maximum + heads * b.queries, -HUGE_VALF);
      std::fill(state.total, state.total + heads * b.queries, 0.0F);
      std::fill(state.output, state.output + b.queries * model, 0.0F);
      for_keys(b, [&] {
        matmul(stream,
               {.m = b.queries,
                .n = b.keys,
                .k = size,
                .transpose_b = true,
                .batch = heads,
                .stride_a = step,
                .stride_b = step,
                .stride_out = b.queries * b.keys},
               type, at(q.data(), b.query * size, type), at(k.data(), b.key * size, type), {}, DType::f32,
               scores.data());
        HWY_DYNAMIC_DISPATCH(softmax_block_loops)
        (cpu_stream(stream).threads(), type, b, scores.as<float>(), rounded.data(), state);
        matmul(stream,
               {.m = b.queries,
                .n = size,
                .k = b.keys,
                .batch = heads,
                .stride_a = b.queries * b.keys,
                .stride_b = step,
                .stride_out = b.queries * size},
               type, rounded.data(), at(v.data(), b.key * size, type), {.accumulate = true}, DType::f32,
               output.data());
      });
      HWY_DYNAMIC_DISPATCH(finish_loops)
      (type, b, state, at(o, first * model, type), static_cast<float*>(logsumexp) + first, shape.tokens);
    });
  }
}

void CpuBackend::attention_backward(Stream& stream, const AttentionShape& shape, DType type, const void* d_o,
                                    const void* qkv, const void* o, const void* logsumexp, void* dqkv) {
  const int64_t heads = shape.heads, size = shape.head_size, model = heads * size;
  const int64_t most = padded(longest(shape.sequences, shape.offsets));
  if (most == 0) return;
  Tensor packed(stream, type, {4, most * model}), sums(stream, DType::f32, {3, most * model});
  Tensor scores(stream, DType::f32, {heads * kQueries * kKeys});
  Tensor gradients(stream, DType::f32, {heads * kQueries * kKeys});
  Tensor p = type == DType::f32 ? scores : Tensor(stream, type, {heads * kQueries * kKeys});
  Tensor ds = type == DType::f32 ? gradients : Tensor(stream, type, {heads * kQueries * kKeys});
  Tensor lse(stream, DType::f32, {heads * most}), delta(stream, DType::f32, {heads * most});
  for (int64_t i = 0; i < shape.sequences; ++i) {
    AttentionBlock b = sequence(shape, i);
    const int64_t first = shape.offsets[i], step = b.padded * size;
    void* part[4];  // q, k, v, do
    for (int64_t j = 0; j < 4; ++j) part[j] = at(packed.data(), j * most * model, type);
    for (int64_t j = 0; j < 3; ++j) b.pack(type, at(qkv, (3 * first + j) * model, type), 3 * model, part[j]);
    b.pack(type, at(d_o, first * model, type), model, part[3]);
    stream.zero(sums.data(), sums.bytes());
    float* sum[3];  // dq, dk, dv
    for (int64_t j = 0; j < 3; ++j) sum[j] = sums.as<float>() + j * most * model;
    HWY_DYNAMIC_DISPATCH(delta_loops)
    (type, b, at(d_o, first * model, type), at(o, first * model, type), delta.as<float>());
    // Infinite where a query is padding: all of its probabilities are 0.
    std::fill(lse.as<float>(), lse.as<float>() + heads * b.padded, HUGE_VALF);
    for (int64_t token = 0; token < b.tokens; ++token)
      for (int64_t head = 0; head < heads; ++head)
        lse.as<float>()[head * b.padded + token] =
            static_cast<const float*>(logsumexp)[head * shape.tokens + first + token];
    for_queries(b, [&] {
      for_keys(b, [&] {
        const int64_t block = b.queries * b.keys;
        auto query_rows = [&](int64_t j) { return at(part[j], b.query * size, type); };
        auto key_rows = [&](int64_t j) { return at(part[j], b.key * size, type); };
        const MatmulShape by_keys{.m = b.queries,
                                  .n = b.keys,
                                  .k = size,
                                  .transpose_b = true,
                                  .batch = heads,
                                  .stride_a = step,
                                  .stride_b = step,
                                  .stride_out = block};
        const MatmulShape to_queries{.m = b.queries,
                                     .n = size,
                                     .k = b.keys,
                                     .batch = heads,
                                     .stride_a = block,
                                     .stride_b = step,
                                     .stride_out = step};
        const MatmulShape to_keys{.m = b.keys,
                                  .n = size,
                                  .k = b.queries,
                                  .transpose_a = true,
                                  .batch = heads,
                                  .stride_a = block,
                                  .stride_b = step,
                                  .stride_out = step};
        matmul(stream, by_keys, type, query_rows(0), key_rows(1), {}, DType::f32, scores.data());
        matmul(stream, by_keys, type, query_rows(3), key_rows(2), {}, DType::f32, gradients.data());
        HWY_DYNAMIC_DISPATCH(softmax_backward_block_loops)
        (cpu_stream(stream).threads(), type, b, scores.as<float>(), gradients.as<float>(), lse.as<float>(),
         delta.as<float>(), p.data(), ds.data());
        matmul(stream, to_keys, type, p.data(), query_rows(3), {.accumulate = true}, DType::f32,
               sum[2] + b.key * size);
        matmul(stream, to_queries, type, ds.data(), key_rows(1), {.accumulate = true}, DType::f32,
               sum[0] + b.query * size);
        matmul(stream, to_keys, type, ds.data(), query_rows(0), {.accumulate = true}, DType::f32,
               sum[1] + b.key * size);
      });
    });
    for (int64_t j = 0; j < 3; ++j) HWY_DYNAMIC_DISPATCH(unpack_loops)
    (type, b, sum[j], 3 * model, at(dqkv, (3 * first + j) * model, type));
  }
}

}  // namespace taper
#endif  // HWY_ONCE
