#pragma once
// Convolutions as benchmarks, beside naive sums for some of their elements.

#include "bench/op_bench.h"
#include "bench/shapes.h"

namespace taper::bench {

// The sum over the places where output (n, h, w, k) meets the input: value(x's index, filter's index).
template <typename F>
double over_window(const ConvShape& s, int64_t y, F value) {
  int64_t k = y % s.k, w = y / s.k % s.out_w(), h = y / s.k / s.out_w() % s.out_h(),
          n = y / s.k / s.out_w() / s.out_h();
  double sum = 0;
  for (int64_t r = 0; r < s.r; ++r)
    for (int64_t q = 0; q < s.s; ++q) {
      int64_t row = h * s.stride - s.padding + r, column = w * s.stride - s.padding + q;
      if (row < 0 || row >= s.h || column < 0 || column >= s.w) continue;
      for (int64_t c = 0; c < s.c; ++c)
        sum += value(((n * s.h + row) * s.w + column) * s.c + c, ((k * s.r + r) * s.s + q) * s.c + c);
    }
  return sum;
}

constexpr uint32_t kFilterSeed = 99;

// The filter is drawn again from the same seed, rounded as packing rounds it.
inline std::vector<double> filter_values(const ConvShape& s, DType type) {
  Tensor filter = random_values(DType::f32, {s.filter_size()}, kFilterSeed);
  std::vector<double> result;
  for (int64_t i = 0; i < s.filter_size(); ++i) {
    auto value = static_cast<float>(at(filter, i));
    result.push_back(static_cast<double>(type == DType::bf16 ? static_cast<float>(bf16(value)) : value));
  }
  return result;
}

inline Tensor packed_filter(const ConvShape& s, DType type, ConvPass pass) {
  auto& [backend, stream] = device();
  Tensor filter = random_tensor(DType::f32, {s.filter_size()}, kFilterSeed);
  Tensor packed(*stream, DType::u8, {backend->filter_format(*stream, s, type, pass).bytes});
  backend->pack_filter(*stream, s, type, pass, filter.data(), packed.data());
  return packed;
}

inline Op conv_forward(const Layer& layer, DType type, bool epilogue) {
  ConvShape s = layer.shape;
  Shape x = {s.n, s.h, s.w, s.c}, y = {s.n, s.out_h(), s.out_w(), s.k};
  return {
      .name = fmt::format("conv_forward{}/{}/{}", epilogue ? "_bias_add_relu" : "", layer.name, name(type)),
      .arguments = {{type, x}, {DType::u8, {1}}, {DType::f32, {s.k}}, {type, y}, {type, y}},
      .run =
          [=](Arguments& a) {
            ConvEpilogue parts;
            if (epilogue) parts = {a[2].data(), a[3].data(), true};
            device().backend->conv_forward(*device().stream, s, type, a[0].data(), a[1].data(), parts,
                                           a[4].data());
          },
      .error =
          [=](const Arguments& a) {
            std::vector<double> filter = filter_values(s, type);
            return worst(a[4].size(), [&](int64_t i) {
              double want = over_window(
                  s, i, [&](int64_t x, int64_t f) { return at(a[0], x) * filter[static_cast<size_t>(f)]; });
              if (epilogue) want = std::max(0.0, want + at(a[2], i % s.k) + at(a[3], i));
              return relative_error(at(a[4], i), want, static_cast<double>(s.r * s.s * s.c), type);
            });
          },
      .flops = static_cast<double>(s.flops()),
      .prepare = [=](Arguments& a) { a[1] = packed_filter(s, type, ConvPass::forward); }};
}

inline Op conv_backward_data(const Layer& layer, DType type) {
  ConvShape s = layer.shape;
  Shape x = {s.n, s.h, s.w, s.c}, y = {s.n, s.out_h(), s.out_w(), s.k};
  return {
      .name = fmt::format("conv_backward_data/{}/{}", layer.name, name(type)),
      .arguments = {{type, y}, {DType::u8, {1}}, {type, x}},
      .run =
          [=](Arguments& a) {
            device().backend->conv_backward_data(*device().stream, s, type, a[0].data(), a[1].data(),
                                                 a[2].data());
          },
      // <dy, conv(x)> = <dx, x> for an x that is 1 in one place: the outputs that see the place, added up.
      .error =
          [=](const Arguments& a) {
            std::vector<double> filter = filter_values(s, type);
            return worst(a[2].size(), [&](int64_t i) {
              int64_t image = a[0].size() / s.n, first = i / (a[2].size() / s.n) * image;
              int64_t row = i / s.c / s.w % s.h, column = i / s.c % s.w, c = i % s.c;
              double want = 0;
              for (int64_t y = 0; y < image; ++y) {
                int64_t k = y % s.k, r = row - y / s.k / s.out_w() * s.stride + s.padding;
                int64_t q = column - y / s.k % s.out_w() * s.stride + s.padding;
                if (r >= 0 && r < s.r && q >= 0 && q < s.s)
                  want +=
                      at(a[0], first + y) * filter[static_cast<size_t>(((k * s.r + r) * s.s + q) * s.c + c)];
              }
              return relative_error(at(a[2], i), want, static_cast<double>(s.r * s.s * s.k), type);
            });
          },
      .flops = static_cast<double>(s.flops()),
      .prepare = [=](Arguments& a) { a[1] = packed_filter(s, type, ConvPass::backward_data); }};
}

inline Op conv_backward_filter(const Layer& layer, DType type) {
  ConvShape s = layer.shape;
  Shape x = {s.n, s.h, s.w, s.c}, y = {s.n, s.out_h(), s.out_w(), s.k};
  return {
      .name = fmt::format("conv_backward_filter/{}/{}", layer.name, name(type)),
      .arguments = {{type, x}, {type, y}, {DType::f32, {s.filter_size()}}},
      .run =
          [=](Arguments& a) {
            device().stream->zero(a[2].data(), a[2].bytes());
            device().backend->conv_backward_filter(*device().stream, s, type, a[0].data(), a[1].data(),
                                                   a[2].data());
          },
      .error =
          [=](const Arguments& a) {
            return worst(a[2].size(), [&](int64_t i) {
              int64_t c = i % s.c, q = i / s.c % s.s, r = i / s.c / s.s % s.r, k = i / s.c / s.s / s.r;
              double want = 0;
              for (int64_t pixel = 0; pixel < a[1].size() / s.k; ++pixel) {
                int64_t row = pixel / s.out_w() % s.out_h() * s.stride - s.padding + r;
                int64_t column = pixel % s.out_w() * s.stride - s.padding + q;
                if (row < 0 || row >= s.h || column < 0 || column >= s.w) continue;
                int64_t image = pixel / s.out_w() / s.out_h();
                want += at(a[0], ((image * s.h + row) * s.w + column) * s.c + c) * at(a[1], pixel * s.k + k);
              }
              return relative_error(at(a[2], i), want, static_cast<double>(a[1].size() / s.k), DType::f32);
            });
          },
      .flops = static_cast<double>(s.flops())};
}

}  // namespace taper::bench
