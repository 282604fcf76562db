// Attention over packed sequences (BERT base, 16 sequences of 128 tokens), softmax and embedding.

#include "bench/op_bench.h"

namespace taper::bench {
namespace {

constexpr int64_t kSequences = 16, kLength = 128, kHeads = 12, kHeadSize = 64, kTokens = kSequences * kLength;

AttentionShape shape(Arguments& a) {
  return {.sequences = kSequences,
          .tokens = kTokens,
          .heads = kHeads,
          .head_size = kHeadSize,
          .offsets = a[0].as<int32_t>(),
          .scale = 0.125};
}

// Element i of softmax(q k^T / 8) v.
double attended(const Tensor& qkv, int64_t i) {
  int64_t d = i % kHeadSize, head = i / kHeadSize % kHeads, query = i / kHeadSize / kHeads;
  int64_t first = query / kLength * kLength;
  auto element = [&](int64_t token, int64_t part, int64_t e) {
    return at(qkv, ((token * 3 + part) * kHeads + head) * kHeadSize + e);
  };
  double sum = 0, weighted = 0;
  for (int64_t key = first; key < first + kLength; ++key) {
    double score = 0;
    for (int64_t e = 0; e < kHeadSize; ++e) score += element(query, 0, e) * element(key, 1, e) * 0.125;
    sum += std::exp(score);
    weighted += std::exp(score) * element(key, 2, d);
  }
  return weighted / sum;
}

// Arguments: offsets, qkv, o, logsumexp, do, dqkv. The backward is checked by what must vanish: the same
// vector added to all keys of a sequence changes no softmax, so their gradients add up to 0.
Op attention(DType type, bool backward) {
  Shape o = {kTokens, kHeads, kHeadSize}, qkv = {kTokens, 3, kHeads, kHeadSize};
  auto forward = [=](Arguments& a) {
    device().backend->attention_forward(*device().stream, shape(a), type, a[1].data(), a[2].data(),
                                        a[3].data());
  };
  double flops = 4.0 * kSequences * kHeads * kLength * kLength * kHeadSize;
  Op op{
      .name = fmt::format("attention_{}/16x128x12x64/{}", backward ? "backward" : "forward", name(type)),
      .arguments = {{DType::i32, {kSequences + 1}}, {type, qkv}, {type, o}, {DType::f32, {kTokens, kHeads}}},
      .run = forward,
      .error =
          [=](const Arguments& a) {
            return worst(a[2].size(), [&](int64_t i) {
              return relative_error(at(a[2], i), attended(a[1], i), type == DType::bf16 ? 0x1p15 : 128, type);
            });
          },
      .flops = flops};
  auto set_offsets = [](Arguments& a) {
    for (int64_t i = 0; i <= kSequences; ++i) a[0].as<int32_t>()[i] = static_cast<int32_t>(i * kLength);
  };
  op.prepare = set_offsets;
  if (!backward) return op;
  op.flops = 2.5 * flops;
  op.arguments.push_back({type, o});
  op.arguments.push_back({type, qkv});
  op.prepare = [=](Arguments& a) {
    set_offsets(a);
    forward(a);
  };
  op.run = [=](Arguments& a) {
    device().backend->attention_backward(*device().stream, shape(a), type, a[4].data(), a[1].data(),
                                         a[2].data(), a[3].data(), a[5].data());
  };
  op.error = [=](const Arguments& a) {
    return worst(kHeads * kHeadSize, [&](int64_t i) {
      double sum = 0;
      for (int64_t key = 0; key < kLength; ++key) sum += at(a[5], (key * 3 + 1) * kHeads * kHeadSize + i);
      return relative_error(sum, 0, type == DType::bf16 ? 0x1p17 : 1024, type);
    });
  };
  return op;
}

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
      add(attention(type, backward));
      add(softmax(2048, 1000, type, backward));
      add(embedding(type, backward));
    }
  return true;
}();

}  // namespace
}  // namespace taper::bench
