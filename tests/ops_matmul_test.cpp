// Matrix products in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/op_inputs.h"
#include "tests/op_run.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

struct Epilogue {
  double scale = 1;
  bool bias = false;
  Activation activation = Activation::none;
  bool pre_activation = false, residual = false, accumulate = false;
  Kind out = Kind::activation;
};

struct Product {
  std::string name;
  MatmulShape shape;
  Epilogue epilogue{};
  int64_t first = 0;  ///< where a and b begin in their arguments: 1 is aligned to nothing but an element
};

const void* from(const void* argument, int64_t first, DType type) {
  return static_cast<const char*>(argument) + first * size_of(type);
}

MatmulShape shape_of(int64_t m, int64_t n, int64_t k, bool transpose_a = false, bool transpose_b = false) {
  return {.m = m, .n = n, .k = k, .transpose_a = transpose_a, .transpose_b = transpose_b};
}

MatmulShape batch_of(int64_t batch, MatmulShape shape) {
  shape.batch = batch;
  return shape;
}

// Batches that share one operand, and matrices that lie further apart than they are large.
MatmulShape shared_b() {
  MatmulShape shape = batch_of(3, shape_of(6, 7, 5));
  shape.stride_b = 0;
  return shape;
}
MatmulShape spaced() {
  MatmulShape shape = batch_of(2, shape_of(4, 9, 8, true, true));
  shape.stride_a += 3;
  shape.stride_b += 1;
  return shape;
}

const std::vector<Product>& products() {
  static const std::vector<Product> all = {
      {"aligned", shape_of(32, 48, 64)},
      {"ragged", shape_of(13, 7, 19)},
      {"transpose_a", shape_of(17, 16, 33, true, false)},
      {"transpose_b", shape_of(16, 35, 24, false, true)},
      {"transpose_both", shape_of(9, 10, 11, true, true)},
      {"row", shape_of(1, 33, 20)},
      {"column", shape_of(21, 1, 18, false, true)},
      {"outer", shape_of(12, 14, 1)},
      {"one", shape_of(1, 1, 1)},
      {"deep", shape_of(8, 10, 1500, true, false)},
      {"batch", batch_of(4, shape_of(11, 12, 13))},
      {"batch_transposed", batch_of(3, shape_of(8, 16, 32, true, true))},
      {"shared_b", shared_b()},
      {"spaced", spaced()},
  };
  return all;
}

// One less and one more than tiles of 64 and of 128, and enough tiles for the larger ones; k beside 8 and 32,
// and more of it than a pipeline of four steps holds; k long enough to be shared by several blocks.
std::vector<Product> tile_edges() {
  MatmulShape apart = batch_of(2, shape_of(40, 48, 80, true, true));
  apart.stride_a += 8;
  apart.stride_b += 1;
  apart.stride_out += 5;
  return {
      {"63 x 65 x 31", shape_of(63, 65, 31)},
      {"65 x 63 x 33", shape_of(65, 63, 33, true, false)},
      {"64 x 64 x 32", shape_of(64, 64, 32, false, true)},
      {"65 x 129 x 8", shape_of(65, 129, 8, true, true)},
      {"72 x 80 x 136", shape_of(72, 80, 136, true, false)},
      {"80 x 72 x 168", shape_of(80, 72, 168, false, true)},
      {"large", batch_of(48, shape_of(129, 65, 33))},
      {"large, transpose_a", batch_of(48, shape_of(130, 72, 40, true, false))},
      {"large, transpose_b", batch_of(96, shape_of(127, 66, 32, false, true))},
      {"large, transpose_both", batch_of(48, shape_of(136, 127, 7, true, true))},
      {"shared k", shape_of(65, 63, 777)},
      {"shared k, transposed", batch_of(2, shape_of(24, 72, 800, true, true)), {.out = Kind::accumulator}},
      {"matrices apart", apart},
      {"not aligned", shape_of(48, 40, 64), {}, 1},
      {"not aligned, transposed", shape_of(40, 48, 64, true, true), {}, 1},
      {"shared k, then everything",
       shape_of(33, 24, 1030, true, false),
       {.bias = true, .activation = Activation::gelu, .pre_activation = true, .residual = true}},
      {"shared k, added", shape_of(10, 64, 513, true, false), {.accumulate = true, .out = Kind::accumulator}},
  };
}

std::vector<Product> fused_products() {
  MatmulShape linear = shape_of(24, 40, 32, false, true), ragged = shape_of(7, 11, 13, false, true);
  return {
      {"scale", linear, {.scale = 0.125}},
      {"bias", linear, {.bias = true}},
      {"gelu", linear, {.bias = true, .activation = Activation::gelu, .pre_activation = true}},
      {"gelu_tanh", ragged, {.bias = true, .activation = Activation::gelu_tanh, .pre_activation = true}},
      {"gelu, nothing saved", ragged, {.activation = Activation::gelu}},
      {"residual", linear, {.bias = true, .residual = true}},
      {"everything",
       ragged,
       {.scale = -0.7,
        .bias = true,
        .activation = Activation::gelu,
        .pre_activation = true,
        .residual = true}},
      {"wide out", linear, {.bias = true, .residual = true, .out = Kind::accumulator}},
      {"wide out of gelu", ragged, {.activation = Activation::gelu_tanh, .out = Kind::accumulator}},
      {"accumulate", shape_of(33, 20, 50, true, false), {.accumulate = true, .out = Kind::accumulator}},
      {"accumulate, scaled", ragged, {.scale = 0.5, .accumulate = true, .out = Kind::accumulator}},
      {"accumulate in type", ragged, {.accumulate = true}},
  };
}

int64_t span(int64_t batch, int64_t stride, int64_t matrix) { return (batch - 1) * stride + matrix; }

// The activation's slope is below 1.13 everywhere; its own evaluation takes few roundings, of |x| at most. A
// naive implementation stores, and so rounds, the pre-activation and what the residual is added to.
Bound bound_of(const Product& product) {
  return [product](const Case& op_case, const Precision& precision, const Values& inputs,
                   const Values& outputs) {
    Case linear = op_case;
    Product plain = product;
    plain.epilogue.activation = Activation::none;
    plain.epilogue.pre_activation = false;
    plain.epilogue.scale = std::abs(product.epilogue.scale);
    linear.call = [plain](Backend& backend, Stream& stream, DType type, const Pointers& p) {
      backend.matmul(stream, plain.shape, type, from(p["a"], plain.first, type),
                     from(p["b"], plain.first, type),
                     {.scale = plain.epilogue.scale,
                      .bias = p["bias"],
                      .residual = p["residual"],
                      .accumulate = plain.epilogue.accumulate},
                     type, p["out"]);
    };
    Values bounds = sum_of(static_cast<double>(product.shape.k + 3))(linear, precision, inputs, outputs);
    double rounding = product.epilogue.out == Kind::accumulator ? precision.accumulator : precision.type;
    if (product.epilogue.activation != Activation::none) {
      std::vector<double> before = bounds["out"];
      for (size_t i = 0; i < before.size(); ++i) {
        // The sum of absolute values is at least the pre-activation.
        double magnitude = before[i] / precision.accumulator / static_cast<double>(product.shape.k + 3);
        bounds["out"][i] = 1.13 * before[i] + 8 * precision.accumulator * magnitude;
        if (product.epilogue.pre_activation)
          bounds["out"][i] += 1.13 * rounding * std::abs(outputs.at("pre_activation")[i]);
      }
      bounds["pre_activation"] = before;
    }
    if (product.epilogue.residual)
      for (size_t i = 0; i < bounds["out"].size(); ++i)
        bounds["out"][i] += rounding * std::abs(outputs.at("out")[i] - inputs.at("residual")[i]);
    return bounds;
  };
}

Case matmul_case(const Product& product, std::vector<double> a = {}) {
  const MatmulShape& s = product.shape;
  const Epilogue& e = product.epilogue;
  Case result{.name = "matmul " + product.name,
              .call =
                  [product](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    const Epilogue& epilogue = product.epilogue;
                    backend.matmul(stream, product.shape, type, from(p["a"], product.first, type),
                                   from(p["b"], product.first, type),
                                   {.scale = epilogue.scale,
                                    .bias = p["bias"],
                                    .activation = epilogue.activation,
                                    .pre_activation = p["pre_activation"],
                                    .residual = p["residual"],
                                    .accumulate = epilogue.accumulate},
                                   epilogue.out == Kind::accumulator ? accumulator(type) : type, p["out"]);
                  },
              .bound = bound_of(product)};
  Inputs inputs(result.name);
  int64_t out_size = span(s.batch, s.stride_out, s.m * s.n);
  if (a.empty()) a = inputs.with_zeros(product.first + span(s.batch, s.stride_a, s.m * s.k));
  result.input("a", Kind::activation, std::move(a))
      .input("b", Kind::activation, inputs.normal(product.first + span(s.batch, s.stride_b, s.k * s.n)));
  if (e.bias) result.input("bias", Kind::accumulator, inputs.normal(s.n));
  if (e.residual) result.input("residual", e.out, inputs.normal(out_size));
  if (e.pre_activation) result.output("pre_activation", e.out, out_size);
  if (e.accumulate)
    result.update("out", e.out, inputs.normal(out_size));
  else
    result.output("out", e.out, out_size);
  if (e.activation == Activation::none) return result.plant_all({"a", "b"});
  return result.plant_nan_and_inf({"bias"});
}

Case sum_rows_case(int64_t rows, int64_t columns) {
  Case result{
      .name = fmt::format("sum_rows {} x {}", rows, columns),
      .call = [=](Backend& backend, Stream& stream, DType type,
                  const Pointers& p) { backend.sum_rows(stream, rows, columns, type, p["x"], p["out"]); },
      .bound = sum_of(static_cast<double>(rows + 1))};
  Inputs inputs(result.name);
  return result.input("x", Kind::activation, inputs.normal(rows * columns))
      .update("out", Kind::accumulator, inputs.normal(columns))
      .plant_all({"x"});
}

class Matmul : public ::testing::TestWithParam<Subject> {};

TEST_P(Matmul, Products) {
  for (const Product& product : products()) EXPECT_THAT(check(GetParam(), matmul_case(product)), IsEmpty());
}

TEST_P(Matmul, TileEdges) {
  for (const Product& product : tile_edges()) {
    Case op_case = matmul_case(product);
    if (product.shape.batch >= 48) op_case.plant.clear();  // the reference takes long for these
    EXPECT_THAT(check(GetParam(), op_case, 1), IsEmpty());
  }
}

TEST_P(Matmul, Epilogues) {
  for (const Product& product : fused_products())
    EXPECT_THAT(check(GetParam(), matmul_case(product)), IsEmpty());
}

TEST_P(Matmul, LargeAndSmallMagnitudes) {
  Product large{"large", shape_of(16, 16, 32)}, small{"small", shape_of(16, 16, 32)};
  Inputs inputs("matmul magnitudes");
  EXPECT_THAT(check(GetParam(), matmul_case(large, inputs.magnitudes(16 * 32, 20, 36))), IsEmpty());
  EXPECT_THAT(check(GetParam(), matmul_case(small, inputs.magnitudes(16 * 32, -30, -20))), IsEmpty());
}

// See Conv.TwoWorkersDoNotDisturbEachOther.
TEST_P(Matmul, TwoWorkersDoNotDisturbEachOther) {
  for (const Product& product :
       {Product{"busy", shape_of(64, 64, 200)}, Product{"busy transposed", shape_of(65, 47, 200, true, true)},
        Product{"busy sum", shape_of(64, 48, 100, true), {.accumulate = true, .out = Kind::accumulator}},
        Product{"busy batch", batch_of(6, shape_of(32, 33, 34, false, true)), {.scale = 0.2}}})
    EXPECT_THAT(check(GetParam(), matmul_case(product), 30), IsEmpty());
}

TEST_P(Matmul, SumRows) {
  for (auto [rows, columns] :
       {std::pair{1, 1}, {1, 40}, {37, 1}, {64, 32}, {129, 67}, {257, 129}, {5000, 3}, {65537, 2}})
    EXPECT_THAT(check(GetParam(), sum_rows_case(rows, columns)), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, Matmul, ::testing::ValuesIn(product_subjects()),
                         [](const auto& info) { return to_string(info.param); });

// Not cut off, and ties away from zero: the same bits as for operands that were rounded before.
TEST(MatmulTf32, RoundsItsOperands) {
  const Subject& subject = product_subjects().back();
  if (!subject.tf32) GTEST_SKIP() << "this build has no device with tf32";
  std::unique_ptr<Stream> stream = subject.backend->make_stream(1);
  for (auto [transpose_a, transpose_b] : {std::pair{false, false}, {false, true}, {true, false}}) {
    Case plain = matmul_case({"between two numbers of tf32", shape_of(20, 24, 36, transpose_a, transpose_b)});
    for (size_t operand : {0, 1}) {
      std::vector<double>& values = plain.arguments[operand].values;
      for (size_t i = 0; i < values.size(); ++i) {
        if (values[i] == 0) continue;
        // Halfway between two numbers of tf32 for every third element, on either side of it for the others.
        const double off[] = {0x1p-11, 0x1p-11 - 0x1p-22, 0x1p-11 + 0x1p-22};
        values[i] = round_to_tf32(values[i]);
        values[i] += std::copysign(std::ldexp(off[i % 3], std::ilogb(values[i])), values[i]);
      }
    }
    Case rounded = plain;
    for (size_t operand : {0, 1})
      for (double& value : rounded.arguments[operand].values) value = round_to_tf32(value);
    EXPECT_NE(plain.arguments[0].values, rounded.arguments[0].values);
    EXPECT_EQ(run(*subject.backend, *stream, DType::f32, plain).bytes,
              run(*subject.backend, *stream, DType::f32, rounded).bytes);
  }
}

// What the tape does with a product is products again: the derivatives are matmuls of the other operand.
TEST(MatmulReference, GradientsAgreeWithFiniteDifferences) {
  Case forward = matmul_case({"tiny", shape_of(3, 4, 5), {.scale = 0.5, .bias = true}});
  Values weights{{"out", Inputs("weights").normal(3 * 4)}};

  Case da = matmul_case({"da", shape_of(3, 5, 4, false, true), {.scale = 0.5}});
  da.arguments[0].values = weights["out"];
  da.arguments[1].values = forward.argument("b").values;
  EXPECT_THAT(check_gradient(forward, weights, "a", reference(da)["out"]), IsEmpty());

  Case db = matmul_case({"db", shape_of(5, 4, 3, true, false), {.scale = 0.5}});
  db.arguments[0].values = forward.argument("a").values;
  db.arguments[1].values = weights["out"];
  EXPECT_THAT(check_gradient(forward, weights, "b", reference(db)["out"]), IsEmpty());

  Case dbias = sum_rows_case(3, 4);
  dbias.arguments[0].values = weights["out"];
  dbias.arguments[1].values.assign(4, 0);
  EXPECT_THAT(check_gradient(forward, weights, "bias", reference(dbias)["out"]), IsEmpty());
}

}  // namespace
}  // namespace taper::ops
