// Losses on logits in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/op_inputs.h"
#include "tests/op_softmax_bounds.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct Extent {
  int64_t rows, classes;
};
const std::vector<Extent> kExtents = {{1, 1}, {4, 10}, {33, 7}, {3, 1000}, {40, 16}, {2, 2051}};

size_t at(int64_t i) { return static_cast<size_t>(i); }

/// `gradient`: dlogits is wanted.
Case cross_entropy_case(const Extent& e, double smoothing, bool gradient, std::vector<double> logits) {
  Case result{
      .name = fmt::format("cross_entropy {} x {}, smoothing {}{}", e.rows, e.classes, smoothing,
                          gradient ? "" : ", loss only"),
      .call =
          [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
            backend.cross_entropy(stream, e.rows, e.classes, accumulator(type), p["logits"],
                                  p.get<int32_t>("labels"), smoothing, p["loss"], p["dlogits"]);
          },
      .bound =
          [=](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
            Values bounds = outputs;
            double unit = precision.accumulator, loss = 0;
            for (int64_t r = 0; r < e.rows; ++r) {
              SoftmaxRow row(inputs.at("logits").data() + r * e.classes, e.classes, 1, unit);
              for (int64_t c = 0; c < e.classes; ++c) {
                double q = (static_cast<double>(c) == inputs.at("labels")[at(r)] ? 1 - smoothing : 0) +
                           smoothing / static_cast<double>(e.classes);
                // With smoothing, the sum over classes may be of the logits themselves.
                double size = smoothing == 0 ? 0 : 2 * std::abs(inputs.at("logits")[at(r * e.classes + c)]);
                if (q != 0)
                  loss += q * (row.log_p_error(c) + unit * static_cast<double>(e.classes + e.rows + 4) *
                                                        (std::abs(row.log_p(c)) + size));
                if (gradient)
                  bounds["dlogits"][at(r * e.classes + c)] =
                      row.p(c) * row.log_p_error(c) + 3 * unit * (row.p(c) + q);
              }
            }
            bounds["loss"] = {loss};
            return bounds;
          }};
  result.input("logits", Kind::accumulator, std::move(logits))
      .input("labels", Kind::i32, Inputs(result.name).integers(e.rows, e.classes))
      .output("loss", Kind::accumulator, 1);
  if (gradient)
    result.output("dlogits", Kind::accumulator, e.rows * e.classes).may_alias("dlogits", "logits");
  return result.plant_nan_and_inf({"logits"});
}

Case kl_case(const Extent& e, double temperature, bool gradient, std::vector<double> teacher,
             std::vector<double> student) {
  Case result{.name = fmt::format("kl_divergence {} x {}, temperature {}{}", e.rows, e.classes, temperature,
                                  gradient ? "" : ", loss only"),
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.kl_divergence(stream, e.rows, e.classes, accumulator(type), p["teacher"],
                                          p["student"], temperature, p["loss"], p["dstudent"]);
                  },
              .bound =
                  [=](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
                    Values bounds = outputs;
                    double unit = precision.accumulator, loss = 0;
                    for (int64_t r = 0; r < e.rows; ++r) {
                      SoftmaxRow p(inputs.at("teacher").data() + r * e.classes, e.classes, temperature, unit);
                      SoftmaxRow q(inputs.at("student").data() + r * e.classes, e.classes, temperature, unit);
                      for (int64_t c = 0; c < e.classes; ++c) {
                        double distance = std::abs(p.log_p(c) - q.log_p(c));
                        // log p - log q may be taken apart, into two sums.
                        loss += p.p(c) * (p.log_p_error(c) * (1 + distance) + q.log_p_error(c) +
                                          unit * static_cast<double>(e.rows + e.classes + 6) *
                                              (std::abs(p.log_p(c)) + std::abs(q.log_p(c))));
                        if (gradient)
                          bounds["dstudent"][at(r * e.classes + c)] =
                              temperature * (q.p(c) * (q.log_p_error(c) + 3 * unit) +
                                             p.p(c) * (p.log_p_error(c) + 3 * unit));
                      }
                    }
                    bounds["loss"] = {temperature * temperature * loss};
                    return bounds;
                  }};
  result.input("teacher", Kind::accumulator, std::move(teacher))
      .input("student", Kind::accumulator, std::move(student))
      .output("loss", Kind::accumulator, 1);
  if (gradient) result.output("dstudent", Kind::accumulator, e.rows * e.classes);
  return result.plant_nan_and_inf({"teacher", "student"});
}

Case count_case(const Extent& e, std::vector<double> logits) {
  Case result{.name = fmt::format("count_correct {} x {}", e.rows, e.classes),
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.count_correct(stream, e.rows, e.classes, accumulator(type), p["logits"],
                                          p.get<int32_t>("labels"), p.get<int32_t>("counts"));
                  },
              .bound = exact()};
  return result.input("logits", Kind::accumulator, std::move(logits))
      .input("labels", Kind::i32, Inputs(result.name).integers(e.rows, e.classes))
      .output("counts", Kind::i32, 2)
      .plant_all({"logits"});
}

class Loss : public ::testing::TestWithParam<Subject> {};

TEST_P(Loss, CrossEntropy) {
  for (const Extent& e : kExtents)
    for (double smoothing : {0.0, 0.1})
      for (bool gradient : {true, false}) {
        Inputs inputs("cross entropy");
        int64_t size = e.rows * e.classes;
        EXPECT_THAT(check(GetParam(), cross_entropy_case(e, smoothing, gradient, inputs.normal(size, 0, 3))),
                    IsEmpty());
        EXPECT_THAT(
            check(GetParam(), cross_entropy_case(e, smoothing, gradient, inputs.magnitudes(size, -3, 6))),
            IsEmpty());
      }
}

TEST_P(Loss, ManyRows) {
  Inputs inputs("many rows");
  EXPECT_THAT(check(GetParam(), cross_entropy_case({300, 2}, 0, true, inputs.normal(600)), 1), IsEmpty());
  EXPECT_THAT(check(GetParam(), count_case({300, 2}, inputs.normal(600)), 1), IsEmpty());
}

TEST_P(Loss, AClassWithoutAnyProbabilityCostsNothing) {
  const double inf = std::numeric_limits<double>::infinity();
  Case loss = cross_entropy_case({2, 4}, 0, true, {1, -inf, 2, 3, 0, -1, -inf, -inf});
  loss.arguments[1].values = {2, 0};
  EXPECT_THAT(check(GetParam(), loss, 1), IsEmpty());
}

TEST_P(Loss, KlDivergence) {
  for (const Extent& e : kExtents)
    for (double temperature : {1.0, 4.0})
      for (bool gradient : {true, false}) {
        Inputs inputs("kl divergence");
        int64_t size = e.rows * e.classes;
        std::vector<double> teacher = inputs.normal(size, 0, 3), student = inputs.normal(size, 0, 3);
        EXPECT_THAT(check(GetParam(), kl_case(e, temperature, gradient, teacher, student)), IsEmpty());
        EXPECT_THAT(check(GetParam(), kl_case(e, temperature, gradient, teacher, teacher)), IsEmpty());
        EXPECT_THAT(check(GetParam(), kl_case(e, temperature, gradient, inputs.magnitudes(size, -3, 4),
                                              inputs.magnitudes(size, -3, 4))),
                    IsEmpty());
      }
}

TEST_P(Loss, CountCorrect) {
  for (const Extent& e : kExtents) {
    Inputs inputs("count correct");
    EXPECT_THAT(check(GetParam(), count_case(e, inputs.normal(e.rows * e.classes))), IsEmpty());
    EXPECT_THAT(check(GetParam(), count_case(e, inputs.integers(e.rows * e.classes, 3))), IsEmpty());  // ties
  }
}

INSTANTIATE_TEST_SUITE_P(All, Loss, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(LossReference, GradientsAgreeWithFiniteDifferences) {
  Inputs inputs("tiny");
  for (double smoothing : {0.0, 0.2}) {
    Case loss = cross_entropy_case({3, 4}, smoothing, true, inputs.normal(12));
    EXPECT_THAT(check_gradient(loss, {{"loss", {1}}}, "logits", reference(loss)["dlogits"]), IsEmpty());
  }
  for (double temperature : {1.0, 3.0}) {
    Case loss = kl_case({3, 4}, temperature, true, inputs.normal(12), inputs.normal(12));
    EXPECT_THAT(check_gradient(loss, {{"loss", {1}}}, "student", reference(loss)["dstudent"]), IsEmpty());
  }
}

TEST(LossReference, KnownValues) {
  // The probabilities are 1/8, 2/8, 5/8.
  Case loss = cross_entropy_case({1, 3}, 0.3, true, {0, std::log(2.0), std::log(5.0)});
  loss.arguments[1].values = {1};
  Values outputs = reference(loss);
  EXPECT_NEAR(outputs["loss"][0], -(0.1 * std::log(1.0 / 8) + 0.8 * std::log(0.25) + 0.1 * std::log(5.0 / 8)),
              1e-15);
  EXPECT_NEAR(outputs["dlogits"][1], 0.25 - 0.8, 1e-15);

  Case kl = kl_case({1, 2}, 2, true, {0, 2 * std::log(3.0)}, {0, 0});
  outputs = reference(kl);
  EXPECT_NEAR(outputs["loss"][0], 4 * (0.25 * std::log(0.5) + 0.75 * std::log(1.5)), 1e-14);
  EXPECT_NEAR(outputs["dstudent"][0], 2 * (0.5 - 0.25), 1e-15);
}

TEST(LossReference, CountsByHand) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Case count = count_case({4, 6}, {5, 5,   0, 0, 0, 0,    // label 1: tie with 0, which comes first
                                   5, 5,   0, 0, 0, 0,    // label 0: first
                                   0, nan, 0, 0, 0, 9,    // label 5: a NaN in the row
                                   6, 5,   4, 3, 2, 1});  // label 5: sixth
  count.arguments[1].values = {1, 0, 5, 5};
  EXPECT_THAT(reference(count)["counts"], ElementsAre(1, 2));
}

}  // namespace
}  // namespace taper::ops
