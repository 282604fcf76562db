// Optimizers over as many parameters as ResNet-50 has.

#include "bench/op_bench.h"

namespace taper::bench {
namespace {

constexpr int64_t kParameters = 25'557'032;

const std::vector<Segment>& segments() {
  static const std::vector<Segment> all = {{0, kParameters, 0}};
  return all;
}

// Momentum and the second moment start at 0, so that one step has a closed form.
void clear(Arguments& a) {
  for (size_t i = 1; i + 1 < a.size(); ++i) device().stream->zero(a[i].data(), a[i].bytes());
}

const bool registered = [] {
  std::pair<DType, Shape> flat = {DType::f32, {kParameters}};
  // Arguments: gradient, momentum, parameter.
  add({.name = "sgd/25557032/f32",
       .arguments = {flat, flat, flat},
       .run =
           [](Arguments& a) {
             device().backend->sgd(*device().stream, segments(), DType::f32, {.lr = 0.1, .momentum = 0.9}, 1,
                                   a[0].data(), a[1].data(), a[2].data());
           },
       .error =
           [](const Arguments& a) {
             Tensor before = random_tensor(DType::f32, {kParameters}, 3);
             return worst(kParameters, [&](int64_t i) {
               return relative_error(at(a[2], i), at(before, i) - 0.1 * at(a[0], i), 4, DType::f32);
             });
           },
       .prepare = clear});
  // Arguments: gradient, first moment, second moment, parameter. The first step is lr in the gradient's
  // direction.
  add({.name = "adamw/25557032/f32",
       .arguments = {flat, flat, flat, flat},
       .run =
           [](Arguments& a) {
             device().backend->adamw(*device().stream, segments(), DType::f32, {.lr = 0.01, .step = 1}, 1,
                                     a[0].data(), a[1].data(), a[2].data(), a[3].data());
           },
       .error =
           [](const Arguments& a) {
             Tensor before = random_tensor(DType::f32, {kParameters}, 4);
             return worst(kParameters, [&](int64_t i) {
               double g = at(a[0], i), want = at(before, i) - 0.01 * g / (std::abs(g) + 1e-8);
               return relative_error(at(a[3], i), want, 4, DType::f32);
             });
           },
       .prepare = clear});
  // Arguments: x, squares.
  add({.name = "sum_of_squares/25557032/f32",
       .arguments = {flat, {DType::f64, {1}}},
       .run =
           [](Arguments& a) {
             device().backend->sum_of_squares(*device().stream, segments(), DType::f32, a[0].data(),
                                              a[1].as<double>());
           },
       .error =
           [](const Arguments& a) {
             double want = 0;
             for (int64_t i = 0; i < kParameters; ++i) want += at(a[0], i) * at(a[0], i);
             return std::abs(at(a[1], 0) - want) / (want * 0x1p-20);
           }});
  return true;
}();

}  // namespace
}  // namespace taper::bench
