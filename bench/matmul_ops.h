#pragma once
// Matrix products as benchmarks: `out` beside a naive product of some of its elements.

#include "bench/op_bench.h"

namespace taper::bench {

inline Op matmul(const std::string& name_of_shape, MatmulShape s, DType type, DType out_type, bool epilogue) {
  Shape a = {s.batch * s.m * s.k}, b = {s.batch * s.k * s.n}, out = {s.batch * s.m * s.n};
  return {.name = fmt::format("matmul{}/{}/{}", epilogue ? "_bias_gelu" : "", name_of_shape, name(type)),
          .arguments = {{type, a}, {type, b}, {DType::f32, {s.n}}, {out_type, out}},
          .run =
              [=](Arguments& v) {
                MatmulEpilogue parts;
                if (epilogue) parts.bias = v[2].data(), parts.activation = Activation::gelu;
                device().backend->matmul(*device().stream, s, type, v[0].data(), v[1].data(), parts, out_type,
                                         v[3].data());
              },
          .error =
              [=](const Arguments& v) {
                return worst(v[3].size(), [&](int64_t i) {
                  int64_t column = i % s.n, row = i / s.n % s.m, batch = i / s.n / s.m;
                  double want = 0;
                  for (int64_t k = 0; k < s.k; ++k)
                    want +=
                        at(v[0], batch * s.stride_a + (s.transpose_a ? k * s.m + row : row * s.k + k)) *
                        at(v[1], batch * s.stride_b + (s.transpose_b ? column * s.k + k : k * s.n + column));
                  if (epilogue) want += at(v[2], column);
                  if (epilogue) want *= 0.5 * std::erfc(-want / std::sqrt(2.0));
                  return relative_error(at(v[3], i), want, static_cast<double>(s.k), out_type);
                });
              },
          .flops = static_cast<double>(s.flops())};
}

}  // namespace taper::bench
