// Optimizers in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_inputs.h"
#include "tests/op_run.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

constexpr int64_t kSize = 9000;
/// Ragged, out of order, with gaps that must not be touched; one is longer than a chunk of sum_of_squares.
const std::vector<Segment> kSegments = {
    {.offset = 3, .size = 1, .weight_decay = 0.1},
    {.offset = 100, .size = 4101, .weight_decay = 1e-4},
    {.offset = 16, .size = 64},
    {.offset = 4300, .size = 4096, .weight_decay = 0.5},
    {.offset = 8999, .size = 1},
};

// g, momentum and step are each sums of products of rounded factors: eight roundings cover them.
Bound sgd_bound(const Sgd& rule, double scale) {
  return [rule, scale](const Case&, const Precision& precision, const Values& inputs, const Values&) {
    Values bounds{{"momentum", std::vector<double>(kSize, 0)}, {"parameter", std::vector<double>(kSize, 0)}};
    for (const Segment& segment : kSegments)
      for (auto i = static_cast<size_t>(segment.offset);
           i < static_cast<size_t>(segment.offset + segment.size); ++i) {
        double p = std::abs(inputs.at("parameter")[i]);
        double g = std::abs(inputs.at("gradient")[i] * scale) + segment.weight_decay * p;
        double m = rule.momentum * std::abs(inputs.at("momentum")[i]) + g;
        double step = rule.nesterov ? g + rule.momentum * m : m;
        bounds["momentum"][i] = 6 * precision.accumulator * m;
        bounds["parameter"][i] = precision.accumulator * (p + 8 * rule.lr * step);
      }
    return bounds;
  };
}

Case sgd_case(const std::string& name, const Sgd& rule, double scale, std::vector<double> gradient) {
  Case result{.name = "sgd " + name,
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.sgd(stream, kSegments, accumulator(type), rule, scale, p["gradient"],
                                p["momentum"], p["parameter"]);
                  },
              .bound = sgd_bound(rule, scale)};
  Inputs inputs(result.name);
  return result.input("gradient", Kind::accumulator, std::move(gradient))
      .update("momentum", Kind::accumulator, inputs.normal(kSize))
      .update("parameter", Kind::accumulator, inputs.normal(kSize))
      .plant_all({"gradient"});
}

// The moments are sums of two products; the step is a quotient whose numerator carries the error of the
// first moment, where its two terms may cancel.
Bound adamw_bound(const AdamW& rule, double scale) {
  return [rule, scale](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
    Values bounds;
    for (const char* name : {"first_moment", "second_moment", "parameter"})
      bounds[name] = std::vector<double>(kSize, 0);
    double unit = precision.accumulator;
    double correction1 = 1 - std::pow(rule.beta1, rule.step),
           correction2 = 1 - std::pow(rule.beta2, rule.step);
    for (const Segment& segment : kSegments)
      for (auto i = static_cast<size_t>(segment.offset);
           i < static_cast<size_t>(segment.offset + segment.size); ++i) {
        double g = std::abs(inputs.at("gradient")[i] * scale);
        double m = rule.beta1 * std::abs(inputs.at("first_moment")[i]) + (1 - rule.beta1) * g;
        double v = outputs.at("second_moment")[i];
        double denominator = std::sqrt(v / correction2) + rule.eps;
        double& m_bound = bounds["first_moment"][i] = 5 * unit * m;
        bounds["second_moment"][i] = 7 * unit * v;
        double step = rule.lr * std::abs(outputs.at("first_moment")[i]) / correction1 / denominator;
        bounds["parameter"][i] = unit * 4 * std::abs(inputs.at("parameter")[i]) + 12 * unit * step +
                                 rule.lr * m_bound / correction1 / denominator;
      }
    return bounds;
  };
}

Case adamw_case(const std::string& name, const AdamW& rule, double scale, std::vector<double> gradient) {
  Case result{.name = "adamw " + name,
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.adamw(stream, kSegments, accumulator(type), rule, scale, p["gradient"],
                                  p["first_moment"], p["second_moment"], p["parameter"]);
                  },
              .bound = adamw_bound(rule, scale)};
  Inputs inputs(result.name);
  return result.input("gradient", Kind::accumulator, std::move(gradient))
      .update("first_moment", Kind::accumulator, inputs.normal(kSize))
      .update("second_moment", Kind::accumulator, inputs.uniform(kSize, 0, 2))
      .update("parameter", Kind::accumulator, inputs.normal(kSize))
      .plant_all({"gradient"});
}

/// As adamw_bound; the error of the directions' norm reaches every parameter of the segment.
Bound lamb_bound(const Lamb& rule, double scale) {
  return [rule, scale](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
    Values bounds;
    for (const char* name : {"first_moment", "second_moment", "parameter"})
      bounds[name] = std::vector<double>(kSize, 0);
    double unit = precision.accumulator;
    double correction1 = 1 - std::pow(rule.beta1, rule.step),
           correction2 = 1 - std::pow(rule.beta2, rule.step);
    for (const Segment& segment : kSegments) {
      auto begin = static_cast<size_t>(segment.offset), end = begin + static_cast<size_t>(segment.size);
      std::vector<double> u(kSize), u_error(kSize);
      double p_squares = 0, u_squares = 0, error_squares = 0;
      for (size_t i = begin; i < end; ++i) {
        double g = std::abs(inputs.at("gradient")[i] * scale), p = inputs.at("parameter")[i];
        double m = outputs.at("first_moment")[i], v = outputs.at("second_moment")[i];
        double denominator = std::sqrt(v / correction2) + rule.eps;
        double& m_bound = bounds["first_moment"][i] =
            5 * unit * (rule.beta1 * std::abs(inputs.at("first_moment")[i]) + (1 - rule.beta1) * g);
        bounds["second_moment"][i] = 7 * unit * v;
        double adam = m / correction1 / denominator, decay = segment.weight_decay * p;
        u[i] = adam + decay;
        u_error[i] = unit * (13 * std::abs(adam) + 3 * std::abs(decay)) + m_bound / correction1 / denominator;
        p_squares += p * p;
        u_squares += u[i] * u[i];
        error_squares += u_error[i] * u_error[i];
      }
      bool plain = p_squares == 0 || u_squares == 0;
      double ratio = plain ? 1 : std::sqrt(p_squares / u_squares);
      double ratio_error = plain ? 0 : std::sqrt(error_squares / u_squares) + 3 * unit;
      for (size_t i = begin; i < end; ++i)
        bounds["parameter"][i] = unit * std::abs(inputs.at("parameter")[i]) +
                                 rule.lr * ratio * (u_error[i] + std::abs(u[i]) * (ratio_error + 3 * unit));
    }
    return bounds;
  };
}

Case lamb_case(const std::string& name, const Lamb& rule, double scale, std::vector<double> gradient) {
  Case result{.name = "lamb " + name,
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.lamb(stream, kSegments, accumulator(type), rule, scale, p["gradient"],
                                 p["first_moment"], p["second_moment"], p["parameter"]);
                  },
              .bound = lamb_bound(rule, scale)};
  Inputs inputs(result.name);
  return result.input("gradient", Kind::accumulator, std::move(gradient))
      .update("first_moment", Kind::accumulator, inputs.normal(kSize))
      .update("second_moment", Kind::accumulator, inputs.uniform(kSize, 0, 2))
      .update("parameter", Kind::accumulator, inputs.normal(kSize))
      .plant_all({"gradient"});
}

Case sum_of_squares_case(const std::string& name, std::vector<double> x,
                         const std::vector<Segment>& segments = kSegments) {
  Case result{.name = "sum_of_squares " + name,
              .call =
                  [segments](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.sum_of_squares(stream, segments, accumulator(type), p["x"],
                                           p.get<double>("squares"));
                  },
              .bound =
                  [](const Case&, const Precision&, const Values&, const Values& outputs) {
                    std::vector<double> squares = outputs.at("squares");
                    for (double& value : squares) value *= 4101 * 0x1p-53;
                    return Values{{"squares", squares}};
                  }};
  return result.input("x", Kind::accumulator, std::move(x))
      .output("squares", Kind::f64, static_cast<int64_t>(segments.size()))
      .plant_all({"x"});
}

class Optimizer : public ::testing::TestWithParam<Subject> {};

TEST_P(Optimizer, Sgd) {
  Inputs inputs("sgd");
  std::vector<double> normal = inputs.normal(kSize);
  EXPECT_THAT(check(GetParam(), sgd_case("plain", {.lr = 0.1}, 1, normal)), IsEmpty());
  EXPECT_THAT(check(GetParam(), sgd_case("momentum", {.lr = 0.1, .momentum = 0.9}, 1.0 / 128, normal)),
              IsEmpty());
  EXPECT_THAT(check(GetParam(),
                    sgd_case("nesterov", {.lr = 0.05, .momentum = 0.9, .nesterov = true}, 1.0 / 100, normal)),
              IsEmpty());
  EXPECT_THAT(check(GetParam(), sgd_case("extreme", {.lr = 1e-3, .momentum = 0.9}, 1e-3,
                                         inputs.magnitudes(kSize, -20, 30))),
              IsEmpty());
}

TEST_P(Optimizer, AdamW) {
  Inputs inputs("adamw");
  std::vector<double> normal = inputs.with_zeros(kSize);
  EXPECT_THAT(check(GetParam(), adamw_case("first step", {.lr = 1e-3, .step = 1}, 1.0 / 64, normal)),
              IsEmpty());
  EXPECT_THAT(
      check(GetParam(),
            adamw_case("late step", {.lr = 1e-2, .beta1 = 0.8, .beta2 = 0.99, .eps = 1e-6, .step = 100000}, 1,
                       normal)),
      IsEmpty());
  EXPECT_THAT(
      check(GetParam(), adamw_case("extreme", {.lr = 1e-3, .step = 7}, 1, inputs.magnitudes(kSize, -18, 18))),
      IsEmpty());
}

TEST_P(Optimizer, Lamb) {
  Inputs inputs("lamb");
  std::vector<double> normal = inputs.with_zeros(kSize);
  EXPECT_THAT(check(GetParam(), lamb_case("first step", {.lr = 1e-2, .step = 1}, 1.0 / 64, normal)),
              IsEmpty());
  EXPECT_THAT(
      check(GetParam(),
            lamb_case("late step", {.lr = 0.1, .beta1 = 0.4, .beta2 = 0.99, .eps = 1e-8, .step = 100000}, 1,
                      normal)),
      IsEmpty());
  EXPECT_THAT(
      check(GetParam(), lamb_case("extreme", {.lr = 1e-3, .step = 7}, 1, inputs.magnitudes(kSize, -18, 18))),
      IsEmpty());
  Case at_zero = lamb_case("from zero", {.lr = 1e-3, .step = 1}, 1, normal);
  std::fill(at_zero.arguments[3].values.begin(), at_zero.arguments[3].values.end(), 0);
  EXPECT_THAT(check(GetParam(), at_zero), IsEmpty());
}

TEST_P(Optimizer, SumOfSquares) {
  Inputs inputs("squares");
  EXPECT_THAT(check(GetParam(), sum_of_squares_case("normal", inputs.normal(kSize))), IsEmpty());
  // Squares beyond the range of float, and below it.
  EXPECT_THAT(check(GetParam(), sum_of_squares_case("large", inputs.magnitudes(kSize, 20, 38))), IsEmpty());
  EXPECT_THAT(check(GetParam(), sum_of_squares_case("small", inputs.magnitudes(kSize, -37, -25))), IsEmpty());
}

// More than the tensors of a deep network, and empty ones among them; sums of whole numbers are exact.
TEST_P(Optimizer, SumOfSquaresOfManySegments) {
  std::vector<Segment> segments;
  for (int64_t i = 0; i < 600; ++i) segments.push_back({.offset = 7 * i, .size = i % 8});
  Case many = sum_of_squares_case("many segments", Inputs("many").integers(7 * 600, 9), segments);
  const Subject& subject = GetParam();
  std::unique_ptr<Stream> stream = subject.backend->make_stream(1);
  EXPECT_EQ(run(*subject.backend, *stream, subject.type, many).values, reference(many));
}

INSTANTIATE_TEST_SUITE_P(All, Optimizer, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

// Two steps by hand, as torch.optim computes them.
TEST(OptimizerReference, TwoStepsOfSgdByHand) {
  // p = 1, g = 2, weight decay 0.1 of the only segment that starts at 3.
  auto step = [](bool nesterov, double m, double p) {
    Case sgd = sgd_case("by hand", {.lr = 0.5, .momentum = 0.9, .nesterov = nesterov}, 1,
                        std::vector<double>(kSize, 2));
    sgd.arguments[1].values[3] = m;
    sgd.arguments[2].values[3] = p;
    Values outputs = reference(sgd);
    return std::pair{outputs["momentum"][3], outputs["parameter"][3]};
  };
  auto [m1, p1] = step(false, 0, 1);
  EXPECT_NEAR(m1, 2.1, 1e-15);
  EXPECT_NEAR(p1, -0.05, 1e-15);
  auto [m2, p2] = step(false, m1, p1);
  EXPECT_NEAR(m2, 3.885, 1e-15);  // 0.9 x 2.1 + 1.995
  EXPECT_NEAR(p2, -1.9925, 1e-15);
  auto [m3, p3] = step(true, 0, 1);
  EXPECT_NEAR(m3, 2.1, 1e-15);
  EXPECT_NEAR(p3, -0.995, 1e-15);  // 1 - 0.5 (2.1 + 0.9 x 2.1)
}

TEST(OptimizerReference, FirstStepOfAdamWByHand) {
  Case adamw = adamw_case("by hand", {.lr = 0.01, .step = 1}, 0.5, std::vector<double>(kSize, 6));
  for (size_t argument : {1, 2}) adamw.arguments[argument].values[3] = 0;
  adamw.arguments[3].values[3] = 2;
  Values outputs = reference(adamw);
  EXPECT_DOUBLE_EQ(outputs["first_moment"][3], 0.1 * 3);
  EXPECT_DOUBLE_EQ(outputs["second_moment"][3], 0.001 * 9);
  // Decay by lr x 0.1, then a step of lr x g / (|g| + eps).
  EXPECT_DOUBLE_EQ(outputs["parameter"][3], 2 - 0.01 * 0.1 * 2 - 0.01 * 3 / (3 + 1e-8));
}

TEST(OptimizerReference, FirstStepOfLambByHand) {
  Case lamb = lamb_case("by hand", {.lr = 0.01, .eps = 0, .step = 1}, 0.5, std::vector<double>(kSize, 6));
  for (size_t argument : {1, 2})
    std::fill(lamb.arguments[argument].values.begin(), lamb.arguments[argument].values.end(), 0);
  // The 64 elements from 16 on have no decay: each direction is g / |g| = 1, so that |u| = 8.
  for (size_t i = 16; i < 80; ++i) lamb.arguments[3].values[i] = i < 48 ? 3 : -5;
  Values outputs = reference(lamb);
  EXPECT_DOUBLE_EQ(outputs["first_moment"][20], 0.1 * 3);
  EXPECT_DOUBLE_EQ(outputs["second_moment"][20], 0.001 * 9);
  const double norm = std::sqrt(32 * 9 + 32 * 25);
  EXPECT_NEAR(outputs["parameter"][20], 3 - 0.01 * norm / 8, 1e-14);
  EXPECT_NEAR(outputs["parameter"][60], -5 - 0.01 * norm / 8, 1e-14);
  // One element with decay 0.1: u = 1 + 0.1 p, and |p| / |u| u is p itself, but for the sign.
  EXPECT_NEAR(outputs["parameter"][3],
              lamb.arguments[3].values[3] - 0.01 * std::abs(lamb.arguments[3].values[3]), 1e-14);
}

}  // namespace
}  // namespace taper::ops
