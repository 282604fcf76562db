// The divergence of a student's attention from its teacher's in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_inputs.h"
#include "tests/op_softmax_bounds.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::Each;
using ::testing::IsEmpty;

struct Heads {
  int64_t heads, head_size;
  int64_t model() const { return heads * head_size; }
};
struct DivergenceCase {
  std::string name;
  std::vector<int64_t> lengths;
  Heads teacher, student;
  double magnitude = 1, weight = 1;

  int64_t tokens() const {
    int64_t sum = 0;
    for (int64_t length : lengths) sum += length;
    return sum;
  }
};

size_t at(int64_t i) { return static_cast<size_t>(i); }
double scale(const Heads& h) { return 1 / std::sqrt(static_cast<double>(h.head_size)); }
// Of q (part 0) or k (1) of a token and head in qkv.
size_t vector(const Heads& h, int64_t token, int64_t part, int64_t head) {
  return at(((token * 3 + part) * h.heads + head) * h.head_size);
}

const std::vector<DivergenceCase>& divergences() {
  static const std::vector<DivergenceCase> all = {
      {"aligned", {32, 16}, {4, 16}, {2, 16}},
      {"ragged", {7, 1, 13}, {5, 10}, {3, 6}, 1, 0.25},
      {"one token", {1}, {1, 1}, {1, 1}},
      {"one head each", {9}, {1, 8}, {1, 8}},
      {"fewer heads in the teacher", {21}, {1, 12}, {4, 5}},
      {"across blocks", {67, 5}, {2, 32}, {1, 32}},
      {"heads of bert", {33}, {2, 64}, {1, 64}},
      {"large heads", {19}, {2, 128}, {1, 100}},
      {"largest heads", {18}, {1, 200}, {2, 7}},
      {"large scores", {21, 8}, {3, 16}, {2, 16}, 30},
      {"small values", {9}, {2, 16}, {1, 16}, 1e-12},
      {"many sequences", std::vector<int64_t>(9, 3), {2, 8}, {1, 8}},
  };
  return all;
}

/// log softmax of one query's scores and the errors that a naive implementation may make of it.
struct LogRow {
  std::vector<double> value, error;
};

/// Of each head; the error of a score is that of a sum over the head and its scaling.
std::vector<LogRow> log_probabilities(const Heads& h, const std::vector<double>& qkv, int64_t begin,
                                      int64_t length, int64_t query, double unit) {
  std::vector<LogRow> rows;
  for (int64_t head = 0; head < h.heads; ++head) {
    std::vector<double> scores(at(length)), magnitudes(at(length));
    for (int64_t k = 0; k < length; ++k)
      for (int64_t d = 0; d < h.head_size; ++d) {
        double product = scale(h) * qkv[vector(h, begin + query, 0, head) + at(d)] *
                         qkv[vector(h, begin + k, 1, head) + at(d)];
        scores[at(k)] += product;
        magnitudes[at(k)] += unit * static_cast<double>(h.head_size + 3) * std::abs(product);
      }
    SoftmaxRow softmax(scores.data(), length, 1, unit);
    LogRow& row = rows.emplace_back();
    double of_sum = 0;
    for (int64_t k = 0; k < length; ++k)
      if (softmax.p(k) != 0) of_sum += softmax.p(k) * magnitudes[at(k)];
    for (int64_t k = 0; k < length; ++k) {
      row.value.push_back(softmax.log_p(k));
      const double error =
          softmax.log_p_error(k) + magnitudes[at(k)] + of_sum + unit * std::abs(softmax.log_p(k));
      row.error.push_back(std::isinf(softmax.log_p(k)) ? 0 : error);  // of -inf, planted
    }
  }
  return rows;
}

/// The logarithm of the mean over heads. Each head's error counts by its share of the sum.
LogRow log_mean(const std::vector<LogRow>& heads, double unit) {
  LogRow result;
  const auto count = static_cast<double>(heads.size());
  for (size_t k = 0; k < heads.front().value.size(); ++k) {
    double largest = -INFINITY, sum = 0, error = 0;
    for (const LogRow& row : heads) largest = std::max(largest, row.value[k]);
    for (const LogRow& row : heads) sum += std::exp(row.value[k] - largest);
    if (std::isinf(largest)) {
      result.value.push_back(largest);
      result.error.push_back(0);
      continue;
    }
    for (const LogRow& row : heads)
      if (const double share = std::exp(row.value[k] - largest) / sum; share != 0)
        error += share * (row.error[k] + unit * (std::abs(row.value[k]) + std::abs(largest) + 4));
    result.value.push_back(largest + std::log(sum / count));
    result.error.push_back(error + unit * (count + 8 + 2 * std::log(count) + 2 * std::abs(largest)));
  }
  return result;
}

Values bounds_of(const DivergenceCase& c, const Precision& precision, const Values& inputs) {
  const std::vector<double>&wide = inputs.at("teacher"), &thin = inputs.at("student");
  const double unit = precision.accumulator, least = std::ldexp(1.0, -126);
  const Heads& h = c.student;
  Values bounds{{"loss", {0}}, {"dstudent", std::vector<double>(thin.size(), 0)}};
  std::vector<double>& gradient = bounds["dstudent"];
  int64_t begin = 0;
  for (int64_t length : c.lengths) {
    const double sums = unit * static_cast<double>(length + 6);
    for (int64_t query = 0; query < length; ++query) {
      const std::vector<LogRow> a = log_probabilities(h, thin, begin, length, query, unit);
      const LogRow p = log_mean(log_probabilities(c.teacher, wide, begin, length, query, unit), unit),
                   q = log_mean(a, unit);
      for (size_t k = 0; k < at(length); ++k) {
        // P and a below the smallest normal number may be flushed.
        const double value = std::exp(p.value[k]), distance = std::abs(p.value[k] - q.value[k]),
                     parts = std::abs(p.value[k]) + std::abs(q.value[k]);
        if (std::isinf(parts)) continue;  // P is 0, or the loss infinite
        bounds["loss"][0] +=
            c.weight * (value * (p.error[k] * (1 + distance) + q.error[k] +
                                 (sums + unit * static_cast<double>(c.tokens() + 6)) * parts) +
                        least * parts);
      }
      for (int64_t head = 0; head < h.heads; ++head) {
        const LogRow& row = a[at(head)];
        // part = P r with its error; total is their sum.
        std::vector<double> part(at(length)), part_error(at(length));
        double total = 0, total_error = 0;
        for (size_t k = 0; k < part.size(); ++k) {
          part_error[k] = least;
          if (std::isfinite(p.value[k]) && std::isfinite(row.value[k])) {
            part[k] = std::exp(p.value[k] + row.value[k] - q.value[k]) / static_cast<double>(h.heads);
            part_error[k] += part[k] * (p.error[k] + row.error[k] + q.error[k] +
                                        unit * (std::abs(row.value[k]) + std::abs(q.value[k]) + 12));
          }
          total += part[k];
          total_error += part_error[k];
        }
        total_error += sums * total;
        for (int64_t k = 0; k < length; ++k) {
          const double own = std::exp(row.value[at(k)]);
          const double size = own * total + part[at(k)];
          const double error = own * (total_error + total * (row.error[at(k)] + 4 * unit)) +
                               part_error[at(k)] + least * (1 + total) +
                               // Rounded for the products that follow, which are sums.
                               size * (precision.type + 4 * unit + unit * static_cast<double>(length + 6));
          for (int64_t d = 0; d < h.head_size; ++d) {
            const size_t of_q = vector(h, begin + query, 0, head) + at(d),
                         of_k = vector(h, begin + k, 1, head) + at(d);
            gradient[of_q] += c.weight * scale(h) * error * std::abs(thin[of_k]);
            gradient[of_k] += c.weight * scale(h) * error * std::abs(thin[of_q]);
          }
        }
      }
    }
    begin += length;
  }
  return bounds;
}

Case divergence_case(const DivergenceCase& c) {
  Case result{.name = "attention_divergence " + c.name,
              .call =
                  [c](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.attention_divergence(
                        stream,
                        {.sequences = std::ssize(c.lengths),
                         .tokens = c.tokens(),
                         .offsets = p.get<int32_t>("offsets"),
                         .teacher = {c.teacher.heads, c.teacher.head_size, scale(c.teacher)},
                         .student = {c.student.heads, c.student.head_size, scale(c.student)},
                         .weight = c.weight},
                        type, p["teacher"], p["student"], p["loss"], p["dstudent"]);
                  },
              .bound = [c](const Case&, const Precision& precision, const Values& inputs,
                           const Values&) { return bounds_of(c, precision, inputs); }};
  std::vector<double> offsets{0};
  for (int64_t length : c.lengths) offsets.push_back(offsets.back() + static_cast<double>(length));
  Inputs inputs(result.name);
  return result
      .input("teacher", Kind::activation, inputs.normal(c.tokens() * 3 * c.teacher.model(), 0, c.magnitude))
      .input("student", Kind::activation, inputs.normal(c.tokens() * 3 * c.student.model(), 0, c.magnitude))
      .input("offsets", Kind::i32, offsets)
      .output("loss", Kind::accumulator, 1)
      .output("dstudent", Kind::activation, c.tokens() * 3 * c.student.model())
      .plant_all({"teacher", "student"});
}

class AttentionDivergence : public ::testing::TestWithParam<Subject> {
 protected:
  void SetUp() override {
    if (GetParam().type == DType::f64) GTEST_SKIP() << "the reference, which the others are compared with";
  }
};

TEST_P(AttentionDivergence, IsTheReferences) {
  for (const DivergenceCase& c : divergences()) EXPECT_THAT(check(GetParam(), divergence_case(c)), IsEmpty());
}

// What the teacher sees and the student does not, by so much that no float holds the probability.
TEST_P(AttentionDivergence, IsFiniteWhereProbabilitiesUnderflow) {
  Case apart = divergence_case({"apart", {2}, {1, 1}, {2, 1}});
  apart.arguments[0].values = {20, 20, 0, 20, -20, 0};
  apart.arguments[1].values = {20, 10, -20, -15, 0, 0, 20, 10, 20, 15, 0, 0};
  EXPECT_THAT(check(GetParam(), apart, 1), IsEmpty());
  const Values outputs = reference(apart);
  // The first query's teacher sees the first key; the student's heads see the second, by 800 and 300.
  EXPECT_NEAR(outputs.at("loss")[0], 2 * (300 + std::log(2.0)), 1e-9);
}

INSTANTIATE_TEST_SUITE_P(All, AttentionDivergence, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(AttentionDivergenceReference, GradientsAgreeWithFiniteDifferences) {
  for (const DivergenceCase& c : {DivergenceCase{"tiny", {3, 4}, {4, 2}, {2, 3}, 1, 0.5},
                                  DivergenceCase{"tiny, one head", {5}, {3, 2}, {1, 2}}}) {
    Case loss = divergence_case(c);
    EXPECT_THAT(check_gradient(loss, {{"loss", {1}}}, "student", reference(loss)["dstudent"]), IsEmpty());
  }
}

// Two tokens with the scores (0, ln 3) in the teacher, whose second head sees both alike, and (0, 0) in the
// student.
TEST(AttentionDivergenceReference, KnownValues) {
  Case loss = divergence_case({"known", {2}, {2, 1}, {1, 1}});
  const double score = std::log(3.0);
  loss.arguments[0].values = {1, 0, 0, 0, 0, 0, 1, 0, score, 0, 0, 0};
  loss.arguments[1].values = {1, 0, 0, 1, 0, 0};
  Values outputs = reference(loss);
  // P = ((1/4 + 1/2) / 2, (3/4 + 1/2) / 2) = (3/8, 5/8), for both queries.
  EXPECT_NEAR(outputs["loss"][0], 2 * (0.375 * std::log(0.75) + 0.625 * std::log(1.25)), 1e-15);
  // dS = Q - P for a single head: 1/8 and -1/8, times the queries' 1.
  EXPECT_NEAR(outputs["dstudent"][1], 2 * 0.125, 1e-15);
  EXPECT_NEAR(outputs["dstudent"][4], -2 * 0.125, 1e-15);
}

TEST(AttentionDivergenceReference, IsNoneBetweenTheSameHeads) {
  Case loss = divergence_case({"same", {4, 2}, {2, 3}, {2, 3}});
  loss.arguments[0].values = loss.arguments[1].values;
  Values outputs = reference(loss);
  EXPECT_NEAR(outputs["loss"][0], 0, 1e-15);
  EXPECT_THAT(outputs["dstudent"], Each(testing::DoubleNear(0, 1e-15)));
}

}  // namespace
}  // namespace taper::ops
