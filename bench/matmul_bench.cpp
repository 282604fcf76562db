// Matrix products: the linear layers of BERT, ResNet-50 and the demo with both gradients, attention's batched
// ones; bias gradients.

#include "bench/matmul_ops.h"

namespace taper::bench {
namespace {

Op sum_rows(int64_t rows, int64_t columns, DType type) {
  return {.name = fmt::format("sum_rows/{}x{}/{}", rows, columns, name(type)),
          .arguments = {{type, {rows, columns}}, {DType::f32, {columns}}},
          .run =
              [=](Arguments& a) {
                device().stream->zero(a[1].data(), a[1].bytes());
                device().backend->sum_rows(*device().stream, rows, columns, type, a[0].data(), a[1].data());
              },
          .error =
              [=](const Arguments& a) {
                return worst(columns, [&](int64_t j) {
                  double want = 0;
                  for (int64_t row = 0; row < rows; ++row) want += at(a[0], row * columns + j);
                  return relative_error(at(a[1], j), want, static_cast<double>(rows), DType::f32);
                });
              }};
}

const bool registered = [] {
  constexpr int64_t kTokens = 2048;
  for (DType type : {DType::f32, DType::bf16}) {
    auto linear = [&](const std::string& layer, int64_t rows, int64_t in, int64_t out) {
      add(matmul(layer, {rows, out, in, false, true}, type, type, false));
      add(matmul(layer, {rows, out, in, false, true}, type, type, true));
      add(matmul(layer + "_backward_data", {rows, in, out}, type, type, false));
      add(matmul(layer + "_backward_weight", {out, in, rows, true, false}, type, DType::f32, false));
    };
    linear("bert_projection", kTokens, 768, 768);
    linear("bert_feed_forward", kTokens, 768, 3072);
    linear("resnet50_head", 8, 2048, 1000);
    linear("demo_head", 64, 128, 10);
    add(matmul("attention_scores", {128, 128, 64, false, true, 192}, type, type, false));
    add(sum_rows(kTokens, 768, type));
    add(sum_rows(8, 1000, type));
    add(sum_rows(64, 10, type));
  }
  return true;
}();

}  // namespace
}  // namespace taper::bench
