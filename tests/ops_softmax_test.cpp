// Softmax and embedding in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/op_inputs.h"
#include "tests/op_softmax_bounds.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

struct Extent {
  int64_t rows, columns;
};
const std::vector<Extent> kExtents = {{1, 1}, {4, 10}, {9, 17}, {3, 1000}, {16, 64}};

Case softmax_case(const Extent& e, bool logarithm, std::vector<double> x) {
  Case result{.name = fmt::format("softmax {} x {}{}", e.rows, e.columns, logarithm ? ", logarithm" : ""),
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.softmax(stream, e.rows, e.columns, type, logarithm, p["x"], p["y"]);
                  },
              .bound =
                  [=](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
                    Values bounds = outputs;
                    for (int64_t r = 0; r < e.rows; ++r) {
                      SoftmaxRow row(inputs.at("x").data() + r * e.columns, e.columns, 1,
                                     precision.accumulator);
                      for (int64_t c = 0; c < e.columns; ++c)
                        bounds["y"][static_cast<size_t>(r * e.columns + c)] =
                            logarithm ? row.log_p_error(c) : row.p(c) * row.log_p_error(c);
                    }
                    return bounds;
                  }};
  return result.input("x", Kind::activation, std::move(x))
      .output("y", Kind::activation, e.rows * e.columns)
      .plant_all({"x"});
}

// Three roundings of dy and of the sum, which has one term for each column.
Case softmax_backward_case(const Extent& e, bool logarithm) {
  Case result{
      .name = fmt::format("softmax_backward {} x {}{}", e.rows, e.columns, logarithm ? ", logarithm" : ""),
      .call =
          [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
            backend.softmax_backward(stream, e.rows, e.columns, type, logarithm, p["dy"], p["y"], p["dx"]);
          },
      .bound =
          [=](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
            Values bounds = outputs;
            const std::vector<double>&dy = inputs.at("dy"), &y = inputs.at("y");
            for (int64_t r = 0; r < e.rows; ++r) {
              auto begin = static_cast<size_t>(r * e.columns), end = static_cast<size_t>((r + 1) * e.columns);
              double sum = 0, terms = static_cast<double>(e.columns + 4);
              for (size_t i = begin; i < end; ++i) sum += std::abs(logarithm ? dy[i] : dy[i] * y[i]);
              for (size_t i = begin; i < end; ++i) {
                // The logarithm's exp has an argument that is exact.
                double factor = logarithm ? std::exp(y[i]) : std::abs(y[i]);
                bounds["dx"][i] =
                    precision.accumulator * (logarithm ? 2 * std::abs(dy[i]) + factor * (terms + 4) * sum
                                                       : factor * (3 * std::abs(dy[i]) + terms * sum));
              }
            }
            return bounds;
          }};
  Inputs inputs(result.name);
  return result.input("dy", Kind::activation, inputs.normal(e.rows * e.columns))
      .input("y", Kind::activation,
             reference(softmax_case(e, logarithm, inputs.normal(e.rows * e.columns)))["y"])
      .output("dx", Kind::activation, e.rows * e.columns)
      .plant_all({"dy"});
}

Case embedding_case(bool backward, int64_t rows, int64_t features, int64_t entries) {
  Case result{.name = fmt::format("embedding_{} {} x {} of {}", backward ? "backward" : "forward", rows,
                                  features, entries),
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    if (backward)
                      backend.embedding_backward(stream, rows, features, entries, type, p.get<int32_t>("ids"),
                                                 p["dy"], p["dtable"]);
                    else
                      backend.embedding_forward(stream, rows, features, type, p.get<int32_t>("ids"),
                                                p["table"], p["y"]);
                  },
              .bound = backward ? sum_of(static_cast<double>(rows + 1)) : exact()};
  Inputs inputs(result.name);
  result.input("ids", Kind::i32, inputs.integers(rows, entries));
  if (backward)
    return result.input("dy", Kind::activation, inputs.normal(rows * features))
        .update("dtable", Kind::accumulator, inputs.normal(entries * features))
        .plant_all({"dy"});
  return result.input("table", Kind::activation, inputs.normal(entries * features))
      .output("y", Kind::activation, rows * features)
      .plant_all({"table"});
}

class Softmax : public ::testing::TestWithParam<Subject> {};

TEST_P(Softmax, Forward) {
  for (const Extent& e : kExtents)
    for (bool logarithm : {false, true}) {
      Inputs inputs("softmax");
      int64_t size = e.rows * e.columns;
      EXPECT_THAT(check(GetParam(), softmax_case(e, logarithm, inputs.normal(size))), IsEmpty());
      EXPECT_THAT(check(GetParam(), softmax_case(e, logarithm, inputs.normal(size, 5000, 20))), IsEmpty());
      EXPECT_THAT(check(GetParam(), softmax_case(e, logarithm, inputs.magnitudes(size, -5, 30))), IsEmpty());
    }
}

TEST_P(Softmax, Backward) {
  for (const Extent& e : kExtents)
    for (bool logarithm : {false, true})
      EXPECT_THAT(check(GetParam(), softmax_backward_case(e, logarithm)), IsEmpty());
}

TEST_P(Softmax, Embedding) {
  for (auto [rows, features, entries] :
       {std::tuple{1, 1, 1}, {20, 16, 7}, {33, 19, 100}, {200, 5, 3}, {6, 768, 9}}) {
    EXPECT_THAT(check(GetParam(), embedding_case(false, rows, features, entries)), IsEmpty());
    EXPECT_THAT(check(GetParam(), embedding_case(true, rows, features, entries)), IsEmpty());
  }
}

INSTANTIATE_TEST_SUITE_P(All, Softmax, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(SoftmaxReference, GradientsAgreeWithFiniteDifferences) {
  for (bool logarithm : {false, true}) {
    Case forward = softmax_case({3, 5}, logarithm, Inputs("tiny").normal(15));
    Case backward = softmax_backward_case({3, 5}, logarithm);
    backward.arguments[1].values = reference(forward)["y"];
    EXPECT_THAT(
        check_gradient(forward, {{"y", backward.argument("dy").values}}, "x", reference(backward)["dx"]),
        IsEmpty());
  }
}

TEST(SoftmaxReference, EmbeddingGradientAgreesWithFiniteDifferences) {
  Case forward = embedding_case(false, 6, 2, 4), backward = embedding_case(true, 6, 2, 4);
  backward.arguments[0].values = forward.argument("ids").values;
  backward.arguments[2].values.assign(8, 0);
  EXPECT_THAT(check_gradient(forward, {{"y", backward.argument("dy").values}}, "table",
                             reference(backward)["dtable"]),
              IsEmpty());
}

TEST(SoftmaxReference, KnownValues) {
  // exp is 1, 2, 5.
  std::vector<double> x = {0, std::log(2.0), std::log(5.0)};
  std::vector<double> p = reference(softmax_case({1, 3}, false, x))["y"];
  std::vector<double> log_p = reference(softmax_case({1, 3}, true, x))["y"];
  EXPECT_NEAR(p[0], 1.0 / 8, 1e-15);
  EXPECT_NEAR(p[2], 5.0 / 8, 1e-15);
  EXPECT_NEAR(log_p[1], std::log(0.25), 1e-15);
}

}  // namespace
}  // namespace taper::ops
