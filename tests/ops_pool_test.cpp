// Pooling in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/op_inputs.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct NamedShape {
  std::string name;
  PoolShape shape;
};

const std::vector<NamedShape>& shapes() {
  static const std::vector<NamedShape> all = {
      {"resnet", {.n = 2, .h = 8, .w = 8, .c = 16, .size = 3, .stride = 2, .padding = 1}},
      {"odd", {.n = 1, .h = 7, .w = 9, .c = 5, .size = 3, .stride = 2, .padding = 1}},
      {"no overlap", {.n = 2, .h = 6, .w = 7, .c = 33, .size = 2, .stride = 2, .padding = 0}},
      {"gaps", {.n = 1, .h = 9, .w = 8, .c = 3, .size = 2, .stride = 3, .padding = 1}},
      {"stride 1", {.n = 1, .h = 5, .w = 5, .c = 8, .size = 5, .stride = 1, .padding = 2}},
      {"largest", {.n = 1, .h = 15, .w = 16, .c = 2, .size = 15, .stride = 4, .padding = 7}},
      {"wide", {.n = 1, .h = 2, .w = 5, .c = 520, .size = 2, .stride = 1, .padding = 1}},
      {"one pixel", {.n = 3, .h = 1, .w = 1, .c = 4, .size = 1, .stride = 1, .padding = 0}},
      {"one pixel, padded", {.n = 1, .h = 1, .w = 1, .c = 4, .size = 3, .stride = 2, .padding = 1}},
  };
  return all;
}

int64_t x_size(const PoolShape& s) { return s.n * s.h * s.w * s.c; }
int64_t y_size(const PoolShape& s) { return s.n * s.out_h() * s.out_w() * s.c; }

Case forward_case(const std::string& name, const PoolShape& shape, std::vector<double> x = {}) {
  Case result{.name = "max_pool_forward " + name,
              .call =
                  [shape](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.max_pool_forward(stream, shape, type, p["x"], p["y"], p.get<uint8_t>("winner"));
                  },
              .bound = exact()};
  if (x.empty()) x = Inputs(result.name).normal(x_size(shape));
  return result.input("x", Kind::activation, std::move(x))
      .output("y", Kind::activation, y_size(shape))
      .output("winner", Kind::u8, y_size(shape))
      .plant_all({"x"});
}

Case backward_case(const std::string& name, const PoolShape& shape) {
  Case result{.name = "max_pool_backward " + name,
              .call =
                  [shape](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.max_pool_backward(stream, shape, type, p["dy"], p.get<uint8_t>("winner"),
                                              p["dx"]);
                  },
              .bound = sum_of(static_cast<double>(shape.size * shape.size))};
  return result.input("dy", Kind::activation, Inputs(result.name).normal(y_size(shape)))
      .input("winner", Kind::u8, reference(forward_case(name, shape))["winner"])
      .output("dx", Kind::activation, x_size(shape))
      .plant_all({"dy"});
}

Case average_case(bool backward, int64_t n, int64_t pixels, int64_t c) {
  Case result{
      .name = fmt::format("average_pool_{} {} x {} x {}", backward ? "backward" : "forward", n, pixels, c),
      .call =
          [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
            if (backward)
              backend.average_pool_backward(stream, n, pixels, c, type, p["in"], p["out"]);
            else
              backend.average_pool_forward(stream, n, pixels, c, type, p["in"], p["out"]);
          },
      .bound = sum_of(backward ? 3 : static_cast<double>(pixels + 3))};
  int64_t small = n * c, large = n * pixels * c;
  return result.input("in", Kind::activation, Inputs(result.name).normal(backward ? small : large))
      .output("out", Kind::activation, backward ? large : small)
      .plant_all({"in"});
}

class Pool : public ::testing::TestWithParam<Subject> {};

TEST_P(Pool, MaximumForward) {
  for (const auto& [name, shape] : shapes()) {
    EXPECT_THAT(check(GetParam(), forward_case(name, shape)), IsEmpty());
    EXPECT_THAT(
        check(GetParam(), forward_case(name + ", ties", shape, Inputs(name).integers(x_size(shape), 2))),
        IsEmpty());
  }
}

TEST_P(Pool, MaximumOfNothingButInfinities) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& [name, shape] : shapes())
    for (double value : {-inf, nan}) {
      Case forward = forward_case(fmt::format("{}, all {}", name, value), shape,
                                  std::vector<double>(static_cast<size_t>(x_size(shape)), value));
      EXPECT_THAT(check(GetParam(), forward), IsEmpty());
    }
}

TEST_P(Pool, MaximumBackward) {
  for (const auto& [name, shape] : shapes())
    EXPECT_THAT(check(GetParam(), backward_case(name, shape)), IsEmpty());
}

TEST_P(Pool, Average) {
  for (auto [n, pixels, c] : {std::tuple{1, 1, 1}, {2, 49, 64}, {3, 5, 17}, {1, 3136, 3}, {1, 3, 520}}) {
    EXPECT_THAT(check(GetParam(), average_case(false, n, pixels, c)), IsEmpty());
    EXPECT_THAT(check(GetParam(), average_case(true, n, pixels, c)), IsEmpty());
  }
}

INSTANTIATE_TEST_SUITE_P(All, Pool, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(PoolReference, WinnersByHand) {
  // Padding is never a winner, the first among equals is, and so is the first NaN.
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  PoolShape shape{.n = 1, .h = 2, .w = 4, .c = 1, .size = 3, .stride = 2, .padding = 1};
  Values outputs = reference(forward_case("by hand", shape, {-inf, -inf, 1, nan, -inf, -inf, 2, nan}));
  EXPECT_EQ(outputs["y"][0], -inf);
  EXPECT_TRUE(std::isnan(outputs["y"][1]));
  EXPECT_THAT(outputs["winner"], ElementsAre(4, 5));
}

TEST(PoolReference, GradientsAgreeWithFiniteDifferences) {
  // Values apart from each other by more than the step, so that no step changes a winner.
  for (const auto& [name, shape] : {shapes()[1], shapes()[3]}) {
    std::vector<double> x;
    for (int64_t i = 0; i < x_size(shape); ++i)
      x.push_back(static_cast<double>(i * 101 % x_size(shape)) * 0.01);
    Case backward = backward_case(name, shape);
    Case forward = forward_case(name, shape, x);
    for (Argument& argument : backward.arguments)
      if (argument.name == "winner") argument.values = reference(forward)["winner"];
    EXPECT_THAT(
        check_gradient(forward, {{"y", backward.argument("dy").values}}, "x", reference(backward)["dx"]),
        IsEmpty());
  }
  Case forward = average_case(false, 2, 3, 4), backward = average_case(true, 2, 3, 4);
  EXPECT_THAT(
      check_gradient(forward, {{"out", backward.argument("in").values}}, "in", reference(backward)["out"]),
      IsEmpty());
}

}  // namespace
}  // namespace taper::ops
