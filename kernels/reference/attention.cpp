#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"
#include "runtime/error.h"
#include "runtime/philox.h"

namespace taper {

using namespace reference;

namespace {

/// Where the vectors of one head of one sequence lie; part 0, 1, 2 is q, k, v.
struct Head {
  const AttentionShape& shape;
  int64_t sequence, head;

  int64_t begin() const { return shape.offsets[sequence]; }
  int64_t length() const { return shape.offsets[sequence + 1] - begin(); }
  int64_t keys(int64_t query) const { return shape.causal ? query + 1 : length(); }
  int64_t vector(int64_t position, int part) const {
    return (((begin() + position) * 3 + part) * shape.heads + head) * shape.head_size;
  }
  int64_t row(int64_t position) const { return (begin() + position) * shape.heads + head; }

  /// What dropout multiplies the probability with: 0 or 1 / (1 - p).
  double kept(int64_t q, int64_t k) const {
    if (shape.dropout == 0) return 1;
    int64_t sample = shape.sample_ids != nullptr ? shape.sample_ids[sequence] : sequence;
    auto id = static_cast<uint64_t>(sample * shape.heads + head);
    auto words = philox({static_cast<uint32_t>(k / 4), static_cast<uint32_t>(q), static_cast<uint32_t>(id),
                         static_cast<uint32_t>(id >> 32)},
                        shape.key);
    return uniform(words[static_cast<size_t>(k % 4)]) >= shape.dropout ? 1 / (1 - shape.dropout) : 0;
  }

  /// scale q . k for all keys that `query` sees.
  std::vector<double> scores(int64_t query, const void* qkv) const {
    std::vector<double> result(static_cast<size_t>(keys(query)), 0);
    for (size_t k = 0; k < result.size(); ++k)
      for (int64_t d = 0; d < shape.head_size; ++d)
        result[k] +=
            shape.scale * in(qkv)[vector(query, 0) + d] * in(qkv)[vector(static_cast<int64_t>(k), 1) + d];
    return result;
  }
};

template <typename Visit>
void for_each_head(const AttentionShape& shape, Visit&& visit) {
  TAPER_CHECK(shape.dropout >= 0 && shape.dropout < 1, "attention dropout of {}", shape.dropout);
  TAPER_CHECK(shape.offsets[0] == 0 && shape.offsets[shape.sequences] == shape.tokens,
              "offsets from {} to {} for {} tokens", shape.offsets[0], shape.offsets[shape.sequences],
              shape.tokens);
  for (int64_t sequence = 0; sequence < shape.sequences; ++sequence)
    for (int64_t head = 0; head < shape.heads; ++head) visit(Head{shape, sequence, head});
}

}  // namespace

void reference::softmax(int64_t count, bool logarithm, const double* x, double* y) {
  double largest = *std::max_element(x, x + count), sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(x[i] - largest);
  for (int64_t i = 0; i < count; ++i)
    y[i] = logarithm ? x[i] - largest - std::log(sum) : std::exp(x[i] - largest) / sum;
}

void ReferenceBackend::attention_forward(Stream&, const AttentionShape& shape, DType type, const void* qkv,
                                         void* o, void* logsumexp) {
  require_double(type);
  for_each_head(shape, [&](const Head& head) {
    for (int64_t q = 0; q < head.length(); ++q) {
      std::vector<double> s = head.scores(q, qkv);
      double largest = *std::max_element(s.begin(), s.end()), sum = 0;
      for (double score : s) sum += std::exp(score - largest);
      double lse = largest + std::log(sum);
      out(logsumexp)[head.head * shape.tokens + head.begin() + q] = lse;
      for (int64_t d = 0; d < shape.head_size; ++d) {
        double value = 0;
        for (int64_t k = 0; k < head.keys(q); ++k)
          value +=
              std::exp(s[static_cast<size_t>(k)] - lse) * head.kept(q, k) * in(qkv)[head.vector(k, 2) + d];
        out(o)[head.row(q) * shape.head_size + d] = value;
      }
    }
  });
}

// From qkv alone: o and logsumexp are what an implementation may use to save work.
void ReferenceBackend::attention_backward(Stream&, const AttentionShape& shape, DType type, const void* d_o,
                                          const void* qkv, const void*, const void*, void* dqkv) {
  require_double(type);
  for (int64_t i = 0; i < shape.tokens * 3 * shape.heads * shape.head_size; ++i) out(dqkv)[i] = 0;
  for_each_head(shape, [&](const Head& head) {
    for (int64_t q = 0; q < head.length(); ++q) {
      const double* go = in(d_o) + head.row(q) * shape.head_size;
      std::vector<double> p = head.scores(q, qkv), dp(p.size(), 0);
      reference::softmax(head.keys(q), false, p.data(), p.data());
      double sum_p_dp = 0;
      for (size_t k = 0; k < p.size(); ++k) {
        auto key = static_cast<int64_t>(k);
        double kept = head.kept(q, key);
        for (int64_t d = 0; d < shape.head_size; ++d) {
          dp[k] += kept * go[d] * in(qkv)[head.vector(key, 2) + d];
          out(dqkv)[head.vector(key, 2) + d] += kept * p[k] * go[d];
        }
        sum_p_dp += p[k] * dp[k];
      }
      for (size_t k = 0; k < p.size(); ++k) {
        auto key = static_cast<int64_t>(k);
        double ds = p[k] * (dp[k] - sum_p_dp);
        for (int64_t d = 0; d < shape.head_size; ++d) {
          out(dqkv)[head.vector(q, 0) + d] += shape.scale * ds * in(qkv)[head.vector(key, 1) + d];
          out(dqkv)[head.vector(key, 1) + d] += shape.scale * ds * in(qkv)[head.vector(q, 0) + d];
        }
      }
    }
  });
}

void ReferenceBackend::softmax(Stream&, int64_t rows, int64_t columns, DType type, bool logarithm,
                               const void* x, void* y) {
  require_double(type);
  for (int64_t r = 0; r < rows; ++r)
    reference::softmax(columns, logarithm, in(x) + r * columns, out(y) + r * columns);
}

void ReferenceBackend::softmax_backward(Stream&, int64_t rows, int64_t columns, DType type, bool logarithm,
                                        const void* dy, const void* y, void* dx) {
  require_double(type);
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t i = r * columns; i < (r + 1) * columns; ++i)
      sum += logarithm ? in(dy)[i] : in(dy)[i] * in(y)[i];
    for (int64_t i = r * columns; i < (r + 1) * columns; ++i)
      out(dx)[i] = logarithm ? in(dy)[i] - std::exp(in(y)[i]) * sum : in(y)[i] * (in(dy)[i] - sum);
  }
}

void ReferenceBackend::embedding_forward(Stream&, int64_t rows, int64_t features, DType type,
                                         const int32_t* ids, const void* table, void* y) {
  require_double(type);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t f = 0; f < features; ++f) out(y)[r * features + f] = in(table)[ids[r] * features + f];
}

void ReferenceBackend::embedding_backward(Stream&, int64_t rows, int64_t features, int64_t entries,
                                          DType type, const int32_t* ids, const void* dy, void* dtable) {
  require_double(type);
  for (int64_t r = 0; r < rows; ++r) {
    TAPER_CHECK(ids[r] >= 0 && ids[r] < entries, "id {} of {} entries", ids[r], entries);
    for (int64_t f = 0; f < features; ++f) out(dtable)[ids[r] * features + f] += in(dy)[r * features + f];
  }
}

}  // namespace taper
