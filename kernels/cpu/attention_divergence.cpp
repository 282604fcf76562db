// How a student's attention differs from its teacher's: products by matmul(), what lies between them by
// loops, for a block of queries of one sequence at a time, with all its keys and all heads.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_divergence.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/attention-inl.h"

#if !defined(TAPER_KERNELS_CPU_ATTENTION_DIVERGENCE_ARGUMENTS_)
#define TAPER_KERNELS_CPU_ATTENTION_DIVERGENCE_ARGUMENTS_
namespace taper {
namespace {

constexpr int64_t kQueries = 32;

/// One network's scores of a block of queries, [heads, queries, padded].
struct ScoreBlock {
  int64_t heads;
  double scale;
  float* scores;
};

/// A block of queries of one sequence.
struct DivergenceBlock {
  int64_t tokens, padded;  ///< of the sequence
  int64_t query, queries;  ///< the first one, and how many with padding
  ScoreBlock teacher, student;
  double weight;
  float *log_p, *log_q;  ///< [queries, padded]
  void* dscores;         ///< of the activations' type, laid out as the student's scores, and may be those
  double* terms;         ///< [queries]: of the loss

  int64_t there() const { return std::min(queries, tokens - query); }
};

}  // namespace
}  // namespace taper
#endif

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// One head's scores of one query to the logarithms of their softmax; -inf in padding.
void log_softmax(int64_t count, int64_t padded, double scale, float* row) {
  const V factor = splat(scale);
  map(
      0, count, row, [=](V s) HWY_ATTR { return hn::Mul(s, factor); }, row);
  const V largest = hn::Set(kFloats, maximum(count, row));
  const V shift = splat(std::log(sum(
      count, [=](V s) HWY_ATTR { return exponential(hn::Sub(s, largest)); }, row)));
  map(
      0, count, row, [=](V s) HWY_ATTR { return hn::Sub(hn::Sub(s, largest), shift); }, row);
  std::fill(row + count, row + padded, -HUGE_VALF);
}

/// out = the logarithm of the mean over heads of exp(rows), whose heads lie `step` elements apart.
void log_mean(int64_t heads, int64_t step, int64_t padded, const float* rows, float* out) {
  const V lowest = hn::Set(kFloats, -HUGE_VALF), shift = splat(std::log(static_cast<double>(heads)));
  for (int64_t k = 0; k < padded; k += kLanes) {
    V largest = lowest, total = hn::Zero(kFloats);
    for (int64_t head = 0; head < heads; ++head) largest = hn::Max(largest, load(rows + head * step + k));
    for (int64_t head = 0; head < heads; ++head) {
      const V a = load(rows + head * step + k);
      // The largest itself counts 1, also where it is -inf.
      total = hn::Add(total, hn::IfThenElse(hn::Eq(a, largest), splat(1), exponential(hn::Sub(a, largest))));
    }
    // Log's NaN is any number.
    const V log_total = keep_nan(total, hn::Log(kFloats, total));
    store(hn::Sub(hn::Add(largest, log_total), shift), out + k);
  }
}

/// x where p is above 0, or NaN; else 0.
HWY_INLINE V where_any(V p, V x) { return hn::IfThenZeroElse(hn::Eq(p, hn::Zero(kFloats)), x); }

template <typename T>
void divergence_row(const DivergenceBlock& b, int64_t i) {
  const int64_t step = b.queries * b.padded;
  float *log_p = b.log_p + i * b.padded, *log_q = b.log_q + i * b.padded;
  for (const auto& [side, log_of_mean] : {std::pair{&b.teacher, log_p}, std::pair{&b.student, log_q}}) {
    float* rows = side->scores + i * b.padded;
    for (int64_t head = 0; head < side->heads; ++head)
      log_softmax(b.tokens, b.padded, side->scale, rows + head * step);
    log_mean(side->heads, step, b.padded, rows, log_of_mean);
  }
  b.terms[i] = sum(
      b.tokens,
      [](V p, V q) HWY_ATTR {
        const V probability = exponential(p);
        return where_any(probability, hn::Mul(probability, hn::Sub(p, q)));
      },
      log_p, log_q);
  const V share = splat(1.0 / static_cast<double>(b.student.heads)),
          factor = splat(b.weight * b.student.scale);
  // The head's share of the teacher's probability: P r.
  const auto part = [=](V a, V p, V q) HWY_ATTR {
    const V probability = exponential(p);
    return where_any(probability, hn::Mul(hn::Mul(probability, share), exponential(hn::Sub(a, q))));
  };
  for (int64_t head = 0; head < b.student.heads; ++head) {
    const float* a = b.student.scores + head * step + i * b.padded;
    const V total = splat(sum(b.tokens, part, a, log_p, log_q));
    map(
        0, b.padded, static_cast<T*>(b.dscores) + head * step + i * b.padded,
        [=](V log_a, V p, V q) HWY_ATTR {
          return hn::Mul(factor,
                         hn::NegMulAdd(splat(1), part(log_a, p, q), hn::Mul(exponential(log_a), total)));
        },
        a, log_p, log_q);
  }
}

/// Scores to their gradients and the loss.
void divergence_block_loops(int threads, DType type, const DivergenceBlock& b) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    for_parts(threads, b.queries, 1, [&](int64_t i, int64_t) {
      if (i < b.there()) return divergence_row<T>(b, i);
      for (int64_t head = 0; head < b.student.heads; ++head) {
        T* row = static_cast<T*>(b.dscores) + (head * b.queries + i) * b.padded;
        std::fill(row, row + b.padded, T());
      }
    });
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

HWY_EXPORT(divergence_block_loops);
HWY_EXPORT(unpack_loops);

/// What one of the networks needs for one sequence at a time.
struct Side {
  const AttentionHeads& shape;
  const void* qkv;
  Tensor q, k, scores;

  Side(Stream& stream, const AttentionHeads& heads, DType type, const void* from, int64_t most)
      : shape(heads),
        qkv(from),
        q(stream, type, {heads.heads, most, heads.head_size}),
        k(stream, type, {heads.heads, most, heads.head_size}),
        scores(stream, DType::f32, {heads.heads, kQueries, most}) {}

  int64_t model() const { return shape.heads * shape.head_size; }
  /// Elements in front of a token's q; its k is one model() further.
  int64_t token(int64_t i) const { return 3 * i * model(); }
  SequenceHeads load(DType type, int64_t first, int64_t tokens) {
    const SequenceHeads heads{shape.heads, shape.head_size, tokens, padded(tokens)};
    heads.pack(type, at(qkv, token(first), type), 3 * model(), q.data());
    heads.pack(type, at(qkv, token(first) + model(), type), 3 * model(), k.data());
    return heads;
  }
};

}  // namespace

void CpuBackend::attention_divergence(Stream& stream, const AttentionPair& pair, DType type,
                                      const void* teacher, const void* student, void* loss, void* dstudent) {
  const int64_t most = padded(longest(pair.sequences, pair.offsets));
  const int threads = cpu_stream(stream).threads();
  double total = 0;
  if (most > 0) {
    Side wide(stream, pair.teacher, type, teacher, most), thin(stream, pair.student, type, student, most);
    const int64_t size = pair.student.head_size, model = thin.model();
    stream.zero(dstudent, 3 * pair.tokens * model * size_of(type));
    Tensor means(stream, DType::f32, {2, kQueries, most}), sums(stream, DType::f32, {2, most * model});
    Tensor dscores = type == DType::f32 ? thin.scores : Tensor(stream, type, thin.scores.shape());
    float *dq = sums.as<float>(), *dk = dq + most * model;
    std::vector<double> terms(kQueries);
    for (int64_t i = 0; i < pair.sequences; ++i) {
      const int64_t first = pair.offsets[i], tokens = pair.offsets[i + 1] - first;
      wide.load(type, first, tokens);
      const SequenceHeads heads = thin.load(type, first, tokens);
      stream.zero(dk, most * model * size_of(DType::f32));
      DivergenceBlock b{.tokens = tokens,
                        .padded = heads.padded,
                        .query = 0,
                        .queries = 0,
                        .teacher = {pair.teacher.heads, pair.teacher.scale, wide.scores.as<float>()},
                        .student = {pair.student.heads, pair.student.scale, thin.scores.as<float>()},
                        .weight = pair.weight,
                        .log_p = means.as<float>(),
                        .log_q = means.as<float>() + kQueries * most,
                        .dscores = dscores.data(),
                        .terms = terms.data()};
      for (; b.query < tokens; b.query += kQueries) {
        b.queries = std::min(kQueries, b.padded - b.query);
        for (const Side* side : {&wide, &thin})
          matmul(stream,
                 {.m = b.queries,
                  .n = b.padded,
                  .k = side->shape.head_size,
                  .transpose_b = true,
                  .batch = side->shape.heads,
                  .stride_a = b.padded * side->shape.head_size,
                  .stride_b = b.padded * side->shape.head_size,
                  .stride_out = b.queries * b.padded},
                 type, at(side->q.data(), b.query * side->shape.head_size, type), side->k.data(), {},
                 DType::f32, const_cast<void*>(side->scores.data()));
        HWY_DYNAMIC_DISPATCH(divergence_block_loops)(threads, type, b);
        for (int64_t j = 0; j < b.there(); ++j) total += terms[static_cast<size_t>(j)];
        matmul(stream,
               {.m = b.queries,
                .n = size,
                .k = b.padded,
                .batch = heads.heads,
                .stride_a = b.queries * b.padded,
                .stride_b = b.padded * size,
                .stride_out = b.padded * size},
               type, b.dscores, thin.k.data(), {}, DType::f32, dq + b.query * size);
        matmul(stream,
               {.m = b.padded,
                .n = size,
                .k = b.queries,
                .transpose_a = true,
                .batch = heads.heads,
                .stride_a = b.queries * b.padded,
                .stride_b = b.padded * size,
                .stride_out = b.padded * size},
               type, b.dscores, at(thin.q.data(), b.query * size, type), {.accumulate = true}, DType::f32,
               dk);
      }
      for (int64_t part : {0, 1}) HWY_DYNAMIC_DISPATCH(unpack_loops)
      (type, heads, part == 0 ? dq : dk, 3 * model, at(dstudent, thin.token(first) + part * model, type));
    }
  }
  *static_cast<float*>(loss) = static_cast<float>(pair.weight * total);
}

}  // namespace taper
#endif  // HWY_ONCE
