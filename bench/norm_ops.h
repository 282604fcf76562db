#pragma once
// Batch norm and layer norm as benchmarks.

#include "bench/op_bench.h"

namespace taper::bench {

struct Moments {
  double mean = 0, variance = 0;
};

// Of elements first, first + stride, ...
inline Moments moments(const Tensor& x, int64_t first, int64_t stride, int64_t count) {
  Moments m;
  for (int64_t i = 0; i < count; ++i) m.mean += at(x, first + i * stride) / static_cast<double>(count);
  for (int64_t i = 0; i < count; ++i)
    m.variance += std::pow(at(x, first + i * stride) - m.mean, 2) / static_cast<double>(count);
  return m;
}

// Arguments: x, residual, gamma, beta, y, mean, rstd, variance.
inline Op batch_norm_forward(const std::string& layer, BatchNormShape s, DType type, bool residual) {
  Shape x = {s.rows, s.channels}, c = {s.channels};
  return {.name = fmt::format("batch_norm_forward{}/{}/{}", residual ? "_add" : "", layer, name(type)),
          .arguments = {{type, x},
                        {type, residual ? x : Shape{1}},
                        {DType::f32, c},
                        {DType::f32, c},
                        {type, x},
                        {DType::f32, c},
                        {DType::f32, c},
                        {DType::f32, c}},
          .run =
              [=](Arguments& a) {
                device().backend->batch_norm_forward(*device().stream, s, type, a[0].data(), a[2].data(),
                                                     a[3].data(), residual ? a[1].data() : nullptr, 1e-5,
                                                     a[4].data(), a[5].data(), a[6].data(), a[7].data());
              },
          .error =
              [=](const Arguments& a) {
                return worst(a[0].size(), [&](int64_t i) {
                  int64_t j = i % s.channels;
                  Moments m = moments(a[0], j, s.channels, s.rows);
                  double want =
                      at(a[2], j) * (at(a[0], i) - m.mean) / std::sqrt(m.variance + 1e-5) + at(a[3], j);
                  if (residual) want += at(a[1], i);
                  return relative_error(at(a[4], i), std::max(0.0, want), 8, type);
                });
              }};
}

// Arguments: dy, x, y, gamma, mean, rstd, dx, dresidual, dgamma, dbeta.
inline Op batch_norm_backward(const std::string& layer, BatchNormShape s, DType type, bool residual) {
  Shape x = {s.rows, s.channels}, c = {s.channels};
  return {.name = fmt::format("batch_norm_backward{}/{}/{}", residual ? "_add" : "", layer, name(type)),
          .arguments = {{type, x},
                        {type, x},
                        {type, x},
                        {DType::f32, c},
                        {DType::f32, c},
                        {DType::f32, c},
                        {type, x},
                        {type, residual ? x : Shape{1}},
                        {DType::f32, c},
                        {DType::f32, c}},
          .run =
              [=](Arguments& a) {
                device().backend->batch_norm_backward(*device().stream, s, type, a[0].data(), a[1].data(),
                                                      a[2].data(), a[3].data(), a[4].data(), a[5].data(),
                                                      false, a[6].data(), residual ? a[7].data() : nullptr,
                                                      a[8].data(), a[9].data());
              },
          .error =
              [=](const Arguments& a) {
                return worst(a[0].size(), [&](int64_t i) {
                  int64_t j = i % s.channels;
                  double mean = at(a[4], j), rstd = at(a[5], j), sum = 0, product = 0;
                  auto g = [&](int64_t e) { return at(a[2], e) > 0 ? at(a[0], e) : 0; };
                  auto xhat = [&](int64_t e) { return (at(a[1], e) - mean) * rstd; };
                  for (int64_t row = 0; row < s.rows; ++row) {
                    int64_t e = row * s.channels + j;
                    sum += g(e) / static_cast<double>(s.rows);
                    product += g(e) * xhat(e) / static_cast<double>(s.rows);
                  }
                  double want = at(a[3], j) * rstd * (g(i) - sum - xhat(i) * product);
                  return relative_error(at(a[6], i), want, 8, type);
                });
              }};
}

// Arguments: x, residual, scale, shift, y.
inline Op batch_norm_inference(const std::string& layer, BatchNormShape s, DType type, bool residual) {
  Shape x = {s.rows, s.channels}, c = {s.channels};
  return {
      .name = fmt::format("batch_norm_inference{}/{}/{}", residual ? "_add" : "", layer, name(type)),
      .arguments = {{type, x}, {type, residual ? x : Shape{1}}, {DType::f32, c}, {DType::f32, c}, {type, x}},
      .run =
          [=](Arguments& a) {
            device().backend->batch_norm_inference(*device().stream, s, type, a[0].data(), a[2].data(),
                                                   a[3].data(), residual ? a[1].data() : nullptr,
                                                   a[4].data());
          },
      .error =
          [=](const Arguments& a) {
            return worst(a[0].size(), [&](int64_t i) {
              double want = at(a[0], i) * at(a[2], i % s.channels) + at(a[3], i % s.channels);
              if (residual) want += at(a[1], i);
              return relative_error(at(a[4], i), std::max(0.0, want), 4, type);
            });
          }};
}

// Arguments: x, residual, gamma, beta, sum, y, mean, rstd.
inline Op layer_norm_forward(int64_t rows, int64_t features, DType type) {
  Shape x = {rows, features};
  return {.name = fmt::format("layer_norm_forward/{}x{}/{}", rows, features, name(type)),
          .arguments = {{type, x},
                        {type, x},
                        {DType::f32, {features}},
                        {DType::f32, {features}},
                        {type, x},
                        {type, x},
                        {DType::f32, {rows}},
                        {DType::f32, {rows}}},
          .run =
              [=](Arguments& a) {
                device().backend->layer_norm_forward(*device().stream, rows, features, type, a[0].data(),
                                                     a[1].data(), a[2].data(), a[3].data(), 1e-5, a[4].data(),
                                                     a[5].data(), a[6].data(), a[7].data());
              },
          .error =
              [=](const Arguments& a) {
                return worst(a[0].size(), [&](int64_t i) {
                  Moments m = moments(a[4], i / features * features, 1, features);
                  double want =
                      at(a[2], i % features) * (at(a[4], i) - m.mean) / std::sqrt(m.variance + 1e-5) +
                      at(a[3], i % features);
                  // The statistics may be those of the sum before it is rounded.
                  return relative_error(at(a[5], i), want, type == DType::bf16 ? 0x1p17 : 8, type);
                });
              }};
}

// Arguments: dy, sum, gamma, mean, rstd, dx, dgamma, dbeta.
inline Op layer_norm_backward(int64_t rows, int64_t features, DType type) {
  Shape x = {rows, features};
  return {.name = fmt::format("layer_norm_backward/{}x{}/{}", rows, features, name(type)),
          .arguments = {{type, x},
                        {type, x},
                        {DType::f32, {features}},
                        {DType::f32, {rows}},
                        {DType::f32, {rows}},
                        {type, x},
                        {DType::f32, {features}},
                        {DType::f32, {features}}},
          .run =
              [=](Arguments& a) {
                device().backend->layer_norm_backward(*device().stream, rows, features, type, a[0].data(),
                                                      a[1].data(), a[2].data(), a[3].data(), a[4].data(),
                                                      a[5].data(), a[6].data(), a[7].data());
              },
          .error =
              [=](const Arguments& a) {
                return worst(a[0].size(), [&](int64_t i) {
                  int64_t row = i / features;
                  double mean = at(a[3], row), rstd = at(a[4], row), sum = 0, product = 0;
                  auto g = [&](int64_t e) { return at(a[0], e) * at(a[2], e % features); };
                  auto xhat = [&](int64_t e) { return (at(a[1], e) - mean) * rstd; };
                  for (int64_t e = row * features; e < (row + 1) * features; ++e) {
                    sum += g(e) / static_cast<double>(features);
                    product += g(e) * xhat(e) / static_cast<double>(features);
                  }
                  return relative_error(at(a[5], i), rstd * (g(i) - sum - xhat(i) * product), 8, type);
                });
              }};
}

}  // namespace taper::bench
