// Pooling: ResNet-50's stem and its head, and the demo's head.

#include "bench/op_bench.h"

namespace taper::bench {
namespace {

// Arguments: x, y, winner, dy, dx. The backward's winners are those of a forward pass, made in `prepare`.
Op max_pool(const PoolShape& s, DType type, bool backward) {
  Shape x = {s.n, s.h, s.w, s.c}, y = {s.n, s.out_h(), s.out_w(), s.c};
  auto forward = [=](Arguments& a) {
    device().backend->max_pool_forward(*device().stream, s, type, a[0].data(), a[1].data(),
                                       a[2].as<uint8_t>());
  };
  Op op{.name = fmt::format("max_pool_{}/stem/{}", backward ? "backward" : "forward", name(type)),
        .arguments = {{type, x}, {type, y}, {DType::u8, y}},
        .run = forward,
        .error = [=](const Arguments& a) {
          return worst(a[1].size(), [&](int64_t i) {
            int64_t c = i % s.c, column = i / s.c % s.out_w(), row = i / s.c / s.out_w() % s.out_h();
            double want = -HUGE_VAL;
            for (int64_t r = 0; r < s.size; ++r)
              for (int64_t q = 0; q < s.size; ++q) {
                int64_t h = row * s.stride - s.padding + r, w = column * s.stride - s.padding + q;
                if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
                int64_t image = i / s.c / s.out_w() / s.out_h();
                want = std::max(want, at(a[0], ((image * s.h + h) * s.w + w) * s.c + c));
              }
            return relative_error(at(a[1], i), want, 0, type);
          });
        }};
  if (!backward) return op;
  op.arguments.push_back({type, y});
  op.arguments.push_back({type, x});
  op.prepare = forward;
  op.run = [=](Arguments& a) {
    device().backend->max_pool_backward(*device().stream, s, type, a[3].data(), a[2].as<uint8_t>(),
                                        a[4].data());
  };
  op.error = [=](const Arguments& a) {
    return worst(a[4].size(), [&](int64_t i) {
      int64_t c = i % s.c, w = i / s.c % s.w, h = i / s.c / s.w % s.h, image = i / s.c / s.w / s.h;
      double want = 0;
      for (int64_t row = 0; row < s.out_h(); ++row)
        for (int64_t column = 0; column < s.out_w(); ++column) {
          int64_t r = h - row * s.stride + s.padding, q = w - column * s.stride + s.padding;
          int64_t o = ((image * s.out_h() + row) * s.out_w() + column) * s.c + c;
          if (r >= 0 && r < s.size && q >= 0 && q < s.size && a[2].as<uint8_t>()[o] == r * s.size + q)
            want += at(a[3], o);
        }
      return relative_error(at(a[4], i), want, 4, type);
    });
  };
  return op;
}

Op average_pool(int64_t n, int64_t pixels, int64_t c, DType type, bool backward) {
  Shape x = {n, pixels, c}, y = {n, c};
  Op op{.name = fmt::format("average_pool_{}/{}x{}x{}/{}", backward ? "backward" : "forward", n, pixels, c,
                            name(type)),
        .arguments = {{type, x}, {type, y}},
        .run =
            [=](Arguments& a) {
              device().backend->average_pool_forward(*device().stream, n, pixels, c, type, a[0].data(),
                                                     a[1].data());
            },
        .error =
            [=](const Arguments& a) {
              return worst(n * c, [&](int64_t i) {
                double want = 0;
                for (int64_t p = 0; p < pixels; ++p)
                  want += at(a[0], (i / c * pixels + p) * c + i % c) / static_cast<double>(pixels);
                return relative_error(at(a[1], i), want, 4, type);
              });
            }};
  if (!backward) return op;
  op.run = [=](Arguments& a) {
    device().backend->average_pool_backward(*device().stream, n, pixels, c, type, a[1].data(), a[0].data());
  };
  op.error = [=](const Arguments& a) {
    return worst(n * pixels * c, [&](int64_t i) {
      double want = at(a[1], i / c / pixels * c + i % c) / static_cast<double>(pixels);
      return relative_error(at(a[0], i), want, 4, type);
    });
  };
  return op;
}

const bool registered = [] {
  for (DType type : {DType::f32, DType::bf16})
    for (bool backward : {false, true}) {
      add(max_pool({8, 112, 112, 64, 3, 2, 1}, type, backward));
      add(average_pool(8, 49, 2048, type, backward));
      add(average_pool(64, 49, 128, type, backward));
    }
  return true;
}();

}  // namespace
}  // namespace taper::bench
