// Optimizers over as many parameters as ResNet-50 and the thin network of the demo have.

#include "bench/op_bench.h"

namespace taper::bench {
namespace {

// Momentum and the second moment start at 0, so that one step has a closed form.
void clear(Arguments& a) {
  for (size_t i = 1; i + 1 < a.size(); ++i) device().stream->zero(a[i].data(), a[i].bytes());
}

void add_all(int64_t count) {
  std::vector<Segment> segments = {{0, count, 0}};
  std::pair<DType, Shape> flat = {DType::f32, {count}};
  // Arguments: gradient, momentum, parameter.
  add({.name = fmt::format("sgd/{}/f32", count),
       .arguments = {flat, flat, flat},
       .run =
           [=](Arguments& a) {
             device().backend->sgd(*device().stream, segments, DType::f32, {.lr = 0.1, .momentum = 0.9}, 1,
                                   a[0].data(), a[1].data(), a[2].data());
           },
       .error =
           [=](const Arguments& a) {
             Tensor before = random_tensor(DType::f32, {count}, 3);
             return worst(count, [&](int64_t i) {
               return relative_error(at(a[2], i), at(before, i) - 0.1 * at(a[0], i), 4, DType::f32);
             });
           },
       .prepare = clear});
  // Arguments: gradient, first moment, second moment, parameter. The first step is lr in the gradient's
  // direction.
  add({.name = fmt::format("adamw/{}/f32", count),
       .arguments = {flat, flat, flat, flat},
       .run =
           [=](Arguments& a) {
             device().backend->adamw(*device().stream, segments, DType::f32, {.lr = 0.01, .step = 1}, 1,
                                     a[0].data(), a[1].data(), a[2].data(), a[3].data());
           },
       .error =
           [=](const Arguments& a) {
             Tensor before = random_tensor(DType::f32, {count}, 4);
             return worst(count, [&](int64_t i) {
               double g = at(a[0], i), want = at(before, i) - 0.01 * g / (std::abs(g) + 1e-8);
               return relative_error(at(a[3], i), want, 4, DType::f32);
             });
           },
       .prepare = clear});
  // Arguments: x, squares.
  add({.name = fmt::format("sum_of_squares/{}/f32", count),
       .arguments = {flat, {DType::f64, {1}}},
       .run =
           [=](Arguments& a) {
             device().backend->sum_of_squares(*device().stream, segments, DType::f32, a[0].data(),
                                              a[1].as<double>());
           },
       .error =
           [=](const Arguments& a) {
             double want = 0;
             for (int64_t i = 0; i < count; ++i) want += at(a[0], i) * at(a[0], i);
             return std::abs(at(a[1], 0) - want) / (want * 0x1p-20);
           }});
}

const bool registered = [] {
  add_all(25'557'032);
  add_all(80'130);
  return true;
}();

}  // namespace
}  // namespace taper::bench
