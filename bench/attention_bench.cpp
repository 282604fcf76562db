// Attention over packed sequences (BERT base, 16 sequences of 128 tokens), softmax and embedding.

#include "bench/attention_ops.h"

namespace taper::bench {
namespace {

constexpr AttentionSize kSize = {.sequences = 16, .length = 128, .heads = 12, .head_size = 64};
constexpr int64_t kTokens = 16 * 128;

// Arguments: x, y; for the backward dy, y, dx.
Op softmax(int64_t rows, int64_t columns, DType type, bool backward) {
  Shape x = {rows, columns};
  Op op{.name =
            fmt::format("softmax_{}/{}x{}/{}", backward ? "backward" : "forward", rows, columns, name(type)),
        .arguments = {{type, x}, {type, x}},
        .run =
            [=](Arguments& a) {
              device().backend->softmax(*device().stream, rows, columns, type, false, a[0].data(),
                                        a[1].data());
            },
        .error =
            [=](const Arguments& a) {
              return worst(rows * columns, [&](int64_t i) {
                double sum = 0;
                for (int64_t j = i / columns * columns; j < (i / columns + 1) * columns; ++j)
                  sum += std::exp(at(a[0], j));
                return relative_error(at(a[1], i), std::exp(at(a[0], i)) / sum, 8, type);
              });
            }};
  if (!backward) return op;
  op.arguments.push_back({type, x});
  op.run = [=](Arguments& a) {
    device().backend->softmax_backward(*device().stream, rows, columns, type, false, a[0].data(), a[1].data(),
                                       a[2].data());
  };
  op.error = [=](const Arguments& a) {
    return worst(rows * columns, [&](int64_t i) {
      double sum = 0;
      for (int64_t j = i / columns * columns; j < (i / columns + 1) * columns; ++j)
        sum += at(a[0], j) * at(a[1], j);
      double want = at(a[1], i) * (at(a[0], i) - sum);
      return relative_error(at(a[2], i), want, static_cast<double>(columns), type);
    });
  };
  return op;
}

constexpr int64_t kEntries = 30522, kFeatures = 768;

// Arguments: ids, table, y. Ids are 0 .. 9: the gradient adds many rows to few entries.
Op embedding(DType type, bool backward) {
  Op op{.name = fmt::format("embedding_{}/2048x768/{}", backward ? "backward" : "forward", name(type)),
        .arguments = {{DType::i32, {kTokens}},
                      {backward ? DType::f32 : type, {kEntries, kFeatures}},
                      {type, {kTokens, kFeatures}}},
        .run =
            [=](Arguments& a) {
              device().backend->embedding_forward(*device().stream, kTokens, kFeatures, type,
                                                  a[0].as<int32_t>(), a[1].data(), a[2].data());
            },
        .error =
            [=](const Arguments& a) {
              return worst(a[2].size(), [&](int64_t i) {
                int64_t id = a[0].as<int32_t>()[i / kFeatures];
                return relative_error(at(a[2], i), at(a[1], id * kFeatures + i % kFeatures), 0, type);
              });
            }};
  op.bytes = 2 * kTokens * kFeatures * size_of(type);
  if (!backward) return op;
  op.bytes = kTokens * kFeatures * (size_of(type) + 2 * size_of(DType::f32));
  op.prepare = [](Arguments& a) { device().stream->zero(a[1].data(), a[1].bytes()); };
  op.run = [=](Arguments& a) {
    device().backend->embedding_backward(*device().stream, kTokens, kFeatures, kEntries, type,
                                         a[0].as<int32_t>(), a[2].data(), a[1].data());
  };
  op.error = [=](const Arguments& a) {
    return worst(10 * kFeatures, [&](int64_t i) {
      double want = 0;
      for (int64_t token = 0; token < kTokens; ++token)
        if (a[0].as<int32_t>()[token] == i / kFeatures) want += at(a[2], token * kFeatures + i % kFeatures);
      return relative_error(at(a[1], i), want, kTokens, DType::f32);
    });
  };
  return op;
}

const bool registered = [] {
  for (DType type : {DType::f32, DType::bf16})
    for (bool backward : {false, true}) {
      add(attention(kSize, type, backward));
      add(softmax(2048, 1000, type, backward));
      add(embedding(type, backward));
    }
  return true;
}();

}  // namespace
}  // namespace taper::bench
