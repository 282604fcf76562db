#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/reference/reference.h"
#include "runtime/error.h"

namespace taper {

using namespace reference;

namespace {

using Row = std::vector<double>;

/// One network's attention of the tokens of one sequence to each other.
struct Side {
  const AttentionHeads& shape;
  const double* qkv;
  int64_t begin, length;

  int64_t vector(int64_t position, int part, int64_t head) const {
    return (((begin + position) * 3 + part) * shape.heads + head) * shape.head_size;
  }

  /// log softmax of the query's scores, for each head.
  std::vector<Row> log_probabilities(int64_t query) const {
    std::vector<Row> rows;
    for (int64_t head = 0; head < shape.heads; ++head) {
      Row scores(static_cast<size_t>(length), 0);
      for (int64_t k = 0; k < length; ++k)
        for (int64_t d = 0; d < shape.head_size; ++d)
          scores[static_cast<size_t>(k)] +=
              shape.scale * qkv[vector(query, 0, head) + d] * qkv[vector(k, 1, head) + d];
      Row& row = rows.emplace_back(scores.size());
      softmax(length, true, scores.data(), row.data());
    }
    return rows;
  }
};

/// log of the mean over heads.
Row log_mean(const std::vector<Row>& heads) {
  Row result(heads.front().size());
  for (size_t k = 0; k < result.size(); ++k) {
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (const Row& row : heads) largest = std::max(largest, row[k]);
    for (const Row& row : heads) sum += row[k] == largest ? 1 : std::exp(row[k] - largest);
    result[k] = largest + std::log(sum) - std::log(static_cast<double>(heads.size()));
  }
  return result;
}

}  // namespace

void ReferenceBackend::attention_divergence(Stream&, const AttentionPair& pair, DType type,
                                            const void* teacher, const void* student, void* loss,
                                            void* dstudent) {
  require_double(type);
  TAPER_CHECK(pair.offsets[0] == 0 && pair.offsets[pair.sequences] == pair.tokens,
              "offsets from {} to {} for {} tokens", pair.offsets[0], pair.offsets[pair.sequences],
              pair.tokens);
  const auto [heads, head_size, scale] = pair.student;
  double* gradient = out(dstudent);
  out(loss)[0] = 0;
  std::fill(gradient, gradient + pair.tokens * 3 * heads * head_size, 0.0);
  for (int64_t i = 0; i < pair.sequences; ++i) {
    const int64_t begin = pair.offsets[i], length = pair.offsets[i + 1] - begin;
    const Side wide{pair.teacher, in(teacher), begin, length}, thin{pair.student, in(student), begin, length};
    for (int64_t query = 0; query < length; ++query) {
      const std::vector<Row> a = thin.log_probabilities(query);
      const Row log_p = log_mean(wide.log_probabilities(query)), log_q = log_mean(a);
      for (size_t k = 0; k < log_p.size(); ++k)
        if (const double p = std::exp(log_p[k]); p != 0)
          out(loss)[0] += pair.weight * p * (log_p[k] - log_q[k]);
      for (int64_t head = 0; head < heads; ++head) {
        const Row& log_a = a[static_cast<size_t>(head)];
        // The teacher's probability, as the student's heads share it.
        Row part(log_p.size(), 0);
        double sum = 0;
        for (size_t k = 0; k < part.size(); ++k) {
          const double p = std::exp(log_p[k]);
          if (p != 0) part[k] = p * std::exp(log_a[k] - log_q[k]) / static_cast<double>(heads);
          sum += part[k];
        }
        for (int64_t k = 0; k < length; ++k) {
          const auto at = static_cast<size_t>(k);
          const double ds = pair.weight * scale * (std::exp(log_a[at]) * sum - part[at]);
          for (int64_t d = 0; d < head_size; ++d) {
            gradient[thin.vector(query, 0, head) + d] += ds * thin.qkv[thin.vector(k, 1, head) + d];
            gradient[thin.vector(k, 1, head) + d] += ds * thin.qkv[thin.vector(query, 0, head) + d];
          }
        }
      }
    }
  }
}

}  // namespace taper
