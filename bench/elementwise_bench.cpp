// Elementwise ops on the largest activation of a ResNet-50 shard of 8 images.

#include "bench/op_bench.h"

namespace taper::bench {
namespace {

constexpr int64_t kCount = int64_t{8} * 56 * 56 * 256;

double gelu(double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }

Op unary(const std::string& op, DType type, std::function<void(Arguments&)> run,
         std::function<double(double)> want) {
  return {.name = fmt::format("{}/{}/{}", op, kCount, name(type)),
          .arguments = {{type, {kCount}}, {type, {kCount}}},
          .run = std::move(run),
          .error = [=](const Arguments& a) {
            return worst(kCount,
                         [&](int64_t i) { return relative_error(at(a[1], i), want(at(a[0], i)), 8, type); });
          }};
}

Op binary(const std::string& op, DType type, std::function<void(Arguments&)> run,
          std::function<double(double, double)> want) {
  return {.name = fmt::format("{}/{}/{}", op, kCount, name(type)),
          .arguments = {{type, {kCount}}, {type, {kCount}}, {type, {kCount}}},
          .run = std::move(run),
          .error = [=](const Arguments& a) {
            return worst(kCount, [&](int64_t i) {
              return relative_error(at(a[2], i), want(at(a[0], i), at(a[1], i)), 8, type);
            });
          }};
}

const bool registered = [] {
  auto activate = [](Activation f, DType type) {
    return [=](Arguments& a) {
      device().backend->activate(*device().stream, f, kCount, type, a[0].data(), a[1].data());
    };
  };
  auto backward = [](Activation f, DType type) {
    return [=](Arguments& a) {
      device().backend->activate_backward(*device().stream, f, kCount, type, a[0].data(), a[1].data(),
                                          a[2].data());
    };
  };
  auto normal = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); };
  for (DType type : {DType::f32, DType::bf16}) {
    add(unary("relu", type, activate(Activation::relu, type), [](double x) { return std::max(x, 0.0); }));
    add(unary("tanh", type, activate(Activation::tanh, type), [](double x) { return std::tanh(x); }));
    add(unary("gelu", type, activate(Activation::gelu, type), gelu));
    add(binary("relu_backward", type, backward(Activation::relu, type),
               [](double dy, double y) { return y > 0 ? dy : 0; }));
    add(binary("tanh_backward", type, backward(Activation::tanh, type),
               [](double dy, double y) { return dy * (1 - y * y); }));
    add(binary("gelu_backward", type, backward(Activation::gelu, type), [=](double dy, double x) {
      return dy * (0.5 * std::erfc(-x / std::sqrt(2.0)) + x * normal(x));
    }));
    add(binary(
        "add", type,
        [=](Arguments& a) {
          device().backend->add(*device().stream, kCount, type, a[0].data(), a[1].data(), a[2].data());
        },
        [](double p, double q) { return p + q; }));
    add({.name = fmt::format("cast_from_f32/{}/{}", kCount, name(type)),
         .arguments = {{DType::f32, {kCount}}, {type, {kCount}}},
         .run =
             [=](Arguments& a) {
               device().backend->cast(*device().stream, kCount, DType::f32, a[0].data(), type, a[1].data());
             },
         .error =
             [=](const Arguments& a) {
               return worst(kCount,
                            [&](int64_t i) { return relative_error(at(a[1], i), at(a[0], i), 0, type); });
             }});
    // Which elements are kept is for the op's own test; a kept element is doubled.
    Op dropout = unary(
        "dropout", type,
        [=](Arguments& a) {
          device().backend->dropout(*device().stream, kCount / 256, 256, type, 0.5, 7, nullptr, a[0].data(),
                                    a[1].data());
        },
        nullptr);
    dropout.error = [=](const Arguments& a) {
      return worst(kCount, [&](int64_t i) {
        return at(a[1], i) == 0 ? 0 : relative_error(at(a[1], i), 2 * at(a[0], i), 0, type);
      });
    };
    add(std::move(dropout));
  }
  add({.name = fmt::format("axpby/{}/f32", kCount),
       .arguments = {{DType::f32, {kCount}}, {DType::f32, {kCount}}},
       .run =
           [](Arguments& a) {
             device().backend->axpby(*device().stream, kCount, DType::f32, 1, a[0].data(), 0, a[1].data());
           },
       .error =
           [](const Arguments& a) {
             return worst(kCount,
                          [&](int64_t i) { return relative_error(at(a[1], i), at(a[0], i), 0, DType::f32); });
           }});
  return true;
}();

}  // namespace
}  // namespace taper::bench
