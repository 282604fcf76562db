// Layer normalisation in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/op_inputs.h"
#include "tests/op_norm_bounds.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

constexpr double kEps = 1e-5;

struct LayerNormCase {
  std::string name;
  int64_t rows, features;
  bool residual = false, sum = false;
  double mean = 0, deviation = 1;
};

const std::vector<LayerNormCase>& layer_norms() {
  static const std::vector<LayerNormCase> all = {
      {"aligned", 9, 64, true, true},
      {"ragged", 5, 37, true, true},
      {"no residual", 4, 48},
      {"no residual, sum stored", 3, 20, false, true},
      {"two features", 6, 2, true, true},
      {"bert", 2, 768, true, true},
      {"one feature", 3, 1, true, true},
      {"many rows", 545, 3, true, true},
      {"wide", 33, 1032},
      {"wide and ragged", 3, 259},
      {"large mean", 7, 65, false, false, 1000, 1},
      {"large values", 5, 40, false, false, 0, 1e12},
      {"small values", 5, 40, false, false, 0, 1e-12},
  };
  return all;
}

Case layer_norm_case(const LayerNormCase& c) {
  Case result{
      .name = "layer_norm_forward " + c.name,
      .call =
          [c](Backend& backend, Stream& stream, DType type, const Pointers& p) {
            backend.layer_norm_forward(stream, c.rows, c.features, type, p["x"], p["residual"], p["gamma"],
                                       p["beta"], kEps, p["sum"], p["y"], p["mean"], p["rstd"]);
          },
      .bound =
          [c](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
            Values bounds = outputs;
            for (int64_t row = 0; row < c.rows; ++row) {
              auto value = [&](int64_t f) {
                size_t i = at(row * c.features + f);
                return inputs.at("x")[i] + (c.residual ? inputs.at("residual")[i] : 0);
              };
              // The sum may be rounded to its type before it is normalised.
              double rounding = 0;
              for (int64_t f = 0; c.residual && f < c.features; ++f)
                rounding += precision.type * std::abs(value(f)) / static_cast<double>(c.features);
              double mean = outputs.at("mean")[at(row)], rstd = outputs.at("rstd")[at(row)];
              StatisticsBound statistics =
                  statistics_bound(c.features, mean, rstd, precision.accumulator, rounding, value);
              bounds["mean"][at(row)] = statistics.mean;
              bounds["rstd"][at(row)] = statistics.rstd;
              for (int64_t f = 0; f < c.features; ++f) {
                size_t i = at(row * c.features + f);
                double gamma = inputs.at("gamma")[at(f)];
                bounds["y"][i] = normalised_bound(value(f), mean, rstd, gamma, inputs.at("beta")[at(f)],
                                                  precision.accumulator, statistics);
                if (c.residual) bounds["y"][i] += std::abs(gamma * value(f)) * rstd * precision.type;
              }
            }
            bounds.erase("sum");  // one addition, rounded once
            return bounds;
          }};
  Inputs inputs(result.name);
  int64_t size = c.rows * c.features;
  result.input("x", Kind::activation, inputs.normal(size, c.mean, c.deviation))
      .input("gamma", Kind::accumulator, inputs.normal(c.features, 1, 0.3))
      .input("beta", Kind::accumulator, inputs.normal(c.features));
  if (c.residual) result.input("residual", Kind::activation, inputs.normal(size));
  if (c.sum) result.output("sum", Kind::activation, size);
  return result.output("y", Kind::activation, size)
      .output("mean", Kind::accumulator, c.rows)
      .output("rstd", Kind::accumulator, c.rows)
      .plant_all({"x"});
}

Bound layer_norm_backward_bound(const LayerNormCase& c) {
  return [c](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
    Values bounds{{"dx", std::vector<double>(outputs.at("dx").size())},
                  {"dgamma", std::vector<double>(at(c.features))},
                  {"dbeta", std::vector<double>(at(c.features))}};
    double unit = precision.accumulator;
    auto rows = static_cast<double>(c.rows), features = static_cast<double>(c.features);
    for (int64_t f = 0; f < c.features; ++f) {
      bounds["dgamma"][at(f)] = unit * (rows + 2) * std::abs(inputs.at("dgamma")[at(f)]);
      bounds["dbeta"][at(f)] = unit * (rows + 2) * std::abs(inputs.at("dbeta")[at(f)]);
    }
    for (int64_t row = 0; row < c.rows; ++row) {
      double mean = inputs.at("mean")[at(row)], rstd = inputs.at("rstd")[at(row)];
      auto xhat = [&](size_t i) { return std::abs(inputs.at("sum")[i] - mean) * rstd; };
      auto xhat_error = [&](size_t i) {
        return unit * (3 * xhat(i) + rstd * (std::abs(inputs.at("sum")[i]) + std::abs(mean)));
      };
      double sum_g = 0, sum_g_xhat = 0, sum_error = 0;
      for (int64_t f = 0; f < c.features; ++f) {
        size_t i = at(row * c.features + f);
        double dy = std::abs(inputs.at("dy")[i]), g = dy * std::abs(inputs.at("gamma")[at(f)]);
        sum_g += g;
        sum_g_xhat += g * xhat(i);
        sum_error += g * (xhat_error(i) + unit * (features + 5) * xhat(i));
        bounds["dgamma"][at(f)] += dy * (xhat_error(i) + unit * (rows + 4) * xhat(i));
        bounds["dbeta"][at(f)] += unit * (rows + 2) * dy;
      }
      for (int64_t f = 0; f < c.features; ++f) {
        size_t i = at(row * c.features + f);
        double g = std::abs(inputs.at("dy")[i] * inputs.at("gamma")[at(f)]);
        bounds["dx"][i] = rstd * (6 * unit * g + (unit * (features + 7) * sum_g +
                                                  xhat(i) * (sum_error + 4 * unit * sum_g_xhat) +
                                                  xhat_error(i) * sum_g_xhat) /
                                                     features);
      }
    }
    return bounds;
  };
}

Case layer_norm_backward_case(const LayerNormCase& c) {
  LayerNormCase stored = c;
  stored.sum = true;
  Case forward = layer_norm_case(stored);
  Values saved = reference(forward);
  Case result{.name = "layer_norm_backward " + c.name,
              .call =
                  [c](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.layer_norm_backward(stream, c.rows, c.features, type, p["dy"], p["sum"],
                                                p["gamma"], p["mean"], p["rstd"], p["dx"], p["dgamma"],
                                                p["dbeta"]);
                  },
              .bound = layer_norm_backward_bound(c)};
  Inputs inputs(result.name);
  return result.input("dy", Kind::activation, inputs.normal(c.rows * c.features))
      .input("sum", Kind::activation, saved["sum"])
      .input("gamma", Kind::accumulator, forward.argument("gamma").values)
      .input("mean", Kind::accumulator, saved["mean"])
      .input("rstd", Kind::accumulator, saved["rstd"])
      .output("dx", Kind::activation, c.rows * c.features)
      .update("dgamma", Kind::accumulator, inputs.normal(c.features))
      .update("dbeta", Kind::accumulator, inputs.normal(c.features))
      .plant_all({"dy"});
}

class LayerNorm : public ::testing::TestWithParam<Subject> {};

TEST_P(LayerNorm, Forward) {
  for (const LayerNormCase& c : layer_norms()) EXPECT_THAT(check(GetParam(), layer_norm_case(c)), IsEmpty());
}

TEST_P(LayerNorm, Backward) {
  for (const LayerNormCase& c : layer_norms())
    EXPECT_THAT(check(GetParam(), layer_norm_backward_case(c)), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, LayerNorm, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(LayerNormReference, GradientsAgreeWithFiniteDifferences) {
  LayerNormCase c{"tiny", 3, 6, true, true};
  Case forward = layer_norm_case(c), backward = layer_norm_backward_case(c);
  for (Argument& argument : backward.arguments)
    if (argument.role == Role::update) std::fill(argument.values.begin(), argument.values.end(), 0);
  Values weights{{"y", backward.argument("dy").values}}, gradients = reference(backward);
  EXPECT_THAT(check_gradient(forward, weights, "x", gradients["dx"]), IsEmpty());
  EXPECT_THAT(check_gradient(forward, weights, "residual", gradients["dx"]), IsEmpty());
  EXPECT_THAT(check_gradient(forward, weights, "gamma", gradients["dgamma"]), IsEmpty());
  EXPECT_THAT(check_gradient(forward, weights, "beta", gradients["dbeta"]), IsEmpty());
}

}  // namespace
}  // namespace taper::ops
