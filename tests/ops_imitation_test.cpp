// Losses of imitation in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_inputs.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

const std::vector<ImitationShape> kShapes = {
    {.rows = 1, .wide = 1, .thin = 1, .scale = 1},
    {.rows = 20, .wide = 32, .thin = 16, .scale = 1.0 / 32},
    {.rows = 33, .wide = 19, .thin = 5, .scale = 0.01},
    {.rows = 7, .wide = 64, .thin = 64, .scale = 1},
    {.rows = 300, .wide = 24, .thin = 8, .scale = 1e-4},
};

size_t at(int64_t i) { return static_cast<size_t>(i); }

Case squared_error_case(double scale, std::vector<double> student, std::vector<double> target) {
  auto count = static_cast<int64_t>(student.size());
  Case result{.name = fmt::format("squared_error of {}", count),
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.squared_error(stream, count, type, p["student"], p["target"], scale, p["loss"],
                                          p["dstudent"]);
                  },
              .bound =
                  [=](const Case&, const Precision& precision, const Values&, const Values& outputs) {
                    Values bounds = outputs;
                    bounds["loss"][0] *= precision.accumulator * static_cast<double>(count + 4);
                    for (double& value : bounds["dstudent"])
                      value = 4 * precision.accumulator * std::abs(value);
                    return bounds;
                  }};
  return result.input("student", Kind::activation, std::move(student))
      .input("target", Kind::activation, std::move(target))
      .output("loss", Kind::accumulator, 1)
      .output("dstudent", Kind::activation, count)
      .plant_all({"student", "target"});
}

/// [wide, thin] with orthonormal columns, by Gram and Schmidt, twice.
std::vector<double> orthonormal(Inputs& inputs, int64_t wide, int64_t thin) {
  std::vector<double> u = inputs.normal(wide * thin);
  for (int pass = 0; pass < 2; ++pass)
    for (int64_t c = 0; c < thin; ++c) {
      auto dot = [&](int64_t a, int64_t b) {
        double sum = 0;
        for (int64_t w = 0; w < wide; ++w) sum += u[at(w * thin + a)] * u[at(w * thin + b)];
        return sum;
      };
      for (int64_t before = 0; before < c; ++before) {
        double along = dot(before, c);
        for (int64_t w = 0; w < wide; ++w) u[at(w * thin + c)] -= along * u[at(w * thin + before)];
      }
      double norm = std::sqrt(dot(c, c));
      for (int64_t w = 0; w < wide; ++w) u[at(w * thin + c)] /= norm;
    }
  return u;
}

// tU is a sum over the wide width; the loss sums squares of t, of tU and of h - tU.
Case imitation_case(const ImitationShape& s, double magnitude = 1) {
  Case result{
      .name = fmt::format("imitation {} x {} by {}, magnitude {}", s.rows, s.wide, s.thin, magnitude),
      .call =
          [s](Backend& backend, Stream& stream, DType type, const Pointers& p) {
            backend.imitation(stream, s, type, p["t"], p["u"], p["h"], p["loss"], p["dh"]);
          },
      .bound =
          [s](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
            Values bounds = outputs;
            const std::vector<double>&t = inputs.at("t"), &u = inputs.at("u"), &h = inputs.at("h");
            double unit = precision.accumulator, squares = 0, loss = 0;
            for (double value : t) squares += value * value;
            for (int64_t r = 0; r < s.rows; ++r)
              for (int64_t c = 0; c < s.thin; ++c) {
                double tu = 0, magnitude_tu = 0;
                for (int64_t w = 0; w < s.wide; ++w) {
                  double product = t[at(r * s.wide + w)] * u[at(w * s.thin + c)];
                  tu += product;
                  magnitude_tu += std::abs(product);
                }
                double tu_error = unit * static_cast<double>(s.wide) * magnitude_tu;
                double difference = h[at(r * s.thin + c)] - tu;
                bounds["dh"][at(r * s.thin + c)] =
                    2 * s.scale * (tu_error + 4 * unit * (std::abs(h[at(r * s.thin + c)]) + std::abs(tu)));
                loss += 2 * (std::abs(difference) + std::abs(tu)) * tu_error + 2 * tu_error * tu_error;
                squares += difference * difference + tu * tu;
              }
            loss += unit * static_cast<double>(s.rows * (s.wide + 2 * s.thin) + 4) * squares;
            bounds["loss"] = {s.scale * loss};
            return bounds;
          }};
  Inputs inputs(result.name);
  return result.input("t", Kind::activation, inputs.normal(s.rows * s.wide, 0, magnitude))
      .input("u", Kind::activation, orthonormal(inputs, s.wide, s.thin))
      .input("h", Kind::activation, inputs.normal(s.rows * s.thin, 0, magnitude))
      .output("loss", Kind::accumulator, 1)
      .output("dh", Kind::activation, s.rows * s.thin)
      .plant_all({"t", "h"});
}

// With B = |h| |U|^T + |t|, the sizes of all sums are those of B: of B B for the loss, B |U| and B^T |h|.
Case imitation_free_case(const ImitationShape& s, double magnitude = 1) {
  Case result{
      .name = fmt::format("imitation_free {} x {} by {}, magnitude {}", s.rows, s.wide, s.thin, magnitude),
      .call =
          [s](Backend& backend, Stream& stream, DType type, const Pointers& p) {
            backend.imitation_free(stream, s, type, p["t"], p["u"], p["h"], p["loss"], p["dh"], p["du"]);
          },
      .bound =
          [s](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
            Values bounds{{"loss", {0}},
                          {"dh", std::vector<double>(outputs.at("dh").size(), 0)},
                          {"du", std::vector<double>(outputs.at("du").size(), 0)}};
            const std::vector<double>&t = inputs.at("t"), &u = inputs.at("u"), &h = inputs.at("h");
            auto terms = static_cast<double>(s.rows + s.wide + 2 * s.thin + 8);
            double unit = precision.accumulator * terms;
            for (int64_t r = 0; r < s.rows; ++r)
              for (int64_t w = 0; w < s.wide; ++w) {
                double b = std::abs(t[at(r * s.wide + w)]);
                for (int64_t c = 0; c < s.thin; ++c)
                  b += std::abs(h[at(r * s.thin + c)] * u[at(w * s.thin + c)]);
                bounds["loss"][0] +=
                    s.scale * b * b * precision.accumulator * (static_cast<double>(s.rows * s.wide) + terms);
                for (int64_t c = 0; c < s.thin; ++c) {
                  bounds["dh"][at(r * s.thin + c)] +=
                      2 * s.scale * unit * b * std::abs(u[at(w * s.thin + c)]);
                  bounds["du"][at(w * s.thin + c)] +=
                      2 * s.scale * unit * b * std::abs(h[at(r * s.thin + c)]);
                }
              }
            for (size_t i = 0; i < bounds["du"].size(); ++i)
              bounds["du"][i] += 2 * precision.accumulator * std::abs(inputs.at("du")[i]);
            return bounds;
          }};
  Inputs inputs(result.name);
  return result.input("t", Kind::activation, inputs.normal(s.rows * s.wide, 0, magnitude))
      .input("u", Kind::activation, inputs.normal(s.wide * s.thin, 0, 0.5))
      .input("h", Kind::activation, inputs.normal(s.rows * s.thin, 0, magnitude))
      .output("loss", Kind::accumulator, 1)
      .output("dh", Kind::activation, s.rows * s.thin)
      .update("du", Kind::accumulator, inputs.normal(s.wide * s.thin))
      .plant_all({"h"});
}

class Imitation : public ::testing::TestWithParam<Subject> {};

TEST_P(Imitation, SquaredError) {
  for (int64_t count : {1, 7, 64, 1000, 10007}) {
    Inputs inputs("squared error");
    EXPECT_THAT(check(GetParam(), squared_error_case(0.5 / 7, inputs.normal(count), inputs.normal(count))),
                IsEmpty());
    EXPECT_THAT(
        check(GetParam(), squared_error_case(1e-3, inputs.magnitudes(count, -15, 15), inputs.normal(count))),
        IsEmpty());
  }
}

TEST_P(Imitation, TiedBridge) {
  for (const ImitationShape& shape : kShapes)
    for (double magnitude : {1.0, 1e12, 1e-12})
      EXPECT_THAT(check(GetParam(), imitation_case(shape, magnitude)), IsEmpty());
}

TEST_P(Imitation, FreeBridge) {
  for (const ImitationShape& shape : kShapes)
    for (double magnitude : {1.0, 1e12, 1e-12})
      EXPECT_THAT(check(GetParam(), imitation_free_case(shape, magnitude)), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, Imitation, ::testing::ValuesIn(product_subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(ImitationReference, GradientsAgreeWithFiniteDifferences) {
  ImitationShape shape{.rows = 4, .wide = 5, .thin = 3, .scale = 0.3};
  Values weights{{"loss", {1}}};
  Case tied = imitation_case(shape);
  EXPECT_THAT(check_gradient(tied, weights, "h", reference(tied)["dh"]), IsEmpty());

  Case free = imitation_free_case(shape);
  for (Argument& argument : free.arguments)
    if (argument.name == "du") argument.values.assign(argument.values.size(), 0);
  Values gradients = reference(free);
  EXPECT_THAT(check_gradient(free, weights, "h", gradients["dh"]), IsEmpty());
  EXPECT_THAT(check_gradient(free, weights, "u", gradients["du"]), IsEmpty());

  Inputs inputs("tiny");
  Case error = squared_error_case(0.7, inputs.normal(6), inputs.normal(6));
  EXPECT_THAT(check_gradient(error, weights, "student", reference(error)["dstudent"]), IsEmpty());
}

// With orthonormal columns the tied bridge's loss is the free one's, and so is its gradient.
TEST(ImitationReference, TiedAndFreeBridgesAgree) {
  ImitationShape shape{.rows = 6, .wide = 9, .thin = 4, .scale = 0.25};
  Case tied = imitation_case(shape), free = imitation_free_case(shape);
  for (Argument& argument : free.arguments)
    if (argument.role == Role::input) argument.values = tied.argument(argument.name).values;
  Values a = reference(tied), b = reference(free);
  EXPECT_NEAR(a["loss"][0], b["loss"][0], 1e-13 * a["loss"][0]);
  for (size_t i = 0; i < a["dh"].size(); ++i) EXPECT_NEAR(a["dh"][i], b["dh"][i], 1e-13);
}

}  // namespace
}  // namespace taper::ops
