// Batch normalisation in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/op_inputs.h"
#include "tests/op_norm_bounds.h"
#include "tests/op_run.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

constexpr double kEps = 1e-5;

struct BatchNormCase {
  std::string name;
  BatchNormShape shape;
  bool residual = false;
  double mean = 0, deviation = 1;
};

const std::vector<BatchNormCase>& batch_norms() {
  static const std::vector<BatchNormCase> all = {
      {"aligned", {.rows = 64, .channels = 32}},
      {"relu", {.rows = 50, .channels = 16, .relu = true}},
      {"residual relu", {.rows = 33, .channels = 24, .relu = true}, true},
      {"residual", {.rows = 20, .channels = 7}, true},
      {"ragged", {.rows = 131, .channels = 19, .relu = true}},
      {"two rows", {.rows = 2, .channels = 5}},
      {"one channel", {.rows = 100, .channels = 1}},
      {"three numbers", {.rows = 3, .channels = 1, .relu = true}, true},
      {"long", {.rows = 3000, .channels = 3}},
      {"long and wide", {.rows = 130, .channels = 128, .relu = true}, true},
      {"wide", {.rows = 9, .channels = 129}},
      {"large mean", {.rows = 100, .channels = 17}, false, 1000, 1},
      {"large values", {.rows = 40, .channels = 16}, false, 0, 1e12},
      {"small values", {.rows = 40, .channels = 16}, false, 0, 1e-12},
  };
  return all;
}

Case batch_norm_case(const BatchNormCase& c) {
  Case result{
      .name = "batch_norm_forward " + c.name,
      .call =
          [shape = c.shape](Backend& backend, Stream& stream, DType type, const Pointers& p) {
            backend.batch_norm_forward(stream, shape, type, p["x"], p["gamma"], p["beta"], p["residual"],
                                       kEps, p["y"], p["mean"], p["rstd"], p["variance"]);
          },
      .bound =
          [shape = c.shape](const Case&, const Precision& precision, const Values& inputs,
                            const Values& outputs) {
            Values bounds = outputs;
            auto residual = inputs.find("residual");
            for (int64_t channel = 0; channel < shape.channels; ++channel) {
              double mean = outputs.at("mean")[at(channel)], rstd = outputs.at("rstd")[at(channel)];
              auto index = [&](int64_t row) { return at(row * shape.channels + channel); };
              StatisticsBound statistics =
                  statistics_bound(shape.rows, mean, rstd, precision.accumulator, 0,
                                   [&](int64_t row) { return inputs.at("x")[index(row)]; });
              bounds["mean"][at(channel)] = statistics.mean;
              bounds["rstd"][at(channel)] = statistics.rstd;
              bounds["variance"][at(channel)] =
                  2 * statistics.variance + 4 * precision.accumulator * outputs.at("variance")[at(channel)];
              for (int64_t row = 0; row < shape.rows; ++row) {
                size_t i = index(row);
                double added = residual == inputs.end() ? 0 : std::abs(residual->second[i]);
                bounds["y"][i] =
                    normalised_bound(inputs.at("x")[i], mean, rstd, inputs.at("gamma")[at(channel)],
                                     inputs.at("beta")[at(channel)], precision.accumulator, statistics) +
                    precision.accumulator * added;
              }
            }
            return bounds;
          }};
  Inputs inputs(result.name);
  int64_t size = c.shape.rows * c.shape.channels;
  result.input("x", Kind::activation, inputs.normal(size, c.mean, c.deviation))
      .input("gamma", Kind::accumulator, inputs.normal(c.shape.channels, 1, 0.3))
      .input("beta", Kind::accumulator, inputs.normal(c.shape.channels));
  if (c.residual) result.input("residual", Kind::activation, inputs.normal(size)).may_alias("y", "residual");
  return result.output("y", Kind::activation, size)
      .output("mean", Kind::accumulator, c.shape.channels)
      .output("rstd", Kind::accumulator, c.shape.channels)
      .output("variance", Kind::accumulator, c.shape.channels)
      .may_alias("y", "x")
      .plant_all({"x"});
}

// In terms of g = dy where y > 0 and xhat = (x - mean) rstd, whose error shows in every sum that it is in.
Bound batch_norm_backward_bound(const BatchNormShape& shape, bool fixed) {
  return [=](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
    Values bounds{{"dx", std::vector<double>(outputs.at("dx").size())},
                  {"dgamma", std::vector<double>(at(shape.channels))},
                  {"dbeta", std::vector<double>(at(shape.channels))}};
    double unit = precision.accumulator;
    auto rows = static_cast<double>(shape.rows);
    for (int64_t channel = 0; channel < shape.channels; ++channel) {
      size_t c = at(channel);
      double mean = inputs.at("mean")[c], rstd = inputs.at("rstd")[c];
      auto g = [&](size_t i) {
        return !shape.relu || inputs.at("y")[i] > 0 ? std::abs(inputs.at("dy")[i]) : 0;
      };
      auto xhat = [&](size_t i) { return std::abs(inputs.at("x")[i] - mean) * rstd; };
      auto xhat_error = [&](size_t i) {
        return unit * (3 * xhat(i) + rstd * (std::abs(inputs.at("x")[i]) + std::abs(mean)));
      };
      double sum_g = 0, sum_g_xhat = 0, sum_error = 0;
      for (int64_t row = 0; row < shape.rows; ++row) {
        size_t i = at(row * shape.channels + channel);
        sum_g += g(i);
        sum_g_xhat += g(i) * xhat(i);
        sum_error += g(i) * (xhat_error(i) + unit * (rows + 4) * xhat(i));
      }
      bounds["dgamma"][c] = sum_error + unit * std::abs(inputs.at("dgamma")[c]);
      bounds["dbeta"][c] = unit * (rows + 2) * (sum_g + std::abs(inputs.at("dbeta")[c]));
      for (int64_t row = 0; row < shape.rows; ++row) {
        size_t i = at(row * shape.channels + channel);
        double error = 5 * unit * g(i);
        if (!fixed)
          error += (unit * (rows + 6) * sum_g + xhat(i) * (sum_error + 4 * unit * sum_g_xhat) +
                    xhat_error(i) * sum_g_xhat) /
                   rows;
        bounds["dx"][i] = std::abs(inputs.at("gamma")[c]) * rstd * error;
      }
    }
    return bounds;
  };
}

Case batch_norm_backward_case(const BatchNormCase& c, bool fixed) {
  Case forward = batch_norm_case(c);
  Values saved = reference(forward);
  Case result{.name = fmt::format("batch_norm_backward {}{}", c.name, fixed ? ", fixed statistics" : ""),
              .call =
                  [shape = c.shape, fixed](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.batch_norm_backward(stream, shape, type, p["dy"], p["x"], p["y"], p["gamma"],
                                                p["mean"], p["rstd"], fixed, p["dx"], p["dresidual"],
                                                p["dgamma"], p["dbeta"]);
                  },
              .bound = batch_norm_backward_bound(c.shape, fixed)};
  Inputs inputs(result.name);
  int64_t size = c.shape.rows * c.shape.channels;
  result.input("dy", Kind::activation, inputs.normal(size))
      .input("x", Kind::activation, forward.argument("x").values)
      .input("gamma", Kind::accumulator, forward.argument("gamma").values)
      .input("mean", Kind::accumulator, saved["mean"])
      .input("rstd", Kind::accumulator, saved["rstd"])
      .output("dx", Kind::activation, size)
      .update("dgamma", Kind::accumulator, inputs.normal(c.shape.channels))
      .update("dbeta", Kind::accumulator, inputs.normal(c.shape.channels))
      .may_alias("dx", "dy")
      .plant_all({"dy"});
  if (c.shape.relu) result.input("y", Kind::activation, saved["y"]);
  if (c.residual) result.output("dresidual", Kind::activation, size);
  return result;
}

Case batch_norm_inference_case(const BatchNormCase& c) {
  Case result{.name = "batch_norm_inference " + c.name,
              .call =
                  [shape = c.shape](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.batch_norm_inference(stream, shape, type, p["x"], p["scale"], p["shift"],
                                                 p["residual"], p["y"]);
                  },
              .bound = sum_of(4)};
  Inputs inputs(result.name);
  int64_t size = c.shape.rows * c.shape.channels;
  result.input("x", Kind::activation, inputs.normal(size, c.mean, c.deviation))
      .input("scale", Kind::accumulator, inputs.normal(c.shape.channels))
      .input("shift", Kind::accumulator, inputs.normal(c.shape.channels));
  if (c.residual) result.input("residual", Kind::activation, inputs.normal(size));
  return result.output("y", Kind::activation, size).plant_all({"x"});
}

class BatchNorm : public ::testing::TestWithParam<Subject> {};

TEST_P(BatchNorm, Forward) {
  for (const BatchNormCase& c : batch_norms()) EXPECT_THAT(check(GetParam(), batch_norm_case(c)), IsEmpty());
}

TEST_P(BatchNorm, Backward) {
  for (const BatchNormCase& c : batch_norms())
    for (bool fixed : {false, true})
      EXPECT_THAT(check(GetParam(), batch_norm_backward_case(c, fixed)), IsEmpty());
}

TEST_P(BatchNorm, Inference) {
  for (const BatchNormCase& c : batch_norms())
    EXPECT_THAT(check(GetParam(), batch_norm_inference_case(c)), IsEmpty());
}

TEST_P(BatchNorm, OneRowIsAFailure) {
  Case one = batch_norm_case({"one row", {.rows = 1, .channels = 3}});
  const Subject& subject = GetParam();
  std::unique_ptr<Stream> stream = subject.backend->make_stream(1);
  EXPECT_THROW(run(*subject.backend, *stream, subject.type, one), Failure);
}

INSTANTIATE_TEST_SUITE_P(All, BatchNorm, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(BatchNormReference, GradientsAgreeWithFiniteDifferences) {
  for (const BatchNormCase& c :
       {BatchNormCase{"tiny", {.rows = 6, .channels = 3}},
        BatchNormCase{"tiny, relu", {.rows = 7, .channels = 3, .relu = true}, true}}) {
    Case forward = batch_norm_case(c), backward = batch_norm_backward_case(c, false);
    for (Argument& argument : backward.arguments)
      if (argument.role == Role::update) std::fill(argument.values.begin(), argument.values.end(), 0);
    Values weights{{"y", backward.argument("dy").values}}, gradients = reference(backward);
    EXPECT_THAT(check_gradient(forward, weights, "x", gradients["dx"]), IsEmpty());
    EXPECT_THAT(check_gradient(forward, weights, "gamma", gradients["dgamma"]), IsEmpty());
    EXPECT_THAT(check_gradient(forward, weights, "beta", gradients["dbeta"]), IsEmpty());
    if (c.residual) {
      EXPECT_THAT(check_gradient(forward, weights, "residual", gradients["dresidual"]), IsEmpty());
    }
  }
}

// With fixed statistics the forward is the inference form.
TEST(BatchNormReference, FixedStatisticsGradientsAgreeWithFiniteDifferences) {
  BatchNormCase c{"tiny, fixed", {.rows = 5, .channels = 2}};
  Case backward = batch_norm_backward_case(c, true), forward = batch_norm_inference_case(c);
  Values gradients = reference(backward);
  for (Argument& argument : forward.arguments) {
    for (size_t i = 0; argument.name == "scale" && i < 2; ++i)
      argument.values[i] = backward.argument("gamma").values[i] * backward.argument("rstd").values[i];
  }
  EXPECT_THAT(check_gradient(forward, {{"y", backward.argument("dy").values}}, "x", gradients["dx"]),
              IsEmpty());
}

TEST(BatchNormReference, VarianceIsUnbiased) {
  Case forward = batch_norm_case({"by hand", {.rows = 4, .channels = 1}});
  forward.arguments[0].values = {1, 2, 3, 6};
  Values outputs = reference(forward);
  EXPECT_DOUBLE_EQ(outputs["mean"][0], 3);
  EXPECT_DOUBLE_EQ(outputs["variance"][0], 14.0 / 3);
  EXPECT_DOUBLE_EQ(outputs["rstd"][0], 1 / std::sqrt(14.0 / 4 + kEps));
}

}  // namespace
}  // namespace taper::ops
