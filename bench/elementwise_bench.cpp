// Elementwise ops and transposition, on the largest activations of ResNet-50 and the demo.

#include "bench/op_bench.h"
#include "bench/shapes.h"

namespace taper::bench {
namespace {

double gelu(double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }

Op unary(const std::string& op, int64_t count, DType type, std::function<void(Arguments&)> run,
         std::function<double(double)> want) {
  return {.name = fmt::format("{}/{}/{}", op, count, name(type)),
          .arguments = {{type, {count}}, {type, {count}}},
          .run = std::move(run),
          .error = [=](const Arguments& a) {
            return worst(count,
                         [&](int64_t i) { return relative_error(at(a[1], i), want(at(a[0], i)), 8, type); });
          }};
}

Op binary(const std::string& op, int64_t count, DType type, std::function<void(Arguments&)> run,
          std::function<double(double, double)> want) {
  return {.name = fmt::format("{}/{}/{}", op, count, name(type)),
          .arguments = {{type, {count}}, {type, {count}}, {type, {count}}},
          .run = std::move(run),
          .error = [=](const Arguments& a) {
            return worst(count, [&](int64_t i) {
              return relative_error(at(a[2], i), want(at(a[0], i), at(a[1], i)), 8, type);
            });
          }};
}

void add_all(int64_t count) {
  auto activate = [=](Activation f, DType type) {
    return [=](Arguments& a) {
      device().backend->activate(*device().stream, f, count, type, a[0].data(), a[1].data());
    };
  };
  auto backward = [=](Activation f, DType type) {
    return [=](Arguments& a) {
      device().backend->activate_backward(*device().stream, f, count, type, a[0].data(), a[1].data(),
                                          a[2].data());
    };
  };
  auto normal = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); };
  for (DType type : {DType::f32, DType::bf16}) {
    add(unary("relu", count, type, activate(Activation::relu, type),
              [](double x) { return std::max(x, 0.0); }));
    add(unary("tanh", count, type, activate(Activation::tanh, type), [](double x) { return std::tanh(x); }));
    add(unary("gelu", count, type, activate(Activation::gelu, type), gelu));
    add(binary("relu_backward", count, type, backward(Activation::relu, type),
               [](double dy, double y) { return y > 0 ? dy : 0; }));
    add(binary("tanh_backward", count, type, backward(Activation::tanh, type),
               [](double dy, double y) { return dy * (1 - y * y); }));
    add(binary("gelu_backward", count, type, backward(Activation::gelu, type), [=](double dy, double x) {
      return dy * (0.5 * std::erfc(-x / std::sqrt(2.0)) + x * normal(x));
    }));
    add(binary(
        "add", count, type,
        [=](Arguments& a) {
          device().backend->add(*device().stream, count, type, a[0].data(), a[1].data(), a[2].data());
        },
        [](double p, double q) { return p + q; }));
    add({.name = fmt::format("cast_from_f32/{}/{}", count, name(type)),
         .arguments = {{DType::f32, {count}}, {type, {count}}},
         .run =
             [=](Arguments& a) {
               device().backend->cast(*device().stream, count, DType::f32, a[0].data(), type, a[1].data());
             },
         .error =
             [=](const Arguments& a) {
               return worst(count,
                            [&](int64_t i) { return relative_error(at(a[1], i), at(a[0], i), 0, type); });
             }});
    // Which elements are kept is for the op's own test; a kept element is doubled.
    Op dropout = unary(
        "dropout", count, type,
        [=](Arguments& a) {
          device().backend->dropout(*device().stream, count / 256, 256, type, 0.5, 7, nullptr, a[0].data(),
                                    a[1].data());
        },
        nullptr);
    dropout.error = [=](const Arguments& a) {
      return worst(count, [&](int64_t i) {
        return at(a[1], i) == 0 ? 0 : relative_error(at(a[1], i), 2 * at(a[0], i), 0, type);
      });
    };
    add(std::move(dropout));
  }
  add({.name = fmt::format("axpby/{}/f32", count),
       .arguments = {{DType::f32, {count}}, {DType::f32, {count}}},
       .run =
           [=](Arguments& a) {
             device().backend->axpby(*device().stream, count, DType::f32, 1, a[0].data(), 0, a[1].data());
           },
       .error =
           [=](const Arguments& a) {
             return worst(count,
                          [&](int64_t i) { return relative_error(at(a[1], i), at(a[0], i), 0, DType::f32); });
           }});
}

// Arguments: x, y.
Op transpose(int64_t batch, int64_t rows, int64_t columns, DType type) {
  Shape x = {batch, rows, columns};
  return {.name = fmt::format("transpose/{}x{}x{}/{}", batch, rows, columns, name(type)),
          .arguments = {{type, x}, {type, x}},
          .run =
              [=](Arguments& a) {
                device().backend->transpose(*device().stream, batch, rows, columns, type, a[0].data(),
                                            a[1].data());
              },
          .error =
              [=](const Arguments& a) {
                return worst(a[0].size(), [&](int64_t i) {
                  int64_t column = i % columns, row = i / columns % rows, first = i - i % (rows * columns);
                  return relative_error(at(a[1], first + column * rows + row), at(a[0], i), 0, type);
                });
              }};
}

const bool registered = [] {
  for (int64_t count : kActivations) add_all(count);
  for (DType type : {DType::f32, DType::bf16}) {
    add(transpose(8, 56 * 56, 256, type));
    add(transpose(64, 28 * 28, 32, type));
    add(transpose(512, 9, 512, type));  // ResNet-50's last 3 x 3 filter into the order of files
  }
  return true;
}();

}  // namespace
}  // namespace taper::bench
