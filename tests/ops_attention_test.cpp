// Attention over packed sequences in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/op_inputs.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

struct AttentionCase {
  std::string name;
  std::vector<int64_t> lengths;
  int64_t heads, head_size;
  bool causal = false;
  double dropout = 0;
  bool sample_ids = false;
  double magnitude = 1;

  int64_t tokens() const {
    int64_t sum = 0;
    for (int64_t length : lengths) sum += length;
    return sum;
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_size)); }
};

const std::vector<AttentionCase>& attentions() {
  static const std::vector<AttentionCase> all = {
      {"aligned", {32, 32}, 2, 16},
      {"ragged", {7, 1, 13}, 3, 10},
      {"one token", {1}, 1, 1},
      {"causal", {19, 5}, 2, 8, true},
      {"dropout", {9, 14}, 2, 8, false, 0.25},
      {"dropout by sample", {6, 11, 3}, 2, 8, true, 0.5, true},
      {"across blocks", {150, 67}, 1, 32},
      {"causal across blocks", {131}, 2, 12, true},
      {"head of bert", {40}, 2, 64},
      {"large scores", {21, 8}, 2, 16, false, 0, false, 30},
      // Heads of 32, 64 and 128 have kernels of their own on CUDA, whose blocks are of 32 to 128 rows.
      {"head of 32, ragged", {130, 1, 67}, 2, 32},
      {"head of 64, ragged", {197, 64, 33}, 1, 64},
      {"head of 128, ragged", {70, 5}, 1, 128},
      {"head of 32, causal with dropout", {145}, 1, 32, true, 0.1},
      {"head of 64, causal", {133, 31}, 1, 64, true},
      {"head of 64, dropout by sample", {75, 20}, 2, 64, false, 0.25, true},
      {"head of 128, causal", {97}, 1, 128, true},
      {"many sequences", std::vector<int64_t>(70, 3), 1, 32},
      {"head of 100", {37}, 1, 100},
      {"head of 200", {35}, 1, 200, true, 0.25},
      {"small values", {9}, 1, 16, false, 0, false, 1e-12},
  };
  return all;
}

/// The shape, with what of it lies in the memory of a call.
AttentionShape shape_of(const AttentionCase& c, const Pointers& p) {
  return {.sequences = static_cast<int64_t>(c.lengths.size()),
          .tokens = c.tokens(),
          .heads = c.heads,
          .head_size = c.head_size,
          .offsets = p.get<int32_t>("offsets"),
          .sample_ids = p.get<int64_t>("sample_ids"),
          .scale = c.scale(),
          .causal = c.causal,
          .dropout = c.dropout,
          .key = 0xFEDCBA9876543210};
}

std::vector<double> offsets_of(const AttentionCase& c) {
  std::vector<double> offsets{0};
  for (int64_t length : c.lengths) offsets.push_back(offsets.back() + static_cast<double>(length));
  return offsets;
}

void add_shape(const AttentionCase& c, Case& result) {
  result.input("offsets", Kind::i32, offsets_of(c));
  if (!c.sample_ids) return;
  std::vector<double> ids;  // beyond 32 bits
  for (size_t i = 0; i < c.lengths.size(); ++i) ids.push_back(0x1p34 * static_cast<double>(i) + 5);
  result.input("sample_ids", Kind::i64, std::move(ids));
}

/// The errors that a naive implementation may make, from the largest down: the score's (a sum over the head),
/// which reaches its probability as a relative error; the probability's rounding to the type for the products
/// that follow; the sums'.
class Errors {
 public:
  Errors(const AttentionCase& c, const Precision& precision, const Values& inputs)
      : c_(c), unit_(precision.accumulator), type_(precision.type), qkv_(inputs.at("qkv")) {}

  Values forward(const Values& outputs) {
    Values bounds{{"o", std::vector<double>(outputs.at("o").size(), 0)},
                  {"logsumexp", std::vector<double>(outputs.at("logsumexp").size(), 0)}};
    for_each_query([&](int64_t begin, int64_t head, int64_t q, int64_t keys) {
      Row row = probabilities(begin, head, q, keys);
      const auto lse = static_cast<size_t>(head * c_.tokens() + begin + q);
      bounds["logsumexp"][lse] = row.lse_error + unit_ * std::abs(row.lse);
      for (int64_t d = 0; d < c_.head_size; ++d)
        for (size_t k = 0; k < row.p.size(); ++k)
          bounds["o"][index(begin + q, head, c_.head_size, d)] +=
              row.p[k] / (1 - c_.dropout) * std::abs(v(begin, head, k, d)) *
              (row.error[k] + type_ + unit_ * static_cast<double>(keys + 4));
    });
    return bounds;
  }

  Values backward(const Values& inputs) {
    Values bounds{{"dqkv", std::vector<double>(qkv_.size(), 0)}};
    std::vector<double>& dqkv = bounds["dqkv"];
    const std::vector<double>&d_o = inputs.at("d_o"), &o = inputs.at("o");
    for_each_query([&](int64_t begin, int64_t head, int64_t q, int64_t keys) {
      Row row = probabilities(begin, head, q, keys);
      double sums = unit_ * static_cast<double>(keys + 6);
      auto go = [&](int64_t d) { return d_o[index(begin + q, head, c_.head_size, d)]; };
      // sum p dp, taken as do . o: o is rounded to its type.
      double delta = 0;
      for (int64_t d = 0; d < c_.head_size; ++d)
        delta += std::abs(go(d) * o[index(begin + q, head, c_.head_size, d)]);
      double head_sums = unit_ * static_cast<double>(c_.head_size + 4);
      for (size_t k = 0; k < row.p.size(); ++k) {
        double dp = 0;
        for (int64_t d = 0; d < c_.head_size; ++d)
          dp += std::abs(go(d) * v(begin, head, k, d)) / (1 - c_.dropout);
        // The probability, kept or not: |ds| is at most p (|dp| + delta).
        double ds = row.p[k] * (dp + delta);
        double ds_error = ds * (row.error[k] + unit_ * std::abs(row.lse) + head_sums + type_ + sums) +
                          row.p[k] * delta * type_;
        for (int64_t d = 0; d < c_.head_size; ++d) {
          dqkv[vector(begin + q, 0, head) + at(d)] +=
              c_.scale() * ds_error * std::abs(key(begin, head, k, d));
          dqkv[vector(begin + at_i(k), 1, head) + at(d)] +=
              c_.scale() * ds_error * std::abs(qkv_[vector(begin + q, 0, head) + at(d)]);
          dqkv[vector(begin + at_i(k), 2, head) + at(d)] +=
              row.p[k] / (1 - c_.dropout) * std::abs(go(d)) *
              (row.error[k] + unit_ * std::abs(row.lse) + type_ + sums);
        }
      }
    });
    return bounds;
  }

 private:
  struct Row {
    std::vector<double> p, error;  ///< probabilities before dropout, and their relative errors
    double lse, lse_error;
  };

  static size_t at(int64_t i) { return static_cast<size_t>(i); }
  static int64_t at_i(size_t i) { return static_cast<int64_t>(i); }
  size_t vector(int64_t token, int64_t part, int64_t head) const {
    return at(((token * 3 + part) * c_.heads + head) * c_.head_size);
  }
  size_t index(int64_t token, int64_t head, int64_t size, int64_t i) const {
    return at((token * c_.heads + head) * size + i);
  }
  double key(int64_t begin, int64_t head, size_t k, int64_t d) const {
    return qkv_[vector(begin + at_i(k), 1, head) + at(d)];
  }
  double v(int64_t begin, int64_t head, size_t k, int64_t d) const {
    return qkv_[vector(begin + at_i(k), 2, head) + at(d)];
  }

  template <typename Visit>
  void for_each_query(Visit&& visit) const {
    int64_t begin = 0;
    for (int64_t length : c_.lengths) {
      for (int64_t head = 0; head < c_.heads; ++head)
        for (int64_t q = 0; q < length; ++q) visit(begin, head, q, c_.causal ? q + 1 : length);
      begin += length;
    }
  }

  Row probabilities(int64_t begin, int64_t head, int64_t q, int64_t keys) const {
    Row row{std::vector<double>(at(keys)), std::vector<double>(at(keys)), 0, 0};
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (size_t k = 0; k < row.p.size(); ++k) {
      double magnitude = 0;
      for (int64_t d = 0; d < c_.head_size; ++d) {
        double product = c_.scale() * qkv_[vector(begin + q, 0, head) + at(d)] * key(begin, head, k, d);
        row.p[k] += product;
        magnitude += std::abs(product);
      }
      row.error[k] = unit_ * static_cast<double>(c_.head_size + 3) * magnitude;
      largest = std::max(largest, row.p[k]);
    }
    for (size_t k = 0; k < row.p.size(); ++k) {
      row.error[k] += unit_ * (std::abs(row.p[k] - largest) + 4);  // the difference's rounding, and exp's
      if (std::isinf(row.p[k])) row.error[k] = 0;                  // exp(-inf) is 0
      row.p[k] = std::exp(row.p[k] - largest);
      sum += row.p[k];
    }
    for (double& p : row.p) p /= sum;
    for (size_t k = 0; k < row.p.size(); ++k)
      row.lse_error += row.p[k] * (row.error[k] + unit_ * static_cast<double>(keys + 4));
    row.lse = largest + std::log(sum);
    for (double& error : row.error) error += row.lse_error + 2 * unit_;
    return row;
  }

  const AttentionCase& c_;
  double unit_, type_;
  const std::vector<double>& qkv_;
};

Case attention_case(const AttentionCase& c) {
  Case result{.name = "attention_forward " + c.name,
              .call =
                  [c](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.attention_forward(stream, shape_of(c, p), type, p["qkv"], p["o"], p["logsumexp"]);
                  },
              .bound = [c](const Case&, const Precision& precision, const Values& inputs,
                           const Values& outputs) { return Errors(c, precision, inputs).forward(outputs); }};
  Inputs inputs(result.name);
  // Representable in bf16, so that what the forward saves belongs to it in every type.
  result.input("qkv", Kind::activation,
               round_to(inputs.normal(c.tokens() * 3 * c.heads * c.head_size, 0, c.magnitude), DType::bf16));
  add_shape(c, result);
  result.output("o", Kind::activation, c.tokens() * c.heads * c.head_size)
      .output("logsumexp", Kind::accumulator, c.tokens() * c.heads);
  result.may_spread = c.causal;
  return c.dropout == 0 ? result.plant_all({"qkv"}) : result;
}

Case attention_backward_case(const AttentionCase& c) {
  Case forward = attention_case(c);
  Values saved = reference(forward);
  Case result{.name = "attention_backward " + c.name,
              .call =
                  [c](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.attention_backward(stream, shape_of(c, p), type, p["d_o"], p["qkv"], p["o"],
                                               p["logsumexp"], p["dqkv"]);
                  },
              .bound = [c](const Case&, const Precision& precision, const Values& inputs,
                           const Values&) { return Errors(c, precision, inputs).backward(inputs); }};
  result.input("d_o", Kind::activation, Inputs(result.name).normal(c.tokens() * c.heads * c.head_size))
      .input("qkv", Kind::activation, forward.argument("qkv").values)
      .input("o", Kind::activation, saved["o"])
      .input("logsumexp", Kind::accumulator, saved["logsumexp"]);
  add_shape(c, result);
  result.output("dqkv", Kind::activation, c.tokens() * 3 * c.heads * c.head_size);
  result.may_spread = c.causal;
  return c.dropout == 0 ? result.plant_all({"d_o"}) : result;
}

class Attention : public ::testing::TestWithParam<Subject> {};

TEST_P(Attention, Forward) {
  for (const AttentionCase& c : attentions()) EXPECT_THAT(check(GetParam(), attention_case(c)), IsEmpty());
  // Rows whose largest score comes in any block, and too large for a maximum of other blocks. Not for the
  // backward, where probabilities near the smallest normal number may be flushed.
  for (int64_t head_size : {20, 32, 64, 128})
    EXPECT_THAT(
        check(GetParam(),
              attention_case({"large scores across blocks", {150}, 1, head_size, false, 0, false, 30})),
        IsEmpty());
}

TEST_P(Attention, Backward) {
  for (const AttentionCase& c : attentions())
    EXPECT_THAT(check(GetParam(), attention_backward_case(c)), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, Attention, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(AttentionReference, GradientsAgreeWithFiniteDifferences) {
  for (const AttentionCase& c :
       {AttentionCase{"tiny", {3, 5}, 2, 3}, AttentionCase{"tiny, causal", {4}, 1, 2, true},
        AttentionCase{"tiny, dropout", {4, 2}, 2, 2, true, 0.4, true}}) {
    Case forward = attention_case(c), backward = attention_backward_case(c);
    for (Argument& argument : backward.arguments)
      if (argument.name == "qkv") argument.values = forward.argument("qkv").values;
    EXPECT_THAT(
        check_gradient(forward, {{"o", backward.argument("d_o").values}}, "qkv", reference(backward)["dqkv"]),
        IsEmpty());
  }
}

// With equal scores and a single 1 in each value, the output shows the probabilities that were kept.
TEST(AttentionReference, DropoutKeepsWhatPhiloxSays) {
  const uint32_t length = 6, heads = 2;
  AttentionCase c{"shown", {2, length}, heads, length, false, 0.5, true};
  Case forward = attention_case(c);
  for (Argument& argument : forward.arguments) {
    if (argument.name != "qkv") continue;
    argument.values.assign(argument.values.size(), 0);
    for (uint32_t token = 0; token < length; ++token)
      for (uint32_t head = 0; head < heads; ++head)
        argument.values[(((2 + token) * 3 + 2) * heads + head) * length + token] = 1;
  }
  std::vector<double> o = reference(forward)["o"];
  uint64_t sample = (uint64_t{1} << 34) + 5;  // of the second sequence
  for (uint32_t head = 0; head < heads; ++head)
    for (uint32_t q = 0; q < length; ++q)
      for (uint32_t k = 0; k < length; ++k) {
        uint64_t id = sample * heads + head;
        auto words = philox({k / 4, q, static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32)},
                            0xFEDCBA9876543210);
        bool kept = words[k % 4] >> 31 == 1;  // at least one half
        EXPECT_NEAR(o[((2 + q) * heads + head) * length + k], kept ? 2.0 / length : 0, 1e-15);
      }
}

}  // namespace
}  // namespace taper::ops
