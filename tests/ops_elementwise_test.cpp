// Activations, dropout and the plain elementwise ops in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <numeric>

#include "tests/op_inputs.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

constexpr Activation kActivations[] = {Activation::none, Activation::relu, Activation::tanh, Activation::gelu,
                                       Activation::gelu_tanh};
// 2500: more than one block of the CUDA kernels, the last of them ragged.
const std::vector<int64_t> kCounts = {1, 7, 64, 1000, 2500};

bool saves_output(Activation f) { return f == Activation::relu || f == Activation::tanh; }

// tanh and erf cost two ulp, that is four roundings; both forms of gelu multiply x by 1 + such a value.
Bound bound_of(Activation f) {
  return [f](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
    std::vector<double> y = outputs.at("y");
    for (size_t i = 0; i < y.size(); ++i) {
      if (f == Activation::tanh) y[i] = 4 * precision.accumulator * std::abs(y[i]);
      if (f == Activation::gelu || f == Activation::gelu_tanh)
        y[i] = 8 * precision.accumulator * std::abs(inputs.at("x")[i]);
      if (f == Activation::none || f == Activation::relu) y[i] = 0;
    }
    return Values{{"y", y}};
  };
}

// tanh: 1 - y y. gelu: Phi + x phi, whose exponent x x / 2 carries roundings of its own. gelu_tanh: the
// roundings of t show undiminished in 1 - t t, which a polynomial of x multiplies.
Bound backward_bound_of(Activation f) {
  return [f](const Case&, const Precision& precision, const Values& inputs, const Values& outputs) {
    std::vector<double> dx = outputs.at("dx");
    for (size_t i = 0; i < dx.size(); ++i) {
      double dy = std::abs(inputs.at("dy")[i]), x = std::abs(inputs.at("saved")[i]);
      double roundings = 0;
      if (f == Activation::tanh) roundings = 4;
      if (f == Activation::gelu) {
        double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
        roundings = 8 + x * density * (x * x + 8);
      }
      if (f == Activation::gelu_tanh)
        roundings = 8 + 8 * x * std::sqrt(2 / std::numbers::pi) * (1 + 3 * 0.044715 * x * x);
      dx[i] = roundings == 0 ? 0 : roundings * precision.accumulator * dy;
    }
    return Values{{"dx", dx}};
  };
}

Case activate_case(Activation f, std::vector<double> x) {
  auto count = static_cast<int64_t>(x.size());
  Case result{.name = fmt::format("activate {}, {} elements", static_cast<int>(f), count),
              .call = [=](Backend& backend, Stream& stream, DType type,
                          const Pointers& p) { backend.activate(stream, f, count, type, p["x"], p["y"]); },
              .bound = bound_of(f)};
  result.input("x", Kind::activation, std::move(x)).output("y", Kind::activation, count).may_alias("y", "x");
  // gelu at -inf is -inf times 0 by the formula and 0 in the limit.
  bool limit = f == Activation::gelu || f == Activation::gelu_tanh;
  return limit ? result.plant_nan_and_inf({"x"}) : result.plant_all({"x"});
}

Case activate_backward_case(Activation f, std::vector<double> saved) {
  auto count = static_cast<int64_t>(saved.size());
  Case result{.name = fmt::format("activate_backward {}, {} elements", static_cast<int>(f), count),
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.activate_backward(stream, f, count, type, p["dy"], p["saved"], p["dx"]);
                  },
              .bound = backward_bound_of(f)};
  return result.input("dy", Kind::activation, Inputs(result.name).normal(count))
      .input("saved", Kind::activation, std::move(saved))
      .output("dx", Kind::activation, count)
      .may_alias("dx", "dy")
      .plant_all({"dy"});
}

Case dropout_case(int64_t rows, int64_t features, double p, uint64_t key, std::vector<double> row_ids) {
  Case result{.name = fmt::format("dropout {} x {}, p {}", rows, features, p),
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& pointers) {
                    backend.dropout(stream, rows, features, type, p, key, pointers.get<int64_t>("row_ids"),
                                    pointers["x"], pointers["y"]);
                  },
              .bound =
                  [](const Case&, const Precision& precision, const Values&, const Values& outputs) {
                    std::vector<double> y = outputs.at("y");
                    for (double& value : y) value = 3 * precision.accumulator * std::abs(value);
                    return Values{{"y", y}};
                  }};
  result.input("x", Kind::activation, Inputs(result.name).away_from_zero(rows * features));
  if (!row_ids.empty()) result.input("row_ids", Kind::i64, std::move(row_ids));
  return result.output("y", Kind::activation, rows * features).may_alias("y", "x").plant_all({"x"});
}

class Elementwise : public ::testing::TestWithParam<Subject> {};

TEST_P(Elementwise, Activations) {
  for (Activation f : kActivations)
    for (int64_t count : kCounts) {
      Inputs inputs("activations");
      EXPECT_THAT(check(GetParam(), activate_case(f, inputs.normal(count, 0, 3))), IsEmpty());
      // x cubed must stay below the largest float.
      EXPECT_THAT(check(GetParam(), activate_case(f, inputs.magnitudes(count, -20, 12))), IsEmpty());
    }
}

TEST_P(Elementwise, ActivationsBackward) {
  for (Activation f : kActivations)
    for (int64_t count : kCounts) {
      Inputs inputs("activations backward");
      std::vector<double> saved =
          f == Activation::tanh ? inputs.uniform(count, -1, 1) : inputs.with_zeros(count);
      EXPECT_THAT(check(GetParam(), activate_backward_case(f, saved)), IsEmpty());
      if (!saves_output(f)) {
        EXPECT_THAT(check(GetParam(), activate_backward_case(f, inputs.normal(count, 0, 4))), IsEmpty());
        EXPECT_THAT(check(GetParam(), activate_backward_case(f, inputs.magnitudes(count, -20, 12))),
                    IsEmpty());
      }
    }
}

TEST_P(Elementwise, Add) {
  for (int64_t count : kCounts) {
    Inputs inputs("add");
    // Exact: both formats' sums are right in the accumulator, and rounded once.
    Case add{.name = fmt::format("add {} elements", count),
             .call = [=](Backend& backend, Stream& stream, DType type,
                         const Pointers& p) { backend.add(stream, count, type, p["a"], p["b"], p["y"]); },
             .bound = exact()};
    add.input("a", Kind::activation, inputs.magnitudes(count, -10, 30))
        .input("b", Kind::activation, inputs.magnitudes(count, -10, 30))
        .output("y", Kind::activation, count)
        .may_alias("y", "a")
        .may_alias("y", "b")
        .plant_all({"a", "b"});
    EXPECT_THAT(check(GetParam(), add), IsEmpty());
  }
}

TEST_P(Elementwise, Axpby) {
  for (int64_t count : kCounts)
    for (auto [alpha, beta] : {std::pair{0.1, 0.9}, {1.0, 1.0}, {1e-4, 0.9999}}) {
      Inputs inputs("axpby");
      Case axpby{.name = fmt::format("axpby {} {}, {} elements", alpha, beta, count),
                 .call =
                     [=, alpha = alpha, beta = beta](Backend& backend, Stream& stream, DType type,
                                                     const Pointers& p) {
                       backend.axpby(stream, count, accumulator(type), alpha, p["x"], beta, p["y"]);
                     },
                 .bound = sum_of(4)};  // alpha and beta are rounded, too
      axpby.input("x", Kind::accumulator, inputs.normal(count))
          .update("y", Kind::accumulator, inputs.normal(count))
          .plant_all({"x"});
      EXPECT_THAT(check(GetParam(), axpby), IsEmpty());
    }
}

TEST_P(Elementwise, Cast) {
  struct Floating {
    Kind kind;
    DType type;
  };
  constexpr Floating types[] = {{Kind::f32, DType::f32}, {Kind::bf16, DType::bf16}, {Kind::f64, DType::f64}};
  for (const Floating& from : types)
    for (const Floating& to : types)
      for (int64_t count : kCounts) {
        Inputs inputs("cast");
        Case cast{.name = fmt::format("cast {} elements of {} to {}", count, name(from.type), name(to.type)),
                  .call =
                      [=](Backend& backend, Stream& stream, DType, const Pointers& p) {
                        backend.cast(stream, count, from.type, p["from"], to.type, p["to"]);
                      },
                  .bound = exact()};
        std::vector<double> values = inputs.magnitudes(count, -30, 30);
        for (size_t i = 0; i < values.size(); i += 3)  // halfway between two numbers of bf16
          values[i] = round_to(values[i], DType::bf16) + ulp(values[i], DType::bf16) / 2;
        cast.input("from", from.kind, std::move(values)).output("to", to.kind, count).plant_all({"from"});
        EXPECT_THAT(check(GetParam(), cast), IsEmpty());
      }
}

TEST_P(Elementwise, Transpose) {
  for (auto [batch, rows, columns] : {std::tuple{1, 1, 1}, {1, 64, 32}, {3, 17, 5}, {2, 1, 9}, {1, 33, 70}}) {
    Case transpose{.name = fmt::format("transpose {} x {} x {}", batch, rows, columns),
                   .call =
                       [=, batch = batch, rows = rows, columns = columns](Backend& backend, Stream& stream,
                                                                          DType type, const Pointers& p) {
                         backend.transpose(stream, batch, rows, columns, type, p["x"], p["y"]);
                       },
                   .bound = exact()};
    std::vector<double> x(static_cast<size_t>(batch * rows * columns));
    std::iota(x.begin(), x.end(), 1);
    transpose.input("x", Kind::activation, x)
        .output("y", Kind::activation, static_cast<int64_t>(x.size()))
        .plant_all({"x"});
    EXPECT_THAT(check(GetParam(), transpose), IsEmpty());
  }
}

TEST_P(Elementwise, Dropout) {
  for (auto [rows, features] : {std::pair{1, 1}, {5, 7}, {16, 64}, {9, 130}})
    for (double p : {0.0, 0.1, 0.5, 0.9}) {
      EXPECT_THAT(check(GetParam(), dropout_case(rows, features, p, 0x123456789ABCDEF0, {})), IsEmpty());
      std::vector<double> ids;  // beyond 32 bits, neither sorted nor dense
      for (int64_t r = 0; r < rows; ++r) ids.push_back(static_cast<double>((7 * r % 5 << 33) + 3 * r));
      EXPECT_THAT(check(GetParam(), dropout_case(rows, features, p, 42, ids)), IsEmpty());
    }
}

INSTANTIATE_TEST_SUITE_P(All, Elementwise, ::testing::ValuesIn(subjects()),
                         [](const auto& info) { return to_string(info.param); });

// Which elements are kept, from the contract's formula alone.
TEST(ElementwiseReference, DropoutKeepsWhatPhiloxSays) {
  const int64_t id = (int64_t{5} << 32) + 6;
  Case dropout = dropout_case(1, 9, 0.25, 77, {static_cast<double>(id)});
  std::vector<double> y = reference(dropout)["y"];
  for (uint32_t f = 0; f < 9; ++f) {
    bool kept = philox({f / 4, 6, 5, 0}, 77)[f % 4] >> 8 >= uint32_t{1} << 22;
    EXPECT_EQ(y[f] != 0, kept) << f;
    EXPECT_DOUBLE_EQ(y[f], kept ? dropout.argument("x").values[f] / 0.75 : 0);
  }
}

TEST(ElementwiseReference, KnownValues) {
  auto y = [](Activation f, double x) { return reference(activate_case(f, {x}))["y"][0]; };
  EXPECT_NEAR(y(Activation::gelu, 1), 0.8413447460685429, 1e-15);       // Phi(1)
  EXPECT_NEAR(y(Activation::gelu, -2), -0.04550026389635842, 1e-15);    // -2 Phi(-2)
  EXPECT_NEAR(y(Activation::gelu_tanh, 1), 0.8411919906082768, 1e-15);  // torch, approximate="tanh"
  EXPECT_NEAR(y(Activation::tanh, 0.5), 0.46211715726000976, 1e-15);
}

TEST(ElementwiseReference, GradientsAgreeWithFiniteDifferences) {
  for (Activation f : kActivations) {
    Case forward = activate_case(f, Inputs("x").away_from_zero(40));
    Case backward =
        activate_backward_case(f, saves_output(f) ? reference(forward)["y"] : forward.argument("x").values);
    EXPECT_THAT(
        check_gradient(forward, {{"y", backward.argument("dy").values}}, "x", reference(backward)["dx"]),
        IsEmpty());
  }
}

TEST(ElementwiseReference, TakesDoubleOnly) {
  std::unique_ptr<Backend> backend = make_reference_backend();
  std::unique_ptr<Stream> stream = backend->make_stream(1);
  float x = 1;
  EXPECT_THROW(backend->activate(*stream, Activation::relu, 1, DType::f32, &x, &x), Failure);
}

}  // namespace
}  // namespace taper::ops
