#pragma once
// Attention as a benchmark, over packed sequences of one length.

#include "bench/op_bench.h"

namespace taper::bench {

struct AttentionSize {
  int64_t sequences, length, heads, head_size;
  int64_t tokens() const { return sequences * length; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_size)); }
};

// Element i of softmax(q k^T scale) v.
inline double attended(const AttentionSize& s, const Tensor& qkv, int64_t i) {
  int64_t d = i % s.head_size, head = i / s.head_size % s.heads, query = i / s.head_size / s.heads;
  int64_t first = query / s.length * s.length;
  auto element = [&](int64_t token, int64_t part, int64_t e) {
    return at(qkv, ((token * 3 + part) * s.heads + head) * s.head_size + e);
  };
  double sum = 0, weighted = 0;
  for (int64_t key = first; key < first + s.length; ++key) {
    double score = 0;
    for (int64_t e = 0; e < s.head_size; ++e) score += element(query, 0, e) * element(key, 1, e) * s.scale();
    sum += std::exp(score);
    weighted += std::exp(score) * element(key, 2, d);
  }
  return weighted / sum;
}

// Arguments: offsets, qkv, o, logsumexp, do, dqkv. The backward is checked by what must vanish: the same
// vector added to all keys of a sequence changes no softmax, so their gradients add up to 0.
inline Op attention(const AttentionSize& s, DType type, bool backward) {
  Shape o = {s.tokens(), s.heads, s.head_size}, qkv = {s.tokens(), 3, s.heads, s.head_size};
  auto shape = [s](Arguments& a) {
    return AttentionShape{.sequences = s.sequences,
                          .tokens = s.tokens(),
                          .heads = s.heads,
                          .head_size = s.head_size,
                          .offsets = a[0].as<int32_t>(),
                          .scale = s.scale()};
  };
  auto forward = [=](Arguments& a) {
    device().backend->attention_forward(*device().stream, shape(a), type, a[1].data(), a[2].data(),
                                        a[3].data());
  };
  auto set_offsets = [s](Arguments& a) {
    Tensor offsets(host(), DType::i32, {s.sequences + 1});
    for (int64_t i = 0; i <= s.sequences; ++i) offsets.as<int32_t>()[i] = static_cast<int32_t>(i * s.length);
    a[0] = on_device(offsets);
  };
  const double flops = 4.0 * static_cast<double>(s.sequences * s.heads * s.length * s.length * s.head_size);
  Op op{.name = fmt::format("attention_{}/{}x{}x{}x{}/{}", backward ? "backward" : "forward", s.sequences,
                            s.length, s.heads, s.head_size, name(type)),
        .arguments = {{DType::i32, {s.sequences + 1}},
                      {type, qkv},
                      {type, o},
                      {DType::f32, {s.tokens(), s.heads}}},
        .run = forward,
        .error =
            [=](const Arguments& a) {
              return worst(a[2].size(), [&](int64_t i) {
                return relative_error(at(a[2], i), attended(s, a[1], i), type == DType::bf16 ? 0x1p15 : 128,
                                      type);
              });
            },
        .flops = flops,
        .prepare = set_offsets};
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
    return worst(s.heads * s.head_size, [&](int64_t i) {
      double sum = 0;
      for (int64_t key = 0; key < s.length; ++key) sum += at(a[5], (key * 3 + 1) * s.heads * s.head_size + i);
      return relative_error(sum, 0, type == DType::bf16 ? 0x1p17 : 1024, type);
    });
  };
  return op;
}

}  // namespace taper::bench
